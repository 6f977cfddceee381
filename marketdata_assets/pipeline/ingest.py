"""The way from vendor pages to batches that are committed as a whole: screened, rolled up, with their evidence.

Pages are cut at local midnights: a batch holds whole days only, so that every rolled-up bar is made of all its
base bars, and bars that were committed before an interruption need not be requested again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl

from marketdata_assets.domain.bars import (
    BAR_SCHEMA,
    PAGE_SCHEMA,
    QUARANTINE_SCHEMA,
    bucket_close,
    keep_closed,
    screen,
)
from marketdata_assets.domain.calendar import calendar_of, sunday_of
from marketdata_assets.domain.coverage import CORRECTION_SESSIONS, answered_windows, start_of_history
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.rollup import roll_up
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.polygon.errors import EntitlementError
from marketdata_assets.polygon.vendor import FetchEvent, PageFetched, RequestFailed
from marketdata_assets.storage.bars import BarBatch, FetchLogEntry

if TYPE_CHECKING:
    from marketdata_assets.domain.bars import Screened
    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.polygon.parser import PageRows
    from marketdata_assets.polygon.planner import Fetch, Plan, StoredRollup
    from marketdata_assets.polygon.request import FetchRequest

BATCH_ROWS: Final = 100_000
"""The number of rows that justifies a transaction of its own."""

_ROLLUP_DAYS: Final = 31
_LAST_ROWS: Final = 3
_PAGE_BITS: Final = 32
"""A row's ``source`` is its position in the page, with the number of the page above so many bits."""

ReadBars = Callable[[Series, Window], pl.DataFrame]
"""Reads the stored bars (``BAR_SCHEMA``) of a series in a window."""


class QuarantinedError(MarketDataError):
    """Every row that the vendor sent for a request broke a rule."""


class FailedRequest(NamedTuple):
    """A request that failed, and its error."""

    series: Series
    """The symbol and the base of the request."""
    window: Window
    error: MarketDataError


@dataclass(slots=True)
class IngestReport:
    """What an ingest did, in the end.

    ``rows_fetched`` counts the vendor's rows, broken ones included; ``failures`` holds one error per request
    that failed; ``empty`` holds the requests that the vendor answered without a row.
    """

    requests: int = 0
    pages: int = 0
    rows_fetched: int = 0
    retries: int = 0
    waited_seconds: float = 0.0
    failures: list[FailedRequest] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    empty: list[FetchRequest] = field(default_factory=list)

    def __add__(self, other: IngestReport) -> IngestReport:
        return IngestReport(
            **{count.name: getattr(self, count.name) + getattr(other, count.name) for count in fields(self)}
        )

    @property
    def failed_symbols(self) -> list[str]:
        """Symbols with a failure, sorted."""
        return sorted({failed.series.symbol for failed in self.failures})


@dataclass(slots=True)
class _Progress:
    """The progress of one request."""

    fetch: Fetch
    log: FetchLogEntry
    position: datetime
    """Everything before is committed or in the pending batch."""
    carried: pl.DataFrame
    """Rows (``PAGE_SCHEMA``) of a day that the pages so far do not close."""
    pages: dict[int, PageRows] = field(default_factory=dict)
    """The rows of the pages that ``carried`` is made of, as the vendor wrote them."""
    late_rows: int = 0
    """Rows of days before ``position`` that came after it had passed them."""
    bars: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)


class Ingest:
    """Turns the events of a plan's requests into batches. Use once.

    Args:
        plan: What is fetched and what is rolled up from the store.
        now: The present: bars that have not closed by then are dropped.
        coverage: The covered windows by series, which show where each history begins.
        run_id: Stands in ``fetch_log``.
        batch_rows: A batch ends with the day in which it reaches this number of rows.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        now: datetime,
        coverage: Mapping[Series, Sequence[Window]] | None = None,
        run_id: str | None = None,
        batch_rows: int = BATCH_ROWS,
    ) -> None:
        self.report = IngestReport()
        self._plan = plan
        self._now = now
        self._run_id = run_id
        self._batch_rows = batch_rows
        self._begins: dict[tuple[str, Timeframe], datetime] = {}
        for series, windows in (coverage or {}).items():
            for window in windows:
                self._has_begun(series.symbol, series.timeframe.base, window.start)
        self._fetches: dict[FetchRequest, Fetch] = {fetch.request: fetch for fetch in plan.fetches}
        self._progress: dict[FetchRequest, _Progress] = {}
        self._pending = _Pending()

    @property
    def requests(self) -> Sequence[FetchRequest]:
        """The requests whose events :meth:`batches` takes."""
        return self._plan.requests

    def batches(self, events: Iterable[FetchEvent], read_bars: ReadBars) -> Iterator[BarBatch]:
        """Batches in the order in which pages arrive, then those that are rolled up from the store.

        A request that fails is kept in the report and does not stop the others. An error that stops
        everything (a refused key, say) is raised after what arrived before it was yielded.
        """
        self._read_bars = read_bars
        try:
            for event in events:
                self._take(event)
                if self._pending.rows >= self._batch_rows:
                    yield self._flush()
        except MarketDataError:
            yield self._flush()
            raise
        for rollup in self._plan.rollups:
            for window in _cut_into_chunks(rollup):
                self._roll_up_stored(rollup, window)
                if self._pending.rows >= self._batch_rows:
                    yield self._flush()
        yield self._flush()

    def _flush(self) -> BarBatch:
        batch = self._pending.batch()
        self._pending = _Pending()
        return batch

    def _has_begun(self, symbol: str, base: Timeframe, moment: datetime) -> None:
        key = (symbol, base)
        self._begins[key] = min(moment, self._begins.get(key, moment))

    def _take(self, event: FetchEvent) -> None:
        progress = self._progress.get(event.request) or self._begin(event)
        record = event.record
        progress.log = log = replace(
            progress.log,
            retries=progress.log.retries + record.retries,
            rate_limited=progress.log.rate_limited + record.rate_limited,
            duration_seconds=progress.log.duration_seconds + record.duration_seconds,
            waited_seconds=progress.log.waited_seconds + record.waited_seconds,
            request_id=record.request_id or progress.log.request_id,
        )
        self.report.retries += record.retries
        self.report.waited_seconds += record.waited_seconds
        series = Series(event.request.symbol, event.request.base)
        if isinstance(event, RequestFailed):
            begins = self._begins.get((series.symbol, series.timeframe))
            if isinstance(event.error, EntitlementError) and begins is not None and log.window.end <= begins:
                # The plan's history begins later: what it holds is stored, and the rest cannot be had.
                self.report.notices.append(str(event.error))
            else:
                self.report.failures.append(FailedRequest(series, event.request.window, event.error))
            self._end(progress, replace(log, status="failed", error=str(event.error)))
            return
        self.report.pages += 1
        self.report.rows_fetched += event.frame.height
        progress.log = replace(log, pages=log.pages + 1, bars=log.bars + event.frame.height)
        if event.notice is not None:
            self.report.notices.append(str(event.notice))
        opens = event.frame["time"]
        late = opens.is_between(event.request.window.start, progress.position, closed="left")
        progress.late_rows += opens.filter(late).len()
        progress.carried = pl.concat([progress.carried, _with_sources(event)])
        progress.pages[record.page] = event.rows
        self._advance(progress, is_last=event.is_last)
        if not event.is_last:
            self._pending.log(progress.log)
            return
        if not progress.log.bars:
            self.report.empty.append(event.request)
        error = _unsound(progress)
        if error is not None:
            self.report.failures.append(FailedRequest(series, event.request.window, error))
            self._end(progress, replace(progress.log, status="failed", error=str(error)))
            return
        if progress.quarantined:
            self.report.notices.append(
                f"{event.request}: {_describe_counts(progress.quarantined)} broke a rule and went to ohlcv_quarantine"
            )
        self._end(progress, replace(progress.log, status="ok"))

    def _begin(self, event: FetchEvent) -> _Progress:
        request = event.request
        fetch = self._fetches[request]
        self.report.requests += 1
        self._progress[request] = progress = _Progress(
            fetch=fetch,
            log=FetchLogEntry(
                symbol=request.symbol,
                base=request.base,
                window=request.window,
                timeframes=fetch.timeframes,
                status="partial",
                requested_at=event.record.requested_at,
                run_id=self._run_id,
            ),
            position=request.window.start,
            carried=PAGE_SCHEMA.to_frame(),
        )
        return progress

    def _end(self, progress: _Progress, log: FetchLogEntry) -> None:
        self._pending.log(log)
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
        self._pending.quarantine(_with_texts(screened, progress.pages))
        _forget_pages(progress)
        first = screened.bars["time"].min()
        if isinstance(first, datetime):
            self._has_begun(request.symbol, request.base, start_of_history(first, calendar))
        answered = answered_windows(
            window,
            screened=screened,
            history_start=self._begins.get((request.symbol, request.base)),
            final_before=calendar.final_before(self._now, CORRECTION_SESSIONS),
            calendar=calendar,
        )
        timeframes = progress.fetch.timeframes
        whole_base = screened.bars
        if request.base in timeframes and len(timeframes) > 1:
            # The longer bars are made of what the store will hold: an answer may lack bars that it has.
            stored = self._read_bars(Series(request.symbol, request.base), window)
            whole_base = pl.concat([stored, whole_base]).unique("time", keep="last").sort("time")
        for timeframe in timeframes:
            base = screened.bars if timeframe is request.base else whole_base
            self._store(Series(request.symbol, timeframe), base, window, answered, calendar)

    def _roll_up_stored(self, rollup: StoredRollup, window: Window) -> None:
        instrument = rollup.instrument
        calendar = calendar_of(instrument.asset_class)
        bars = self._read_bars(Series(instrument.symbol, rollup.base), window)
        for timeframe in rollup.timeframes:
            self._store(Series(instrument.symbol, timeframe), bars, window, [window], calendar)

    def _store(
        self,
        series: Series,
        base: pl.DataFrame,
        window: Window,
        answered: Sequence[Window],
        calendar: TradingCalendar,
    ) -> None:
        timeframe = series.timeframe
        rolled = keep_closed(roll_up(base, timeframe, calendar), timeframe, calendar, self._now)
        whole = rolled.filter(
            pl.col("time") >= window.start,
            bucket_close(pl.col("time"), timeframe, calendar) <= window.end,
        )
        if timeframe is Timeframe.W1:
            answered = [weeks for piece in answered if (weeks := _whole_weeks(piece, calendar))]
        self._pending.add(series, whole, answered)


def _with_sources(event: PageFetched) -> pl.DataFrame:
    """Return the rows of a page in ``PAGE_SCHEMA``."""
    frame = event.frame
    faults = pl.Series([None], dtype=pl.String).new_from_index(0, frame.height)
    if event.rows.faults:
        faults = pl.Series([event.rows.faults.get(at) for at in range(frame.height)], dtype=pl.String)
    first = event.record.page << _PAGE_BITS
    return frame.with_columns(
        fault=faults, source=pl.int_range(first, first + frame.height, dtype=pl.UInt64, eager=True)
    )


def _with_texts(screened: Screened, pages: Mapping[int, PageRows]) -> pl.DataFrame:
    """Return the quarantined rows of ``screened``, each with the text that the vendor sent."""
    sources = screened.sources.to_list()
    by_page: dict[int, list[int]] = {}
    for source in sources:
        if source is not None:
            by_page.setdefault(source >> _PAGE_BITS, []).append(source & ((1 << _PAGE_BITS) - 1))
    texts: dict[int, str | None] = {}
    for page, positions in by_page.items():
        if page in pages:
            found = pages[page].texts(positions)
            texts |= {(page << _PAGE_BITS) + at: text for at, text in zip(positions, found, strict=True)}
    return screened.quarantined.with_columns(
        vendor_row=pl.Series([texts.get(source) for source in sources], dtype=pl.String)
    )


def _forget_pages(progress: _Progress) -> None:
    """Drop the pages without a carried row."""
    oldest = progress.carried["source"].min()
    kept = int(oldest) >> _PAGE_BITS if isinstance(oldest, int) else None
    for page in list(progress.pages):
        if kept is None or page < kept:
            del progress.pages[page]


def _last_closed_day(progress: _Progress, calendar: TradingCalendar) -> datetime | None:
    """Local midnight before the latest carried rows: later pages add no rows before it."""
    request = progress.fetch.request
    if request.base is Timeframe.D1:
        # A request of day bars has one page in practice; weeks stay whole when it waits for the last.
        return None
    opens = progress.carried["time"].filter(
        progress.carried["time"].is_between(progress.position, request.window.end, closed="left")
    )
    # The earliest of the last few: one stray row must not close days that are still to come.
    latest = opens.tail(_LAST_ROWS).min()
    return calendar.day_start(calendar.local_day(latest)) if isinstance(latest, datetime) else None


def _whole_weeks(window: Window, calendar: TradingCalendar) -> Window | None:
    """Return the part of ``window`` from its first to its last local Sunday 00:00, None when it has no whole week."""
    first = calendar.local_day(window.start - timedelta(microseconds=1)) + timedelta(days=1)
    last = calendar.local_day(window.end)
    start = sunday_of(first + timedelta(days=6))
    end = sunday_of(last)
    return Window(calendar.day_start(start), calendar.day_start(end)) if start < end else None


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


def _unsound(progress: _Progress) -> QuarantinedError | None:
    """Why what arrived for a request cannot be relied on, or None."""
    request = progress.fetch.request
    if progress.late_rows:
        return QuarantinedError(
            f"{request}: {progress.late_rows} rows came out of order, for days that were already stored, and"
            " were not stored: run the backfill again with --force"
        )
    if progress.quarantined and not progress.bars:
        return QuarantinedError(
            f"{request}: all {sum(progress.quarantined.values())} rows that the vendor sent broke a rule"
            f" ({_describe_counts(progress.quarantined)}) and none was stored: see ohlcv_quarantine, then run the"
            " backfill again"
        )
    return None


def _describe_counts(rules: dict[str, int]) -> str:
    return ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items(), key=lambda item: -item[1]))


class _Pending:
    """The batch that is being filled."""

    def __init__(self) -> None:
        self.rows = 0
        self._bars: list[pl.DataFrame] = []
        self._quarantined: list[pl.DataFrame] = []
        self._covered: dict[Series, list[Window]] = {}
        self._fetches: dict[object, FetchLogEntry] = {}

    def add(self, series: Series, bars: pl.DataFrame, answered: Sequence[Window]) -> None:
        self._bars.append(bars)
        self.rows += bars.height
        if answered:
            self._covered.setdefault(series, []).extend(answered)

    def quarantine(self, rows: pl.DataFrame) -> None:
        self._quarantined.append(rows)
        self.rows += rows.height

    def log(self, entry: FetchLogEntry) -> None:
        self._fetches[entry.id] = entry

    def batch(self) -> BarBatch:
        """What is pending."""
        return BarBatch(
            # Stretches of one series can overlap when a week was completed: the later fetch is kept.
            bars=pl.concat([BAR_SCHEMA.to_frame(), *self._bars]).unique(
                ["symbol", "timeframe", "time"], keep="last"
            ),
            quarantined=pl.concat([QUARANTINE_SCHEMA.to_frame(), *self._quarantined]),
            covered=self._covered,
            fetches=list(self._fetches.values()),
        )
