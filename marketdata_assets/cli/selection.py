"""The series and days that the options of a command select.

An invalid option raises :class:`ConfigurationError` with a line that shows what to write instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.series import parse_symbol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from marketdata_assets.cli.session import Store
    from marketdata_assets.domain.series import Series
    from marketdata_assets.domain.timeframe import Timeframe
    from marketdata_assets.storage.symbols import TrackedSymbol

DEFAULT_DAYS: Final = 14
"""The default number of days: two weeks always contain the last closed week."""
_MAX_DAYS: Final = 36_525


def choose_symbols(store: Store, symbols: str | None) -> list[TrackedSymbol]:
    """Return the active symbols of ``--symbols A,B`` in that order; all active symbols without the option."""
    from marketdata_assets.storage.symbols import choose_symbol, list_symbols

    active = {symbol.symbol: symbol for symbol in list_symbols(store.database, active_only=True)}
    if symbols is None:
        return list(active.values())
    names = [parse_symbol(name) for name in symbols.split(",") if name.strip()]
    if not names:
        message = "--symbols is empty: give symbols such as AAPL,SPY"
        raise ConfigurationError(message)
    return [active[name] for name in dict.fromkeys(choose_symbol(name, active) for name in names)]


def choose_series(symbols: Iterable[TrackedSymbol], timeframes: Collection[Timeframe] | None) -> list[Series]:
    """Return the series of ``symbols`` in ``timeframes``; None stands for the timeframes that each symbol is tracked in."""
    chosen = [
        series
        for symbol in symbols
        for series in symbol.series
        if timeframes is None or series.timeframe in timeframes
    ]
    if not chosen:
        message = "no symbol is tracked in these timeframes: see `marketdata symbols list`"
        if timeframes is None:
            message = "no symbol is tracked: add one with `marketdata symbols add`"
        raise ConfigurationError(message)
    return chosen


@dataclass(frozen=True, slots=True)
class ChosenDays:
    """The first and last day of a command, both inclusive, and which options were given; the others are defaults."""

    first: date
    last: date
    days: int | None = None
    has_start: bool = False
    has_end: bool = False


def choose_days(days: int | None, start: str | None, end: str | None, now: datetime) -> ChosenDays:
    """Return the days of ``--days N`` or ``--start`` and ``--end``."""
    from marketdata_assets.domain.ranges import day_window

    check_number_of_days(days, start)
    first_day = None if start is None else parse_day("--start", start)
    last_day = None if end is None else parse_day("--end", end)
    first, last = day_window(days or DEFAULT_DAYS, first_day, last_day, now=now)
    return ChosenDays(first, last, days, has_start=start is not None, has_end=end is not None)


def check_number_of_days(days: int | None, start: str | None) -> None:
    """Refuse ``--days`` that is not a possible length of a history, or that is combined with ``--start``."""
    if days is None:
        return
    if start is not None:
        message = "--days and --start exclude each other: give one of them"
    elif days < 1:
        message = f"--days {days} is not a number of days: give 1 or more"
    elif days > _MAX_DAYS:
        message = f"--days {days} is longer than any history: give {_MAX_DAYS} or less"
    else:
        return
    raise ConfigurationError(message)


def parse_day(option: str, text: str) -> date:
    """Return the day that ``text``, the value of ``option``, names."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        message = f"{option} {text!r} is not a date: write it as YYYY-MM-DD"
        raise ConfigurationError(message) from None


def validate_days(chosen: ChosenDays, earliest: date, now: datetime) -> tuple[date, date]:
    """Return the first and last day of ``chosen``; a default first day is at least ``earliest``, the first partition.

    Days that are reversed, in the future or before ``earliest`` are refused.
    """
    today = now.date()
    first, last = chosen.first, chosen.last
    if not chosen.has_start and chosen.days is None:
        first = max(first, earliest)
    remedy = f"set MARKETDATA_START to {first} or earlier"
    if last > today:
        message = f"--end {last} lies in the future: today is {today} (UTC)"
    elif first > today and chosen.has_start:
        message = f"--start {first} lies in the future: today is {today} (UTC)"
    elif chosen.has_start and last < first:
        message = f"--end {last} lies before --start {first}: swap them"
    elif last < earliest:
        what = f"--end {last}" if chosen.has_end else f"today, {today} (UTC),"
        message = (
            f"{what} lies before the first partition, {earliest}: set MARKETDATA_START to an earlier day"
        )
    elif first < earliest and chosen.has_start:
        message = f"--start {first} lies before the first partition, {earliest}: {remedy}"
    elif first < earliest:
        message = f"--days {chosen.days} begins on {first}, before the first partition, {earliest}: {remedy}"
    else:
        return first, last
    raise ConfigurationError(message)
