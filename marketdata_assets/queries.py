"""The stored data as Polars frames, for notebooks and programs: ``from marketdata_assets import bars``.

``bars``, ``features``, ``gaps`` and ``completeness`` keep a connection of their own. The functions ``read_…`` do the same
over a given database, page by page; the HTTP API uses them.
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
"""A moment before any bar."""
_LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)
_ONE_DAY: Final = timedelta(days=1)
_NOTHING_STORED: Final = timedelta(days=30)
"""How far back a series without a bar is reported as never fetched, when no start is given."""

Edge: TypeAlias = "date | datetime | str | np.datetime64"
"""The start or end of a range, in the forms that :func:`bars` accepts."""


class IncompleteHistoryWarning(UserWarning):
    """A warning that days of a range were never fetched, were removed by retention, or lack bars without an explanation.

    Attributes:
        holes: The days, and how many bars they lack; None after pickling, which keeps only the message.
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
    """Return the stored bars of one series that open between ``start`` and ``end``, sorted by time.

    Columns, as in ``domain.bars.BAR_SCHEMA``: symbol, timeframe (String), time (the open, ``Datetime("us", "UTC")``),
    open, high, low, close, volume, vwap (Float64), transactions (Int64), base_bars (Int32). Volume, vwap and
    transactions of an index are null.

    Adjusted means split-adjusted: prices are on the scale of ``as_of``, volume counts shares of that date, and dividends
    stay in the prices. A bar after ``as_of`` stays on its own scale. Crypto and indices never split.

    The connection is kept for the next call of this process; threads take turns.

    Days of the range that were never fetched, or that retention removed, and gaps without an explanation are reported
    with an :class:`IncompleteHistoryWarning`, which names the command that fetches them.

    Args:
        symbol: ``AAPL``, ``BRK.B``, ``BACpL``, ``BTC-USD``. Upper and lower case distinguish securities; a symbol in
            lower case only, ``aapl``, matches the one symbol with these letters.
        timeframe: ``1m 5m 15m 30m 1h 4h 1d 1w``, or as other libraries write them (``1D``, ``5min``).
        start: The first local day (New York's for stocks, ETFs and indices, UTC's for crypto), or an aware
            moment. A string is read as ISO 8601: ``2024-01-02``, ``2024-01-02T14:30:00Z``. A ``np.datetime64`` or a
            pandas ``Timestamp`` without a zone is a day when it is at midnight. Default: the first stored bar.
        end: The last local day, **inclusive**; or an aware moment, **exclusive**. Default: today.
        days: The number of local days up to ``end``, instead of ``start``.
        adjusted: False returns prices as traded.
        as_of: The local date whose scale the prices have, also as a string, ``2024-01-02``. Default: today, so that
            announced splits are not applied before their day.
        regular_hours: Return only intraday bars that touch the regular hours, 09:30 to 16:00 in New York, to 13:00 on
            half days. An hour bar that opens at 09:00 touches them, and includes the trades before 09:30. Refused for
            ``1d``, ``1w`` and crypto, where it would change nothing.
        database_url: Default: the store of the ``marketdata`` commands (DATABASE_URL, else the embedded server,
            which is started when it is down).

    Raises:
        ConfigurationError: The symbol or the timeframe is unknown or not collected, an argument is invalid, the splits
            of the symbol were never fetched, or the database cannot be reached.
        SplitError: Two splits contradict each other, or a split divides a week whose days are not stored.
    """
    _check_types(symbol, timeframe, adjusted=adjusted, regular_hours=regular_hours)
    scale = None if as_of is None else _parse_scale(as_of)
    question = BarQuestion(symbol, timeframe, start, end, adjusted, scale, days, regular_hours)
    with _kept_database(database_url) as database:
        page = read_bars(database, question)
    _warn(page.holes)
    return page.bars


def _warn(holes: Holes) -> None:
    """Warn of ``holes``, if there are any, at the line that called the public function."""
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
    """Bars that were read, with the facts of the question.

    Attributes:
        bars: The bars (``BAR_SCHEMA``), sorted by time.
        series: The series of the bars.
        asset_class: The asset class of the symbol.
        window: The requested range, as moments.
        holes: What the window lacks; when a limit ended the page, what the part that was read lacks.
        scale: The local date on whose scale the prices are; None for prices as traded.
        splits: The splits of the symbol (``SPLIT_SCHEMA``), those after ``scale`` too; None for prices as traded.
    """

    bars: pl.DataFrame
    series: Series
    asset_class: AssetClass
    window: Window
    holes: Holes
    scale: date | None = None
    splits: pl.DataFrame | None = None


def read_bars(
    database: Database, question: BarQuestion, *, limit: int | None = None, newest: bool = False
) -> BarPage:
    """Read what :func:`bars` returns from ``database``: the first ``limit`` bars, or the last ones with ``newest``.

    Raises:
        UnknownSeriesError: The symbol is not tracked, or no bar is stored and the timeframe is not collected.
        UnadjustableError: The splits of the symbol were never fetched.
        ConfigurationError: An argument is invalid.
        SplitError: As :func:`bars`.
    """
    if question.as_of is not None and not question.adjusted:
        message = "as_of chooses the scale of adjusted prices: leave it out with adjusted=False"
        raise ConfigurationError(message)
    now = datetime.now(UTC)
    read = _read_rows(database, OHLCV, question, now=now, limit=limit, newest=newest)
    tracked, splits = read.symbol.tracked, read.symbol.splits
    page = BarPage(read.rows, read.series, tracked.asset_class, read.window, read.holes)
    if not question.adjusted or not tracked.asset_class.can_split:
        return page
    if splits is None:
        raise UnadjustableError(tracked.symbol, is_tracked=tracked.active)
    scale = question.as_of or calendar_of(tracked.asset_class).local_day(now)
    adjusted = scale_bars(database, read.rows, tracked.asset_class, splits, as_of=scale)
    return replace(page, bars=adjusted, scale=scale, splits=splits)


class _Read(NamedTuple):
    """Rows of a table that were read, with the facts of the question."""

    rows: pl.DataFrame
    symbol: SymbolToRead
    series: Series
    window: Window
    holes: Holes


def _read_rows(
    database: Database,
    table: Table,
    question: BarQuestion,
    *,
    now: datetime,
    limit: int | None = None,
    newest: bool = False,
) -> _Read:
    """Read the rows of ``table`` for ``question``, and what their window lacks."""
    name, timeframe = parse_symbol(question.symbol), Timeframe.parse(question.timeframe)
    edges = _Edges.of(question.start, question.end, question.days)
    symbol = find_with_splits(database, name, timeframe, edges.widest_window(now))
    series = Series(symbol.tracked.symbol, timeframe)
    asset_class = symbol.tracked.asset_class
    calendar = calendar_of(asset_class)
    window = edges.window(calendar, now)
    within = regular_windows(timeframe, window, calendar) if question.regular_hours else None
    rows = read_series(database, table, series, window, limit=limit, newest=newest, within=within)
    if rows.is_empty():
        _require_collected(series, symbol.tracked)
    part = _find_window_read(window, rows, edges, limit=limit, newest=newest, now=now)
    holes = find_holes(
        database, series, asset_class, part, rows["time"], has_lost_gaps=symbol.has_lost_gaps, now=now
    )
    return _Read(rows, symbol, series, window, holes)


def _find_window_read(
    window: Window, rows: pl.DataFrame, edges: _Edges, *, limit: int | None, newest: bool, now: datetime
) -> Window:
    """Return the part of ``window`` that ``rows`` cover: less when a limit ended them or no start was given."""
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
    """Return the stored features of the bars of one series that open between ``start`` and ``end``, sorted by time.

    Columns, as in ``domain.features.columns.FEATURES_SCHEMA``: symbol, timeframe (String), time (the open,
    ``Datetime("us", "UTC")``), then one column for each feature; docs/features.md has their definitions and units. Null
    is unknown: warm-up, or a window that lacks bars. Features are on the scale of the day on which they were computed.
    Bars whose features are not computed yet have no row. Bars that the range lacks are reported as by :func:`bars`.

    Args:
        symbol: As for :func:`bars`.
        timeframe: As for :func:`bars`.
        start: As for :func:`bars`.
        end: As for :func:`bars`.
        days: As for :func:`bars`.
        regular_hours: As for :func:`bars`. Features are computed over all bars, those of the extended hours too.
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
    """Features (``FEATURES_SCHEMA``) that were read; the other attributes are as in :class:`BarPage`."""

    features: pl.DataFrame
    series: Series
    asset_class: AssetClass
    window: Window
    holes: Holes


def read_features(database: Database, question: BarQuestion, *, limit: int | None = None) -> FeaturePage:
    """Read what :func:`features` returns from ``database``: the first ``limit`` rows. Scale and splits are not needed."""
    read = _read_rows(database, FEATURES, question, now=datetime.now(UTC), limit=limit)
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
    """Return the known gaps that reach into ``start`` to ``end``, sorted by symbol, timeframe and gap_start.

    Columns, as in ``storage.gaps.LISTED_SCHEMA``: symbol, timeframe, day (the local date of the first missing bar),
    gap_start, gap_end (exclusive, UTC), missing_bars, state, attempts, failure, reason, detected_at, resolved_at (UTC).
    docs/gaps.md explains the states. A day that was never scanned has no gaps here.

    Args:
        symbols: A list of symbols or a single symbol; None for every active symbol.
        timeframes: A list of timeframes or a single one; None for all in which each symbol is tracked.
        start: As for :func:`bars`; None for the beginning of time.
        end: As for :func:`bars`; None for the end of time.
        days: As for :func:`bars`, instead of ``start``.
        states: Some of ``open unfilled filled no_trades``; the default is the states of bars that are missing without an
            explanation, None for all.
        database_url: As for :func:`bars`.

    Raises:
        ConfigurationError: A symbol, timeframe or state is unknown, an argument is invalid, or the database cannot be
            reached.
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
    """Read what :func:`gaps` returns from ``database``: the first ``limit`` gaps whose key comes after ``after``."""
    known = [state.value for state in GapState]
    states = None if states is None else _list_names("states", states)
    if unknown := [state for state in states or () if state not in known]:
        message = f"unknown state of a gap {unknown[0]!r}: use some of {', '.join(known)}"
        raise ConfigurationError(message)
    windows: dict[Series, Window] = {}
    edges = _Edges.of(start, _LATEST if end is None and days is None else end, days)
    now = datetime.now(UTC)
    for tracked in _choose_tracked(database, symbols):
        window = edges.window(calendar_of(tracked.asset_class), now)
        windows |= dict.fromkeys(_series_of(tracked, timeframes), window)
    return sorted_gaps(database, windows, states, after=after, limit=limit)


def completeness(
    symbols: Collection[str] | None = None,
    timeframes: Collection[Timeframe | str] | None = None,
    *,
    database_url: str | None = None,
) -> pl.DataFrame:
    """Return the completeness of each active series at the last update of the matrix: one row for each series.

    The rows are in the order of the symbols.

    Columns, as in ``storage.completeness.MATRIX_SCHEMA``: symbol, timeframe, expected_bars, present_bars,
    no_trade_bars, missing_bars, completeness (0 to 1; null when nothing is expected), status, first_bar, last_bar (UTC
    opens), as_of (the day of the row; null when the matrix does not have the series yet), first_scanned, last_scanned
    (the first and last day that the row covers; null when unknown).

    Args:
        symbols: A list of symbols or a single symbol; None for every active symbol.
        timeframes: A list of timeframes or a single one; None for all.
        database_url: As for :func:`bars`.

    Raises:
        ConfigurationError: A symbol or timeframe is unknown, or the database cannot be reached.
    """
    with _kept_database(database_url) as database:
        return read_completeness(database, symbols, timeframes)


def read_completeness(
    database: Database,
    symbols: Collection[str] | None = None,
    timeframes: Collection[Timeframe | str] | None = None,
) -> pl.DataFrame:
    """Read what :func:`completeness` returns from ``database``."""
    wanted = None if symbols is None else [tracked.symbol for tracked in _choose_tracked(database, symbols)]
    rows = read_matrix(database, wanted)
    if timeframes is None:
        return rows
    chosen = [Timeframe.parse(name).value for name in _list_names("timeframes", timeframes)]
    return rows.filter(pl.col("timeframe").is_in(chosen))


def _choose_tracked(database: Database, symbols: Collection[str] | None) -> list[TrackedSymbol]:
    """Return the tracked symbols named in ``symbols``, in the order of ``tracked_symbols``; for None the active ones."""
    if symbols is None:
        return list_symbols(database, active_only=True)
    known = list_symbols(database)
    spellings = [tracked.symbol for tracked in known]
    names = {choose_symbol(parse_symbol(name), spellings) for name in sorted(_list_names("symbols", symbols))}
    return [tracked for tracked in known if tracked.symbol in names]


def _series_of(tracked: TrackedSymbol, timeframes: Collection[Timeframe | str] | None) -> list[Series]:
    if timeframes is None:
        return tracked.series
    chosen = {Timeframe.parse(name) for name in _list_names("timeframes", timeframes)}
    return [series for series in tracked.series if series.timeframe in chosen]


def _list_names(argument: str, given: object) -> list[str]:
    """Return the strings in ``given``; a single string becomes a list, or its letters would be taken for names."""
    values = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    names = [value for value in values if isinstance(value, str)]
    if len(names) < len(values):
        message = f"{argument} must be a list of strings, a string, or None, not {given!r}"
        raise ConfigurationError(message)
    return names


def _require_collected(series: Series, tracked: TrackedSymbol) -> None:
    if series.timeframe not in tracked.timeframes:
        message = (
            f"{series} is not collected: {series.symbol} is tracked in {', '.join(tracked.timeframes)}; add the"
            f" timeframe with `marketdata symbols set-timeframes` and run `marketdata backfill`"
        )
        raise UnknownSeriesError(message)


def _check_types(
    symbol: object, timeframe: object, *, adjusted: object = True, regular_hours: object = False
) -> None:
    """Refuse arguments that a type checker would refuse, for callers without a type checker."""
    message = None
    if not isinstance(symbol, str):
        message = f"symbol must be a string such as 'AAPL', not {symbol!r}"
    elif not isinstance(timeframe, str):
        message = f"timeframe must be one of {', '.join(Timeframe)}, not {timeframe!r}"
    elif not isinstance(adjusted, bool):
        message = f"adjusted must be True or False, not {adjusted!r}"
    elif not isinstance(regular_hours, bool):
        message = f"regular_hours must be True or False, not {regular_hours!r}"
    if message is not None:
        raise ConfigurationError(message)


def _parse_scale(as_of: object) -> date:
    as_of = _to_builtin("as_of", as_of)
    if isinstance(as_of, str):
        try:
            return date.fromisoformat(as_of)
        except ValueError:
            message = f"as_of {as_of!r} is not a date: write YYYY-MM-DD"
            raise ConfigurationError(message) from None
    if isinstance(as_of, datetime):
        message = f"as_of must be a date, not the moment {as_of}: give its local date"
        raise ConfigurationError(message)
    if not isinstance(as_of, date):
        message = f"as_of must be a date or a string such as '2024-01-02', not {as_of!r}"
        raise ConfigurationError(message)
    return as_of


@dataclass(frozen=True, slots=True)
class _Edges:
    """A range as the caller gave it: days or moments, which the calendar of a symbol turns into a window."""

    start: date | datetime | None
    end: date | datetime | None
    days: int | None

    @classmethod
    def of(cls, start: object, end: object, days: object) -> _Edges:
        """Return the range of these arguments. Raises :class:`ConfigurationError`."""
        first, last = _read_edge("start", start), _read_edge("end", end)
        count = _whole_number(days)
        if days is not None:
            message = None
            if count is None or not 1 <= count <= MAX_DAYS:
                message = f"days must be a whole number from 1 to {MAX_DAYS:,}, not {days!r}"
            elif first is not None:
                message = "days and start exclude each other: give one of them"
            elif isinstance(last, datetime):
                message = f"days needs an end that is a day, and end {last} is a moment: give a date, or start instead of days"
            if message is not None:
                raise ConfigurationError(message)
        return cls(first, last, count)

    @property
    def has_start(self) -> bool:
        """Whether the caller gave the beginning of the range."""
        return self.start is not None or self.days is not None

    def window(self, calendar: TradingCalendar, now: datetime) -> Window:
        """Return the window from the start to the end, as :func:`bars` defines them."""
        return window_of(*self._bounds(calendar.local_day(now)), calendar)

    def widest_window(self, now: datetime) -> Window:
        """Return a window that contains the range on every calendar."""
        utc = calendar_of(AssetClass.CRYPTO)
        start, end = self._bounds(utc.local_day(now))
        first, last = _to_moment(start, utc, 0) - _ONE_DAY, _to_moment(end, utc, 1) + _ONE_DAY
        return Window(first, max(last, first + _ONE_DAY))

    def _bounds(self, today: date) -> tuple[date | datetime, date | datetime]:
        end = today if self.end is None else self.end
        if self.days is None:
            return EARLIEST if self.start is None else self.start, end
        first = EARLIEST.date() + self.days * _ONE_DAY
        return max(end, first) - (self.days - 1) * _ONE_DAY, end


def _whole_number(value: object) -> int | None:
    """Return ``value`` as an int when it is a Python or NumPy integer; None for a bool and everything else."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # arrays and NumPy's bool have the method but raise
        return None


MAX_DAYS: Final = 36_525
"""The days of a hundred years, longer than any history."""


def window_of(start: date | datetime, end: date | datetime, calendar: TradingCalendar) -> Window:
    """Return the window from ``start`` to ``end``, as :func:`bars` defines them."""
    first, last = _to_moment(start, calendar, 0), _to_moment(end, calendar, 1)
    if first >= last and first in (EARLIEST, _LATEST):
        message = f"the range {start} to {end} lies outside of {EARLIEST.year} to {_LATEST.year - 1}: it has no bars"
        raise ConfigurationError(message)
    if first >= last:
        message = f"the range {start} to {end} is empty or reversed: give an end after the start"
        raise ConfigurationError(message)
    return Window(first, last)


def _to_moment(value: date | datetime, calendar: TradingCalendar, days: int) -> datetime:
    """Return ``value`` as a moment in UTC; of a date, the local midnight that begins it, ``days`` later."""
    # Dates reach further than time zones and Postgres do, and no bar lies out there.
    if value.year < EARLIEST.year:
        return EARLIEST
    if value.year >= _LATEST.year:
        return _LATEST
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return calendar.day_start(value + timedelta(days=days))


def _read_edge(name: str, given: object) -> date | datetime | None:
    """Return the day or the aware moment of ``given``, which errors call ``name``; None for None."""
    if given is None:
        return None
    plain = _to_builtin(name, given)
    value = parse_edge(name, plain) if isinstance(plain, str) else plain
    if not isinstance(value, date):
        message = f"{name} must be a date, an aware datetime or a string such as '2024-01-02', not {given!r}"
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


def _to_builtin(name: str, given: object) -> object:
    """Return ``given`` with Python's types instead of NumPy's or pandas': their midnight without a zone is a day."""
    if isinstance(given, np.datetime64):
        moment: object = given.astype("datetime64[us]").item()
    elif isinstance(given, datetime) and hasattr(given, "to_datetime64"):
        # A Timestamp of pandas, recognized without an import, because pandas is optional.
        is_nothing = given != given  # noqa: PLR0124 - true of NaT alone
        moment = None if is_nothing else _drop_nanoseconds(given)
    else:
        return given
    if not isinstance(moment, datetime):
        message = f"{name} is {given!s}, which is not a time: leave it out, or give a date"
        raise ConfigurationError(message)
    is_day = moment.tzinfo is None and moment == datetime.combine(moment.date(), datetime.min.time())
    return moment.date() if is_day else moment


def _drop_nanoseconds(given: datetime) -> datetime:
    plain = datetime.combine(given.date(), given.time())
    return plain if given.tzinfo is None else plain.replace(tzinfo=given.tzinfo, fold=given.fold)


def parse_edge(name: str, text: str) -> date | datetime:
    """Return the date or datetime of ``text`` in ISO 8601, which errors call ``name``."""
    for parse in (date.fromisoformat, datetime.fromisoformat):
        try:
            return parse(text)
        except ValueError:
            continue
    message = f"{name} {text!r} is not a date or time: write YYYY-MM-DD, or YYYY-MM-DDTHH:MM:SSZ"
    raise ConfigurationError(message)


_POOL: Final = re.compile(r"polars-\d")
"""The names of the threads of Polars' pool."""
_fork_lacks_pool = False


def _note_pool_before_fork() -> None:
    global _pool_runs  # noqa: PLW0603 - the child process reads it
    names = []
    for thread in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # the thread has ended meanwhile
            names.append(thread.read_text())
    # Polars cannot report whether its pool runs, and reading the size of the pool starts it.
    _pool_runs = any(map(_POOL.match, names))


def _note_fork() -> None:
    global _lock, _fork_lacks_pool  # noqa: PLW0603 - another thread of the parent may have held the lock
    _lock = Lock()
    _fork_lacks_pool = _fork_lacks_pool or _pool_runs


def _require_pool() -> None:
    """Raise :class:`ConfigurationError` in a process where Polars would wait forever for threads that a fork did not copy."""
    if _fork_lacks_pool:
        message = (
            "this process was forked after Polars was used, and a fork does not copy the threads of Polars: start workers"
            ' with multiprocessing.get_context("spawn") or "forkserver" (docs/python.md)'
        )
        raise ConfigurationError(message)


_pool_runs = False
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_note_pool_before_fork, after_in_child=_note_fork)

_lock = Lock()
_kept: dict[tuple[int, str], Database] = {}
"""Open databases by process, because a fork must not share a connection, and by location."""


@contextmanager
def _kept_database(url: object) -> Iterator[Database]:
    """Yield the kept database of ``url`` to one thread at a time; after a failure it is closed and no longer kept."""
    _require_pool()
    if not isinstance(url, str | None):
        message = (
            "database_url must be a string such as postgresql://user:password@host:port/database, not a"
            f" {type(url).__name__}"
        )
        raise ConfigurationError(message)
    with _lock:
        location = url
        if location is None:
            settings = load_settings()
            given = settings.database_url
            location = str(settings.home) if given is None else given.get_secret_value()
        key = (os.getpid(), location)
        if key not in _kept:
            # Resolved once: checking whether the embedded server is up takes longer than reading a day of minutes.
            _kept[key] = Database(url or resolve_database_url(load_settings()), application_name="bars")
        try:
            yield _kept[key]
        except MarketDataError:
            # The arguments were wrong or the data is missing: the connection is sound, or renewed by itself.
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
