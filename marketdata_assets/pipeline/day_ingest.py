"""Days of whole markets in an ingest: what they store, and the ranges that answer the questions that they leave open."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.bars import BAR_SCHEMA, KEY, RULES_WITHOUT_LOSS, keep_closed, screen_day
from marketdata_assets.domain.calendar import WEEK, calendar_of
from marketdata_assets.domain.coverage import CORRECTION_SESSIONS, start_of_history
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window, union
from marketdata_assets.domain.wording import name_first
from marketdata_assets.pipeline.ingest_state import (
    FailedRequest,
    add_sources,
    add_texts,
    all_quarantined_error,
    complete_weeks,
    describe_counts,
)
from marketdata_assets.pipeline.market_days import MarketDays
from marketdata_assets.polygon.grouped import Market
from marketdata_assets.polygon.vendor import DayFetched, RequestFailed
from marketdata_assets.storage.bars import BarBatch, FetchLogEntry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import datetime

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.pipeline.ingest_state import IngestState
    from marketdata_assets.pipeline.market_days import FailedDays
    from marketdata_assets.polygon.grouped import DayRequest
    from marketdata_assets.polygon.parser import PageRows
    from marketdata_assets.polygon.planner import Fetch
    from marketdata_assets.polygon.vendor import FetchEvent

SERIES_A_BATCH: Final = 2_000
"""The number of symbols of a market's day per transaction: the locks of more might not fit in a server's memory."""

_NAMED: Final = 10
_LONGEST_CLOSURE: Final = timedelta(days=14)
_VALUES: Final = ("open", "high", "low", "close", "volume", "vwap", "transactions")


@dataclass(slots=True)
class _DayProgress:
    """The progress of one day of a market."""

    log: FetchLogEntry
    rows: list[pl.DataFrame] = field(default_factory=list)
    pages: dict[int, PageRows] = field(default_factory=dict)
    rows_of_all: int = 0
    """The number of rows of the answer, including rows of symbols that were not requested."""


class DayIngest:
    """The days of whole markets of one ingest. ``series_a_batch`` symbols of a day are committed at once."""

    def __init__(self, state: IngestState, *, series_a_batch: int = SERIES_A_BATCH) -> None:
        self._state = state
        self._series_a_batch = series_a_batch
        self._days = MarketDays(state.plan)
        self._classes = {fetch.request.symbol: fetch.request.asset_class for fetch in state.plan.replaced}
        self._by_ranges: set[str] = set()
        self._open_days: dict[DayRequest, _DayProgress] = {}
        self._answered: dict[str, list[Window]] = {}

    def take(self, event: FetchEvent, request: DayRequest) -> Iterator[BarBatch]:
        """Take the ``event`` of ``request``, and yield batches if the day is large."""
        progress = self._open_days.get(request)
        if progress is None:
            log = self._state.open_log(request, (request.base,), event.record.requested_at)
            self._open_days[request] = progress = _DayProgress(log)
        log = self._state.count(progress.log, event.record)
        if isinstance(event, RequestFailed):
            del self._open_days[request]
            self._days.fail(request, event.error)
            self._state.pending.log(replace(log, status="failed", error=str(event.error)))
            return
        if not isinstance(event, DayFetched):
            return
        progress.log = log = self._state.count_page(log, event.frame.height)
        progress.rows.append(add_sources(event.frame, event.rows, event.record.page, event.frame["row"]))
        progress.rows_of_all += event.record.bars
        progress.pages[event.record.page] = event.rows
        if not event.is_last:
            self._state.pending.log(log)
            return
        del self._open_days[request]
        yield from self._store_day(request, progress)
        self._state.pending.log(replace(log, status="ok"))

    def _store_day(self, request: DayRequest, progress: _DayProgress) -> Iterator[BarBatch]:
        """Put a day that has arrived into the pending batch, and yield batches if it is large."""
        calendar = request.market.calendar
        screened = screen_day(pl.concat(progress.rows), request.window, calendar)
        bars = keep_closed(screened.bars, Timeframe.D1, calendar, self._state.now)
        if screened.quarantined.height:
            self._days.quarantine(screened.quarantined.select("symbol", "rule").iter_rows())
            self._state.pending.quarantine(add_texts(screened, progress.pages))
        present = bars["symbol"].to_list()
        self._days.answer(request, progress.log.requested_at, present)
        begins = start_of_history(request.window.start, calendar)
        for symbol in present:
            self._state.note_begin(symbol, Timeframe.D1, begins)
        lost = screened.quarantined.filter(~pl.col("rule").is_in(RULES_WITHOUT_LOSS))["symbol"]
        incomplete = set(lost) - set(present)
        answered = self._answered_window(request) if progress.rows_of_all else None
        for start in range(0, len(request.symbols), self._series_a_batch):
            symbols = request.symbols[start : start + self._series_a_batch]
            is_whole = len(symbols) == len(request.symbols)
            self._state.pending.add_day(bars if is_whole else bars.filter(pl.col("symbol").is_in(symbols)))
            for symbol in symbols if answered else ():
                known = self._state.begins.get((symbol, Timeframe.D1))
                if answered and known is not None and known <= answered.start and symbol not in incomplete:
                    self._state.pending.cover(Series(symbol, Timeframe.D1), answered)
                    self._answered.setdefault(symbol, []).append(answered)
            if not is_whole:
                yield self._state.flush()

    def _answered_window(self, request: DayRequest) -> Window | None:
        """Return the window that the answer of a day covers: to the next session, and without time that is not final."""
        calendar = request.market.calendar
        final_before = calendar.final_before(self._state.now, CORRECTION_SESSIONS)
        window = request.window
        if window.start >= final_before:
            return None
        following = calendar.sessions(request.day + timedelta(days=1), request.day + _LONGEST_CLOSURE)
        end = calendar.day_start(following[0]) if following else window.end
        return Window(window.start, min(end, final_before))

    def judge(self, *, can_fetch: bool) -> list[Fetch]:
        """Judge the days that have arrived or failed, and return the ranges that must be requested as well."""
        silent = {
            fetch.request.symbol
            for fetch in self._state.plan.replaced
            if (fetch.request.symbol, Timeframe.D1) not in self._state.begins
        }
        chosen = self._days.symbols_to_fetch(silent) if can_fetch else set()
        failures = list(self._days.failures(chosen))
        self._fail_days(failures)
        for symbol, window, rules in self._days.find_faults(chosen):
            series = Series(symbol, Timeframe.D1)
            self._state.report.failures.append(
                FailedRequest(series, window, all_quarantined_error(f"{series} {window}", rules))
            )
        if rules := self._days.count_quarantined():
            self._state.report.notices.append(
                f"whole days: {describe_counts(rules)} broke a rule and went to ohlcv_quarantine"
            )
        for entry in self._days.fetch_log(failures, self._state.run_id):
            self._state.pending.log(entry)
        self._by_ranges = chosen
        fetches = [fetch for fetch in self._state.plan.replaced if fetch.request.symbol in chosen]
        fetches += self._plan_revised_ranges(chosen) if can_fetch else []
        return fetches

    def _fail_days(self, failures: Sequence[FailedDays]) -> None:
        """Report ``failures``, one per symbol. Days before the plan's history become a notice, as for ranges."""
        failed: dict[str, FailedRequest] = {}
        too_old: list[FailedDays] = []
        for days in failures:
            is_too_old = False
            for symbol in days.symbols:
                series = Series(symbol, Timeframe.D1)
                if self._state.is_before_history(series, days.window, days.error):
                    is_too_old = True
                else:
                    failed.setdefault(symbol, FailedRequest(series, days.window, days.error))
            too_old += [days] if is_too_old else []
        self._state.report.failures += failed.values()
        self._state.report.notices += [f"{days.window}: {days.error}" for days in too_old]

    def _plan_revised_ranges(self, chosen: Collection[str]) -> list[Fetch]:
        """Plan ranges of the days whose bars differ from bars of earlier ranges, and may have been revised since.

        They cover no other day: a bar of a range is replaced only by a range, so each would be requested every day.
        """
        if not self._state.differing:
            return []
        windows: dict[str, list[Window]] = {}
        revised = self._find_not_final(pl.concat(self._state.differing))
        for symbol, opened in revised.select("symbol", "time").iter_rows():
            windows.setdefault(symbol, []).append(self._day_window(symbol, opened))
        return [
            replace(fetch, request=replace(fetch.request, window=window), timeframes=(Timeframe.D1,), pages=1)
            for fetch in self._state.plan.replaced
            if fetch.request.symbol not in chosen
            for window in union(windows.get(fetch.request.symbol, ()))
        ]

    def _day_window(self, symbol: str, opened: datetime) -> Window:
        calendar = calendar_of(self._classes[symbol])
        return calendar.day_window(calendar.local_day(opened))

    def _find_not_final(self, bars: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of ``bars`` that are not final, as late trades may revise them."""
        final_before = {
            request.market: request.market.calendar.final_before(self._state.now, CORRECTION_SESSIONS)
            for request in self._state.plan.days
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

    def report_differences(self) -> None:
        """Report the day bars that still differ from the stored bars, which a range may have replaced since."""
        if not self._state.differing:
            return
        differing = pl.concat(self._state.differing).unique(KEY, keep="last").sort(KEY)
        for row in differing.iter_slices(1):
            series, opened = Series(row["symbol"][0], Timeframe.D1), row["time"][0]
            if not _is_same_bar(row, self._state.read_bars(series, self._day_window(series.symbol, opened))):
                day = calendar_of(self._classes[series.symbol]).local_day(opened)
                self._state.report.differs_from_range.append((series, day))
        if found := self._state.report.differs_from_range:
            named = name_first([f"{series} of {day}" for series, day in found], _NAMED)
            self._state.report.notices.append(
                f"the vendor's whole days differ from the ranges of the symbols in {named}:"
                " the bars of the ranges stay"
            )

    def roll_up_weeks(self) -> None:
        """Roll up the weeks of whole days, which are stored now. Weeks of symbols fetched by ranges are stored already."""
        failed = set(self._state.report.failed_symbols)
        for fetch in self._state.plan.replaced:
            request = fetch.request
            calendar = calendar_of(request.asset_class)
            window = complete_weeks(request.window, calendar)
            if Timeframe.W1 not in fetch.timeframes or request.symbol in self._by_ranges or window is None:
                continue
            base = Series(request.symbol, Timeframe.D1)
            known = union([*self._state.coverage.get(base, ()), *self._answered.get(request.symbol, ())])
            bars = self._state.read_bars(base, window)
            answered = [
                week
                for week in _split_into_weeks(window, calendar)
                if _covers_sessions(known, week, calendar)
            ]
            week_bars = self._state.store(
                Series(request.symbol, Timeframe.W1), bars, window, answered, calendar
            )
            if request.symbol not in failed:
                self._state.pending.log(
                    FetchLogEntry(
                        symbol=request.symbol,
                        base=Timeframe.D1,
                        window=window,
                        timeframes=(Timeframe.W1,),
                        status="ok",
                        requested_at=self._state.now,
                        bars=week_bars,
                        run_id=self._state.run_id,
                        shared=True,
                    )
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
