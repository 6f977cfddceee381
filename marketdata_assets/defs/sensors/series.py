"""``series_sync``: the partitions follow ``tracked_symbols``, and the history of a new series is fetched.

Which histories are requested is decided in ``domain.maintenance``, and recorded by ``pipeline.history``.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    DefaultSensorStatus,
    JsonMetadataValue,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from marketdata_assets.config import load_settings
from marketdata_assets.defs.assets.ohlcv import FAILED_SYMBOLS
from marketdata_assets.defs.clock import Clock, read_utc_now
from marketdata_assets.defs.instance.environment import keeps_order, sync_series
from marketdata_assets.defs.jobs import corporate_actions_job, features_job, history_job
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.defs.run_tags import REQUEST_TAG, ended_at, is_unfinished, under_way, unfinished_ranges
from marketdata_assets.defs.runs.commands import close_orphans
from marketdata_assets.defs.runs.execution import ops_config
from marketdata_assets.defs.schedules import feature_requests
from marketdata_assets.domain.maintenance import History, RequestState, plan_histories
from marketdata_assets.domain.run_tags import Purpose
from marketdata_assets.domain.series import Series
from marketdata_assets.pipeline.adjusted import symbols_without_splits
from marketdata_assets.pipeline.alerts import AlertError, send
from marketdata_assets.pipeline.history import (
    HistoryRun,
    describe_waiting,
    given_up_alert,
    read_histories,
    record_histories,
)
from marketdata_assets.storage.connection import Database

_SECONDS: Final = 30
_CONFIG: Final = {
    "ohlcv": {"keep_going": True},
    # At once, unlike the daily run: bars that an old day lacks do not come later, and features wait for the result.
    "gap_report": {"repair": True},
}


def series_sensor(clock: Clock = read_utc_now) -> SensorDefinition:
    """Return the sensor that matches partitions to ``tracked_symbols``, and requests the history of new series."""

    @sensor(
        name="series_sync",
        jobs=[history_job, features_job, corporate_actions_job],
        minimum_interval_seconds=_SECONDS,
        # A new store tracks 62 symbols: trying out the platform must not fetch a year of each.
        default_status=DefaultSensorStatus.STOPPED,
        description=(
            "Adds and removes partitions to match tracked_symbols, and fetches the history of new series: bars, gaps,"
            " features. Off by default: the first tick requests the history of every tracked series."
        ),
    )
    def series_sync(
        context: SensorEvaluationContext, postgres: PostgresResource
    ) -> list[RunRequest] | SkipReason:
        with postgres.database() as database:
            # A range run reads its series from Dagster's order, at its start and at its end.
            if not keeps_order(context.instance, database) and unfinished_ranges(context.instance):
                # A command that was killed leaves runs that would never end.
                close_orphans(context.instance, database)
            if not keeps_order(context.instance, database) and (runs := unfinished_ranges(context.instance)):
                return SkipReason(
                    f"{len(runs)} runs depend on the present order of the series ({runs[0].run_id} …):"
                    " the partitions change when the runs have ended"
                )
            settings, now = load_settings(), clock()
            ordered = sync_series(context.instance, database)
            tracked = list(map(Series.parse, ordered))
            known = read_histories(database, tracked, now.date())
            plan = plan_histories(
                tracked,
                known,
                _read_states(context.instance, known),
                now,
                days=settings.initial_days,
                minute_days=settings.initial_minute_days,
                earliest=settings.start,
            )
            history_runs = record_histories(database, plan, ordered, now)
            features = feature_requests(
                context.instance,
                database,
                Purpose.INITIAL_BACKFILL,
                key=f"{now:%Y-%m-%dT%H:%M:%SZ}",
                now=now,
                series=plan.arrived,
            )
            requests = [
                *_request_splits(context.instance, database, plan.due),
                *map(_history_request, history_runs),
                *features,
            ]
            if (alert := given_up_alert(plan)) is not None:
                try:
                    send(alert, settings.webhook_url, log=context.log)
                except AlertError as error:
                    # Not raised: the requests are already recorded, so the tick must return them.
                    context.log.warning("%s", error)
            return requests or SkipReason(describe_waiting(plan))

    return series_sync


def _request_splits(
    instance: DagsterInstance, database: Database, series: Iterable[Series]
) -> list[RunRequest]:
    """Request a run of the corporate actions if those of a new symbol were never fetched."""
    if under_way(instance, Purpose.CORPORATE_ACTIONS) or not symbols_without_splits(database, series):
        return []
    return [RunRequest(job_name=corporate_actions_job.name, tags=Purpose.CORPORATE_ACTIONS.tags)]


def _history_request(run: HistoryRun) -> RunRequest:
    return RunRequest(
        run_key=run.request,
        job_name=history_job.name,
        run_config=ops_config(_CONFIG),
        tags={**Purpose.INITIAL_BACKFILL.tags, REQUEST_TAG: run.request, **run.rectangle.tags},
    )


def _read_states(instance: DagsterInstance, known: Mapping[Series, History]) -> dict[str, RequestState]:
    """Read the state of each request of ``known`` whose history is not fetched, from its runs."""
    symbols: dict[str, set[str]] = {}
    for series, history in known.items():
        if not history.is_fetched:
            symbols.setdefault(history.request, set()).add(series.symbol)
    return {request: _read_state(instance, request, wanted) for request, wanted in symbols.items()}


def _read_state(instance: DagsterInstance, request: str, symbols: set[str]) -> RequestState:
    records = instance.get_run_records(RunsFilter(tags={REQUEST_TAG: request}))
    runs = [record.dagster_run for record in records]
    if any(map(is_unfinished, runs)):
        return RequestState(unfinished_run=runs[0].run_id)
    ends = [end for record in records if (end := ended_at(record)) is not None]
    found = [_find_fetched_symbols(instance, run.run_id, symbols) for run in runs]
    return RequestState(ended_at=max(ends, default=None), fetched=frozenset().union(*found))


def _find_fetched_symbols(instance: DagsterInstance, run_id: str, wanted: set[str]) -> set[str]:
    """Return those of ``wanted`` whose bars a run fetched and scanned, whatever the results of its checks."""
    ends = [
        record.asset_materialization
        for is_first in (True, False)
        for record in instance.get_records_for_run(
            run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION, limit=1, ascending=is_first
        ).records
    ]
    bars, gaps = (ends[0], ends[-1]) if ends else (None, None)
    if bars is None or gaps is None or gaps.asset_key != AssetKey("gap_report"):
        return set()
    recorded = bars.metadata.get(FAILED_SYMBOLS)
    symbols = recorded.value if isinstance(recorded, JsonMetadataValue) else None
    failed = symbols if isinstance(symbols, list) else []
    return wanted.difference(map(str, failed))
