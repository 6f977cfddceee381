"""``gap_repair``: the repair of open gaps, a few runs at a time, with pauses that double."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, timedelta
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
from marketdata_assets.domain.maintenance import Days, may_request_again, merge_days
from marketdata_assets.domain.partitions import SERIES, Rectangle
from marketdata_assets.domain.ranges import covering_runs
from marketdata_assets.domain.run_tags import Purpose
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.wording import counted
from marketdata_assets.storage.maintenance import OpenGap, open_gaps, record_repairs
from marketdata_assets.storage.symbols import asset_classes

MAX_REPAIRS: Final = 8
"""The number of runs that refetch a gap: two that reach the vendor close it, so the others have failed."""

_SECONDS: Final = 60
_NEAR: Final = timedelta(days=7)
"""Gaps of a series that are no farther apart are repaired together."""


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
            known = [gap for gap in open_gaps(database) if gap.series.key in partitions]
            pause = timedelta(minutes=settings.repair_pause_minutes)
            due = {
                gap: days
                for gap in known
                if may_request_again(gap.repairs, gap.asked_at, now, pause=pause, limit=MAX_REPAIRS)
                and (days := _days_of(gap, classes[gap.series.symbol])).last >= settings.start
                # Its run may wait in the queue for longer than the pause.
                and not _is_in(gap.series, days, busy)
            }
            if not due:
                return SkipReason(
                    f"{counted(len(known), 'open gap')}, none due" if known else "no gap is open"
                )
            runs = covering_runs(ordered, _days_to_repair(due, settings.start), bridge=True)[:room]
            record_repairs(
                database, [gap for gap, days in due.items() if _is_in(gap.series, days, runs)], now
            )
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
    return Days(gap.day, calendar_of(asset_class).local_day(gap.end - timedelta(microseconds=1)))


def _days_to_repair(due: Mapping[OpenGap, Days], start: date) -> Iterable[tuple[Series, date, date]]:
    by_series: dict[Series, list[Days]] = {}
    for gap, days in due.items():
        by_series.setdefault(gap.series, []).append(Days(max(start, days.first), days.last))
    for series, days_of_gaps in by_series.items():
        for first, last in merge_days(days_of_gaps, _NEAR):
            yield series, first, last


def _is_in(series: Series, days: Days, runs: Iterable[Rectangle]) -> bool:
    """Whether one of ``runs`` includes the last of ``days`` of ``series``."""
    return any(series in run.series and run.first <= days.last <= run.last for run in runs)
