"""Backfills: the request, the stages with what each has left to do, the outcome and its record.

The runs themselves are Dagster's: ``defs.runs.backfill`` executes them.
"""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import polars as pl

from marketdata_assets.domain.completeness import DAILY_COMPLETENESS_SCHEMA, due_days, ended_series
from marketdata_assets.domain.gaps import LOSSES, GapState
from marketdata_assets.domain.partitions import Rectangle
from marketdata_assets.domain.ranges import feature_runs, plan_repairs, range_runs
from marketdata_assets.domain.scans import scan_windows
from marketdata_assets.domain.series import Series, with_siblings
from marketdata_assets.domain.totals import BarTotals, FeatureTotals
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
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import date

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
class BarsOutcome:
    """The outcome of runs of ``ohlcv``. Totals count bars over all series; ``failures`` holds one line per symbol."""

    totals: BarTotals = field(default_factory=BarTotals)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class FeaturesOutcome:
    """The outcome of runs of ``features``. ``failures`` holds one line for each run that recorded nothing."""

    totals: FeatureTotals = field(default_factory=FeatureTotals)
    failures: list[str] = field(default_factory=list)


@dataclass(slots=True)
class BackfillOutcome:
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

    @property
    def status(self) -> str:
        """The status of the backfill in ``backfill_history`` once it has ended."""
        return "ok" if self.is_whole else "failed"


@dataclass(frozen=True, slots=True)
class BackfillPlanner:
    """The planner of a backfill: finds, stage by stage, the runs that have something to do.

    Each method reads the store as the stages before it have left it. ``ordered`` are the series keys in Dagster's order,
    ``earliest`` is the first day that is a partition.
    """

    database: Database
    outcome: BackfillOutcome
    ordered: Sequence[str]
    earliest: date

    @property
    def request(self) -> BackfillRequest:
        """The request for the backfill."""
        return self.outcome.request

    @property
    def runs(self) -> list[Rectangle]:
        """The runs that cover the request, whether they have something to do or not."""
        return range_runs(self.ordered, self.request.series, self.request.first, self.request.last)

    def runs_to_fetch(self) -> list[Rectangle]:
        """List the runs that have something to request, to roll up or to record."""
        if self.request.force:
            return self.runs
        now = datetime.now(UTC)
        return [run for run in self.runs if not bars_are_current(self.database, run, now=now)]

    def runs_to_scan(self) -> list[Rectangle]:
        """List the runs whose scan can find something new; all of them once this backfill has stored a bar."""
        bars = self.outcome.bars.totals
        if self.request.force or bars.rows_inserted or bars.rows_changed or bars.rows_quarantined:
            return self.runs
        now = datetime.now(UTC)
        return [run for run in self.runs if not scans_are_current(self.database, run, now=now)]

    def runs_to_repair(self) -> list[Rectangle]:
        """List the runs that refetch open gaps, except those of symbols that failed.

        The gaps of a symbol that failed stay open: to refetch them at once would spend their attempts on the same failure.
        """
        request = self.request
        # A run may cover more series than requested; the gaps that it found there are repaired as well.
        gaps = _list_gaps(self.database, request, (series for run in self.runs for series in run.series))
        sound = gaps.filter(~pl.col("symbol").is_in(list(self.outcome.failures)))
        return plan_repairs(self.ordered, sound, asset_classes(self.database), request.first, request.last)

    def lacks_splits(self) -> bool:
        """Whether the splits of a requested symbol were never fetched: a symbol without them gets no features."""
        return bool(symbols_without_splits(self.database, self.request.series))

    def runs_to_compute(self) -> list[Rectangle]:
        """List the runs that compute stale features."""
        days = stale_days(self.database, self.request.series, self.earliest, now=datetime.now(UTC))
        return feature_runs(self.ordered, days)

    def is_matrix_current(self) -> bool:
        """Whether the matrix need not be refreshed."""
        return not self.request.force and matrix_is_current(self.database, datetime.now(UTC).date())


def begin_stage(
    progress: BackfillProgress,
    request: BackfillRequest,
    stage: Stage,
    runs: Sequence[Rectangle] = (),
    *,
    is_idle: bool | None = None,
) -> None:
    """Pass to ``progress`` that ``stage`` of ``request`` begins; ``is_idle`` defaults to whether there are no ``runs``."""
    stages = request.stages
    progress.stage(
        stage,
        stages.index(stage) + 1,
        len(stages),
        runs,
        is_idle=not runs if is_idle is None else is_idle,
    )


@contextmanager
def record_backfill(
    database: Database, outcome: BackfillOutcome, list_runs: Callable[[], list[str]]
) -> Iterator[datetime]:
    """Record in ``backfill_history`` that the backfill begins and, after the context, how it ended.

    Yields when it began, by the database's clock. ``list_runs`` lists the ids of its runs, once these have ended.
    """
    started = time.monotonic()
    status = "failed"
    begun = _begin_history(database, outcome)
    try:
        yield begun
        status = outcome.status
    finally:
        outcome.duration_seconds = time.monotonic() - started
        outcome.run_ids = list_runs()
        _end_history(database, outcome, status)


def finish_if_idle(
    database: Database, request: BackfillRequest, *, earliest: date, progress: BackfillProgress, now: datetime
) -> BackfillOutcome | None:
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
    outcome = BackfillOutcome(str(uuid.uuid4()), request)
    conclude(database, outcome, begun=now, now=now)
    if not outcome.gaps_in(GapState.OPEN).is_empty():
        return None
    for stage in request.stages:
        begin_stage(progress, request, stage)
    _begin_history(database, outcome)
    outcome.duration_seconds = time.monotonic() - started
    _end_history(database, outcome, outcome.status)
    return outcome


def conclude(database: Database, outcome: BackfillOutcome, *, begun: datetime, now: datetime) -> None:
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


def _begin_history(database: Database, outcome: BackfillOutcome) -> datetime:
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


def _end_history(database: Database, outcome: BackfillOutcome, status: str) -> None:
    def write(session: Session) -> None:
        counts = count_requests(session, outcome.run_ids)
        outcome.requests, outcome.pages, outcome.retries, outcome.seconds_waited_for_limit = counts
        end_backfill(session, outcome.backfill_id, status, summarize(outcome))

    database.transaction(write)


def summarize(outcome: BackfillOutcome) -> dict[str, object]:
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


def results(outcome: BackfillOutcome) -> dict[str, object]:
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
