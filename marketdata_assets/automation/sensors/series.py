"""``series_sync``: the partitions follow ``tracked_symbols``, and a new series is given its history.

The table ``initial_backfill`` says which series were given theirs, so that a series is new until somebody has
asked for its history, whoever made its partitions, and is not new again when it comes back.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
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

from marketdata_assets.assets.ohlcv import FAILED_SYMBOLS
from marketdata_assets.automation.instance import keeps_order, sync_series
from marketdata_assets.automation.jobs import corporate_actions_job, features_job, history_job
from marketdata_assets.automation.purposes import (
    REQUEST_TAG,
    Purpose,
    is_unfinished,
    under_way,
    unfinished_ranges,
)
from marketdata_assets.automation.ranges import RangeRun, range_runs
from marketdata_assets.automation.schedules import feature_requests, ops_config
from marketdata_assets.config import Settings, load_settings
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.upkeep import Days, initial_days, may_ask_again
from marketdata_assets.storage.adjusted import SPLITTING, unchecked_symbols
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.resource import PostgresResource
from marketdata_assets.storage.symbols import list_symbols
from marketdata_assets.storage.upkeep import (
    InitialBackfill,
    ask_initial,
    finish_initial,
    forget_pause,
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
            return keeper.requests() or SkipReason(keeper.told)

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
            runs = self.instance.get_runs(RunsFilter(tags={REQUEST_TAG: request}))
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

    def _first_day_again(self, row: InitialBackfill, today: date) -> date | None:
        """From where on the history of a known series is asked for now; None when it is not."""
        if row.done_at is not None:
            if row.untracked_since is None or today - row.untracked_since <= SHORT_ABSENCE:
                return None
            return max(self.settings.start, row.untracked_since - SHORT_ABSENCE)
        runs = self.instance.get_runs(RunsFilter(tags={REQUEST_TAG: row.request}))
        if any(is_unfinished(run) for run in runs):
            return None
        if not may_ask_again(row.attempts, row.asked_at, self.now, pause=PAUSE, limit=MAX_ATTEMPTS):
            return None
        return max(self.settings.start, row.first_day)

    def _history(self, days: Mapping[Series, Days], attempts: Mapping[Series, int]) -> list[RunRequest]:
        """The runs that bring ``days``, written down as asked for."""
        asked: dict[Series, InitialBackfill] = {}
        requests = []
        for span in sorted(set(days.values())):
            wanted = [one for one in days if days[one] == span]
            for run in range_runs(self.ordered, wanted, span.first, span.last):
                name = str(uuid.uuid4())
                requests.append(_history_request(run, name))
                for one in run.series:
                    if days.get(one) == span:
                        asked[one] = InitialBackfill(span.first, name, attempts[one] + 1, self.now)
        ask_initial(self.database, asked)
        return [*self._splits(asked), *requests]

    def _splits(self, series: Iterable[Series]) -> list[RunRequest]:
        """A run of the corporate actions when those of a new symbol were never asked for."""
        classes = {one.symbol: one.asset_class for one in list_symbols(self.database)}
        splitting = {one.symbol for one in series if classes[one.symbol] in SPLITTING}
        if not unchecked_symbols(self.database, splitting) or under_way(
            self.instance, Purpose.CORPORATE_ACTIONS
        ):
            return []
        return [RunRequest(job_name=corporate_actions_job.name, tags=Purpose.CORPORATE_ACTIONS.tags)]


def _history_request(run: RangeRun, name: str) -> RunRequest:
    return RunRequest(
        run_key=name,
        job_name=history_job.name,
        run_config=ops_config(_CONFIG),
        tags={**Purpose.INITIAL_BACKFILL.tags, REQUEST_TAG: name, **run.tags},
    )


def _symbols_brought(instance: DagsterInstance, run_id: str, wanted: set[str]) -> set[str]:
    """Those of ``wanted`` whose bars a run has brought and looked through, whatever its checks say of them."""
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
