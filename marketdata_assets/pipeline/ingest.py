"""The way from vendor pages to batches that are committed as a whole: screened, rolled up, with their evidence.

Pages are cut at local midnights: a batch holds whole days only, so that every rolled-up bar is made of all its
base bars, and bars that were committed before an interruption need not be requested again.

Pages of ranges are taken here, days of whole markets in ``day_ingest``; both fill the batches of ``ingest_state``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.bars import (
    PAGE_SCHEMA,
    screen,
)
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.coverage import CORRECTION_SESSIONS, answered_windows, start_of_history
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.pipeline.day_ingest import SERIES_A_BATCH, DayIngest
from marketdata_assets.pipeline.ingest_state import (
    PAGE_BITS,
    FailedRequest,
    IngestReport,
    IngestState,
    QuarantinedError,
    ReadBars,
    add_sources,
    add_texts,
    all_quarantined_error,
    describe_counts,
)
from marketdata_assets.polygon.grouped import DayRequest
from marketdata_assets.polygon.vendor import FetchEvent, PageFetched, RequestFailed

if TYPE_CHECKING:
    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.polygon.parser import PageRows
    from marketdata_assets.polygon.planner import Fetch, Plan, StoredRollup
    from marketdata_assets.polygon.request import FetchRequest
    from marketdata_assets.polygon.vendor import BarRequest
    from marketdata_assets.storage.bars import BarBatch, FetchLogEntry

BATCH_ROWS: Final = 100_000
"""The number of rows that justifies a transaction of its own."""

_ROLLUP_DAYS: Final = 31
_LAST_ROWS: Final = 3

FetchRanges = Callable[[Sequence["FetchRequest"]], Generator[FetchEvent]]
"""A function that makes requests and yields their events."""


@dataclass(slots=True)
class _Progress:
    """The progress of one request."""

    fetch: Fetch
    log: FetchLogEntry
    position: datetime
    """The time before which everything is committed or in the pending batch."""
    carried: pl.DataFrame
    """Rows (``PAGE_SCHEMA``) of a day that the pages so far do not complete."""
    pages: dict[int, PageRows] = field(default_factory=dict)
    """The rows of the pages that ``carried`` is made of, as the vendor wrote them."""
    late_rows: int = 0
    """The number of rows that arrived when ``position`` had already passed their days."""
    bars: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)


class Ingest:
    """An ingest, which turns the events of a plan's requests into batches. Used once.

    Args:
        plan: The requests to make, and the windows to roll up from the store.
        now: The present: bars that have not closed by then are dropped.
        coverage: The covered windows by series, which show where each history begins.
        run_id: The id of the run, for ``fetch_log``.
        batch_rows: A batch ends with the day in which it reaches this number of rows.
        series_a_batch: The number of symbols of a market's day that are committed at once.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        now: datetime,
        coverage: Mapping[Series, Sequence[Window]] | None = None,
        run_id: str | None = None,
        batch_rows: int = BATCH_ROWS,
        series_a_batch: int = SERIES_A_BATCH,
    ) -> None:
        self._state = IngestState(plan, now, coverage or {}, run_id)
        self._days = DayIngest(self._state, series_a_batch=series_a_batch)
        self._batch_rows = batch_rows
        self._fetches: dict[FetchRequest, Fetch] = {fetch.request: fetch for fetch in plan.fetches}
        self._progress: dict[FetchRequest, _Progress] = {}

    @property
    def report(self) -> IngestReport:
        """The outcome so far."""
        return self._state.report

    @property
    def requests(self) -> Sequence[BarRequest]:
        """The requests whose events :meth:`batches` takes."""
        return self._state.plan.requests

    def batches(
        self,
        events: Iterable[FetchEvent],
        read_bars: ReadBars,
        fetch_ranges: FetchRanges | None = None,
    ) -> Iterator[BarBatch]:
        """Yield batches in the order in which pages arrive, then the batches that are rolled up from the store.

        A request that fails is kept in the report and does not stop the others. An error that stops
        everything (a rejected key, for example) is raised after the rows that arrived before it were yielded.
        ``fetch_ranges`` makes the requests for questions that whole days of a market left open. Each batch must be
        committed before the next one is taken.
        """
        self._state.read_bars = read_bars
        yield from self._ingest(events)
        if self._state.plan.days:
            yield self._state.flush()
            fetches = self._days.judge(can_fetch=fetch_ranges is not None)
            self._fetches |= {fetch.request: fetch for fetch in fetches}
            if fetches and fetch_ranges is not None:
                with closing(fetch_ranges([fetch.request for fetch in fetches])) as more:
                    yield from self._ingest(more)
            yield self._state.flush()
            self._days.report_differences()
            self._days.roll_up_weeks()
        for rollup in self._state.plan.rollups:
            for window in _cut_into_chunks(rollup):
                self._roll_up_stored(rollup, window)
                if self._state.pending.rows >= self._batch_rows:
                    yield self._state.flush()
        yield self._state.flush()

    def _ingest(self, events: Iterable[FetchEvent]) -> Iterator[BarBatch]:
        try:
            for event in events:
                if isinstance(event.request, DayRequest):
                    yield from self._days.take(event, event.request)
                else:
                    self._take(event, event.request)
                if self._state.pending.rows >= self._batch_rows:
                    yield self._state.flush()
        except MarketDataError:
            yield self._state.flush()
            raise

    def _take(self, event: FetchEvent, request: FetchRequest) -> None:
        progress = self._progress.get(request) or self._begin(event, request)
        record = event.record
        progress.log = log = self._state.count(progress.log, record)
        series = Series(request.symbol, request.base)
        if isinstance(event, RequestFailed):
            if self._state.is_before_history(series, log.window, event.error):
                # The plan's history begins later: its bars are stored, and earlier ones are not available.
                self._state.report.notices.append(str(event.error))
            else:
                self._state.report.failures.append(FailedRequest(series, request.window, event.error))
            self._end(progress, replace(log, status="failed", error=str(event.error)))
            return
        if not isinstance(event, PageFetched):
            return
        progress.log = self._state.count_page(log, event.frame.height)
        if event.notice is not None:
            self._state.report.notices.append(str(event.notice))
        opens = event.frame["time"]
        late = opens.is_between(request.window.start, progress.position, closed="left")
        progress.late_rows += opens.filter(late).len()
        progress.carried = pl.concat([progress.carried, add_sources(event.frame, event.rows, record.page)])
        progress.pages[record.page] = event.rows
        self._advance(progress, is_last=event.is_last)
        if not event.is_last:
            self._state.pending.log(progress.log)
            return
        if not progress.log.bars:
            self._state.report.empty.append(request)
        error = _find_fault(progress)
        if error is not None:
            self._state.report.failures.append(FailedRequest(series, request.window, error))
            self._end(progress, replace(progress.log, status="failed", error=str(error)))
            return
        if progress.quarantined:
            self._state.report.notices.append(
                f"{request}: {describe_counts(progress.quarantined)} broke a rule and went to ohlcv_quarantine"
            )
        self._end(progress, replace(progress.log, status="ok"))

    def _begin(self, event: FetchEvent, request: FetchRequest) -> _Progress:
        fetch = self._fetches[request]
        self._progress[request] = progress = _Progress(
            fetch=fetch,
            log=self._state.open_log(request, fetch.timeframes, event.record.requested_at),
            position=request.window.start,
            carried=PAGE_SCHEMA.to_frame(),
        )
        return progress

    def _end(self, progress: _Progress, log: FetchLogEntry) -> None:
        self._state.pending.log(log)
        progress.carried = PAGE_SCHEMA.to_frame()
        progress.pages.clear()

    def _advance(self, progress: _Progress, *, is_last: bool) -> None:
        """Move every closed day from the carried rows into the pending batch."""
        request = progress.fetch.request
        calendar = calendar_of(request.asset_class)
        boundary = request.window.end if is_last else _last_closed_day(progress, calendar)
        if boundary is None or boundary <= progress.position:
            return
        open_rows = (
            pl.col("time").is_not_null() & (pl.col("time") >= boundary)
            if not is_last
            else pl.lit(value=False)
        )
        rows, progress.carried = (
            progress.carried.filter(~open_rows),
            progress.carried.filter(open_rows),
        )
        window = Window(progress.position, boundary)
        screened = screen(
            rows,
            Series(request.symbol, request.base),
            window,
            calendar,
            asset_class=request.asset_class,
        )
        for rule, count in screened.quarantined.group_by("rule").len().iter_rows():
            progress.quarantined[rule] = progress.quarantined.get(rule, 0) + count
        progress.bars += screened.bars.height
        progress.position = boundary
        self._state.pending.quarantine(add_texts(screened, progress.pages))
        _forget_pages(progress)
        first = screened.bars["time"].min()
        if isinstance(first, datetime):
            self._state.note_begin(request.symbol, request.base, start_of_history(first, calendar))
        answered = answered_windows(
            window,
            screened=screened,
            history_start=self._state.begins.get((request.symbol, request.base)),
            final_before=calendar.final_before(self._state.now, CORRECTION_SESSIONS),
            calendar=calendar,
        )
        timeframes = progress.fetch.timeframes
        whole_base = screened.bars
        if request.base in timeframes and len(timeframes) > 1:
            # Longer bars are rolled up from the bars that will be stored: an answer may lack stored bars.
            stored = self._state.read_bars(Series(request.symbol, request.base), window)
            whole_base = pl.concat([stored, whole_base]).unique("time", keep="last").sort("time")
        for timeframe in timeframes:
            base = screened.bars if timeframe is request.base else whole_base
            self._state.store(Series(request.symbol, timeframe), base, window, answered, calendar)

    def _roll_up_stored(self, rollup: StoredRollup, window: Window) -> None:
        instrument = rollup.instrument
        calendar = calendar_of(instrument.asset_class)
        bars = self._state.read_bars(Series(instrument.symbol, rollup.base), window)
        for timeframe in rollup.timeframes:
            self._state.store(Series(instrument.symbol, timeframe), bars, window, [window], calendar)


def _forget_pages(progress: _Progress) -> None:
    """Drop the pages without a carried row."""
    oldest = progress.carried["source"].min()
    kept = int(oldest) >> PAGE_BITS if isinstance(oldest, int) else None
    for page in list(progress.pages):
        if kept is None or page < kept:
            del progress.pages[page]


def _last_closed_day(progress: _Progress, calendar: TradingCalendar) -> datetime | None:
    """Return the local midnight before the latest carried rows; later pages add no rows before it."""
    request = progress.fetch.request
    if request.base is Timeframe.D1:
        # A request of day bars has one page in practice; weeks stay complete when it waits for the last page.
        return None
    opens = progress.carried["time"].filter(
        progress.carried["time"].is_between(progress.position, request.window.end, closed="left")
    )
    # The earliest of the last few: a single stray row must not close days whose rows have not arrived.
    latest = opens.tail(_LAST_ROWS).min()
    return calendar.day_start(calendar.local_day(latest)) if isinstance(latest, datetime) else None


def _cut_into_chunks(rollup: StoredRollup) -> Iterator[Window]:
    """Cut the window of a stored rollup into windows of whole local days that fit in memory."""
    if rollup.base is Timeframe.D1:
        yield rollup.window
        return
    calendar = calendar_of(rollup.instrument.asset_class)
    start = rollup.window.start
    while start < rollup.window.end:
        next_start = calendar.day_start(calendar.local_day(start) + timedelta(days=_ROLLUP_DAYS))
        end = min(next_start, rollup.window.end)
        yield Window(start, end)
        start = end


def _find_fault(progress: _Progress) -> QuarantinedError | None:
    """Return the reason why the rows of a request cannot be relied on, or None."""
    request = progress.fetch.request
    if progress.late_rows:
        return QuarantinedError(
            f"{request}: {progress.late_rows} rows arrived out of order, for days that were already stored, and"
            " were not stored: run the backfill again with --force"
        )
    if progress.quarantined and not progress.bars:
        return all_quarantined_error(str(request), progress.quarantined)
    return None
