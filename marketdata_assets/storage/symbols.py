"""``tracked_symbols``: what is collected, and in which timeframes."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.adjust import SPLIT_SCHEMA
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.errors import (
    AnotherInstrumentError,
    ConfigurationError,
    UnknownSeriesError,
)
from marketdata_assets.domain.series import AssetClass, Series, parse_symbol
from marketdata_assets.domain.tickers import inferred_asset_class, vendor_ticker
from marketdata_assets.domain.timeframe import Timeframe, parse_timeframes
from marketdata_assets.storage.months import LOCK_SPACE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from psycopg import Connection

    from marketdata_assets.domain.windows import Window
    from marketdata_assets.storage.connection import Database

_LOCK: Final = "select pg_advisory_xact_lock(hashtextextended(%s, %s))"
DEFAULT_TIMEFRAMES = (Timeframe.H1, Timeframe.D1)


@dataclass(frozen=True, slots=True)
class TrackedSymbol:
    """A row of ``tracked_symbols``. Vendor ticker and calendar follow from symbol and asset class."""

    symbol: str
    asset_class: AssetClass
    name: str | None = None
    timeframes: tuple[Timeframe, ...] = DEFAULT_TIMEFRAMES
    active: bool = True

    @property
    def vendor_ticker(self) -> str:
        """The vendor's name of the symbol."""
        return vendor_ticker(self.symbol, self.asset_class)

    @property
    def calendar(self) -> str:
        """The name of the calendar that the symbol trades by."""
        return calendar_of(self.asset_class).name

    @property
    def series(self) -> list[Series]:
        """One series per timeframe, shortest first."""
        return [Series(self.symbol, timeframe) for timeframe in Timeframe if timeframe in self.timeframes]

    @property
    def facts(self) -> dict[str, object]:
        """All of the above by name, in values that JSON has: what commands and the HTTP API show."""
        return {
            "symbol": self.symbol,
            "asset_class": self.asset_class.value,
            "name": self.name,
            "timeframes": [timeframe.value for timeframe in self.timeframes],
            "vendor_ticker": self.vendor_ticker,
            "calendar": self.calendar,
            "active": self.active,
        }


def list_symbols(database: Database, *, active_only: bool = False) -> list[TrackedSymbol]:
    """The tracked symbols in the order in which they were added."""

    def read(connection: Connection[tuple[object, ...]]) -> list[TrackedSymbol]:
        rows = connection.execute(
            "select symbol, asset_class, name, timeframes, active from tracked_symbols"
            " where active or not %s order by position",
            [active_only],
        ).fetchall()
        return [_symbol_of(row) for row in rows]

    return database.transaction(read)


def find_symbol(database: Database, symbol: str) -> TrackedSymbol:
    """The row of ``symbol``, active or not. Raises :class:`ConfigurationError` when there is none."""

    def read(connection: Connection[tuple[object, ...]]) -> tuple[object, ...] | None:
        return connection.execute(
            "select symbol, asset_class, name, timeframes, active from tracked_symbols where symbol = %s",
            [symbol],
        ).fetchone()

    row = database.transaction(read)
    if row is None:
        raise not_tracked(symbol)
    return _symbol_of(row)


def find_with_splits(
    database: Database, symbol: str, timeframe: Timeframe, window: Window
) -> tuple[TrackedSymbol, pl.DataFrame | None, bool]:
    """The row of ``symbol``, active or not, its splits, and whether ``window`` of its ``timeframe`` has a lost gap.

    The splits are those of :func:`~marketdata_assets.storage.actions.read_splits`; None when they were never asked for.
    In one question: all are needed whenever bars are read.
    Raises :class:`UnknownSeriesError` when the symbol is not tracked.
    """
    # A row for each split; one without, where there is none.
    rows = database.ask(
        "select t.symbol, t.asset_class, t.name, t.timeframes, t.active, c.symbol is not null,"
        " exists (select from gap_report g where g.symbol = t.symbol and g.timeframe = %s"
        "  and g.state in ('open', 'unfilled') and g.gap_end > %s and g.gap_start < %s),"
        " s.symbol, s.execution_date, s.split_from::float8, s.split_to::float8"
        " from tracked_symbols t"
        " left join corporate_action_checks c on c.kind = 'splits' and c.symbol = t.symbol"
        " left join splits s on s.symbol = t.symbol and s.withdrawn_at is null"
        " where t.symbol = %s order by s.execution_date",
        [timeframe.value, window.start, window.end, symbol],
    )
    if not rows:
        raise not_tracked(symbol)
    width = len(SPLIT_SCHEMA)
    *facts, is_checked, has_lost_gaps = rows[0][:-width]
    tracked = _symbol_of(tuple(facts))
    if not is_checked:
        return tracked, None, bool(has_lost_gaps)
    splits = [split for row in rows if (split := row[-width:])[0] is not None]
    return tracked, pl.DataFrame(splits, schema=SPLIT_SCHEMA, orient="row"), bool(has_lost_gaps)


class Outcome(StrEnum):
    """What became of a symbol that was to be collected."""

    NEW = "new"
    CHANGED = "changed"
    """It was known, and tracked otherwise, or not any more."""
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class WantedSymbol:
    """A symbol to collect. None leaves what it has; a new one gets a guess at its class and the default timeframes."""

    symbol: str
    asset_class: AssetClass | None = None
    name: str | None = None
    timeframes: tuple[Timeframe, ...] | None = None


def add_symbols(
    database: Database, symbols: Iterable[WantedSymbol | TrackedSymbol]
) -> list[tuple[TrackedSymbol, Outcome]]:
    """Start to track ``symbols``, or take them up again, all or none; returns how each is tracked now.

    A tracked symbol says everything that a wanted one may say, ``active`` apart.

    Raises:
        ConfigurationError: A crypto symbol is no pair.
        AnotherInstrumentError: Bars of a symbol are stored with another asset class.
    """
    wanted = list(symbols)
    for one in wanted:
        if one.asset_class is not None:
            vendor_ticker(one.symbol, one.asset_class)  # refuses a crypto symbol that is no pair
    names = [one.symbol for one in wanted]

    def write(connection: Connection[tuple[object, ...]]) -> list[tuple[TrackedSymbol, Outcome]]:
        # Their order is the order of the series, so rows cannot be locked in one order by all: two would deadlock.
        connection.execute(_LOCK, ["tracked_symbols", LOCK_SPACE])
        rows = connection.execute(
            "select symbol, asset_class from tracked_symbols t where symbol = any(%s)"
            " and exists (select from bar_counts c where c.symbol = t.symbol) for update",
            [names],
        ).fetchall()
        stored = {str(symbol): AssetClass(str(asset_class)) for symbol, asset_class in rows}
        outcomes = {}
        for one in wanted:
            stored_as = stored.get(one.symbol)
            if stored_as is not None and one.asset_class not in (None, stored_as):
                message = (
                    f"bars of {one.symbol} are stored as {stored_as}, not {one.asset_class}: its history would mix"
                    " two instruments; nothing was added"
                )
                raise AnotherInstrumentError(message)
            outcomes[one.symbol] = _upsert(connection, one)
        tracked = connection.execute(
            "select symbol, asset_class, name, timeframes, active from tracked_symbols where symbol = any(%s)",
            [names],
        ).fetchall()
        known = {one.symbol: one for one in map(_symbol_of, tracked)}
        return [(known[name], outcome) for name, outcome in outcomes.items()]

    return database.transaction(write)


def _upsert(connection: Connection[tuple[object, ...]], wanted: WantedSymbol | TrackedSymbol) -> Outcome:
    # What is left out is filled in by the statement that writes: no other change comes in between.
    row = connection.execute(
        "insert into tracked_symbols as t (symbol, asset_class, name, timeframes)"
        " values (%(symbol)s, coalesce(%(asset_class)s, %(guess)s), %(name)s,"
        "  coalesce(%(timeframes)s::text[], %(default)s))"
        " on conflict (symbol) do update set timeframes = coalesce(%(timeframes)s::text[], t.timeframes),"
        "  active = true, asset_class = coalesce(%(asset_class)s, t.asset_class),"
        "  name = coalesce(%(name)s, t.name), updated_at = now()"
        " where (t.timeframes, t.active, t.asset_class, t.name) is distinct from"
        "  (coalesce(%(timeframes)s::text[], t.timeframes), true, coalesce(%(asset_class)s, t.asset_class),"
        "   coalesce(%(name)s, t.name))"
        " returning xmax = 0",
        {
            "symbol": wanted.symbol,
            "asset_class": wanted.asset_class,
            "guess": inferred_asset_class(wanted.symbol),
            "name": wanted.name,
            "timeframes": None if wanted.timeframes is None else list(wanted.timeframes),
            "default": list(DEFAULT_TIMEFRAMES),
        },
    ).fetchone()
    if row is None:
        return Outcome.UNCHANGED
    # The row's own xmax tells an insertion from an update.
    return Outcome.NEW if row[0] else Outcome.CHANGED


def set_timeframes(database: Database, symbol: str, timeframes: Sequence[Timeframe]) -> None:
    """Collect ``symbol`` in ``timeframes`` from now on. Bars of a timeframe that is left out stay.

    Raises:
        ConfigurationError: The symbol is not tracked.
    """

    def work(connection: Connection[tuple[object, ...]]) -> None:
        found = connection.execute(
            "update tracked_symbols set timeframes = %s, updated_at = now() where symbol = %s",
            [[timeframe.value for timeframe in timeframes], symbol],
        )
        if found.rowcount == 0:
            raise not_tracked(symbol)

    database.transaction(work)


def deactivate(database: Database, *symbols: str) -> None:
    """Stop collecting ``symbols``, all or none of them. Their bars stay.

    Raises:
        UnknownSeriesError: A symbol is not tracked.
    """

    def work(connection: Connection[tuple[object, ...]]) -> None:
        connection.execute(_LOCK, ["tracked_symbols", LOCK_SPACE])
        rows = connection.execute(
            "update tracked_symbols set active = false, updated_at = now() where symbol = any(%s) returning symbol",
            [list(symbols)],
        ).fetchall()
        if absent := sorted({*symbols} - {str(row[0]) for row in rows}):
            raise not_tracked(absent[0])

    database.transaction(work)


def not_tracked(symbol: str) -> UnknownSeriesError:
    """The error for a symbol that ``tracked_symbols`` does not have."""
    return UnknownSeriesError(
        f"{symbol} is not tracked, or no longer: add it with `marketdata symbols add {symbol}`,"
        " or see `marketdata symbols list --all`"
    )


def packaged_universe() -> list[TrackedSymbol]:
    """The universe that comes with the package: 20 US stocks, 20 ETFs, 22 crypto pairs."""
    return read_universe(
        files("marketdata_assets").joinpath("universe.csv").read_text("utf-8"), "universe.csv"
    )


def read_universe(text: str, source: str) -> list[TrackedSymbol]:
    """Symbols from CSV with the columns ``symbol, asset_class`` and, optionally, ``name, timeframes``.

    Timeframes are separated by spaces or commas. Raises :class:`ConfigurationError` naming ``source`` and the line.
    """
    reader = csv.DictReader(text.splitlines())
    if not {"symbol", "asset_class"} <= set(reader.fieldnames or ()):
        message = f"{source} lacks a heading with symbol and asset_class: its first line is symbol,asset_class,name,timeframes"
        raise ConfigurationError(message)
    symbols: dict[str, TrackedSymbol] = {}
    for row in reader:
        try:
            one = TrackedSymbol(
                symbol=parse_symbol(row["symbol"] or ""),
                asset_class=parse_asset_class(row["asset_class"] or ""),
                name=row.get("name") or None,
                timeframes=parse_timeframes(given)
                if (given := row.get("timeframes"))
                else DEFAULT_TIMEFRAMES,
            )
            vendor_ticker(one.symbol, one.asset_class)  # refuses a crypto symbol that is no pair
            if one.symbol in symbols:
                message = f"{one.symbol} stands there twice"
                raise ConfigurationError(message)  # noqa: TRY301 - told with the line it stands on, below
        except ConfigurationError as error:
            message = f"{source}, line {reader.line_num}: {error}; nothing was imported"
            raise ConfigurationError(message) from None
        symbols[one.symbol] = one
    return list(symbols.values())


def parse_asset_class(text: str) -> AssetClass:
    """The asset class named ``text``; raises :class:`ConfigurationError` naming the four that exist."""
    try:
        return AssetClass(text.strip().lower())
    except ValueError:
        message = f"unknown asset class {text!r}: use one of {', '.join(AssetClass)}"
        raise ConfigurationError(message) from None


def _symbol_of(row: tuple[object, ...]) -> TrackedSymbol:
    symbol, asset_class, name, timeframes, active = row
    if not isinstance(timeframes, list):
        message = "timeframes is text[]"
        raise TypeError(message)
    return TrackedSymbol(
        symbol=str(symbol),
        asset_class=AssetClass(str(asset_class)),
        name=None if name is None else str(name),
        timeframes=tuple(Timeframe(one) for one in timeframes),
        active=bool(active),
    )
