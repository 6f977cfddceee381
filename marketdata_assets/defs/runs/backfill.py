"""Backfills: bars, gaps, repair, features and matrix of a rectangle of days x series, one after the other in this process."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import polars as pl

from marketdata_assets.defs.runs.bars import BarsOutcome, fetch_bars
from marketdata_assets.defs.runs.commands import run_ids
from marketdata_assets.defs.runs.execution import Runner
from marketdata_assets.defs.runs.features import FeaturesOutcome, compute
from marketdata_assets.defs.runs.gaps import repair_runs, scan_for_gaps
from marketdata_assets.domain.completeness import DAILY_COMPLETENESS_SCHEMA, due_days, ended_series
from marketdata_assets.domain.errors import ConfigurationError, MarketDataError
from marketdata_assets.domain.gaps import LOSSES, GapState
from marketdata_assets.domain.partitions import Rectangle
from marketdata_assets.domain.ranges import feature_runs, range_runs
from marketdata_assets.domain.scans import scan_windows
from marketdata_assets.domain.series import Series, with_siblings
from marketdata_assets.pipeline.adjusted import symbols_without_splits
from marketdata_assets.pipeline.idle import (
    bars_are_current,
    is_instance_in_order,
    matrix_is_current,
    scans_are_current,
    stale_days,
)
from marketdata_assets.storage.backfill_history import begin_backfill, count_requests, end_backfill
from marketdata_assets.storage.clock import require_right_clock
from marketdata_assets.storage.completeness import (
    MATRIX_SCHEMA,
    active_series,
    completeness_between,
    incomplete_series,
    read_matrix,
    read_unchecked,
)
from marketdata_assets.storage.gaps import LISTED_SCHEMA, gap_rows, list_gaps
from marketdata_assets.storage.symbols import asset_classes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    from dagster import DagsterInstance, Definitions

    from marketdata_assets.defs.runs.commands import Command
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session


class Stage(StrEnum):
    """The stages of a backfill, in order."""

    BARS = "bars"
    GAPS = "gaps"
    REPAIR = "repair"
    FEATURES = "features"
    MATRIX = "matrix"


@dataclass(frozen=True, slots=True)
class BackfillRequest:
    """The request for a backfill. Days are local dates, both inclusive."""

    series: tuple[Series, ...]
    first: date
    last: date
    force: bool = False
    with_features: bool = True

    @property
    def rectangle(self) -> Rectangle:
        """The partitions of the request."""
        return Rectangle(self.first, self.last, self.series)

    @property
    def stages(self) -> list[Stage]:
        """The stages of the backfill, in order."""
        return [stage for stage in Stage if self.with_features or stage is not Stage.FEATURES]


class BackfillProgress:
    """The observer of a backfill's progress; this class does nothing."""

    def stage(
        self, stage: Stage, position: int, of: int, runs: Sequence[Rectangle], *, is_idle: bool
    ) -> None:
        """Note that ``stage``, number ``position`` ``of`` all, begins, with ``runs`` to execute; ``is_idle`` if none."""

    def run(self, run: Rectangle) -> None:
        """Note that ``run`` begins; the run before it has ended."""


@dataclass(slots=True)
class Outcome:
    """The outcome of a backfill: what it did, and what is left.

    ``gaps`` (``LISTED_SCHEMA``) holds the gaps of the series and of their siblings, which are stored and scanned with
    them, in the windows that were scanned (whole weeks where there are week bars): those that remain, and those that
    were filled since the backfill began. ``completeness`` has a row
    for each series, summed over the days of the window; ``matrix`` (``MATRIX_SCHEMA``) over all of its history.
    ``unchecked`` (``DAILY_COMPLETENESS_SCHEMA``) holds the days of the window that expect bars and were never scanned.
    ``ended`` holds the rows of ``matrix`` whose scanned days end before the day that is due.
    """

    backfill_id: str
    request: BackfillRequest
    bars: BarsOutcome = field(default_factory=BarsOutcome)
    features: FeaturesOutcome = field(default_factory=FeaturesOutcome)
    run_ids: list[str] = field(default_factory=list)
    gaps: pl.DataFrame = field(default_factory=LISTED_SCHEMA.to_frame)
    completeness: pl.DataFrame = field(default_factory=pl.DataFrame)
    matrix: pl.DataFrame = field(default_factory=MATRIX_SCHEMA.to_frame)
    ended: pl.DataFrame = field(default_factory=MATRIX_SCHEMA.to_frame)
    unchecked: pl.DataFrame = field(default_factory=DAILY_COMPLETENESS_SCHEMA.to_frame)
    requests: int = 0
    pages: int = 0
    retries: int = 0
    seconds_waited_for_limit: float = 0.0
    duration_seconds: float = 0.0

    @property
    def failures(self) -> dict[str, str]:
        """The reasons why symbols failed, one line each."""
        return self.bars.failures

    def gaps_in(self, state: GapState) -> pl.DataFrame:
        """Return the gaps in ``state``."""
        return self.gaps.filter(state=state.value)

    @property
    def lost(self) -> pl.DataFrame:
        """The gaps that remain without an explanation, the largest first."""
        return self.gaps.filter(pl.col("state").is_in(LOSSES))

    @property
    def is_whole(self) -> bool:
        """Whether nothing failed and no gap remains without an explanation."""
        return not self.failures and not self.features.failures and self.lost.is_empty()


def execute(
    definitions: Definitions,
    instance: DagsterInstance,
    database: Database,
    request: BackfillRequest,
    *,
    command: Command,
    ordered: Sequence[str],
    earliest: date,
    progress: BackfillProgress,
) -> Outcome:
    """Carry out ``request``, stage by stage, as ``command``, whose id becomes the id of the backfill.

    ``ordered`` are the series keys in Dagster's order, ``earliest`` is the first day that is a partition.

    A symbol that fails does not stop the others. Its gaps stay open: to refetch them at once would spend
    their attempts on the same failure.

    Raises:
        ConfigurationError: A setting is wrong (the key, say): every other run would fail like this one.
        MarketDataError: A scan for gaps or the refresh of the matrix failed.
    """
    outcome = Outcome(command.id, request)
    begun = _begin_history(database, outcome)
    started = time.monotonic()
    status = "failed"
    try:
        runner = Runner(definitions, instance, command.tags, progress.run)
        _Stages(runner, database, ordered, outcome, progress, earliest).execute(begun)
        status = "ok" if outcome.is_whole else "failed"
    finally:
        outcome.duration_seconds = time.monotonic() - started
        outcome.run_ids = run_ids(instance, command)
        _end_history(database, outcome, status)
    return outcome


def execute_idle(
    database: Database, request: BackfillRequest, *, earliest: date, progress: BackfillProgress, now: datetime
) -> Outcome | None:
    """Carry out ``request`` without Dagster when no stage has anything to do; else return None and do nothing.

    The backfill is recorded in ``backfill_history`` like every other. ``earliest`` is the first day that is a partition.

    Raises:
        ClockError: This machine's clock is far off: nothing is written.
    """
    started = time.monotonic()
    require_right_clock(database)
    is_idle = (
        not request.force
        and is_instance_in_order(database)
        and bars_are_current(database, request.rectangle, now=now)
        and scans_are_current(database, request.rectangle, now=now)
        and not (request.with_features and symbols_without_splits(database, request.series))
        and not (request.with_features and stale_days(database, request.series, earliest, now=now))
        and matrix_is_current(database, now.date())
    )
    if not is_idle:
        return None
    outcome = Outcome(str(uuid.uuid4()), request)
    _conclude(database, outcome, begun=now, now=now)
    if not outcome.gaps_in(GapState.OPEN).is_empty():
        return None
    for position, stage in enumerate(request.stages, 1):
        progress.stage(stage, position, len(request.stages), [], is_idle=True)
    _begin_history(database, outcome)
    outcome.duration_seconds = time.monotonic() - started
    _end_history(database, outcome, "ok" if outcome.is_whole else "failed")
    return outcome


def _conclude(database: Database, outcome: Outcome, *, begun: datetime, now: datetime) -> None:
    """Read the state of the store at ``now``, the end of the backfill that began at ``begun``, into ``outcome``."""
    request = outcome.request
    outcome.gaps = _list_gaps(database, request, request.series).filter(
        (pl.col("state") != GapState.FILLED.value) | (pl.col("resolved_at") >= begun)
    )
    outcome.completeness = completeness_between(database, request.series, request.first, request.last)
    outcome.matrix = read_matrix(database, {series.symbol for series in request.series}).join(
        outcome.completeness, on=["symbol", "timeframe"], how="semi"
    )
    outcome.ended = ended_series(outcome.matrix, due_days(active_series(database), now))
    # Only of these days: `status` and `matrix` report what other days lack.
    outcome.unchecked = read_unchecked(
        database,
        incomplete_series(outcome.matrix),
        request.first,
        request.last + timedelta(days=1),
        now=now,
    )


def _list_gaps(database: Database, request: BackfillRequest, series: Iterable[Series]) -> pl.DataFrame:
    """List the gaps of ``series`` and of their siblings in the windows that a scan of ``request`` covers."""
    chosen = list(series)
    classes = asset_classes(database)
    days = dict.fromkeys(chosen, (request.first, request.last))
    return list_gaps(database, scan_windows(days, with_siblings(chosen, active_series(database)), classes))


@dataclass(frozen=True, slots=True)
class _Stages:
    runner: Runner
    database: Database
    ordered: Sequence[str]
    outcome: Outcome
    progress: BackfillProgress
    earliest: date

    def execute(self, begun: datetime) -> None:
        request = self.outcome.request
        runs = range_runs(self.ordered, request.series, request.first, request.last)
        self._fetch_bars(self._list_runs_to_fetch(runs))
        self._scan(Stage.GAPS, self._list_runs_to_scan(runs), repair=False)
        self._scan(Stage.REPAIR, self._plan_repairs(runs), repair=True)
        if request.with_features:
            self._compute_features()
        self._refresh_matrix()
        _conclude(self.database, self.outcome, begun=begun, now=datetime.now(UTC))

    def _list_runs_to_fetch(self, runs: Sequence[Rectangle]) -> list[Rectangle]:
        """List those of ``runs`` that have something to request, to roll up or to record."""
        if self.outcome.request.force:
            return list(runs)
        now = datetime.now(UTC)
        return [run for run in runs if not bars_are_current(self.database, run, now=now)]

    def _list_runs_to_scan(self, runs: Sequence[Rectangle]) -> list[Rectangle]:
        """List those of ``runs`` whose scan can find something new; all of them once this backfill has stored a bar."""
        bars = self.outcome.bars.totals
        if self.outcome.request.force or bars.rows_inserted or bars.rows_changed or bars.rows_quarantined:
            return list(runs)
        now = datetime.now(UTC)
        return [run for run in runs if not scans_are_current(self.database, run, now=now)]

    def _refresh_matrix(self) -> None:
        if not self.outcome.request.force and matrix_is_current(self.database, datetime.now(UTC).date()):
            self._begin(Stage.MATRIX, [], is_idle=True)
            return
        from marketdata_assets.defs.runs.matrix import refresh_matrix

        self._begin(Stage.MATRIX, [], is_idle=False)
        refresh_matrix(self.runner)

    def _fetch_bars(self, runs: Sequence[Rectangle]) -> None:
        self._begin(Stage.BARS, runs)
        fetch_bars(self.runner, runs, force=self.outcome.request.force, outcome=self.outcome.bars)

    def _scan(self, stage: Stage, runs: Sequence[Rectangle], *, repair: bool) -> None:
        self._begin(stage, runs)
        scan_for_gaps(self.runner, runs, repair=repair, bars=self.outcome.bars if repair else None)

    def _compute_features(self) -> None:
        # First: new splits make whole histories stale.
        self._fetch_missing_splits(self.outcome.request.series)
        days = stale_days(self.database, self.outcome.request.series, self.earliest, now=datetime.now(UTC))
        runs = feature_runs(self.ordered, days)
        self._begin(Stage.FEATURES, runs)
        compute(self.runner, runs, outcome=self.outcome.features)

    def _fetch_missing_splits(self, series: Iterable[Series]) -> None:
        """Fetch splits if those of a symbol were never fetched: a symbol without them gets no features."""
        if not symbols_without_splits(self.database, series):
            return
        from marketdata_assets.defs.runs.actions import refresh_actions

        try:
            refresh_actions(self.runner)
        except ConfigurationError:
            raise
        except MarketDataError as error:
            self.outcome.features.failures.append(str(error))

    def _begin(self, stage: Stage, runs: Sequence[Rectangle], *, is_idle: bool | None = None) -> None:
        stages = self.outcome.request.stages
        self.progress.stage(
            stage,
            stages.index(stage) + 1,
            len(stages),
            runs,
            is_idle=not runs if is_idle is None else is_idle,
        )

    def _plan_repairs(self, runs: Sequence[Rectangle]) -> list[Rectangle]:
        classes = asset_classes(self.database)
        # A run may cover more series than requested; the gaps that it found there are repaired as well.
        gaps = _list_gaps(
            self.database, self.outcome.request, (series for run in runs for series in run.series)
        )
        open_to_repair = gaps.filter(~pl.col("symbol").is_in(list(self.outcome.failures)))
        request = self.outcome.request
        return repair_runs(self.ordered, open_to_repair, classes, request.first, request.last)


def _begin_history(database: Database, outcome: Outcome) -> datetime:
    """Record that the backfill began; return when, by the database's clock."""
    request = outcome.request
    arguments = {
        "series": [series.key for series in request.series],
        "start": request.first.isoformat(),
        "end": request.last.isoformat(),
        "force": request.force,
        "features": request.with_features,
    }

    return begin_backfill(database, outcome.backfill_id, arguments)


def _end_history(database: Database, outcome: Outcome, status: str) -> None:
    def write(session: Session) -> None:
        counts = count_requests(session, outcome.run_ids)
        outcome.requests, outcome.pages, outcome.retries, outcome.seconds_waited_for_limit = counts
        end_backfill(session, outcome.backfill_id, status, summarize(outcome))

    database.transaction(write)


def summarize(outcome: Outcome) -> dict[str, object]:
    """Return the figures of ``outcome`` as values of JSON."""
    symbols = {series.symbol for series in outcome.request.series}
    return {
        "backfill_id": outcome.backfill_id,
        "duration_seconds": round(outcome.duration_seconds, 3),
        "runs": outcome.run_ids,
        "symbols": len(symbols),
        "successes": len(symbols - set(outcome.failures)),
        "failures": outcome.failures,
        "rows_inserted": outcome.bars.totals.rows_inserted,
        "rows_changed": outcome.bars.totals.rows_changed,
        "rows_unchanged": outcome.bars.totals.rows_unchanged,
        "rows_quarantined": outcome.bars.totals.rows_quarantined,
        "gaps_found": outcome.gaps.height,
        **{f"gaps_{state.value}": outcome.gaps_in(state).height for state in GapState},
        "features_written": outcome.features.totals.rows_written,
        "features_held_back": outcome.features.totals.partitions_blocked,
        "features_failures": outcome.features.failures,
        "requests": outcome.requests,
        "pages": outcome.pages,
        "retries": outcome.retries,
        "seconds_waited_for_limit": round(outcome.seconds_waited_for_limit, 3),
    }


def results(outcome: Outcome) -> dict[str, object]:
    """Return all of ``outcome`` as values of JSON: its summary, every gap, and every series."""
    counts = {
        (symbol, timeframe, state): gaps
        for symbol, timeframe, state, gaps in outcome.gaps.group_by("symbol", "timeframe", "state")
        .len()
        .iter_rows()
    }
    series = [
        {
            **row,
            "gaps": {
                state.value: counts.get((row["symbol"], row["timeframe"], state.value), 0)
                for state in GapState
            },
            "failure": outcome.failures.get(row["symbol"]),
        }
        for row in outcome.completeness.iter_rows(named=True)
    ]
    return {"summary": summarize(outcome), "gaps_detected": gap_rows(outcome.gaps), "series": series}
