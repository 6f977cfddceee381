"""What whole days of markets say of each symbol that was asked for, and what they leave open. Pure.

An absent row says less than an empty range: the vendor leaves some tickers out of these days. So a symbol of which no
bar is known is requested by its range as well, and a refetch because of a gap always is (``plan_refetches``).
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
"""Symbols of failed days that are requested by ranges instead: a vendor that is down is not asked for thousands."""

_REFUSALS: Final = (EntitlementError, NotFoundError, BadRequestError)
"""What a vendor answers that has no such endpoint, or whose plan leaves it out."""


class FailedDays(NamedTuple):
    """Neighbouring days of a market that failed for the symbols that wanted them."""

    window: Window
    error: PolygonError
    """How the first of them failed."""
    symbols: tuple[str, ...]
    requested_at: datetime


@dataclass(slots=True)
class _Run:
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
        """The windows of the days that were answered."""
        for first, last in stretches_of_days(self.market.calendar, sorted(self.answered)):
            yield self.window(first, last)

    def window(self, first: date, last: date) -> Window:
        """The window from ``first`` to ``last``."""
        calendar = self.market.calendar
        return Window(calendar.day_start(first), calendar.day_window(last).end)


class MarketDays:
    """Collects the answers of a plan's days."""

    def __init__(self, plan: Plan) -> None:
        self._runs: list[_Run] = []
        self._run_of: dict[DayRequest, _Run] = {}
        self._quarantined: dict[str, Counter[str]] = defaultdict(Counter)
        by_symbols: dict[tuple[Market, int], list[DayRequest]] = defaultdict(list)
        for request in plan.days:
            by_symbols[request.market, id(request.symbols)].append(request)
        for (market, _), requests in by_symbols.items():
            for first, last in stretches_of_days(market.calendar, [one.day for one in requests]):
                run = _Run(market, requests[0].symbols, first, last)
                self._runs.append(run)
                self._run_of |= {one: run for one in requests if first <= one.day <= last}

    def answer(self, request: DayRequest, requested_at: datetime, symbols: Iterable[str]) -> None:
        """Note that the day of ``request`` came, with a bar for each of ``symbols``."""
        run = self._run_of[request]
        run.answered.add(request.day)
        run.bars.update(symbols)
        run.requested_at = min(requested_at, run.requested_at or requested_at)

    def quarantine(self, rows: Iterable[tuple[str, str]]) -> None:
        """Note rows that broke a rule, each by its symbol and the rule."""
        for symbol, rule in rows:
            self._quarantined[symbol][rule] += 1

    def fail(self, request: DayRequest, error: PolygonError) -> None:
        """Note that the day of ``request`` failed."""
        run = self._run_of[request]
        run.failed[request.day] = error
        if error.record is not None and run.requested_at is None:
            run.requested_at = error.record.requested_at

    def symbols_to_fetch(self, silent: Collection[str]) -> set[str]:
        """The symbols whose ranges are to be requested as well: those of ``silent``, and those of most failed days.

        A day that the plan leaves out while it includes others is too old, for the ranges as well.
        """
        chosen = set(silent)
        for market in {run.market for run in self._runs}:
            runs = [run for run in self._runs if run.market is market]
            symbols = {symbol for run in runs if run.failed for symbol in run.symbols}
            errors = [error for run in runs for error in run.failed.values()]
            is_absent = not any(run.answered for run in runs) and all(
                isinstance(error, _REFUSALS) for error in errors
            )
            is_small = len(symbols) <= RANGES_INSTEAD and not any(
                isinstance(error, EntitlementError | RateLimitedError) for error in errors
            )
            if is_absent or is_small:
                chosen |= symbols
        return chosen

    def failures(self, requested: Collection[str]) -> Iterator[FailedDays]:
        """The failed days, for the symbols that are not ``requested`` by ranges."""
        for run in self._runs:
            symbols = tuple(symbol for symbol in run.symbols if symbol not in requested)
            for first, last in stretches_of_days(run.market.calendar, sorted(run.failed)) if symbols else ():
                window = run.window(first, last)
                yield FailedDays(window, run.failed[first], symbols, run.requested_at or window.end)

    def unsound(self, requested: Collection[str]) -> Iterator[tuple[str, Window, Counter[str]]]:
        """The symbols, not ``requested`` by ranges, of which every row broke a rule: which rules, how often."""
        for symbol, rules in self._quarantined.items():
            runs = [run for run in self._runs if run.answered and symbol in set(run.symbols)]
            if runs and symbol not in requested and not any(run.bars[symbol] for run in runs):
                windows = [window for run in runs for window in run.windows()]
                yield symbol, Window(windows[0].start, windows[-1].end), rules

    def quarantined(self) -> Counter[str]:
        """The rules that rows broke, and how often."""
        return sum(self._quarantined.values(), Counter())

    def entries(self, failures: Sequence[FailedDays], run_id: str | None) -> Iterator[FetchLogEntry]:
        """One row of ``fetch_log`` for each symbol and stretch of answered days, and of days that failed for it."""
        for run in self._runs:
            for window in run.windows():
                at = run.requested_at or window.end
                for symbol in run.symbols:
                    yield _entry(symbol, window, at, run_id, bars=run.bars[symbol])
        for failed in failures:
            for symbol in failed.symbols:
                yield _entry(symbol, failed.window, failed.requested_at, run_id, error=str(failed.error))


def _entry(
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
