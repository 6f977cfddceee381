"""Stored bars as Polars frames, for notebooks and programs: ``from marketdata_assets import bars``."""

from __future__ import annotations

import atexit
import os
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Final

import psycopg

from marketdata_assets.config import load_settings
from marketdata_assets.domain.actions import ActionKind
from marketdata_assets.domain.calendar import TradingCalendar, calendar_of
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.series import Series, parse_symbol
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.actions import is_checked
from marketdata_assets.storage.adjusted import SPLITTING
from marketdata_assets.storage.adjusted import adjusted as in_scale
from marketdata_assets.storage.bars import read_rows
from marketdata_assets.storage.connection import Database, resolve_database_url
from marketdata_assets.storage.symbols import find_symbol
from marketdata_assets.storage.tables import OHLCV

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

_FIRST_YEAR: Final = 1800
_LAST_YEAR: Final = 2200


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
        symbol: ``AAPL``, ``BRK.B``, ``BTC-USD``.
        timeframe: ``1m 5m 15m 30m 1h 4h 1d 1w``.
        start: The first local day (New York's for stocks, ETFs and indices, UTC's for crypto), or an aware
            moment. A text is read as ISO 8601: ``2024-01-02``, ``2024-01-02T14:30:00Z``. ``date.min`` is no bound.
        end: The last local day, **inclusive**; or an aware moment, **exclusive**. ``date.max`` is no bound.
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
    _check_types(symbol, timeframe, adjusted)
    series = Series(parse_symbol(symbol), Timeframe.parse(timeframe))
    if as_of is not None and not adjusted:
        message = "as_of chooses the scale of adjusted prices: leave it out with adjusted=False"
        raise ConfigurationError(message)
    chosen_scale = None if as_of is None else _scale(as_of)
    with _kept_database(database_url) as database:
        tracked = find_symbol(database, series.symbol)
        calendar = calendar_of(tracked.asset_class)
        window = _window(start, end, calendar)
        raw = read_rows(database, OHLCV, {series: [window]})
        if raw.is_empty() and series.timeframe not in tracked.timeframes:
            message = (
                f"{series} is not collected: {series.symbol} is in {', '.join(tracked.timeframes)}; add the timeframe"
                f" with `marketdata symbols set-timeframes` and run `marketdata backfill`"
            )
            raise ConfigurationError(message)
        if not adjusted or tracked.asset_class not in SPLITTING:
            return raw
        if not is_checked(database, ActionKind.SPLITS, series.symbol):
            message = (
                f"the splits of {series.symbol} were never asked for, so its bars cannot be adjusted: run"
                " `marketdata actions`, or read them with adjusted=False"
            )
            raise ConfigurationError(message)
        scale = chosen_scale or calendar.local_day(datetime.now(UTC))
        return in_scale(database, raw, tracked.asset_class, as_of=scale)


def _check_types(symbol: object, timeframe: object, adjusted: object) -> None:
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


def _window(start: date | datetime | str, end: date | datetime | str, calendar: TradingCalendar) -> Window:
    first, last = _moment("start", start, calendar, 0), _moment("end", end, calendar, 1)
    if first >= last:
        message = (
            f"the range {start} to {end} is empty or reversed, or outside of {_FIRST_YEAR} to {_LAST_YEAR}: give an"
            " end after the start"
        )
        raise ConfigurationError(message)
    return Window(first, last)


def _moment(name: str, given: object, calendar: TradingCalendar, days: int) -> datetime:
    """``given`` as UTC; a date is the midnight that begins it, ``days`` later."""
    value = _parsed(name, given) if isinstance(given, str) else given
    if not isinstance(value, date):
        message = f"{name} is a date, an aware datetime or a text such as '2024-01-02', not {given!r}"
        raise ConfigurationError(message)
    if isinstance(value, datetime) and value.tzinfo is None:
        message = (
            f"{name} {given!s} has no time zone: give an aware datetime, or a date for a whole local day"
        )
        raise ConfigurationError(message)
    # Beyond every bar: neither a time zone nor Postgres reaches as far as dates do.
    if value.year < _FIRST_YEAR:
        return datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC)
    if value.year > _LAST_YEAR:
        return datetime(_LAST_YEAR + 1, 1, 1, tzinfo=UTC)
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return calendar.day_start(value + timedelta(days=days))


def _parsed(name: str, text: str) -> date | datetime:
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
