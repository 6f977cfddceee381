"""The scan for gaps and the refetch of what is missing, for one chunk of series at a time.

:func:`report_gaps` does the steps in order: load the context, scan it (pure), plan a
refetch (pure), fetch, settle (pure), write. Each step hands a frozen value to the next: a :class:`ScanChunk`, a
:class:`GapContext`, a :class:`GapScan`, a :class:`Plan`, a :class:`Fetched` and a :class:`ScanResult`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.gap_scan import (
    KNOWN_GAP_SCHEMA,
    GapContext,
    Refetch,
    rescan,
    scan_gaps,
    settle,
)
from marketdata_assets.domain.gaps import MAX_ATTEMPTS
from marketdata_assets.domain.scans import (
    ScanChunk,
    scan_chunks,
    scan_windows,
    widen_to_evidence,
    widen_to_gaps,
)
from marketdata_assets.domain.series import Instrument, Series, with_siblings
from marketdata_assets.pipeline.fetching import fetch_and_store, group_by_instrument
from marketdata_assets.polygon.planner import Plan, plan_refetches
from marketdata_assets.storage.gaps import (
    database_time,
    exclusive_scan,
    first_bars,
    nearest_scanned_days,
    read_gaps,
    read_quarantined_rows,
    read_requested,
    read_stored_bars,
    write_gaps,
)
from marketdata_assets.storage.merge import MergeCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import date, datetime

    from marketdata_assets.domain.gap_scan import GapScan, ScanResult
    from marketdata_assets.domain.slots import StoredBars
    from marketdata_assets.domain.timeframe import Timeframe
    from marketdata_assets.domain.windows import Window
    from marketdata_assets.pipeline.ingest_state import IngestReport
    from marketdata_assets.polygon.vendor import Vendor
    from marketdata_assets.storage.connection import Database

_RESULT_SCHEMA: Final = pl.Schema(
    {
        name: KNOWN_GAP_SCHEMA[name]
        for name in (
            *("symbol", "timeframe", "gap_start", "gap_end", "missing_bars"),
            *("state", "attempts", "reason"),
        )
    }
)


@dataclass(slots=True)
class GapOutcome:
    """What a run found: the gaps in their final states, the completeness of each day, and the cost of repairs."""

    gaps: list[pl.DataFrame] = field(default_factory=lambda: [_RESULT_SCHEMA.to_frame()])
    days: list[pl.DataFrame] = field(default_factory=list)
    reports: list[IngestReport] = field(default_factory=list)
    rows: MergeCounts = field(default_factory=MergeCounts)

    @property
    def frame(self) -> pl.DataFrame:
        """Every gap of the run, the one with the most missing bars first."""
        return pl.concat(self.gaps).sort("missing_bars", descending=True)

    def add_fetched(self, fetched: Fetched) -> None:
        """Add the cost of a refetch and the rows that it stored."""
        self.reports.append(fetched.report)
        self.rows += fetched.rows

    def add_result(self, result: ScanResult) -> None:
        """Add the gaps and days that a scan wrote."""
        self.gaps.append(result.gaps.select(_RESULT_SCHEMA.names()))
        self.days.append(result.daily)


@dataclass(frozen=True)
class Fetched:
    """What a refetch requested and stored.

    Attributes:
        refetches: The requested windows, each with how the vendor failed, or without a failure.
        report: The cost of the requests.
        rows: The numbers of rows that were inserted, changed and left unchanged.
        stored: The bars that are stored now, where the scan reads them.
    """

    refetches: list[Refetch]
    report: IngestReport
    rows: MergeCounts
    stored: Mapping[Series, StoredBars]


def report_gaps(
    database: Database,
    polygon: Vendor | None,
    days: dict[Series, list[date]],
    *,
    now: datetime,
    run_id: str | None,
    attempts: int = MAX_ATTEMPTS,
) -> GapOutcome:
    """Find, repair (with ``polygon``) and write the gaps of each series between its first and last day.

    The siblings of a series, the tracked timeframes of its symbol that are made of the same base bars, are scanned
    with it: a fetch stores bars of all of them, and what a refetch shows about the base holds for each.

    ``attempts`` limits the refetches of one gap in this run.

    Only one scan of a series runs at a time: a second one waits, and finds what the first one wrote.
    """
    outcome = GapOutcome()
    wanted, tracked = group_by_instrument(database, days)
    for chunk in plan_chunks(days, wanted, tracked):
        with exclusive_scan(database, chunk.windows):
            scan = scan_gaps(load_context(database, chunk, now))
            for _ in range(attempts):
                if polygon is None or not (plan := plan_refetch(scan, tracked)).requests:
                    break
                fetched = fetch_missing(database, polygon, plan, scan, run_id=run_id)
                outcome.add_fetched(fetched)
                scan = rescan(scan, fetched.refetches, fetched.stored)
                if any(refetch.failure is not None for refetch in fetched.refetches):
                    # Left to another run: a second attempt at once would meet the same failure.
                    break
            result = settle(scan)
            write_gaps(database, result)
        outcome.add_result(result)
    return outcome


def plan_chunks(
    days: Mapping[Series, Sequence[date]],
    wanted: Iterable[Instrument],
    tracked: Mapping[Instrument, Sequence[Timeframe]],
) -> Iterator[ScanChunk]:
    """Divide the series of ``days`` and their ``tracked`` siblings into chunks that fit in memory."""
    classes = {instrument.symbol: instrument.asset_class for instrument in wanted}
    siblings = [
        Series(instrument.symbol, timeframe)
        for instrument, timeframes in tracked.items()
        for timeframe in timeframes
    ]
    edges = {series: (min(chosen), max(chosen)) for series, chosen in days.items()}
    return scan_chunks(scan_windows(edges, with_siblings(days, siblings), classes), classes)


def load_context(database: Database, chunk: ScanChunk, now: datetime) -> GapContext:
    """Read the known gaps and stored bars of the series of ``chunk``, in their windows and the evidence around them."""
    # Read before the first bar: the scan may miss bars that are stored from here on.
    begun = database_time(database)
    scanned = nearest_scanned_days(database, chunk.days, chunk.evidence.days)
    around = widen_to_evidence(chunk, scanned, read_gaps(database, chunk.windows))
    known = read_gaps(database, around)
    around = widen_to_gaps(chunk, around, known)
    return GapContext(
        chunk.windows,
        around,
        chunk.classes,
        first_bars=first_bars(database, chunk.windows),
        requested=read_requested(database, around),
        as_of=now,
        begun=begun,
        known=known,
        stored=read_stored_bars(database, around),
        quarantined=read_quarantined_rows(database, around),
    )


def plan_refetch(scan: GapScan, tracked: Mapping[Instrument, Sequence[Timeframe]]) -> Plan:
    """Plan the fewest requests for the open gaps in the windows of ``scan``; none when no gap is open."""
    missing: dict[Instrument, dict[Timeframe, Sequence[Window]]] = {}
    for series, windows in scan.open_windows.items():
        instrument = Instrument(series.symbol, scan.context.classes[series])
        missing.setdefault(instrument, {})[series.timeframe] = windows
    return plan_refetches(missing, now=scan.context.as_of, tracked=tracked)


def fetch_missing(
    database: Database, polygon: Vendor, plan: Plan, scan: GapScan, *, run_id: str | None
) -> Fetched:
    """Make the requests of ``plan``, store the bars that arrive, and read the bars of ``scan`` again."""
    ingest, rows = fetch_and_store(database, polygon, plan, now=scan.context.as_of, run_id=run_id)
    failures = {(failed.series, failed.window): str(failed.error) for failed in ingest.report.failures}
    refetches = [
        Refetch(
            request.symbol,
            request.base,
            request.window,
            failures.get((Series(request.symbol, request.base), request.window)),
        )
        for request in plan.requests
    ]
    return Fetched(refetches, ingest.report, rows, read_stored_bars(database, scan.context.around))
