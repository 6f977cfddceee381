"""``series_sync``: the partitions follow ``tracked_symbols``, and a new series is given its history.

The table ``initial_backfill`` says which series were given theirs, so that a series is new until somebody has
asked for its history, whoever made its partitions, and is not new again when it comes back.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
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
from marketdata_assets.defs.instance.environment import keeps_order, sync_series
from marketdata_assets.defs.jobs import corporate_actions_job, features_job, history_job
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.defs.run_tags import REQUEST_TAG, ended_at, is_unfinished, under_way, unfinished_ranges
from marketdata_assets.defs.runs.commands import close_orphans
from marketdata_assets.defs.runs.execution import ops_config
from marketdata_assets.defs.schedules import feature_requests
from marketdata_assets.domain.partitions import Rectangle
from marketdata_assets.domain.ranges import range_runs
from marketdata_assets.domain.run_tags import Purpose
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.upkeep import Days, initial_days, may_ask_again
from marketdata_assets.domain.wording import name_first
from marketdata_assets.pipeline.adjusted import symbols_without_splits
from marketdata_assets.pipeline.alerts import Alert, AlertError, send
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.upkeep import (
    InitialBackfill,
    ask_initial,
    finish_initial,
    forget_pause,
    give_up_initial,
    note_tracked,
    read_initial,
)

MAX_ATTEMPTS: Final = 4
"""Runs that the history of a series is asked for with; after that it is `marketdata backfill`'s."""

PAUSE: Final = timedelta(minutes=10)
"""Between a run that brought no history and the next."""

SHORT_ABSENCE: Final = timedelta(days=3)
"""What nightly runs make up for by themselves: the correction window."""

_SECONDS: Final = 30
_NAMED: Final = 5
_CONFIG: Final = {
    "ohlcv": {"keep_going": True},
    # At once, unlike every night: what an old day lacks does not come later, and features wait for the answer.
    "gap_report": {"repair": True},
}


def series_sensor() -> SensorDefinition:
    """Keeps partitions and ``tracked_symbols`` the same, and asks for the history of new series."""

    @sensor(
        name="series_sync",
        jobs=[history_job, features_job, corporate_actions_job],
        minimum_interval_seconds=_SECONDS,
        # A new store tracks 62 symbols: whoever only looks around must not fetch a year of each.
        default_status=DefaultSensorStatus.STOPPED,
        description=(
            "Partitions follow tracked_symbols, both ways; a new series gets its history: bars, gaps, features."
            " Off by default: the first tick asks for the history of everything that is tracked."
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
                    f"{len(runs)} runs go by the present order of the series ({runs[0].run_id} …):"
                    " the partitions follow when they have ended"
                )
            keeper = _Keeper(
                context.instance,
                database,
                load_settings(),
                sync_series(context.instance, database),
                datetime.now(UTC),
            )
            requests = keeper.requests()
            if keeper.alert is not None:
                try:
                    send(keeper.alert, keeper.settings.webhook_url, log=context.log)
                except AlertError as error:
                    # What is asked for is written down already, and must be.
                    context.log.warning("%s", error)
            return requests or SkipReason(keeper.told)

    return series_sync


@dataclass(slots=True)
class _Keeper:
    """What one tick does about histories."""

    instance: DagsterInstance
    database: Database
    settings: Settings
    ordered: Sequence[str]
    now: datetime
    told: str = "every series has its partitions and its history"
    alert: Alert | None = None
    """What people should hear of."""
    seen: dict[str, Sequence[RunRecord]] = field(default_factory=dict)
    """The runs of each request that was looked up."""

    def requests(self) -> list[RunRequest]:
        """Runs that bring what is missing, and those that follow runs that have ended well."""
        today = self.now.date()
        tracked = list(map(Series.parse, self.ordered))
        note_tracked(self.database, tracked, today)
        known = read_initial(self.database)
        if today < self.settings.start:
            return []
        arrived = self._settle({one: known[one] for one in tracked if one in known})
        new = [one for one in tracked if one not in known]
        days = initial_days(
            new,
            today,
            days=self.settings.initial_days,
            minute_days=self.settings.initial_minute_days,
            earliest=self.settings.start,
        )
        attempts = dict.fromkeys(new, 0)
        for one, row in ((one, known[one]) for one in tracked if one in known and one not in arrived):
            if (first := self._first_day_again(row, today)) is not None:
                days[one] = Days(first, today)
                attempts[one] = 0 if row.done_at else row.attempts
        self._give_up({one: known[one] for one in tracked if one in known and one not in {*arrived, *days}})
        return [
            *self._history(days, attempts),
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
        """Note whose run has ended well and whose absence was short; returns the former."""
        arrived: list[Series] = []
        waiting: dict[str, list[Series]] = {}
        for one, row in rows.items():
            if row.done_at is None:
                waiting.setdefault(row.request, []).append(one)
        for request, series in waiting.items():
            runs = [one.dagster_run for one in self._runs(request)]
            if any(is_unfinished(run) for run in runs):
                self.told = f"the history of {len(series)} series is under way (run {runs[0].run_id})"
                continue
            brought: set[str] = set()
            for run in runs:
                brought |= _symbols_brought(self.instance, run.run_id, {one.symbol for one in series})
            arrived += [one for one in series if one.symbol in brought]
        if arrived:
            finish_initial(self.database, arrived, self.now)
        today = self.now.date()
        back = [
            one
            for one, row in rows.items()
            if row.untracked_since is not None and today - row.untracked_since <= SHORT_ABSENCE
        ]
        if back:
            forget_pause(self.database, back)
        return arrived

    def _give_up(self, rows: Mapping[Series, InitialBackfill]) -> None:
        """Name those of ``rows`` whose history did not come, and tell people once of each."""
        given_up = [
            one
            for one, row in rows.items()
            if row.done_at is None and row.attempts >= MAX_ATTEMPTS and not self._is_under_way(row.request)
        ]
        if not given_up:
            return
        self.told = _gave_up(given_up)
        untold = [one for one in given_up if rows[one].given_up_at is None]
        if untold:
            give_up_initial(self.database, untold, self.now)
            self.alert = Alert(
                title=f"no history of {len(untold)} new series",
                text=_gave_up(untold),
                facts={"series": ", ".join(one.key for one in untold)},
            )

    def _is_under_way(self, request: str) -> bool:
        return any(is_unfinished(one.dagster_run) for one in self._runs(request))

    def _runs(self, request: str) -> Sequence[RunRecord]:
        if request not in self.seen:
            self.seen[request] = self.instance.get_run_records(RunsFilter(tags={REQUEST_TAG: request}))
        return self.seen[request]

    def _first_day_again(self, row: InitialBackfill, today: date) -> date | None:
        """From where on the history of a known series is asked for now; None when it is not."""
        if row.done_at is not None:
            if row.untracked_since is None or today - row.untracked_since <= SHORT_ABSENCE:
                return None
            return max(self.settings.start, row.untracked_since - SHORT_ABSENCE)
        if self._is_under_way(row.request):
            return None
        # A run may have waited in the queue for hours: the pause begins where the last one ended.
        ends = [end for one in self._runs(row.request) if (end := ended_at(one)) is not None]
        since = max([row.asked_at, *ends])
        if not may_ask_again(row.attempts, since, self.now, pause=PAUSE, limit=MAX_ATTEMPTS):
            return None
        return max(self.settings.start, row.first_day)

    def _history(self, days: Mapping[Series, Days], attempts: Mapping[Series, int]) -> list[RunRequest]:
        """The runs that bring ``days``, written down as asked for."""
        requested: dict[Series, InitialBackfill] = {}
        requests = []
        for span in sorted(set(days.values())):
            wanted = [one for one in days if days[one] == span]
            for run in range_runs(self.ordered, wanted, span.first, span.last):
                name = str(uuid.uuid4())
                requests.append(_history_request(run, name))
                for one in run.series:
                    if days.get(one) == span:
                        requested[one] = InitialBackfill(span.first, name, attempts[one] + 1, self.now)
        ask_initial(self.database, requested)
        return [*self._splits(requested), *requests]

    def _splits(self, series: Iterable[Series]) -> list[RunRequest]:
        """A run of the corporate actions when those of a new symbol were never asked for."""
        if under_way(self.instance, Purpose.CORPORATE_ACTIONS):
            return []
        if not symbols_without_splits(self.database, series):
            return []
        return [RunRequest(job_name=corporate_actions_job.name, tags=Purpose.CORPORATE_ACTIONS.tags)]


def _gave_up(series: Sequence[Series]) -> str:
    """What became of ``series``, in one sentence."""
    named = name_first([one.key for one in series], _NAMED)
    return (
        f"the history of {named} was given up after {MAX_ATTEMPTS} runs that did not bring it:"
        " see what they say, then `marketdata backfill`, or delete its rows of initial_backfill to have it asked for again"
    )


def _history_request(run: Rectangle, name: str) -> RunRequest:
    return RunRequest(
        run_key=name,
        job_name=history_job.name,
        run_config=ops_config(_CONFIG),
        tags={**Purpose.INITIAL_BACKFILL.tags, REQUEST_TAG: name, **run.tags},
    )


def _symbols_brought(instance: DagsterInstance, run_id: str, wanted: set[str]) -> set[str]:
    """Those of ``wanted`` whose bars a run has brought and scanned, whatever its checks say of them."""
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
    said = bars.metadata.get(FAILED_SYMBOLS)
    failed = said.value if isinstance(said, JsonMetadataValue) and isinstance(said.value, list) else []
    return wanted.difference(map(str, failed))
