"""What is stored as Polars frames, for notebooks and programs: ``from marketdata_assets import bars``.

``bars``, ``features``, ``gaps`` and ``completeness`` keep a connection of their own. The functions ``read_…`` beside
them do the same over a given database, page by page: the HTTP API answers with them.
"""

from __future__ import annotations

import atexit
import operator
import os
import re
import warnings
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple, SupportsIndex, TypeAlias

import numpy as np
import polars as pl

from marketdata_assets.config import load_settings
from marketdata_assets.domain.calendar import TradingCalendar, calendar_of
from marketdata_assets.domain.errors import (
    ConfigurationError,
    MarketDataError,
    UnadjustableError,
    UnknownSeriesError,
)
from marketdata_assets.domain.gaps import LOSSES, GapState
from marketdata_assets.domain.holes import Holes, regular_windows
from marketdata_assets.domain.series import AssetClass, Series, parse_symbol
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.pipeline.adjusted import scale_bars
from marketdata_assets.pipeline.holes import find_holes
from marketdata_assets.storage.bars import read_series
from marketdata_assets.storage.completeness import read_matrix
from marketdata_assets.storage.connection import Database, resolve_database_url
from marketdata_assets.storage.failures import Refusal, find_refusal, first_line
from marketdata_assets.storage.gaps import sorted_gaps
from marketdata_assets.storage.symbols import (
    SymbolToRead,
    TrackedSymbol,
    choose_symbol,
    find_with_splits,
    list_symbols,
)
from marketdata_assets.storage.tables import FEATURES, OHLCV, Table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

EARLIEST: Final = datetime(1900, 1, 1, tzinfo=UTC)
"""Before any bar."""
_LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)
_ONE_DAY: Final = timedelta(days=1)
_NOTHING_STORED: Final = timedelta(days=30)
"""How far back a series without a bar is called never fetched, when no start was given."""

Edge: TypeAlias = "date | datetime | str | np.datetime64"
"""The start or end of a range, as :func:`bars` reads it."""


class IncompleteHistoryWarning(UserWarning):
    """Days of the range that was read were never fetched, were removed by retention, or lack bars without an explanation.

    Attributes:
        holes: Which days, and how many bars; None after pickling, which keeps the message alone.
    """

    def __init__(self, message: str, holes: Holes | None = None) -> None:
        super().__init__(message)
        self.holes = holes


def bars(  # noqa: PLR0913 - each is an option
    symbol: str,
    timeframe: Timeframe | str,
    start: Edge | None = None,
    end: Edge | None = None,
    *,
    days: int | None = None,
    adjusted: bool = True,
    as_of: date | str | np.datetime64 | None = None,
    regular_hours: bool = False,
    database_url: str | None = None,
) -> pl.DataFrame:
    """The stored bars of one series that open between ``start`` and ``end``, sorted by time.

    Columns, as in ``domain.bars.BAR_SCHEMA``: symbol, timeframe (String), time (the open, ``Datetime("us", "UTC")``),
    open, high, low, close, volume, vwap (Float64), transactions (Int64), base_bars (Int32). Volume, vwap and
    transactions of an index are null.

    Adjusted means split-adjusted: prices are on the scale of ``as_of``, volume is in its shares, dividends stay
    in. A bar after ``as_of`` stays on its own scale. Crypto and indices never split.

    The connection is kept for the next call of this process; threads take turns.

    Days of the range that were never fetched, or that retention removed, and gaps without an explanation are reported
    with an :class:`IncompleteHistoryWarning`, which names the command that fetches them.

    Args:
        symbol: ``AAPL``, ``BRK.B``, ``BACpL``, ``BTC-USD``. Capitals tell securities apart; small letters alone,
            ``aapl``, find the one symbol that has these letters.
        timeframe: ``1m 5m 15m 30m 1h 4h 1d 1w``, or as other libraries write them (``1D``, ``5min``).
        start: The first local day (New York's for stocks, ETFs and indices, UTC's for crypto), or an aware
            moment. A text is read as ISO 8601: ``2024-01-02``, ``2024-01-02T14:30:00Z``. A ``np.datetime64`` or a
            pandas ``Timestamp`` without a zone is a day when it is at midnight. Default: the first stored bar.
        end: The last local day, **inclusive**; or an aware moment, **exclusive**. Default: today.
        days: The last so many local days up to ``end``, in place of ``start``.
        adjusted: False gives prices as they were traded.
        as_of: The local date whose scale is wanted, or its text, ``2024-01-02``; default today, so that announced
            splits wait for their day.
        regular_hours: Only intraday bars that touch the regular hours, 09:30 to 16:00 in New York, to 13:00 on half
            days. An hour bar that opens at 09:00 does, with what was traded before 09:30. Refused for ``1d``, ``1w`` and
            crypto, of which it would change nothing.
        database_url: Default: the store of the ``marketdata`` commands (DATABASE_URL, else the embedded server,
            which is started when down).

    Raises:
        ConfigurationError: The symbol or the timeframe is unknown or not collected, an argument makes no sense, the
            splits of the symbol were never asked for, or the database is out of reach.
        SplitError: Two splits contradict each other, or a split divides a week whose days are not stored.
    """
    _check_types(symbol, timeframe, adjusted=adjusted, regular_hours=regular_hours)
    scale = None if as_of is None else _scale(as_of)
    question = BarQuestion(symbol, timeframe, start, end, adjusted, scale, days, regular_hours)
    with _kept_database(database_url) as database:
        page = read_bars(database, question)
    _warn(page.holes)
    return page.bars


def _warn(holes: Holes) -> None:
    """Report ``holes``, if there are any, at the line that called the function of this module."""
    if holes:
        warnings.warn(IncompleteHistoryWarning(holes.sentence(), holes), stacklevel=3)


@dataclass(frozen=True, slots=True)
class BarQuestion:
    """The arguments of :func:`bars`."""

    symbol: str
    timeframe: Timeframe | str
    start: Edge | None = None
    end: Edge | None = None
    adjusted: bool = True
    as_of: date | None = None
    days: int | None = None
    regular_hours: bool = False


@dataclass(frozen=True, slots=True)
class BarPage:
    """Bars that were read, and what the question came to.

    Attributes:
        bars: ``BAR_SCHEMA``, sorted by time.
        series: Whose they are.
        asset_class: Of the symbol.
        window: What was asked for, as moments.
        holes: What the window lacks: of a page that a limit ended, the part that was read.
        scale: The local date on whose scale the prices are; None for prices as traded.
        splits: Those of the symbol (``SPLIT_SCHEMA``), after ``scale`` as well; None for prices as traded.
    """

    bars: pl.DataFrame
    series: Series
    asset_class: AssetClass
    window: Window
    holes: Holes
    scale: date | None = None
    splits: pl.DataFrame | None = None


def read_bars(
    database: Database, asked: BarQuestion, *, limit: int | None = None, newest: bool = False
) -> BarPage:
    """What :func:`bars` returns, from ``database``: the first ``limit`` of them, or the last ones with ``newest``.

    Raises:
        UnknownSeriesError: The symbol is not tracked, or no bar is stored and the timeframe not collected.
        UnadjustableError: The splits of the symbol were never asked for.
        ConfigurationError: An argument makes no sense.
        SplitError: As :func:`bars`.
    """
    if asked.as_of is not None and not asked.adjusted:
        message = "as_of chooses the scale of adjusted prices: leave it out with adjusted=False"
        raise ConfigurationError(message)
    now = datetime.now(UTC)
    read = _read_rows(database, OHLCV, asked, now=now, limit=limit, newest=newest)
    tracked, splits = read.symbol.tracked, read.symbol.splits
    page = BarPage(read.rows, read.series, tracked.asset_class, read.window, read.holes)
    if not asked.adjusted or not tracked.asset_class.can_split:
        return page
    if splits is None:
        raise UnadjustableError(tracked.symbol, is_tracked=tracked.active)
    scale = asked.as_of or calendar_of(tracked.asset_class).local_day(now)
    adjusted = scale_bars(database, read.rows, tracked.asset_class, splits, as_of=scale)
    return replace(page, bars=adjusted, scale=scale, splits=splits)


class _Read(NamedTuple):
    """Rows of a table that were read, and what the question came to."""

    rows: pl.DataFrame
    symbol: SymbolToRead
    series: Series
    window: Window
    holes: Holes


def _read_rows(
    database: Database,
    table: Table,
    asked: BarQuestion,
    *,
    now: datetime,
    limit: int | None = None,
    newest: bool = False,
) -> _Read:
    """Read the rows of ``table`` that ``asked`` is about, and what their window lacks."""
    name, timeframe = parse_symbol(asked.symbol), Timeframe.parse(asked.timeframe)
    edges = _Edges.of(asked.start, asked.end, asked.days)
    symbol = find_with_splits(database, name, timeframe, edges.roughly(now))
    series = Series(symbol.tracked.symbol, timeframe)
    asset_class = symbol.tracked.asset_class
    calendar = calendar_of(asset_class)
    window = edges.window(calendar, now)
    within = regular_windows(timeframe, window, calendar) if asked.regular_hours else None
    rows = read_series(database, table, series, window, limit=limit, newest=newest, within=within)
    if rows.is_empty():
        _require_collected(series, symbol.tracked)
    part = _window_read(window, rows, edges, limit=limit, newest=newest, now=now)
    holes = find_holes(
        database, series, asset_class, part, rows["time"], has_lost_gaps=symbol.has_lost_gaps, now=now
    )
    return _Read(rows, symbol, series, window, holes)


def _window_read(
    window: Window, rows: pl.DataFrame, edges: _Edges, *, limit: int | None, newest: bool, now: datetime
) -> Window:
    """Return the part of ``window`` that ``rows`` answer: less when a limit ended them, or no start was given."""
    start, end = window.start, window.end
    times = rows["time"]
    if rows.is_empty():
        begins = start if edges.has_start else max(start, min(end, now) - _NOTHING_STORED)
        return Window(begins, end) if begins < end else window
    is_cut = limit is not None and rows.height >= limit
    if not edges.has_start or (is_cut and newest):
        start = times[0]
    if is_cut and not newest:
        end = times[-1] + timedelta(microseconds=1)
    return Window(start.astimezone(UTC), end.astimezone(UTC))


def features(
    symbol: str,
    timeframe: Timeframe | str,
    start: Edge | None = None,
    end: Edge | None = None,
    *,
    days: int | None = None,
    regular_hours: bool = False,
    database_url: str | None = None,
) -> pl.DataFrame:
    """The stored features of the bars of one series that open between ``start`` and ``end``, sorted by time.

    Columns, as in ``domain.features.columns.FEATURES_SCHEMA``: symbol, timeframe, time, then one a feature, whose
    definitions and units are in docs/features.md. Null is unknown: warm-up, or a window with lost bars. They are on the
    scale of the day on which they were computed. Bars whose features are not computed yet have no row. What the bars of
    the range lack is reported as by :func:`bars`.

    Args:
        symbol: As for :func:`bars`.
        timeframe: As for :func:`bars`.
        start: As for :func:`bars`.
        end: As for :func:`bars`.
        days: As for :func:`bars`.
        regular_hours: As for :func:`bars`. Features are of all bars: those of the extended hours are in their windows.
        database_url: As for :func:`bars`.

    Raises:
        ConfigurationError: As :func:`bars`; features need no splits.
    """
    _check_types(symbol, timeframe, regular_hours=regular_hours)
    question = BarQuestion(symbol, timeframe, start, end, days=days, regular_hours=regular_hours)
    with _kept_database(database_url) as database:
        page = read_features(database, question)
    _warn(page.holes)
    return page.features


@dataclass(frozen=True, slots=True)
class FeaturePage:
    """Features (``FEATURES_SCHEMA``) that were read; the rest as in :class:`BarPage`."""

    features: pl.DataFrame
    series: Series
    asset_class: AssetClass
    window: Window
    holes: Holes


def read_features(database: Database, asked: BarQuestion, *, limit: int | None = None) -> FeaturePage:
    """What :func:`features` returns, from ``database``: the first ``limit`` of them. Needs no scale and no splits."""
    read = _read_rows(database, FEATURES, asked, now=datetime.now(UTC), limit=limit)
    return FeaturePage(read.rows, read.series, read.symbol.tracked.asset_class, read.window, read.holes)


def gaps(
    symbols: Collection[str] | None = None,
    timeframes: Collection[Timeframe | str] | None = None,
    start: Edge | None = None,
    end: Edge | None = None,
    *,
    days: int | None = None,
    states: Collection[str] | None = LOSSES,
    database_url: str | None = None,
) -> pl.DataFrame:
    """The known gaps that reach into ``start`` to ``end``, sorted by symbol, timeframe and gap_start.

    Columns, as in ``storage.gaps.LISTED_SCHEMA``: symbol, timeframe, day (the local date of the first missing bar),
    gap_start, gap_end (exclusive, UTC), missing_bars, state, attempts, failure, reason, detected_at, resolved_at (UTC).
    docs/gaps.md says what the states mean. A day that was never scanned has no gap here.

    Args:
        symbols: Which, as a list or one alone; None for every active one.
        timeframes: Which, likewise; None for all that each symbol is tracked in.
        start: As for :func:`bars`; None for the beginning of time.
        end: As for :func:`bars`; None for its end.
        days: As for :func:`bars`, in place of ``start``.
        states: ``open unfilled filled no_trades``; by default what is missing without an explanation, None for all.
        database_url: As for :func:`bars`.

    Raises:
        ConfigurationError: A symbol, timeframe or state is unknown, an argument makes no sense, or the database is out
            of reach.
    """
    with _kept_database(database_url) as database:
        return read_gaps(database, symbols, timeframes, start, end, days=days, states=states)


def read_gaps(  # noqa: PLR0913 - each is an option
    database: Database,
    symbols: Collection[str] | None = None,
    timeframes: Collection[Timeframe | str] | None = None,
    start: Edge | None = None,
    end: Edge | None = None,
    *,
    days: int | None = None,
    states: Collection[str] | None = LOSSES,
    after: tuple[str, str, datetime] | None = None,
    limit: int | None = None,
) -> pl.DataFrame:
    """What :func:`gaps` returns, from ``database``: the first ``limit`` whose key comes after ``after``."""
    known = [one.value for one in GapState]
    states = None if states is None else _names("states", states)
    if unknown := [one for one in states or () if one not in known]:
        message = f"unknown state of a gap {unknown[0]!r}: use some of {', '.join(known)}"
        raise ConfigurationError(message)
    windows: dict[Series, Window] = {}
    edges = _Edges.of(start, _LATEST if end is None and days is None else end, days)
    now = datetime.now(UTC)
    for tracked in _chosen(database, symbols):
        window = edges.window(calendar_of(tracked.asset_class), now)
        windows |= dict.fromkeys(_series_of(tracked, timeframes), window)
    return sorted_gaps(database, windows, states, after=after, limit=limit)


def completeness(
    symbols: Collection[str] | None = None,
    timeframes: Collection[Timeframe | str] | None = None,
    *,
    database_url: str | None = None,
) -> pl.DataFrame:
    """How whole each active series was when the matrix was last made: one row a series, in the order of the symbols.

    Columns, as in ``storage.completeness.MATRIX_SCHEMA``: symbol, timeframe, expected_bars, present_bars,
    no_trade_bars, missing_bars, completeness (0 to 1; null when nothing is expected), status, first_bar, last_bar (UTC
    opens), as_of (the day of the row; null when the matrix never saw the series), first_scanned, last_scanned (the days
    that the row speaks of; null when it is not known).

    Args:
        symbols: Which, as a list or one alone; None for every active one.
        timeframes: Which, likewise; None for all.
        database_url: As for :func:`bars`.

    Raises:
        ConfigurationError: A symbol or timeframe is unknown, or the database is out of reach.
    """
    with _kept_database(database_url) as database:
        return read_completeness(database, symbols, timeframes)


def read_completeness(
    database: Database,
    symbols: Collection[str] | None = None,
    timeframes: Collection[Timeframe | str] | None = None,
) -> pl.DataFrame:
    """What :func:`completeness` returns, from ``database``."""
    wanted = None if symbols is None else [one.symbol for one in _chosen(database, symbols)]
    rows = read_matrix(database, wanted)
    if timeframes is None:
        return rows
    chosen = [Timeframe.parse(one).value for one in _names("timeframes", timeframes)]
    return rows.filter(pl.col("timeframe").is_in(chosen))


def _chosen(database: Database, symbols: Collection[str] | None) -> list[TrackedSymbol]:
    """The tracked symbols named, in the order of ``tracked_symbols``; the active ones for None."""
    if symbols is None:
        return list_symbols(database, active_only=True)
    known = list_symbols(database)
    spellings = [one.symbol for one in known]
    names = {choose_symbol(parse_symbol(one), spellings) for one in sorted(_names("symbols", symbols))}
    return [one for one in known if one.symbol in names]


def _series_of(tracked: TrackedSymbol, timeframes: Collection[Timeframe | str] | None) -> list[Series]:
    if timeframes is None:
        return tracked.series
    chosen = {Timeframe.parse(one) for one in _names("timeframes", timeframes)}
    return [one for one in tracked.series if one.timeframe in chosen]


def _names(argument: str, given: object) -> list[str]:
    """The texts in ``given``; one text alone is the list of it, or its letters would be taken for names."""
    listed = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    names = [one for one in listed if isinstance(one, str)]
    if len(names) < len(listed):
        message = f"{argument} is a list of texts, one text, or None, not {given!r}"
        raise ConfigurationError(message)
    return names


def _require_collected(series: Series, tracked: TrackedSymbol) -> None:
    if series.timeframe not in tracked.timeframes:
        message = (
            f"{series} is not collected: {series.symbol} is in {', '.join(tracked.timeframes)}; add the timeframe"
            f" with `marketdata symbols set-timeframes` and run `marketdata backfill`"
        )
        raise UnknownSeriesError(message)


def _check_types(
    symbol: object, timeframe: object, *, adjusted: object = True, regular_hours: object = False
) -> None:
    """Refuse what type checkers would, of callers who have none."""
    message = None
    if not isinstance(symbol, str):
        message = f"symbol is a text such as 'AAPL', not {symbol!r}"
    elif not isinstance(timeframe, str):
        message = f"timeframe is one of {', '.join(Timeframe)}, not {timeframe!r}"
    elif not isinstance(adjusted, bool):
        message = f"adjusted is True or False, not {adjusted!r}"
    elif not isinstance(regular_hours, bool):
        message = f"regular_hours is True or False, not {regular_hours!r}"
    if message is not None:
        raise ConfigurationError(message)


def _scale(as_of: object) -> date:
    as_of = _plain("as_of", as_of)
    if isinstance(as_of, str):
        try:
            return date.fromisoformat(as_of)
        except ValueError:
            message = f"as_of {as_of!r} is no date: write YYYY-MM-DD"
            raise ConfigurationError(message) from None
    if isinstance(as_of, datetime):
        message = f"as_of is a date, not the moment {as_of}: give its local date"
        raise ConfigurationError(message)
    if not isinstance(as_of, date):
        message = f"as_of is a date or a text such as '2024-01-02', not {as_of!r}"
        raise ConfigurationError(message)
    return as_of


@dataclass(frozen=True, slots=True)
class _Edges:
    """A range as it was given: days or moments, of which only the calendar of the symbol makes a window."""

    start: date | datetime | None
    end: date | datetime | None
    days: int | None

    @classmethod
    def of(cls, start: object, end: object, days: object) -> _Edges:
        """Return the range of these arguments; raises :class:`ConfigurationError`."""
        first, last = _edge("start", start), _edge("end", end)
        count = _whole_number(days)
        if days is not None:
            message = None
            if count is None or not 1 <= count <= MAX_DAYS:
                message = f"days is a whole number from 1 to {MAX_DAYS:,}, not {days!r}"
            elif first is not None:
                message = "days and start exclude each other: give one of them"
            elif isinstance(last, datetime):
                message = (
                    f"days end with a day, and end {last} is a moment: give a date, or start in place of days"
                )
            if message is not None:
                raise ConfigurationError(message)
        return cls(first, last, count)

    @property
    def has_start(self) -> bool:
        """Whether the range begins where it was asked to."""
        return self.start is not None or self.days is not None

    def window(self, calendar: TradingCalendar, now: datetime) -> Window:
        """Return the moments from the start to the end, read as :func:`bars` says."""
        return window_of(*self._bounds(calendar.local_day(now)), calendar)

    def roughly(self, now: datetime) -> Window:
        """Return a window that holds the range on every calendar."""
        utc = calendar_of(AssetClass.CRYPTO)
        start, end = self._bounds(utc.local_day(now))
        first, last = _moment(start, utc, 0) - _ONE_DAY, _moment(end, utc, 1) + _ONE_DAY
        return Window(first, max(last, first + _ONE_DAY))

    def _bounds(self, today: date) -> tuple[date | datetime, date | datetime]:
        end = today if self.end is None else self.end
        if self.days is None:
            return EARLIEST if self.start is None else self.start, end
        first = EARLIEST.date() + self.days * _ONE_DAY
        return max(end, first) - (self.days - 1) * _ONE_DAY, end


def _whole_number(value: object) -> int | None:
    """Return ``value`` as an int when it is one, also of numpy; None for a bool and all else."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # arrays and numpy's bool have the method, and refuse
        return None


MAX_DAYS: Final = 36_525
"""A hundred years: longer than any history."""


def window_of(start: date | datetime, end: date | datetime, calendar: TradingCalendar) -> Window:
    """Return the moments from ``start`` to ``end``, read as :func:`bars` says."""
    first, last = _moment(start, calendar, 0), _moment(end, calendar, 1)
    if first >= last and first in (EARLIEST, _LATEST):
        message = f"the range {start} to {end} lies outside of {EARLIEST.year} to {_LATEST.year - 1}: no bar can be there"
        raise ConfigurationError(message)
    if first >= last:
        message = f"the range {start} to {end} is empty or reversed: give an end after the start"
        raise ConfigurationError(message)
    return Window(first, last)


def _moment(value: date | datetime, calendar: TradingCalendar, days: int) -> datetime:
    """``value`` as UTC; a date is the midnight that begins it, ``days`` later."""
    # Beyond every bar: neither a time zone nor Postgres reaches as far as dates do.
    if value.year < EARLIEST.year:
        return EARLIEST
    if value.year >= _LATEST.year:
        return _LATEST
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return calendar.day_start(value + timedelta(days=days))


def _edge(name: str, given: object) -> date | datetime | None:
    """The day or the aware moment that ``given`` means, which an error calls ``name``; None for None."""
    if given is None:
        return None
    plain = _plain(name, given)
    value = parse_edge(name, plain) if isinstance(plain, str) else plain
    if not isinstance(value, date):
        message = f"{name} is a date, an aware datetime or a text such as '2024-01-02', not {given!r}"
        raise ConfigurationError(message)
    if isinstance(value, datetime) and value.tzinfo is None:
        how = (
            "end it with Z or an offset such as -05:00, or leave the time out for a whole local day"
            if isinstance(given, str)
            else "give an aware datetime, or a date for a whole local day"
        )
        message = f"{name} {given!s} has no time zone: {how}"
        raise ConfigurationError(message)
    return value


def _plain(name: str, given: object) -> object:
    """``given`` without NumPy's or pandas' types: a time at midnight that has no zone is a day there."""
    if isinstance(given, np.datetime64):
        moment: object = given.astype("datetime64[us]").item()
    elif isinstance(given, datetime) and hasattr(given, "to_datetime64"):
        # pandas' own, whose nanoseconds nothing here has; pandas need not be there.
        is_nothing = given != given  # noqa: PLR0124 - as NaT alone is
        moment = None if is_nothing else _without_nanoseconds(given)
    else:
        return given
    if not isinstance(moment, datetime):
        message = f"{name} is {given!s}, which is not a time: leave it out, or give a date"
        raise ConfigurationError(message)
    is_day = moment.tzinfo is None and moment == datetime.combine(moment.date(), datetime.min.time())
    return moment.date() if is_day else moment


def _without_nanoseconds(given: datetime) -> datetime:
    plain = datetime.combine(given.date(), given.time())
    return plain if given.tzinfo is None else plain.replace(tzinfo=given.tzinfo, fold=given.fold)


def parse_edge(name: str, text: str) -> date | datetime:
    """The date or datetime of ``text`` in ISO 8601; ``name`` is what the error calls it."""
    for parse in (date.fromisoformat, datetime.fromisoformat):
        try:
            return parse(text)
        except ValueError:
            continue
    message = f"{name} {text!r} is no date and no time: write YYYY-MM-DD, or YYYY-MM-DDTHH:MM:SSZ"
    raise ConfigurationError(message)


_POOL: Final = re.compile(r"polars-\d")
"""How the threads of Polars' pool are named."""
_fork_lacks_pool = False


def _note_pool_before_fork() -> None:
    global _pool_runs  # noqa: PLW0603 - what the child finds
    names = []
    for thread in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # it has ended meanwhile
            names.append(thread.read_text())
    # Polars does not say whether its pool runs, and asking for its size starts it.
    _pool_runs = any(map(_POOL.match, names))


def _note_fork() -> None:
    global _lock, _fork_lacks_pool  # noqa: PLW0603 - another thread of the parent may have held the lock
    _lock = Lock()
    _fork_lacks_pool = _fork_lacks_pool or _pool_runs


def _require_pool() -> None:
    """Raise :class:`ConfigurationError` where Polars would wait for ever for threads that a fork does not copy."""
    if _fork_lacks_pool:
        message = (
            "this process was forked from one that had used Polars, whose threads a fork does not copy: start workers"
            ' with multiprocessing.get_context("spawn") or "forkserver" (docs/python.md)'
        )
        raise ConfigurationError(message)


_pool_runs = False
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_note_pool_before_fork, after_in_child=_note_fork)

_lock = Lock()
_kept: dict[tuple[int, str], Database] = {}
"""Open databases by process, since a fork shares no connection, and by where they are."""


@contextmanager
def _kept_database(url: object) -> Iterator[Database]:
    """The kept database of ``url``, for one thread at a time; one that fails is forgotten."""
    _require_pool()
    if not isinstance(url, str | None):
        message = f"database_url is a text such as postgresql://user:password@host:port/database, not a {type(url).__name__}"
        raise ConfigurationError(message)
    with _lock:
        place = url
        if place is None:
            settings = load_settings()
            given = settings.database_url
            place = str(settings.home) if given is None else given.get_secret_value()
        key = (os.getpid(), place)
        if key not in _kept:
            # Asking whether the embedded server is up takes longer than a day of minutes.
            _kept[key] = Database(url or resolve_database_url(load_settings()), application_name="bars")
        try:
            yield _kept[key]
        except MarketDataError:
            # Whatever was asked for was wrong, or is not there: the connection is sound, or renewed by itself.
            raise
        except BaseException as error:
            _forget(key)
            if find_refusal(error) is not Refusal.TABLE_LACKING:
                raise
            message = f"the store lacks a table ({first_line(error)}): run `marketdata migrate`"
            raise ConfigurationError(message) from None


def _forget(key: tuple[int, str]) -> None:
    _kept.pop(key).close()


@atexit.register
def _close_all() -> None:
    for key in [key for key in _kept if key[0] == os.getpid()]:
        _forget(key)
