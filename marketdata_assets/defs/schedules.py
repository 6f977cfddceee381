"""Schedules: the runs at fixed times, in UTC.

Belongs here: when a schedule ticks, and which runs it requests. Does not belong here: which days these runs cover
(``domain.maintenance``), what a run does (``assets``).

After missed ticks (the machine slept), only the latest is made up for; a run key that was requested is not requested
again after a restart.
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
from marketdata_assets.domain.maintenance import INTRADAY, daily_run_days, traded_day
from marketdata_assets.domain.partitions import SERIES, Rectangle
from marketdata_assets.domain.ranges import feature_runs, range_runs
from marketdata_assets.domain.run_tags import Purpose
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.pipeline.adjusted import symbols_without_splits
from marketdata_assets.pipeline.idle import stale_days
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.maintenance import requested_until
from marketdata_assets.storage.symbols import TrackedSymbol, asset_classes, list_symbols

HISTORY_CONFIG: Final = {
    # A symbol that fails must not prevent the scan of the others.
    "ohlcv": {"keep_going": True},
    # gap_repair refetches later: at once, the vendor would send the same response.
    "gap_report": {"repair": False},
}
"""The options of a scheduled run of bars and gaps."""

INTRADAY_CONFIG: Final = {"ohlcv": {"keep_going": True}}
"""The options of an intraday run: the next tick requests a symbol that failed again."""

_NOTHING: Final = "no series is tracked: add one with `marketdata symbols add`"
_LAST_FEATURES_HOUR: Final = 8


def platform_schedules() -> list[ScheduleDefinition]:
    """Return every schedule."""
    return [
        corporate_actions_schedule(),
        bars_schedule(),
        features_schedule(),
        intraday_schedule(),
        freshness_schedule(),
        retention_schedule(),
    ]


def corporate_actions_schedule() -> ScheduleDefinition:
    """Return the schedule ``daily_corporate_actions``: one run, before the daily run."""

    @schedule(
        name="daily_corporate_actions",
        cron_schedule="30 1 * * *",
        job=corporate_actions_job,
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
        description="Fetches splits, dividends and earnings of every stock and ETF, before the daily run of bars and features.",
    )
    def daily_corporate_actions(
        context: ScheduleEvaluationContext, postgres: PostgresResource
    ) -> RunRequest | SkipReason:
        with postgres.database() as database:
            symbols = list_symbols(database, active_only=True)
        if not any(symbol.asset_class.can_split for symbol in symbols):
            return SkipReason("no stock or ETF is tracked: nothing to fetch")
        return RunRequest(run_key=_run_key(context), tags=Purpose.CORPORATE_ACTIONS.tags)

    return daily_corporate_actions


def bars_schedule() -> ScheduleDefinition:
    """Return the schedule ``daily_bars``: one range run over every series, the daily run."""

    @schedule(
        name="daily_bars",
        cron_schedule=f"{DAILY_RUN.minute} {DAILY_RUN.hour} * * *",
        job=history_job,
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
        description=(
            "Fetches yesterday's bars of every series, with the sessions that late trades still revise, the week that"
            " closed, and missed days; then scans for gaps. One run."
        ),
    )
    def daily_bars(context: ScheduleEvaluationContext, postgres: PostgresResource) -> RunRequest | SkipReason:
        ordered = context.instance.get_dynamic_partitions(SERIES)
        if not ordered:
            return SkipReason(_NOTHING)
        series = tuple(map(Series.parse, ordered))
        with postgres.database() as database:
            collected = _read_timeframes(database, series)
            lagging = requested_until(database, series)
        now = context.scheduled_execution_time.astimezone(UTC)
        start = load_settings().start
        days = daily_run_days(collected, now, earliest=start, requested_until=lagging)
        if days is None:
            return SkipReason(f"yesterday is before MARKETDATA_START, {start}: nothing to fetch")
        run = Rectangle(days.first, days.last, series)
        return RunRequest(
            run_key=_run_key(context),
            run_config=ops_config(HISTORY_CONFIG),
            tags={**Purpose.DAILY_BARS.tags, **run.tags},
        )

    return daily_bars


def features_schedule() -> ScheduleDefinition:
    """Return the schedule ``daily_features``: stale features, in as few runs as rectangles allow."""

    @schedule(
        name="daily_features",
        # Also after 03:30, for features that repairs made stale, and for a daily run that took longer.
        cron_schedule=f"30 3-{_LAST_FEATURES_HOUR} * * *",
        job=features_job,
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
        description=("Computes stale features, hourly from 03:30 to 08:30."),
    )
    def daily_features(
        context: ScheduleEvaluationContext, postgres: PostgresResource
    ) -> list[RunRequest] | SkipReason:
        if runs := under_way(context.instance, Purpose.DAILY_FEATURES):
            return SkipReason(f"run {runs[0].run_id} of an earlier tick is under way")
        is_last = context.scheduled_execution_time.astimezone(UTC).hour >= _LAST_FEATURES_HOUR
        if not is_last and (runs := under_way(context.instance, Purpose.DAILY_BARS)):
            return SkipReason(
                f"the daily run is under way (run {runs[0].run_id}): features follow an hour later"
            )
        with postgres.database() as database:
            requests = feature_requests(
                context.instance,
                database,
                Purpose.DAILY_FEATURES,
                key=_run_key(context),
                now=context.scheduled_execution_time,
                series=None,
            )
        return requests or SkipReason("no feature is stale")

    return daily_features


def intraday_schedule() -> ScheduleDefinition:
    """Return the schedule ``intraday_bars``: today's closed bars of series that are traded now. Off by default."""

    @schedule(
        name="intraday_bars",
        cron_schedule=f"*/{INTRADAY // timedelta(minutes=1)} * * * *",
        job=bars_job,
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.STOPPED,
        description=(
            "Fetches today's closed bars of series whose market is open, every 15 minutes in market hours. Off by default:"
            " it requests every symbol at every tick."
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
            traded = _find_traded(list_symbols(database, active_only=True), ordered, now)
        if not traded:
            return SkipReason(f"no market is open at {now:%Y-%m-%d %H:%M} UTC" if ordered else _NOTHING)
        ranges = [run for day, wanted in traded.items() for run in range_runs(ordered, wanted, day, day)]
        return [
            RunRequest(
                run_key=_run_key(context, position),
                run_config=ops_config(INTRADAY_CONFIG),
                tags={**Purpose.INTRADAY_BARS.tags, **run.tags},
            )
            for position, run in enumerate(ranges)
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
    """Request the runs that compute the features of ``series``, or of all partitions, that are stale at ``now``.

    Series that are not partitions are left out, as are series whose splits were never fetched: they would be blocked.
    ``key`` begins each run's key.
    """
    ordered = instance.get_dynamic_partitions(SERIES)
    partitions = list(map(Series.parse, ordered))
    chosen = set(partitions if series is None else series)
    unadjusted = set(symbols_without_splits(database, chosen))
    wanted = [item for item in partitions if item in chosen and item.symbol not in unadjusted]
    days = stale_days(database, wanted, load_settings().start, now=now)
    return [
        RunRequest(
            run_key=f"{key}:features:{position}",
            job_name=features_job.name,
            tags={**purpose.tags, **run.tags},
        )
        for position, run in enumerate(feature_runs(ordered, days))
    ]


def _run_key(context: ScheduleEvaluationContext, position: int = 0) -> str:
    return f"{context.scheduled_execution_time.astimezone(UTC):%Y-%m-%dT%H:%MZ}:{position}"


def _read_timeframes(database: Database, series: Sequence[Series]) -> dict[AssetClass, set[Timeframe]]:
    """Return the timeframes of ``series`` by asset class."""
    classes = asset_classes(database)
    collected: dict[AssetClass, set[Timeframe]] = {}
    for item in series:
        if item.symbol in classes:
            collected.setdefault(classes[item.symbol], set()).add(item.timeframe)
    return collected


def _find_traded(
    symbols: Sequence[TrackedSymbol], ordered: Sequence[str], now: datetime
) -> dict[date, list[Series]]:
    """Return the series whose market is open at ``now``, by their local day; without series that are not partitions."""
    partitions = set(ordered)
    traded: dict[date, list[Series]] = {}
    for symbol in symbols:
        day = traded_day(calendar_of(symbol.asset_class), now)
        if day is not None:
            traded.setdefault(day, []).extend(item for item in symbol.series if item.key in partitions)
    return {day: series for day, series in traded.items() if series}
