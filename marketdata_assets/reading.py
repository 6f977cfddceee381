"""What is stored as Polars frames, for notebooks and programs: ``from marketdata_assets import bars``.

``bars``, ``features``, ``gaps`` and ``completeness`` keep a connection of their own. The functions ``read_…`` beside
them do the same over a given database, page by page: the HTTP API answers with them.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Final

import polars as pl
import psycopg

from marketdata_assets.config import load_settings
from marketdata_assets.domain.calendar import TradingCalendar, calendar_of
from marketdata_assets.domain.errors import (
    ConfigurationError,
    MarketDataError,
    UnadjustableError,
    UnknownSeriesError,
)
from marketdata_assets.domain.gaps import LOSSES, GapState
from marketdata_assets.domain.series import AssetClass, Series, parse_symbol
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.adjusted import SPLITTING, scaled
from marketdata_assets.storage.bars import read_series
from marketdata_assets.storage.completeness import read_matrix
from marketdata_assets.storage.connection import Database, resolve_database_url
from marketdata_assets.storage.gaps import sorted_gaps
from marketdata_assets.storage.symbols import (
    TrackedSymbol,
    choose_symbol,
    find_symbol,
    find_with_splits,
    list_symbols,
)
from marketdata_assets.storage.tables import FEATURES, OHLCV

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

EARLIEST: Final = datetime(1900, 1, 1, tzinfo=UTC)
"""Before any bar."""
_LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)


def bars(
    symbol: str,
    timeframe: Timeframe | str,
    start: date | datetime | str,
    end: date | datetime | str,
    *,
    adjusted: bool = True,
    as_of: date | str | None = None,
    database_url: str | None = None,
) -> pl.DataFrame:
    """The stored bars of one series that open between ``start`` and ``end``, sorted by time.

    Columns, as in ``domain.bars.BAR_SCHEMA``: symbol, timeframe (String), time (the open, ``Datetime("us", "UTC")``),
    open, high, low, close, volume, vwap (Float64), transactions (Int64), base_bars (Int32). Volume, vwap and
    transactions of an index are null.

    Adjusted means split-adjusted: prices are on the scale of ``as_of``, volume is in its shares, dividends stay
    in. A bar after ``as_of`` stays on its own scale. Crypto and indices never split.

    The connection is kept for the next call of this process; threads take turns.

    Args:
        symbol: ``AAPL``, ``BRK.B``, ``BACpL``, ``BTC-USD``. Capitals tell securities apart; small letters alone,
            ``aapl``, find the one symbol that has these letters.
        timeframe: ``1m 5m 15m 30m 1h 4h 1d 1w``.
        start: The first local day (New York's for stocks, ETFs and indices, UTC's for crypto), or an aware
            moment. A text is read as ISO 8601: ``2024-01-02``, ``2024-01-02T14:30:00Z``.
        end: The last local day, **inclusive**; or an aware moment, **exclusive**.
        adjusted: False gives prices as they were traded.
        as_of: The local date whose scale is wanted, or its text, ``2024-01-02``; default today, so that announced
            splits wait for their day.
        database_url: Default: the store of the ``marketdata`` commands (DATABASE_URL, else the embedded server,
            which is started when down).

    Raises:
        ConfigurationError: The symbol or the timeframe is unknown or not collected, an argument makes no sense, the
            splits of the symbol were never asked for, or the database is out of reach.
        SplitError: Two splits contradict each other, or a split divides a week whose days are not stored.
    """
    _check_types(symbol, timeframe, adjusted=adjusted)
    question = BarQuestion(symbol, timeframe, start, end, adjusted, None if as_of is None else _scale(as_of))
    with _kept_database(database_url) as database:
        return read_bars(database, question).bars


@dataclass(frozen=True, slots=True)
class BarQuestion:
    """The arguments of :func:`bars`."""

    symbol: str
    timeframe: Timeframe | str
    start: date | datetime | str
    end: date | datetime | str
    adjusted: bool = True
    as_of: date | None = None


@dataclass(frozen=True, slots=True)
class BarPage:
    """Bars that were read, and what the question came to.

    Attributes:
        bars: ``BAR_SCHEMA``, sorted by time.
        series: Whose they are.
        asset_class: Of the symbol.
        window: What was asked for, as moments.
        scale: The local date on whose scale the prices are; None for prices as traded.
        splits: Those of the symbol (``SPLIT_SCHEMA``), after ``scale`` as well; None for prices as traded.
    """

    bars: pl.DataFrame
    series: Series
    asset_class: AssetClass
    window: Window
    scale: date | None
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
    symbol, timeframe = parse_symbol(asked.symbol), Timeframe.parse(asked.timeframe)
    if asked.as_of is not None and not asked.adjusted:
        message = "as_of chooses the scale of adjusted prices: leave it out with adjusted=False"
        raise ConfigurationError(message)
    tracked, splits = find_with_splits(database, symbol)
    series = Series(tracked.symbol, timeframe)
    calendar = calendar_of(tracked.asset_class)
    window = window_of(asked.start, asked.end, calendar)
    raw = read_series(database, OHLCV, series, window, limit=limit, newest=newest)
    if raw.is_empty():
        _require_collected(series, tracked)
    if not asked.adjusted or tracked.asset_class not in SPLITTING:
        return BarPage(raw, series, tracked.asset_class, window, None)
    if splits is None:
        raise UnadjustableError(series.symbol, is_tracked=tracked.active)
    scale = asked.as_of or calendar.local_day(datetime.now(UTC))
    return BarPage(
        scaled(database, raw, tracked.asset_class, splits, as_of=scale),
        series,
        tracked.asset_class,
        window,
        scale,
        splits,
    )


def features(
    symbol: str,
    timeframe: Timeframe | str,
    start: date | datetime | str,
    end: date | datetime | str,
    *,
    database_url: str | None = None,
) -> pl.DataFrame:
    """The stored features of the bars of one series that open between ``start`` and ``end``, sorted by time.

    Columns, as in ``domain.features.columns.FEATURES_SCHEMA``: symbol, timeframe, time, then one a feature, whose
    definitions and units are in docs/features.md. Null is unknown: warm-up, or a window with lost bars. They are on the
    scale of the day on which they were computed. Bars whose features are not computed yet have no row.

    Args:
        symbol: As for :func:`bars`.
        timeframe: As for :func:`bars`.
        start: As for :func:`bars`.
        end: As for :func:`bars`.
        database_url: As for :func:`bars`.

    Raises:
        ConfigurationError: As :func:`bars`; features need no splits.
    """
    _check_types(symbol, timeframe)
    with _kept_database(database_url) as database:
        return read_features(database, symbol, timeframe, start, end).features


@dataclass(frozen=True, slots=True)
class FeaturePage:
    """Features (``FEATURES_SCHEMA``) that were read; the rest as in :class:`BarPage`."""

    features: pl.DataFrame
    series: Series
    asset_class: AssetClass
    window: Window


def read_features(
    database: Database,
    symbol: str,
    timeframe: Timeframe | str,
    start: date | datetime | str,
    end: date | datetime | str,
    *,
    limit: int | None = None,
) -> FeaturePage:
    """What :func:`features` returns, from ``database``: the first ``limit`` of them."""
    length = Timeframe.parse(timeframe)
    tracked = find_symbol(database, parse_symbol(symbol))
    series = Series(tracked.symbol, length)
    window = window_of(start, end, calendar_of(tracked.asset_class))
    rows = read_series(database, FEATURES, series, window, limit=limit)
    if rows.is_empty():
        _require_collected(series, tracked)
    return FeaturePage(rows, series, tracked.asset_class, window)


def gaps(
    symbols: Collection[str] | None = None,
    timeframes: Collection[Timeframe | str] | None = None,
    start: date | datetime | str | None = None,
    end: date | datetime | str | None = None,
    *,
    states: Collection[str] | None = LOSSES,
    database_url: str | None = None,
) -> pl.DataFrame:
    """The known gaps that reach into ``start`` to ``end``, sorted by symbol, timeframe and gap_start.

    Columns, as in ``storage.gaps.LISTED_SCHEMA``: symbol, timeframe, day (the local date of the first missing bar),
    gap_start, gap_end (exclusive, UTC), missing_bars, state, attempts, failure, reason, detected_at, resolved_at (UTC).
    docs/gaps.md says what the states mean. What nobody has looked through has no gap here.

    Args:
        symbols: Which, as a list or one alone; None for every active one.
        timeframes: Which, likewise; None for all that each symbol is tracked in.
        start: As for :func:`bars`; None for the beginning of time.
        end: As for :func:`bars`; None for its end.
        states: ``open unfilled filled no_trades``; by default what is missing without an explanation, None for all.
        database_url: As for :func:`bars`.

    Raises:
        ConfigurationError: A symbol, timeframe or state is unknown, an argument makes no sense, or the database is out
            of reach.
    """
    with _kept_database(database_url) as database:
        return read_gaps(database, symbols, timeframes, start, end, states=states)


def read_gaps(
    database: Database,
    symbols: Collection[str] | None = None,
    timeframes: Collection[Timeframe | str] | None = None,
    start: date | datetime | str | None = None,
    end: date | datetime | str | None = None,
    *,
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
    for tracked in _chosen(database, symbols):
        calendar = calendar_of(tracked.asset_class)
        window = window_of(EARLIEST if start is None else start, _LATEST if end is None else end, calendar)
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
    opens), as_of (the day of the row; null when the matrix never saw the series).

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


def _check_types(symbol: object, timeframe: object, *, adjusted: object = True) -> None:
    """Refuse what type checkers would, of callers who have none."""
    message = None
    if not isinstance(symbol, str):
        message = f"symbol is a text such as 'AAPL', not {symbol!r}"
    elif not isinstance(timeframe, str):
        message = f"timeframe is one of {', '.join(Timeframe)}, not {timeframe!r}"
    elif not isinstance(adjusted, bool):
        message = f"adjusted is True or False, not {adjusted!r}"
    if message is not None:
        raise ConfigurationError(message)


def _scale(as_of: object) -> date:
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


def window_of(start: date | datetime | str, end: date | datetime | str, calendar: TradingCalendar) -> Window:
    """The moments from ``start`` to ``end``, read as :func:`bars` says."""
    first, last = _moment("start", start, calendar, 0), _moment("end", end, calendar, 1)
    if first >= last and first in (EARLIEST, _LATEST):
        message = f"the range {start} to {end} lies outside of {EARLIEST.year} to {_LATEST.year - 1}: no bar can be there"
        raise ConfigurationError(message)
    if first >= last:
        message = f"the range {start} to {end} is empty or reversed: give an end after the start"
        raise ConfigurationError(message)
    return Window(first, last)


def _moment(name: str, given: object, calendar: TradingCalendar, days: int) -> datetime:
    """``given`` as UTC; a date is the midnight that begins it, ``days`` later."""
    value = parse_edge(name, given) if isinstance(given, str) else given
    if not isinstance(value, date):
        message = f"{name} is a date, an aware datetime or a text such as '2024-01-02', not {given!r}"
        raise ConfigurationError(message)
    if isinstance(value, datetime) and value.tzinfo is None:
        message = (
            f"{name} {given!s} has no time zone: give an aware datetime, or a date for a whole local day"
        )
        raise ConfigurationError(message)
    # Beyond every bar: neither a time zone nor Postgres reaches as far as dates do.
    if value.year < EARLIEST.year:
        return EARLIEST
    if value.year >= _LATEST.year:
        return _LATEST
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return calendar.day_start(value + timedelta(days=days))


def parse_edge(name: str, text: str) -> date | datetime:
    """The date or datetime of ``text`` in ISO 8601; ``name`` is what the error calls it."""
    for parse in (date.fromisoformat, datetime.fromisoformat):
        try:
            return parse(text)
        except ValueError:
            continue
    message = f"{name} {text!r} is no date and no time: write YYYY-MM-DD, or YYYY-MM-DDTHH:MM:SSZ"
    raise ConfigurationError(message)


_lock = Lock()
_kept: dict[tuple[int, str], Database] = {}
"""Open databases by process, since a fork shares no connection, and by where they are."""


@contextmanager
def _kept_database(url: str | None) -> Iterator[Database]:
    """The kept database of ``url``, for one thread at a time; one that fails is forgotten."""
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
        except psycopg.errors.UndefinedTable as error:
            _forget(key)
            message = f"the store lacks a table ({error.diag.message_primary}): run `marketdata migrate`"
            raise ConfigurationError(message) from None
        except BaseException:
            _forget(key)
            raise


def _forget(key: tuple[int, str]) -> None:
    _kept.pop(key).close()


@atexit.register
def _close_all() -> None:
    for key in [key for key in _kept if key[0] == os.getpid()]:
        _forget(key)
