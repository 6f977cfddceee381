"""``gap_repair``: the repair of open gaps, a few runs at a time, with pauses that double."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from dagster import (
    DagsterRun,
    DefaultSensorStatus,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from marketdata_assets.config import load_settings
from marketdata_assets.defs.clock import Clock, read_utc_now
from marketdata_assets.defs.jobs import gaps_job
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.defs.run_tags import under_way
from marketdata_assets.defs.runs.execution import ops_config
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.maintenance import Days, RepairState, days_to_repair, due_repairs, is_covered
from marketdata_assets.domain.partitions import SERIES, Rectangle
from marketdata_assets.domain.ranges import covering_runs
from marketdata_assets.domain.run_tags import Purpose
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.wording import counted
from marketdata_assets.storage.maintenance import OpenGap, open_gaps, record_repairs
from marketdata_assets.storage.symbols import asset_classes

_SECONDS: Final = 60


def repair_sensor(clock: Clock = read_utc_now) -> SensorDefinition:
    """Return the sensor that requests runs of ``gap_report`` that repair open gaps."""

    @sensor(
        name="gap_repair",
        job=gaps_job,
        minimum_interval_seconds=_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description=(
            "Refetches open gaps: once after they were found, and once more after a pause. At most"
            " MARKETDATA_REPAIR_RUNS runs at a time."
        ),
    )
    def gap_repair(
        context: SensorEvaluationContext, postgres: PostgresResource
    ) -> list[RunRequest] | SkipReason:
        settings = load_settings()
        running = under_way(context.instance, Purpose.GAP_REPAIR)
        room = settings.repair_runs - len(running)
        if room <= 0:
            return SkipReason(
                f"{settings.repair_runs} repairs are under way: MARKETDATA_REPAIR_RUNS allows no more"
            )
        now = clock()
        ordered = context.instance.get_dynamic_partitions(SERIES)
        busy = list(_read_rectangles(running, ordered))
        with postgres.database() as database:
            classes = asset_classes(database)
            partitions = set(ordered)
            known = {
                gap: RepairState(
                    gap.series, _days_of(gap, classes[gap.series.symbol]), gap.repairs, gap.asked_at
                )
                for gap in open_gaps(database)
                if gap.series.key in partitions
            }
            pause = timedelta(minutes=settings.repair_pause_minutes)
            due = due_repairs(known, now, pause=pause, earliest=settings.start, busy=busy)
            if not due:
                return SkipReason(
                    f"{counted(len(known), 'open gap')}, none due" if known else "no gap is open"
                )
            days = days_to_repair([known[gap] for gap in due], settings.start)
            runs = covering_runs(ordered, days, bridge=True)[:room]
            record_repairs(database, [gap for gap in due if is_covered(known[gap], runs)], now)
        return [
            RunRequest(
                run_config=ops_config({"gap_report": {"repair": True, "attempts": 1}}),
                tags={**Purpose.GAP_REPAIR.tags, **run.tags},
            )
            for run in runs
        ]

    return gap_repair


def _read_rectangles(running: Iterable[DagsterRun], ordered: Sequence[str]) -> Iterator[Rectangle]:
    """Yield the partitions of the runs of ``running``, except for runs of a series that is no longer tracked."""
    for run in running:
        with suppress(ConfigurationError):
            if (rectangle := Rectangle.from_tags(run.tags, ordered)) is not None:
                yield rectangle


def _days_of(gap: OpenGap, asset_class: AssetClass) -> Days:
    return Days(gap.day, calendar_of(asset_class).last_day_before(gap.end))
