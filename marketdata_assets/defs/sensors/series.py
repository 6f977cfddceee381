"""``series_sync``: the partitions follow ``tracked_symbols``, and the history of a new series is fetched.

The table ``initial_backfill`` records the series whose history was requested, so that a series is new until then,
whatever created its partitions, and is not new again when it is tracked again.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Final

from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    DefaultSensorStatus,
    JsonMetadataValue,
    RunRecord,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from marketdata_assets.config import Settings, load_settings
from marketdata_assets.defs.assets.ohlcv import FAILED_SYMBOLS
from marketdata_assets.defs.clock import Clock, read_utc_now
from marketdata_assets.defs.instance.environment import keeps_order, sync_series
from marketdata_assets.defs.jobs import corporate_actions_job, features_job, history_job
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.defs.run_tags import REQUEST_TAG, ended_at, is_unfinished, under_way, unfinished_ranges
from marketdata_assets.defs.runs.commands import close_orphans
from marketdata_assets.defs.runs.execution import ops_config
from marketdata_assets.defs.schedules import feature_requests
from marketdata_assets.domain.maintenance import Days, initial_days, may_request_again
from marketdata_assets.domain.partitions import Rectangle
from marketdata_assets.domain.ranges import range_runs
from marketdata_assets.domain.run_tags import Purpose
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.wording import name_first
from marketdata_assets.pipeline.adjusted import symbols_without_splits
from marketdata_assets.pipeline.alerts import Alert, AlertError, send
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.maintenance import (
    InitialBackfill,
    finish_initial,
    forget_pause,
    give_up_initial,
    note_tracked,
    read_initial,
    record_initial,
)

MAX_ATTEMPTS: Final = 4
"""The number of runs that request the history of a series; after that it takes a `marketdata backfill`."""

PAUSE: Final = timedelta(minutes=10)
"""The pause between a run that fetched no history and the next one."""

SHORT_ABSENCE: Final = timedelta(days=3)
"""The absence that daily runs make up for by themselves: the correction window."""

_SECONDS: Final = 30
_NAMED: Final = 5
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
            keeper = _Keeper(
                context.instance,
                database,
                load_settings(),
                sync_series(context.instance, database),
                clock(),
            )
            requests = keeper.requests()
            if keeper.alert is not None:
                try:
                    send(keeper.alert, keeper.settings.webhook_url, log=context.log)
                except AlertError as error:
                    # Not raised: the requests are already recorded, so the tick must return them.
                    context.log.warning("%s", error)
            return requests or SkipReason(keeper.reason)

    return series_sync


@dataclass(slots=True)
class _Keeper:
    """The work of one tick on histories."""

    instance: DagsterInstance
    database: Database
    settings: Settings
    ordered: Sequence[str]
    now: datetime
    reason: str = "every series has its partitions and its history"
    """Why the tick requests nothing."""
    alert: Alert | None = None
    """The alert to send."""
    seen: dict[str, Sequence[RunRecord]] = field(default_factory=dict)
    """The runs of each request, as far as they were read."""

    def requests(self) -> list[RunRequest]:
        """Request the runs that fetch missing histories, and those that compute features of fetched histories."""
        today = self.now.date()
        tracked = list(map(Series.parse, self.ordered))
        note_tracked(self.database, tracked, today)
        known = read_initial(self.database)
        if today < self.settings.start:
            return []
        arrived = self._settle({series: known[series] for series in tracked if series in known})
        new = [series for series in tracked if series not in known]
        days = initial_days(
            new,
            today,
            days=self.settings.initial_days,
            minute_days=self.settings.initial_minute_days,
            earliest=self.settings.start,
        )
        attempts = dict.fromkeys(new, 0)
        for series, row in (
            (series, known[series]) for series in tracked if series in known and series not in arrived
        ):
            if (first := self._first_day_again(row, today)) is not None:
                days[series] = Days(first, today)
                attempts[series] = 0 if row.done_at else row.attempts
        self._give_up(
            {
                series: known[series]
                for series in tracked
                if series in known and series not in {*arrived, *days}
            }
        )
        return [
            *self._request_history(days, attempts),
            *feature_requests(
                self.instance,
                self.database,
                Purpose.INITIAL_BACKFILL,
                key=f"{self.now:%Y-%m-%dT%H:%M:%SZ}",
                now=self.now,
                series=arrived,
            ),
        ]

    def _settle(self, rows: Mapping[Series, InitialBackfill]) -> list[Series]:
        """Record the series whose history was fetched, and those whose absence was short; return the former."""
        arrived: list[Series] = []
        waiting: dict[str, list[Series]] = {}
        for member, row in rows.items():
            if row.done_at is None:
                waiting.setdefault(row.request, []).append(member)
        for request, series in waiting.items():
            runs = [record.dagster_run for record in self._read_runs(request)]
            if any(is_unfinished(run) for run in runs):
                self.reason = f"the history of {len(series)} series is under way (run {runs[0].run_id})"
                continue
            fetched: set[str] = set()
            for run in runs:
                fetched |= _find_fetched_symbols(
                    self.instance, run.run_id, {member.symbol for member in series}
                )
            arrived += [member for member in series if member.symbol in fetched]
        if arrived:
            finish_initial(self.database, arrived, self.now)
        today = self.now.date()
        back = [
            member
            for member, row in rows.items()
            if row.untracked_since is not None and today - row.untracked_since <= SHORT_ABSENCE
        ]
        if back:
            forget_pause(self.database, back)
        return arrived

    def _give_up(self, rows: Mapping[Series, InitialBackfill]) -> None:
        """Report the series of ``rows`` whose history could not be fetched, and alert once about each."""
        given_up = [
            series
            for series, row in rows.items()
            if row.done_at is None and row.attempts >= MAX_ATTEMPTS and not self._is_under_way(row.request)
        ]
        if not given_up:
            return
        self.reason = _describe_given_up(given_up)
        unreported = [series for series in given_up if rows[series].given_up_at is None]
        if unreported:
            give_up_initial(self.database, unreported, self.now)
            self.alert = Alert(
                title=f"no history of {len(unreported)} new series",
                text=_describe_given_up(unreported),
                facts={"series": ", ".join(series.key for series in unreported)},
            )

    def _is_under_way(self, request: str) -> bool:
        return any(is_unfinished(record.dagster_run) for record in self._read_runs(request))

    def _read_runs(self, request: str) -> Sequence[RunRecord]:
        if request not in self.seen:
            self.seen[request] = self.instance.get_run_records(RunsFilter(tags={REQUEST_TAG: request}))
        return self.seen[request]

    def _first_day_again(self, row: InitialBackfill, today: date) -> date | None:
        """Return the first day of the history of a known series to request now; None when it is not requested."""
        if row.done_at is not None:
            if row.untracked_since is None or today - row.untracked_since <= SHORT_ABSENCE:
                return None
            return max(self.settings.start, row.untracked_since - SHORT_ABSENCE)
        if self._is_under_way(row.request):
            return None
        # A run may have waited in the queue for hours, so the pause begins at the end of the last run.
        ends = [end for record in self._read_runs(row.request) if (end := ended_at(record)) is not None]
        since = max([row.asked_at, *ends])
        if not may_request_again(row.attempts, since, self.now, pause=PAUSE, limit=MAX_ATTEMPTS):
            return None
        return max(self.settings.start, row.first_day)

    def _request_history(
        self, days: Mapping[Series, Days], attempts: Mapping[Series, int]
    ) -> list[RunRequest]:
        """Request the runs that fetch ``days``, and record the requests."""
        requested: dict[Series, InitialBackfill] = {}
        requests = []
        for chosen in sorted(set(days.values())):
            wanted = [series for series in days if days[series] == chosen]
            for run in range_runs(self.ordered, wanted, chosen.first, chosen.last):
                name = str(uuid.uuid4())
                requests.append(_history_request(run, name))
                for series in run.series:
                    if days.get(series) == chosen:
                        requested[series] = InitialBackfill(
                            chosen.first, name, attempts[series] + 1, self.now
                        )
        record_initial(self.database, requested)
        return [*self._request_splits(requested), *requests]

    def _request_splits(self, series: Iterable[Series]) -> list[RunRequest]:
        """Request a run of the corporate actions if those of a new symbol were never fetched."""
        if under_way(self.instance, Purpose.CORPORATE_ACTIONS):
            return []
        if not symbols_without_splits(self.database, series):
            return []
        return [RunRequest(job_name=corporate_actions_job.name, tags=Purpose.CORPORATE_ACTIONS.tags)]


def _describe_given_up(series: Sequence[Series]) -> str:
    """Return a sentence about ``series``, whose history was given up."""
    named = name_first([member.key for member in series], _NAMED)
    return (
        f"the history of {named} was given up after {MAX_ATTEMPTS} runs that did not fetch it:"
        " see their errors, then run `marketdata backfill`, or delete its rows of initial_backfill to have it requested again"
    )


def _history_request(run: Rectangle, name: str) -> RunRequest:
    return RunRequest(
        run_key=name,
        job_name=history_job.name,
        run_config=ops_config(_CONFIG),
        tags={**Purpose.INITIAL_BACKFILL.tags, REQUEST_TAG: name, **run.tags},
    )


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
