"""The answers of whole days of markets for each requested symbol, and the questions that they leave open. Pure.

An absent row proves less than an empty range: the vendor leaves some tickers out of these days. So a symbol without a
known bar is requested by its range as well, and a refetch because of a gap always uses ranges (``plan_refetches``).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.polygon.errors import (
    BadRequestError,
    EntitlementError,
    NotFoundError,
    RateLimitedError,
)
from marketdata_assets.polygon.grouped import stretches_of_days
from marketdata_assets.storage.bars import FetchLogEntry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from datetime import date, datetime

    from marketdata_assets.polygon.errors import PolygonError
    from marketdata_assets.polygon.grouped import DayRequest, Market
    from marketdata_assets.polygon.planner import Plan

RANGES_INSTEAD: Final = 100
"""The maximum number of symbols of failed days that are requested by ranges: thousands could overload the vendor."""

_REFUSALS: Final = (EntitlementError, NotFoundError, BadRequestError)
"""The errors of a vendor that does not have the endpoint, or of a plan that does not include it."""


class FailedDays(NamedTuple):
    """Neighbouring days of a market that failed, for the symbols that wanted them."""

    window: Window
    error: PolygonError
    """The error of the first of these days."""
    symbols: tuple[str, ...]
    requested_at: datetime


@dataclass(slots=True)
class _Stretch:
    """Neighbouring days that the same symbols want."""

    market: Market
    symbols: tuple[str, ...]
    first: date
    last: date
    requested_at: datetime | None = None
    bars: Counter[str] = field(default_factory=Counter)
    answered: set[date] = field(default_factory=set)
    failed: dict[date, PolygonError] = field(default_factory=dict)

    def windows(self) -> Iterator[Window]:
        """Yield the windows of the days that were answered."""
        for first, last in stretches_of_days(self.market.calendar, sorted(self.answered)):
            yield self.window(first, last)

    def window(self, first: date, last: date) -> Window:
        """Return the window from ``first`` to ``last``, both inclusive."""
        calendar = self.market.calendar
        return Window(calendar.day_start(first), calendar.day_window(last).end)


class MarketDays:
    """The collected answers of a plan's days."""

    def __init__(self, plan: Plan) -> None:
        self._stretches: list[_Stretch] = []
        self._stretch_of: dict[DayRequest, _Stretch] = {}
        self._quarantined: dict[str, Counter[str]] = defaultdict(Counter)
        by_symbols: dict[tuple[Market, int], list[DayRequest]] = defaultdict(list)
        for request in plan.days:
            by_symbols[request.market, id(request.symbols)].append(request)
        for (market, _), requests in by_symbols.items():
            for first, last in stretches_of_days(market.calendar, [request.day for request in requests]):
                stretch = _Stretch(market, requests[0].symbols, first, last)
                self._stretches.append(stretch)
                self._stretch_of |= {request: stretch for request in requests if first <= request.day <= last}

    def answer(self, request: DayRequest, requested_at: datetime, symbols: Iterable[str]) -> None:
        """Note that the day of ``request`` was answered, with a bar for each of ``symbols``."""
        stretch = self._stretch_of[request]
        stretch.answered.add(request.day)
        stretch.bars.update(symbols)
        stretch.requested_at = min(requested_at, stretch.requested_at or requested_at)

    def quarantine(self, rows: Iterable[tuple[str, str]]) -> None:
        """Note quarantined rows, each by its symbol and the rule that it broke."""
        for symbol, rule in rows:
            self._quarantined[symbol][rule] += 1

    def fail(self, request: DayRequest, error: PolygonError) -> None:
        """Note that the day of ``request`` failed."""
        stretch = self._stretch_of[request]
        stretch.failed[request.day] = error
        if error.record is not None and stretch.requested_at is None:
            stretch.requested_at = error.record.requested_at

    def symbols_to_fetch(self, silent: Collection[str]) -> set[str]:
        """Return the symbols whose ranges are to be requested as well: ``silent``, and the symbols of most failed days.

        A day that the plan leaves out while it includes other days is too old for ranges as well.
        """
        chosen = set(silent)
        for market in {stretch.market for stretch in self._stretches}:
            stretches = [stretch for stretch in self._stretches if stretch.market is market]
            symbols = {symbol for stretch in stretches if stretch.failed for symbol in stretch.symbols}
            errors = [error for stretch in stretches for error in stretch.failed.values()]
            is_absent = not any(stretch.answered for stretch in stretches) and all(
                isinstance(error, _REFUSALS) for error in errors
            )
            is_small = len(symbols) <= RANGES_INSTEAD and not any(
                isinstance(error, EntitlementError | RateLimitedError) for error in errors
            )
            if is_absent or is_small:
                chosen |= symbols
        return chosen

    def failures(self, requested: Collection[str]) -> Iterator[FailedDays]:
        """Yield the failed days, for the symbols that are not ``requested`` by ranges."""
        for stretch in self._stretches:
            symbols = tuple(symbol for symbol in stretch.symbols if symbol not in requested)
            for first, last in (
                stretches_of_days(stretch.market.calendar, sorted(stretch.failed)) if symbols else ()
            ):
                window = stretch.window(first, last)
                yield FailedDays(window, stretch.failed[first], symbols, stretch.requested_at or window.end)

    def find_faults(self, requested: Collection[str]) -> Iterator[tuple[str, Window, Counter[str]]]:
        """Yield the symbols, not ``requested`` by ranges, whose rows all broke a rule, with the number of rows per rule."""
        for symbol, rules in self._quarantined.items():
            stretches = [
                stretch for stretch in self._stretches if stretch.answered and symbol in stretch.symbols
            ]
            if (
                stretches
                and symbol not in requested
                and not any(stretch.bars[symbol] for stretch in stretches)
            ):
                windows = [window for stretch in stretches for window in stretch.windows()]
                yield symbol, Window(windows[0].start, windows[-1].end), rules

    def count_quarantined(self) -> Counter[str]:
        """Return the number of quarantined rows per rule."""
        return sum(self._quarantined.values(), Counter())

    def fetch_log(self, failures: Sequence[FailedDays], run_id: str | None) -> Iterator[FetchLogEntry]:
        """Yield a row of ``fetch_log`` for each symbol and stretch of days that were answered or failed for it."""
        for stretch in self._stretches:
            for window in stretch.windows():
                at = stretch.requested_at or window.end
                for symbol in stretch.symbols:
                    yield _log_entry(symbol, window, at, run_id, bars=stretch.bars[symbol])
        for failed in failures:
            for symbol in failed.symbols:
                yield _log_entry(symbol, failed.window, failed.requested_at, run_id, error=str(failed.error))


def _log_entry(
    symbol: str,
    window: Window,
    requested_at: datetime,
    run_id: str | None,
    *,
    bars: int = 0,
    error: str | None = None,
) -> FetchLogEntry:
    return FetchLogEntry(
        symbol=symbol,
        base=Timeframe.D1,
        window=window,
        timeframes=(Timeframe.D1,),
        status="ok" if error is None else "failed",
        requested_at=requested_at,
        bars=bars,
        error=error,
        run_id=run_id,
        shared=True,
    )
