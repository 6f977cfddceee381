"""The way from vendor pages to batches that are committed as a whole: screened, rolled up, with their evidence.

Pages are cut at local midnights: a batch holds whole days only, so that every rolled-up bar is made of all its
base bars, and bars that were committed before an interruption need not be requested again.

Questions that whole days of a market leave open are answered by ranges, when all these days have arrived
(``market_days``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl

from marketdata_assets.domain.bars import (
    BAR_SCHEMA,
    KEY,
    PAGE_SCHEMA,
    QUARANTINE_SCHEMA,
    RULES_WITHOUT_LOSS,
    bucket_close,
    keep_closed,
    screen,
    screen_day,
)
from marketdata_assets.domain.calendar import WEEK, calendar_of, sunday_of
from marketdata_assets.domain.coverage import CORRECTION_SESSIONS, answered_windows, start_of_history
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.rollup import roll_up
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window, union
from marketdata_assets.domain.wording import name_first
from marketdata_assets.pipeline.market_days import MarketDays
from marketdata_assets.polygon.errors import EntitlementError
from marketdata_assets.polygon.grouped import DayRequest, Market
from marketdata_assets.polygon.vendor import DayFetched, FetchEvent, PageFetched, RequestFailed
from marketdata_assets.storage.bars import BarBatch, FetchLogEntry

if TYPE_CHECKING:
    from datetime import date

    from marketdata_assets.domain.bars import Screened
    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.pipeline.market_days import FailedDays
    from marketdata_assets.polygon.parser import PageRows
    from marketdata_assets.polygon.planner import Fetch, Plan, StoredRollup
    from marketdata_assets.polygon.request import FetchRecord, FetchRequest
    from marketdata_assets.polygon.vendor import BarRequest

BATCH_ROWS: Final = 100_000
"""The number of rows that justifies a transaction of its own."""

SERIES_A_BATCH: Final = 2_000
"""The number of symbols of a market's day per transaction: the locks of more might not fit in a server's memory."""

_ROLLUP_DAYS: Final = 31
_NAMED: Final = 10
_LONGEST_CLOSURE: Final = timedelta(days=14)
_VALUES: Final = ("open", "high", "low", "close", "volume", "vwap", "transactions")
_LAST_ROWS: Final = 3
_PAGE_BITS: Final = 32
"""A row's ``source`` is its position in the page, with the number of the page above so many bits."""

ReadBars = Callable[[Series, Window], pl.DataFrame]
"""A function that reads the stored bars (``BAR_SCHEMA``) of a series in a window."""

FetchRanges = Callable[[Sequence["FetchRequest"]], Generator[FetchEvent]]
"""A function that makes requests and yields their events."""


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
    """The outcome of an ingest.

    ``rows_fetched`` counts the vendor's rows, quarantined ones included; ``failures`` has one error per failed request;
    ``empty`` has the requests that the vendor answered without a row. ``differs_from_range`` has the day bars of whole
    markets that differ from stored bars which were fetched by ranges: the stored bars stay.
    """

    requests: int = 0
    pages: int = 0
    rows_fetched: int = 0
    retries: int = 0
    waited_seconds: float = 0.0
    failures: list[FailedRequest] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    empty: list[FetchRequest] = field(default_factory=list)
    differs_from_range: list[tuple[Series, date]] = field(default_factory=list)

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
    """The time before which everything is committed or in the pending batch."""
    carried: pl.DataFrame
    """Rows (``PAGE_SCHEMA``) of a day that the pages so far do not complete."""
    pages: dict[int, PageRows] = field(default_factory=dict)
    """The rows of the pages that ``carried`` is made of, as the vendor wrote them."""
    late_rows: int = 0
    """The number of rows that arrived when ``position`` had already passed their days."""
    bars: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _DayProgress:
    """The progress of one day of a market."""

    log: FetchLogEntry
    rows: list[pl.DataFrame] = field(default_factory=list)
    pages: dict[int, PageRows] = field(default_factory=dict)
    rows_of_all: int = 0
    """The number of rows of the answer, including rows of symbols that were not requested."""


class Ingest:
    """An ingest, which turns the events of a plan's requests into batches. Used once.

    Args:
        plan: The requests to make, and the windows to roll up from the store.
        now: The present: bars that have not closed by then are dropped.
        coverage: The covered windows by series, which show where each history begins.
        run_id: The id of the run, for ``fetch_log``.
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
                self._note_begin(series.symbol, series.timeframe.base, window.start)
        self._fetches: dict[FetchRequest, Fetch] = {fetch.request: fetch for fetch in plan.fetches}
        self._progress: dict[FetchRequest, _Progress] = {}
        self._coverage = coverage or {}
        self._days = MarketDays(plan)
        self._classes = {fetch.request.symbol: fetch.request.asset_class for fetch in plan.replaced}
        self._by_ranges: set[str] = set()
        self._open_days: dict[DayRequest, _DayProgress] = {}
        self._answered: dict[str, list[Window]] = {}
        self._differing: list[pl.DataFrame] = []
        self._pending = _Pending(self._differing)

    @property
    def requests(self) -> Sequence[BarRequest]:
        """The requests whose events :meth:`batches` takes."""
        return self._plan.requests

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
        self._read_bars = read_bars
        yield from self._ingest(events)
        if self._plan.days:
            yield self._flush()
            requests = self._judge_days(can_fetch=fetch_ranges is not None)
            if requests and fetch_ranges is not None:
                with closing(fetch_ranges(requests)) as more:
                    yield from self._ingest(more)
            yield self._flush()
            self._report_differences()
            self._roll_up_weeks()
        for rollup in self._plan.rollups:
            for window in _cut_into_chunks(rollup):
                self._roll_up_stored(rollup, window)
                if self._pending.rows >= self._batch_rows:
                    yield self._flush()
        yield self._flush()

    def _ingest(self, events: Iterable[FetchEvent]) -> Iterator[BarBatch]:
        try:
            for event in events:
                if isinstance(event.request, DayRequest):
                    yield from self._take_day(event, event.request)
                else:
                    self._take(event, event.request)
                if self._pending.rows >= self._batch_rows:
                    yield self._flush()
        except MarketDataError:
            yield self._flush()
            raise

    def _flush(self) -> BarBatch:
        batch = self._pending.batch()
        self._pending = _Pending(self._differing)
        return batch

    def _note_begin(self, symbol: str, base: Timeframe, moment: datetime) -> None:
        key = (symbol, base)
        self._begins[key] = min(moment, self._begins.get(key, moment))

    def _count(self, log: FetchLogEntry, record: FetchRecord) -> FetchLogEntry:
        """Add the cost of ``record`` to the report, and return ``log`` with it."""
        self.report.retries += record.retries
        self.report.waited_seconds += record.waited_seconds
        return replace(
            log,
            retries=log.retries + record.retries,
            rate_limited=log.rate_limited + record.rate_limited,
            duration_seconds=log.duration_seconds + record.duration_seconds,
            waited_seconds=log.waited_seconds + record.waited_seconds,
            request_id=record.request_id or log.request_id,
        )

    def _take_day(self, event: FetchEvent, request: DayRequest) -> Iterator[BarBatch]:
        progress = self._open_days.get(request)
        if progress is None:
            self.report.requests += 1
            self._open_days[request] = progress = _DayProgress(
                FetchLogEntry(
                    symbol=request.symbol,
                    base=request.base,
                    window=request.window,
                    timeframes=(request.base,),
                    status="partial",
                    requested_at=event.record.requested_at,
                    run_id=self._run_id,
                )
            )
        log = self._count(progress.log, event.record)
        if isinstance(event, RequestFailed):
            del self._open_days[request]
            self._days.fail(request, event.error)
            self._pending.log(replace(log, status="failed", error=str(event.error)))
            return
        if not isinstance(event, DayFetched):
            return
        self.report.pages += 1
        self.report.rows_fetched += event.frame.height
        progress.log = log = replace(log, pages=log.pages + 1, bars=log.bars + event.frame.height)
        progress.rows.append(_add_sources(event.frame, event.rows, event.record.page, event.frame["row"]))
        progress.rows_of_all += event.record.bars
        progress.pages[event.record.page] = event.rows
        if not event.is_last:
            self._pending.log(log)
            return
        del self._open_days[request]
        yield from self._store_day(request, progress)
        self._pending.log(replace(log, status="ok"))

    def _store_day(self, request: DayRequest, progress: _DayProgress) -> Iterator[BarBatch]:
        """Put a day that has arrived into the pending batch, and yield batches if it is large."""
        calendar = request.market.calendar
        screened = screen_day(pl.concat(progress.rows), request.window, calendar)
        bars = keep_closed(screened.bars, Timeframe.D1, calendar, self._now)
        if screened.quarantined.height:
            self._days.quarantine(screened.quarantined.select("symbol", "rule").iter_rows())
            self._pending.quarantine(_add_texts(screened, progress.pages))
        present = bars["symbol"].to_list()
        self._days.answer(request, progress.log.requested_at, present)
        begins = start_of_history(request.window.start, calendar)
        for symbol in present:
            self._note_begin(symbol, Timeframe.D1, begins)
        lost = screened.quarantined.filter(~pl.col("rule").is_in(RULES_WITHOUT_LOSS))["symbol"]
        incomplete = set(lost) - set(present)
        answered = self._answered_window(request) if progress.rows_of_all else None
        for start in range(0, len(request.symbols), SERIES_A_BATCH):
            symbols = request.symbols[start : start + SERIES_A_BATCH]
            is_whole = len(symbols) == len(request.symbols)
            self._pending.add_day(bars if is_whole else bars.filter(pl.col("symbol").is_in(symbols)))
            for symbol in symbols if answered else ():
                known = self._begins.get((symbol, Timeframe.D1))
                if answered and known is not None and known <= answered.start and symbol not in incomplete:
                    self._pending.cover(Series(symbol, Timeframe.D1), answered)
                    self._answered.setdefault(symbol, []).append(answered)
            if not is_whole:
                yield self._flush()

    def _answered_window(self, request: DayRequest) -> Window | None:
        """Return the window that the answer of a day covers: to the next session, and without time that is not final."""
        calendar = request.market.calendar
        final_before = calendar.final_before(self._now, CORRECTION_SESSIONS)
        window = request.window
        if window.start >= final_before:
            return None
        following = calendar.sessions(request.day + timedelta(days=1), request.day + _LONGEST_CLOSURE)
        end = calendar.day_start(following[0]) if following else window.end
        return Window(window.start, min(end, final_before))

    def _judge_days(self, *, can_fetch: bool) -> list[FetchRequest]:
        """Judge the days that have arrived or failed, and return the ranges that must be requested as well."""
        silent = {
            fetch.request.symbol
            for fetch in self._plan.replaced
            if (fetch.request.symbol, Timeframe.D1) not in self._begins
        }
        chosen = self._days.symbols_to_fetch(silent) if can_fetch else set()
        failures = list(self._days.failures(chosen))
        self._fail_days(failures)
        for symbol, window, rules in self._days.find_faults(chosen):
            series = Series(symbol, Timeframe.D1)
            self.report.failures.append(
                FailedRequest(series, window, _all_quarantined_error(f"{series} {window}", rules))
            )
        if rules := self._days.count_quarantined():
            self.report.notices.append(
                f"whole days: {_describe_counts(rules)} broke a rule and went to ohlcv_quarantine"
            )
        for entry in self._days.fetch_log(failures, self._run_id):
            self._pending.log(entry)
        self._by_ranges = chosen
        fetches = [fetch for fetch in self._plan.replaced if fetch.request.symbol in chosen]
        fetches += self._plan_revised_ranges(chosen) if can_fetch else []
        self._fetches |= {fetch.request: fetch for fetch in fetches}
        return [fetch.request for fetch in fetches]

    def _fail_days(self, failures: Sequence[FailedDays]) -> None:
        """Report ``failures``, one per symbol. Days before the plan's history become a notice, as for ranges."""
        failed: dict[str, FailedRequest] = {}
        too_old: list[FailedDays] = []
        for days in failures:
            is_too_old = False
            for symbol in days.symbols:
                series = Series(symbol, Timeframe.D1)
                begins = self._begins.get((symbol, Timeframe.D1))
                if (
                    isinstance(days.error, EntitlementError)
                    and begins is not None
                    and days.window.end <= begins
                ):
                    is_too_old = True
                else:
                    failed.setdefault(symbol, FailedRequest(series, days.window, days.error))
            too_old += [days] if is_too_old else []
        self.report.failures += failed.values()
        self.report.notices += [f"{days.window}: {days.error}" for days in too_old]

    def _plan_revised_ranges(self, chosen: Collection[str]) -> list[Fetch]:
        """Plan ranges of the days whose bars differ from bars of earlier ranges, and may have been revised since.

        They cover no other day: a bar of a range is replaced only by a range, so each would be requested every day.
        """
        windows: dict[str, list[Window]] = {}
        for frame in self._differing:
            for symbol, opened in self._find_not_final(frame).select("symbol", "time").iter_rows():
                windows.setdefault(symbol, []).append(self._day_window(symbol, opened))
        return [
            replace(fetch, request=replace(fetch.request, window=window), timeframes=(Timeframe.D1,), pages=1)
            for fetch in self._plan.replaced
            if fetch.request.symbol not in chosen
            for window in union(windows.get(fetch.request.symbol, ()))
        ]

    def _day_window(self, symbol: str, opened: datetime) -> Window:
        calendar = calendar_of(self._classes[symbol])
        return calendar.day_window(calendar.local_day(opened))

    def _find_not_final(self, bars: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of ``bars`` that are not final, as late trades may revise them."""
        final_before = {
            request.market: request.market.calendar.final_before(self._now, CORRECTION_SESSIONS)
            for request in self._plan.days
        }
        markets = {symbol: Market.of(asset_class) for symbol, asset_class in self._classes.items()}
        bounds = {symbol: final_before[market] for symbol, market in markets.items() if market is not None}
        found = pl.DataFrame(
            {"symbol": list(bounds), "final_before": list(bounds.values())},
            schema={"symbol": pl.String, "final_before": bars.schema["time"]},
        )
        return (
            bars.join(found, on="symbol")
            .filter(pl.col("time") >= pl.col("final_before"))
            .drop("final_before")
        )

    def _report_differences(self) -> None:
        """Report the day bars that still differ from the stored bars, which a range may have replaced since."""
        if not self._differing:
            return
        differing = pl.concat(self._differing).unique(KEY, keep="last").sort(KEY)
        for row in differing.iter_slices(1):
            series, opened = Series(row["symbol"][0], Timeframe.D1), row["time"][0]
            if not _is_same_bar(row, self._read_bars(series, self._day_window(series.symbol, opened))):
                day = calendar_of(self._classes[series.symbol]).local_day(opened)
                self.report.differs_from_range.append((series, day))
        if found := self.report.differs_from_range:
            named = name_first([f"{series} of {day}" for series, day in found], _NAMED)
            self.report.notices.append(
                f"the vendor's whole days differ from the ranges of the symbols in {named}:"
                " the bars of the ranges stay"
            )

    def _roll_up_weeks(self) -> None:
        """Roll up the weeks of whole days, which are stored now. Weeks of symbols fetched by ranges are stored already."""
        failed = set(self.report.failed_symbols)
        for fetch in self._plan.replaced:
            request = fetch.request
            calendar = calendar_of(request.asset_class)
            window = _complete_weeks(request.window, calendar)
            if Timeframe.W1 not in fetch.timeframes or request.symbol in self._by_ranges or window is None:
                continue
            base = Series(request.symbol, Timeframe.D1)
            known = union([*self._coverage.get(base, ()), *self._answered.get(request.symbol, ())])
            bars = self._read_bars(base, window)
            answered = [
                week
                for week in _split_into_weeks(window, calendar)
                if _covers_sessions(known, week, calendar)
            ]
            week_bars = self._store(Series(request.symbol, Timeframe.W1), bars, window, answered, calendar)
            if request.symbol not in failed:
                self._pending.log(
                    FetchLogEntry(
                        symbol=request.symbol,
                        base=Timeframe.D1,
                        window=window,
                        timeframes=(Timeframe.W1,),
                        status="ok",
                        requested_at=self._now,
                        bars=week_bars,
                        run_id=self._run_id,
                        shared=True,
                    )
                )

    def _take(self, event: FetchEvent, request: FetchRequest) -> None:
        progress = self._progress.get(request) or self._begin(event, request)
        record = event.record
        progress.log = log = self._count(progress.log, record)
        series = Series(request.symbol, request.base)
        if isinstance(event, RequestFailed):
            begins = self._begins.get((series.symbol, series.timeframe))
            if isinstance(event.error, EntitlementError) and begins is not None and log.window.end <= begins:
                # The plan's history begins later: its bars are stored, and earlier ones are not available.
                self.report.notices.append(str(event.error))
            else:
                self.report.failures.append(FailedRequest(series, request.window, event.error))
            self._end(progress, replace(log, status="failed", error=str(event.error)))
            return
        if not isinstance(event, PageFetched):
            return
        self.report.pages += 1
        self.report.rows_fetched += event.frame.height
        progress.log = replace(log, pages=log.pages + 1, bars=log.bars + event.frame.height)
        if event.notice is not None:
            self.report.notices.append(str(event.notice))
        opens = event.frame["time"]
        late = opens.is_between(request.window.start, progress.position, closed="left")
        progress.late_rows += opens.filter(late).len()
        progress.carried = pl.concat([progress.carried, _add_sources(event.frame, event.rows, record.page)])
        progress.pages[record.page] = event.rows
        self._advance(progress, is_last=event.is_last)
        if not event.is_last:
            self._pending.log(progress.log)
            return
        if not progress.log.bars:
            self.report.empty.append(request)
        error = _find_fault(progress)
        if error is not None:
            self.report.failures.append(FailedRequest(series, request.window, error))
            self._end(progress, replace(progress.log, status="failed", error=str(error)))
            return
        if progress.quarantined:
            self.report.notices.append(
                f"{request}: {_describe_counts(progress.quarantined)} broke a rule and went to ohlcv_quarantine"
            )
        self._end(progress, replace(progress.log, status="ok"))

    def _begin(self, event: FetchEvent, request: FetchRequest) -> _Progress:
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
        self._pending.quarantine(_add_texts(screened, progress.pages))
        _forget_pages(progress)
        first = screened.bars["time"].min()
        if isinstance(first, datetime):
            self._note_begin(request.symbol, request.base, start_of_history(first, calendar))
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
            # Longer bars are rolled up from the bars that will be stored: an answer may lack stored bars.
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
    ) -> int:
        """Put the bars of ``series`` that ``base`` rolls up to into the pending batch, and return their number."""
        timeframe = series.timeframe
        rolled = keep_closed(roll_up(base, timeframe, calendar), timeframe, calendar, self._now)
        whole = rolled.filter(
            pl.col("time") >= window.start,
            bucket_close(pl.col("time"), timeframe, calendar) <= window.end,
        )
        if timeframe is Timeframe.W1:
            answered = [weeks for piece in answered if (weeks := _complete_weeks(piece, calendar))]
        self._pending.add(series, whole, answered)
        return whole.height


def _add_sources(
    frame: pl.DataFrame, rows: PageRows, page: int, positions: pl.Series | None = None
) -> pl.DataFrame:
    """Add the columns of ``PAGE_SCHEMA`` that the rows of a page lack.

    ``positions`` are the positions of the rows in the page, None when ``frame`` has all rows of the page.
    """
    if positions is None:
        positions = pl.int_range(0, frame.height, dtype=pl.UInt64, eager=True)
    faults = pl.Series([None], dtype=pl.String).new_from_index(0, frame.height)
    if rows.faults:
        faults = pl.Series([rows.faults.get(at) for at in positions], dtype=pl.String)
    return frame.with_columns(fault=faults, source=positions.cast(pl.UInt64) + (page << _PAGE_BITS))


def _add_texts(screened: Screened, pages: Mapping[int, PageRows]) -> pl.DataFrame:
    """Add the text that the vendor sent to the quarantined rows of ``screened``, and return them."""
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


def _complete_weeks(window: Window, calendar: TradingCalendar) -> Window | None:
    """Return the part of ``window`` from its first to its last local Sunday 00:00, None when it has no complete week."""
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


def _find_fault(progress: _Progress) -> QuarantinedError | None:
    """Return the reason why the rows of a request cannot be relied on, or None."""
    request = progress.fetch.request
    if progress.late_rows:
        return QuarantinedError(
            f"{request}: {progress.late_rows} rows arrived out of order, for days that were already stored, and"
            " were not stored: run the backfill again with --force"
        )
    if progress.quarantined and not progress.bars:
        return _all_quarantined_error(str(request), progress.quarantined)
    return None


def _all_quarantined_error(subject: str, rules: Mapping[str, int]) -> QuarantinedError:
    return QuarantinedError(
        f"{subject}: all {sum(rules.values())} rows that the vendor sent broke a rule"
        f" ({_describe_counts(rules)}) and none was stored: see ohlcv_quarantine, then run the"
        " backfill again"
    )


def _is_same_bar(bar: pl.DataFrame, stored: pl.DataFrame) -> bool:
    """Whether a day bar equals the stored bar, apart from values that the day bar lacks."""
    stored = stored.select(BAR_SCHEMA.names())
    filled = (
        bar.select(BAR_SCHEMA.names()).with_columns(
            pl.coalesce(pl.col(name), stored[name].first()) for name in _VALUES
        )
        if stored.height
        else bar
    )
    return stored.height == 1 and filled.equals(stored)


def _split_into_weeks(window: Window, calendar: TradingCalendar) -> Iterator[Window]:
    """Yield the weeks of ``window``, which consists of whole weeks."""
    sunday = calendar.local_day(window.start)
    while calendar.day_start(sunday) < window.end:
        yield Window(calendar.day_start(sunday), calendar.day_start(sunday + WEEK))
        sunday += WEEK


def _covers_sessions(known: Sequence[Window], week: Window, calendar: TradingCalendar) -> bool:
    first = calendar.local_day(week.start)
    return all(
        any(window.covers(calendar.day_window(day)) for window in known)
        for day in calendar.sessions(first, first + timedelta(days=6))
    )


def _describe_counts(rules: Mapping[str, int]) -> str:
    return ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items(), key=lambda item: -item[1]))


class _Pending:
    """The batch that is being filled."""

    def __init__(self, differing: list[pl.DataFrame]) -> None:
        self.rows = 0
        self._differing = differing
        self._bars: list[pl.DataFrame] = []
        self._day_bars: list[pl.DataFrame] = []
        self._quarantined: list[pl.DataFrame] = []
        self._covered: dict[Series, list[Window]] = {}
        self._fetches: dict[object, FetchLogEntry] = {}

    def add(self, series: Series, bars: pl.DataFrame, answered: Sequence[Window]) -> None:
        self._bars.append(bars)
        self.rows += bars.height
        if answered:
            self._covered.setdefault(series, []).extend(answered)

    def add_day(self, bars: pl.DataFrame) -> None:
        self._day_bars.append(bars)
        self.rows += bars.height

    def cover(self, series: Series, window: Window) -> None:
        """Add a covered window of ``series``, joined with the previous window if it begins where that one ends."""
        windows = self._covered.setdefault(series, [])
        if windows and windows[-1].end == window.start:
            window = Window(windows.pop().start, window.end)
        windows.append(window)

    def quarantine(self, rows: pl.DataFrame) -> None:
        self._quarantined.append(rows)
        self.rows += rows.height

    def log(self, entry: FetchLogEntry) -> None:
        self._fetches[entry.id] = entry

    def batch(self) -> BarBatch:
        """Return the pending batch."""
        return BarBatch(
            # Stretches of one series can overlap when a week was completed: the later fetch is kept.
            bars=pl.concat([BAR_SCHEMA.to_frame(), *self._bars]).unique(
                ["symbol", "timeframe", "time"], keep="last"
            ),
            quarantined=pl.concat([QUARANTINE_SCHEMA.to_frame(), *self._quarantined]),
            covered=self._covered,
            fetches=list(self._fetches.values()),
            day_bars=pl.concat([BAR_SCHEMA.to_frame(), *self._day_bars]),
            differing=self._differing,
        )
