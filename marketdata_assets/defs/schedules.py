"""Schedules: what the platform does by the clock, in UTC.

Belongs here: when a schedule ticks, and which runs it asks for. Does not belong here: which days those take
(``domain.upkeep``), what a run does (``assets``).

A tick that was missed (the machine slept) is made up for once, by its latest; what a run key has asked for is not
asked for again after a restart.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final

from dagster import (
    DagsterInstance,
    DefaultScheduleStatus,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
    schedule,
)

from marketdata_assets.config import load_settings
from marketdata_assets.defs.freshness import freshness_schedule
from marketdata_assets.defs.jobs import bars_job, corporate_actions_job, features_job, history_job
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.defs.retention import retention_schedule
from marketdata_assets.defs.run_tags import under_way
from marketdata_assets.defs.runs.execution import ops_config
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.freshness import DAILY_RUN
from marketdata_assets.domain.partitions import SERIES, Rectangle
from marketdata_assets.domain.ranges import feature_runs, range_runs
from marketdata_assets.domain.run_tags import Purpose
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.upkeep import INTRADAY, nightly_days, traded_day
from marketdata_assets.pipeline.adjusted import symbols_without_splits
from marketdata_assets.pipeline.idle import stale_days
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.symbols import TrackedSymbol, asset_classes, list_symbols
from marketdata_assets.storage.upkeep import requested_until

HISTORY_CONFIG: Final = {
    # A symbol that fails must not keep the others from being scanned.
    "ohlcv": {"keep_going": True},
    # Later, by gap_repair: at once, the vendor would have the same answer.
    "gap_report": {"repair": False},
}
"""The options of a run of bars and gaps that nobody watches."""

INTRADAY_CONFIG: Final = {"ohlcv": {"keep_going": True}}
"""The next tick asks for a symbol that failed again."""

_NOTHING: Final = "no series is tracked: add one with `marketdata symbols add`"
_LAST_FEATURES_HOUR: Final = 8


def platform_schedules() -> list[ScheduleDefinition]:
    """Every schedule."""
    return [
        corporate_actions_schedule(),
        bars_schedule(),
        features_schedule(),
        intraday_schedule(),
        freshness_schedule(),
        retention_schedule(),
    ]


def corporate_actions_schedule() -> ScheduleDefinition:
    """``daily_corporate_actions``, before the bars: one run."""

    @schedule(
        name="daily_corporate_actions",
        cron_schedule="30 1 * * *",
        job=corporate_actions_job,
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
        description="Splits, dividends and earnings of every stock and ETF, before the bars and features of the night.",
    )
    def daily_corporate_actions(
        context: ScheduleEvaluationContext, postgres: PostgresResource
    ) -> RunRequest | SkipReason:
        with postgres.database() as database:
            symbols = list_symbols(database, active_only=True)
        if not any(one.asset_class.can_split for one in symbols):
            return SkipReason("no stock and no ETF is tracked: nothing to ask for")
        return RunRequest(run_key=_key(context), tags=Purpose.CORPORATE_ACTIONS.tags)

    return daily_corporate_actions


def bars_schedule() -> ScheduleDefinition:
    """``daily_bars``: one range run over every series."""

    @schedule(
        name="daily_bars",
        cron_schedule=f"{DAILY_RUN.minute} {DAILY_RUN.hour} * * *",
        job=history_job,
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
        description=(
            "Yesterday's bars of every series, with the sessions that late trades still revise, the week that closed,"
            " and days that were missed; then a scan for gaps. One run."
        ),
    )
    def daily_bars(context: ScheduleEvaluationContext, postgres: PostgresResource) -> RunRequest | SkipReason:
        ordered = context.instance.get_dynamic_partitions(SERIES)
        if not ordered:
            return SkipReason(_NOTHING)
        series = tuple(map(Series.parse, ordered))
        with postgres.database() as database:
            collected = _collected(database, series)
            lagging = requested_until(database, series)
        now = context.scheduled_execution_time.astimezone(UTC)
        start = load_settings().start
        days = nightly_days(collected, now, earliest=start, requested_until=lagging)
        if days is None:
            return SkipReason(f"yesterday lies before MARKETDATA_START, {start}: nothing to bring")
        run = Rectangle(days.first, days.last, series)
        return RunRequest(
            run_key=_key(context),
            run_config=ops_config(HISTORY_CONFIG),
            tags={**Purpose.DAILY_BARS.tags, **run.tags},
        )

    return daily_bars


def features_schedule() -> ScheduleDefinition:
    """``daily_features``: what is out of date, in as few runs as rectangles allow."""

    @schedule(
        name="daily_features",
        # After 03:30 for what the night's repairs have put out of date, and when its bars took longer.
        cron_schedule=f"30 3-{_LAST_FEATURES_HOUR} * * *",
        job=features_job,
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
        description=(
            "Features that bars, gaps or splits have put out of date: at 03:30, and until 08:30 whenever something is."
        ),
    )
    def daily_features(
        context: ScheduleEvaluationContext, postgres: PostgresResource
    ) -> list[RunRequest] | SkipReason:
        if runs := under_way(context.instance, Purpose.DAILY_FEATURES):
            return SkipReason(f"run {runs[0].run_id} of an earlier tick is under way")
        is_last = context.scheduled_execution_time.astimezone(UTC).hour >= _LAST_FEATURES_HOUR
        if not is_last and (runs := under_way(context.instance, Purpose.DAILY_BARS)):
            return SkipReason(f"the night's bars are under way (run {runs[0].run_id}): an hour later")
        with postgres.database() as database:
            requests = feature_requests(
                context.instance,
                database,
                Purpose.DAILY_FEATURES,
                key=_key(context),
                now=context.scheduled_execution_time,
                series=None,
            )
        return requests or SkipReason("every feature is up to date")

    return daily_features


def intraday_schedule() -> ScheduleDefinition:
    """``intraday_bars``: today's closed bars of what is traded now. Off until somebody turns it on."""

    @schedule(
        name="intraday_bars",
        cron_schedule=f"*/{INTRADAY // timedelta(minutes=1)} * * * *",
        job=bars_job,
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.STOPPED,
        description=(
            "Every 15 minutes in market hours: today's closed bars of the series whose market is open. Off by default:"
            " it asks the vendor for every symbol at every tick."
        ),
    )
    def intraday_bars(
        context: ScheduleEvaluationContext, postgres: PostgresResource
    ) -> list[RunRequest] | SkipReason:
        if runs := under_way(context.instance, Purpose.INTRADAY_BARS):
            return SkipReason(f"run {runs[0].run_id} of an earlier tick is under way")
        ordered = context.instance.get_dynamic_partitions(SERIES)
        now = context.scheduled_execution_time.astimezone(UTC)
        with postgres.database() as database:
            traded = _traded(list_symbols(database, active_only=True), ordered, now)
        if not traded:
            return SkipReason(f"no market is open at {now:%Y-%m-%d %H:%M} UTC" if ordered else _NOTHING)
        ranges = [one for day, wanted in traded.items() for one in range_runs(ordered, wanted, day, day)]
        return [
            RunRequest(
                run_key=_key(context, position),
                run_config=ops_config(INTRADAY_CONFIG),
                tags={**Purpose.INTRADAY_BARS.tags, **one.tags},
            )
            for position, one in enumerate(ranges)
        ]

    return intraday_bars


def feature_requests(
    instance: DagsterInstance,
    database: Database,
    purpose: Purpose,
    *,
    key: str,
    now: datetime,
    series: Sequence[Series] | None,
) -> list[RunRequest]:
    """The runs that compute what is out of date at ``now`` of ``series``, or of all, as far as these are partitions.

    Series whose splits were never asked for are left out: they would be held back. ``key`` begins each run's key.
    """
    ordered = instance.get_dynamic_partitions(SERIES)
    partitions = list(map(Series.parse, ordered))
    chosen = set(partitions if series is None else series)
    unadjusted = set(symbols_without_splits(database, chosen))
    wanted = [one for one in partitions if one in chosen and one.symbol not in unadjusted]
    days = stale_days(database, wanted, load_settings().start, now=now)
    return [
        RunRequest(
            run_key=f"{key}:features:{position}",
            job_name=features_job.name,
            tags={**purpose.tags, **run.tags},
        )
        for position, run in enumerate(feature_runs(ordered, days))
    ]


def _key(context: ScheduleEvaluationContext, position: int = 0) -> str:
    return f"{context.scheduled_execution_time.astimezone(UTC):%Y-%m-%dT%H:%MZ}:{position}"


def _collected(database: Database, series: Sequence[Series]) -> dict[AssetClass, set[Timeframe]]:
    """The timeframes of ``series`` by asset class."""
    classes = asset_classes(database)
    collected: dict[AssetClass, set[Timeframe]] = {}
    for one in series:
        if one.symbol in classes:
            collected.setdefault(classes[one.symbol], set()).add(one.timeframe)
    return collected


def _traded(
    symbols: Sequence[TrackedSymbol], ordered: Sequence[str], now: datetime
) -> dict[date, list[Series]]:
    """The series whose market is open at ``now`` by their local day, as far as they are partitions."""
    partitions = set(ordered)
    traded: dict[date, list[Series]] = {}
    for symbol in symbols:
        day = traded_day(calendar_of(symbol.asset_class), now)
        if day is not None:
            traded.setdefault(day, []).extend(one for one in symbol.series if one.key in partitions)
    return {day: series for day, series in traded.items() if series}
