"""What Dagster's daemon does, without it: ticks of schedules and sensors, and the runs that they ask for."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterRun,
    DagsterRunStatus,
    build_schedule_context,
    build_sensor_context,
)

from marketdata_assets.definitions import build_definitions
from marketdata_assets.defs.resources.polygon import PolygonResource
from marketdata_assets.defs.resources.postgres import PostgresResource

if TYPE_CHECKING:
    from dagster import Definitions, ExecuteInProcessResult, RunRequest

    from marketdata_assets_tests.integration.platform import Platform


_ENDS = {
    DagsterRunStatus.SUCCESS: DagsterEventType.RUN_SUCCESS,
    DagsterRunStatus.FAILURE: DagsterEventType.RUN_FAILURE,
    DagsterRunStatus.CANCELED: DagsterEventType.RUN_CANCELED,
}


@dataclass
class Clock:
    """The present, as sensors see it; that of this machine until a test sets ``now``."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> None:
        self.now += timedelta(**duration)


@cache
def _definitions(polygon: tuple[tuple[str, Any], ...]) -> tuple[Definitions, Clock]:
    """Definitions cost a second: those with the same options serve every test, with the clock that they go by."""
    clock = Clock()
    return build_definitions(resources={"polygon": PolygonResource(**dict(polygon))}, clock=clock), clock


@dataclass
class Daemon:
    """The daemon of a platform."""

    platform: Platform
    now: InitVar[datetime | None] = None
    definitions: Definitions = field(init=False)
    clock: Clock = field(init=False)
    skip_reason: str | None = None
    """Why the latest tick asked for nothing."""

    def __post_init__(self, now: datetime | None) -> None:
        self.definitions, self.clock = _definitions(tuple(self.platform.polygon.items()))
        self.clock.now = now or datetime.now(UTC)

    def scheduled(self, name: str, at: datetime) -> list[RunRequest]:
        """What a schedule asks for at a moment."""
        schedule = self.definitions.resolve_schedule_def(name)
        with build_schedule_context(
            self.platform.instance,
            scheduled_execution_time=at,
            resources={"postgres": PostgresResource()},
            repository_def=self.definitions.get_repository_def(),
        ) as context:
            tick = schedule.evaluate_tick(context)
        self.skip_reason = tick.skip_message
        return list(tick.run_requests or ())

    def sensed(self, name: str) -> list[RunRequest]:
        """What a sensor asks for now."""
        sensor = self.definitions.resolve_sensor_def(name)
        with build_sensor_context(
            self.platform.instance,
            resources={"postgres": PostgresResource()},
            repository_def=self.definitions.get_repository_def(),
        ) as context:
            tick = sensor.evaluate_tick(context)
        self.skip_reason = tick.skip_message
        return list(tick.run_requests or ())

    def execute(self, request: RunRequest, job: str, *, sound: bool | None = True) -> ExecuteInProcessResult:
        """The run of a request; ``sound`` is whether it succeeds, None when that does not matter."""
        result = self.definitions.resolve_job_def(request.job_name or job).execute_in_process(
            run_config={
                **request.run_config,
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            tags=request.tags,
            instance=self.platform.instance,
            raise_on_error=False,
        )
        assert sound is None or result.success is sound
        self._end_now(result.run_id)
        return result

    def begin(self, request: RunRequest, job: str) -> DagsterRun:
        """The run of a request while it is under way."""
        return self.platform.instance.add_run(
            DagsterRun(
                request.job_name or job,
                status=DagsterRunStatus.STARTED,
                tags={**request.tags},
                run_config=request.run_config,
            )
        )

    def cancel(self, run: DagsterRun) -> None:
        """End a run as if somebody had cancelled it."""
        self.platform.instance.report_run_canceled(run)
        self._end_now(run.run_id)

    def fail(self, run: DagsterRun) -> None:
        """End a run as if its process had crashed."""
        self.platform.instance.report_run_failed(run)
        self._end_now(run.run_id)

    def _end_now(self, run_id: str) -> None:
        """Let the run have ended at the present of the clock: Dagster has written that of this machine."""
        run = self.platform.instance.get_run_by_id(run_id)
        assert run is not None
        event = DagsterEvent(_ENDS[run.status].value, run.job_name)
        self.platform.instance.handle_run_event(run_id, event, self.clock.now)
