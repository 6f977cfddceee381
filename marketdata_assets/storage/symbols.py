"""``tracked_symbols``: what is collected, and in which timeframes."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import polars as pl

from marketdata_assets.domain.adjust import SPLIT_SCHEMA
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.errors import (
    AnotherInstrumentError,
    ConfigurationError,
    DoubtfulSymbolError,
    UnknownSeriesError,
)
from marketdata_assets.domain.series import AssetClass, Series, check_name, parse_symbol
from marketdata_assets.domain.spelling import capitalise, is_lower, match_symbol
from marketdata_assets.domain.tickers import inferred_asset_class, question_spelling, vendor_ticker
from marketdata_assets.domain.timeframe import Timeframe, parse_timeframes
from marketdata_assets.storage.locks import SYMBOLS, lock
from marketdata_assets.storage.rows import fetch, fetch_one

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import date

    from marketdata_assets.domain.windows import Window
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

DEFAULT_TIMEFRAMES = (Timeframe.H1, Timeframe.D1)

_LIST: Final = """
select symbol, asset_class, name, timeframes, active
from tracked_symbols
where active or not %s
order by position
"""
_FIND: Final = """
select symbol, asset_class, name, timeframes, active
from tracked_symbols
where lower(symbol collate "C") = lower(%s::text collate "C")
"""
# A row for each split; one without, where there is none.
_FIND_WITH_SPLITS: Final = """
select t.symbol, t.asset_class, t.name, t.timeframes, t.active,
  c.symbol is not null,
  exists (
    select from gap_report g
    where g.symbol = t.symbol and g.timeframe = %s and g.state in ('open', 'unfilled')
      and g.gap_end > %s and g.gap_start < %s
  ),
  s.symbol, s.execution_date, s.split_from::float8, s.split_to::float8
from tracked_symbols t
left join corporate_action_checks c on c.kind = 'splits' and c.symbol = t.symbol
left join splits s on s.symbol = t.symbol and s.withdrawn_at is null
where lower(t.symbol collate "C") = lower(%s::text collate "C")
order by s.execution_date
"""
# By the rules of ASCII on both sides, whatever the locale of the database.
_SPELLINGS: Final = """
select symbol
from tracked_symbols
where lower(symbol collate "C") in (select lower(one collate "C") from unnest(%s::text[]) one)
"""
_LOCK_WITH_BARS: Final = """
select symbol, asset_class
from tracked_symbols t
where symbol = any(%s) and exists (select from bar_counts c where c.symbol = t.symbol)
for update
"""
_NAMED: Final = """
select symbol, asset_class, name, timeframes, active
from tracked_symbols
where symbol = any(%s)
"""
# What is left out is filled in by the statement that writes: no other change comes in between. The row's own xmax tells
# an insertion from an update.
_UPSERT: Final = """
insert into tracked_symbols as t (symbol, asset_class, name, timeframes)
values (
  %(symbol)s,
  coalesce(%(asset_class)s, %(guess)s),
  %(name)s,
  coalesce(%(timeframes)s::text[], %(default)s)
)
on conflict (symbol) do update set
  timeframes = coalesce(%(timeframes)s::text[], t.timeframes),
  active = true,
  preset = false,
  asset_class = coalesce(%(asset_class)s, t.asset_class),
  name = coalesce(%(name)s, t.name),
  updated_at = now()
where (t.timeframes, t.active, t.preset, t.asset_class, t.name) is distinct from (
  coalesce(%(timeframes)s::text[], t.timeframes), true, false, coalesce(%(asset_class)s, t.asset_class),
  coalesce(%(name)s, t.name)
)
returning xmax = 0
"""
_SET_TIMEFRAMES: Final = """
update tracked_symbols
set timeframes = %s, preset = false, updated_at = now()
where symbol = %s
returning symbol, asset_class, name, timeframes, active
"""
_DEACTIVATE: Final = """
update tracked_symbols
set active = false, updated_at = now()
where symbol = any(%s)
returning symbol, asset_class, name, timeframes, active
"""
_DEACTIVATE_ALL: Final = """
update tracked_symbols
set active = false, updated_at = now()
where active
"""
_ACTIVE_NAMES: Final = """
select symbol
from tracked_symbols
where active
order by symbol
"""
_IS_EVER_TRACKED: Final = "select exists (select from tracked_symbols)"
_MAKE_PRESETS: Final = "update tracked_symbols set preset = true"
_PRESETS: Final = "select symbol from tracked_symbols where preset"
_UNUSED_PRESETS: Final = """
select t.symbol
from tracked_symbols t
where t.preset
  and not exists (select from fetch_log f where f.symbol = t.symbol)
  and not exists (select from coverage c where c.symbol = t.symbol)
  and not exists (select from bar_counts b where b.symbol = t.symbol and b.bars > 0)
  and not exists (select from completeness_daily d where d.symbol = t.symbol)
"""


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
    return database.fetch(_LIST, [active_only], row=_symbol_of)


def list_active_keys(database: Database) -> list[str]:
    """Return the series keys of the active symbols, in the order in which these were added."""
    return [one.key for symbol in list_symbols(database, active_only=True) for one in symbol.series]


def list_active_names(session: Session) -> list[str]:
    """Return the active symbols, sorted."""
    return fetch(session, _ACTIVE_NAMES, row=str)


def asset_classes(database: Database) -> dict[str, AssetClass]:
    """Return the asset class of every tracked symbol, active or not."""
    return {one.symbol: one.asset_class for one in list_symbols(database)}


def find_symbol(database: Database, symbol: str) -> TrackedSymbol:
    """The row that ``symbol`` means (:func:`~marketdata_assets.domain.spelling.match_symbol`), active or not.

    Raises:
        UnknownSeriesError: There is none, or small letters fit several.
    """
    found = {tracked.symbol: tracked for tracked in database.fetch(_FIND, [symbol], row=_symbol_of)}
    return found[choose_symbol(symbol, found)]


class SymbolToRead(NamedTuple):
    """A tracked symbol, with what must be known before a window of its bars is read."""

    tracked: TrackedSymbol
    splits: pl.DataFrame | None
    """As of :func:`~marketdata_assets.storage.actions.read_splits`; None when they were never fetched."""
    has_lost_gaps: bool
    """Whether a gap that is open or unfilled reaches into the window."""


def find_with_splits(database: Database, symbol: str, timeframe: Timeframe, window: Window) -> SymbolToRead:
    """Find the row that ``symbol`` means, active or not, its splits, and whether ``window`` of its ``timeframe`` has a lost gap.

    In one question: all are needed whenever bars are read.
    Raises :class:`UnknownSeriesError` when the symbol is not tracked.
    """
    rows = database.fetch(
        _FIND_WITH_SPLITS, [timeframe.value, window.start, window.end, symbol], row=_with_split
    )
    chosen = choose_symbol(symbol, {row.tracked.symbol for row in rows})
    rows = [row for row in rows if row.tracked.symbol == chosen]
    tracked, is_checked, has_lost_gaps, _ = rows[0]
    if not is_checked:
        return SymbolToRead(tracked, None, has_lost_gaps)
    splits = [row.split for row in rows if row.split.symbol is not None]
    return SymbolToRead(tracked, pl.DataFrame(splits, schema=SPLIT_SCHEMA, orient="row"), has_lost_gaps)


class _Split(NamedTuple):
    """A split as ``SPLIT_SCHEMA`` has it; all null where a symbol has none."""

    symbol: str | None
    day: date | None
    before: float | None
    after: float | None


class _WithSplit(NamedTuple):
    """A symbol beside one of its splits."""

    tracked: TrackedSymbol
    is_checked: bool
    has_lost_gaps: bool
    split: _Split


def _with_split(*columns: Any) -> _WithSplit:  # noqa: ANN401 - the columns of the symbol, the facts and the split
    is_checked, has_lost_gaps, *split = columns[5:]
    return _WithSplit(_symbol_of(*columns[:5]), is_checked, has_lost_gaps, _Split._make(split))


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
    database: Database, symbols: Iterable[WantedSymbol | TrackedSymbol], *, is_careful: bool = False
) -> list[tuple[TrackedSymbol, Outcome]]:
    """Start to track ``symbols``, or take them up again, all or none; returns how each is tracked now.

    A tracked symbol says everything that a wanted one may say, ``active`` and ``preset`` apart. A symbol in small
    letters alone is the tracked one that has these letters, else the one in capitals.

    Args:
        database: Where to.
        symbols: What to track.
        is_careful: Refuse a new symbol that is not spelt as the vendor spells such an instrument, or that differs from
            a known one in capitals and small letters alone.

    Raises:
        ConfigurationError: A crypto symbol is not a pair, or a name is not one line of plain text.
        AnotherInstrumentError: Bars of a symbol are stored with another asset class.
        DoubtfulSymbolError: A new symbol is probably a mistake.
        UnknownSeriesError: Small letters fit several tracked symbols.
    """
    wanted = list(symbols)
    for one in wanted:
        if one.name is not None:
            check_name(one.symbol, one.name)

    def write(connection: Session) -> list[tuple[TrackedSymbol, Outcome]]:
        # Their order is the order of the series, so rows cannot be locked in one order by all: two would deadlock.
        lock(connection, SYMBOLS)
        known = _spellings(connection, [one.symbol for one in wanted])
        # Two texts may mean one symbol: nflx, NFLX.
        named = {one.symbol: one for one in (_named(one, known, is_careful=is_careful) for one in wanted)}
        stored = dict(fetch(connection, _LOCK_WITH_BARS, [list(named)], row=_class_of))
        outcomes = {}
        for one in named.values():
            stored_as = stored.get(one.symbol)
            if stored_as is not None and one.asset_class not in (None, stored_as):
                message = (
                    f"bars of {one.symbol} are stored as {stored_as}, not {one.asset_class}: its history would mix"
                    " two instruments; nothing was added"
                )
                raise AnotherInstrumentError(message, symbol=one.symbol)
            outcomes[one.symbol] = _upsert(connection, one)
        found = {one.symbol: one for one in fetch(connection, _NAMED, [list(named)], row=_symbol_of)}
        return [(found[name], outcome) for name, outcome in outcomes.items()]

    return database.transaction(write)


def add_universe(database: Database) -> None:
    """Track the packaged universe as presets, when no symbol was ever tracked.

    A preset is tracked like every other symbol, but the matrix leaves it out until one of its series was scanned.
    """

    def write(connection: Session) -> None:
        lock(connection, SYMBOLS)
        if fetch(connection, _IS_EVER_TRACKED, row=bool) == [False]:
            for one in packaged_universe():
                _upsert(connection, one)
            connection.execute(_MAKE_PRESETS)

    database.transaction(write)


def list_presets(database: Database) -> frozenset[str]:
    """The symbols that came with the package and that were never added, nor their timeframes set."""
    return frozenset(database.fetch(_PRESETS, row=str))


def unused_presets(database: Database) -> frozenset[str]:
    """The presets (:func:`list_presets`) of which nothing was ever fetched, whether it failed or not, nor scanned.

    Monitoring and hints leave them out: without a request nothing of them can be late or missing. What the daily run
    fetches is monitored from its first request on.
    """
    return frozenset(database.fetch(_UNUSED_PRESETS, row=str))


def _spellings(connection: Session, symbols: Collection[str]) -> list[str]:
    """The tracked symbols that have the letters of ``symbols``, capitals or not."""
    return fetch(connection, _SPELLINGS, [list(symbols)], row=str)


def _named(
    wanted: WantedSymbol | TrackedSymbol, known: Collection[str], *, is_careful: bool
) -> WantedSymbol | TrackedSymbol:
    """``wanted`` with the symbol that its text means, known or new."""
    match = match_symbol(wanted.symbol, known)
    if match.symbol is not None:
        named = replace(wanted, symbol=match.symbol)
    elif match.similar and is_lower(wanted.symbol):
        raise not_tracked(wanted.symbol, match.similar)
    else:
        named = replace(wanted, symbol=capitalise(wanted.symbol))
        if is_careful and match.similar:
            raise DoubtfulSymbolError(wanted.symbol, _question_capitals(named.symbol, match.similar))
        if is_careful and (question := question_spelling(named.symbol, named.asset_class)):
            raise DoubtfulSymbolError(wanted.symbol, question)
    if named.asset_class is not None:
        vendor_ticker(named.symbol, named.asset_class)  # refuses a crypto symbol that is not a pair
    return named


def _question_capitals(symbol: str, similar: Sequence[str]) -> str:
    """Say that ``symbol``, which is new, differs from the known ``similar`` in capitals and small letters alone."""
    names = " and ".join(similar)
    return (
        f"{symbol} differs from {names} in capitals and small letters alone, which tell securities apart: do you mean"
        f" {similar[0]}?"
    )


def _upsert(connection: Session, wanted: WantedSymbol | TrackedSymbol) -> Outcome:
    is_new = fetch_one(
        connection,
        _UPSERT,
        {
            "symbol": wanted.symbol,
            "asset_class": wanted.asset_class,
            "guess": inferred_asset_class(wanted.symbol),
            "name": wanted.name,
            "timeframes": None if wanted.timeframes is None else list(wanted.timeframes),
            "default": list(DEFAULT_TIMEFRAMES),
        },
        row=bool,
    )
    if is_new is None:
        return Outcome.UNCHANGED
    return Outcome.NEW if is_new else Outcome.CHANGED


def set_timeframes(database: Database, symbol: str, timeframes: Sequence[Timeframe]) -> TrackedSymbol:
    """Collect ``symbol`` in ``timeframes`` from now on; returns it. Bars of a timeframe that is left out stay.

    Raises:
        UnknownSeriesError: The symbol is not tracked, or small letters fit several.
    """

    def work(connection: Session) -> TrackedSymbol:
        name = choose_symbol(symbol, _spellings(connection, [symbol]))
        values = [[timeframe.value for timeframe in timeframes], name]
        tracked = fetch_one(connection, _SET_TIMEFRAMES, values, row=_symbol_of)
        if tracked is None:
            raise not_tracked(symbol)
        return tracked

    return database.transaction(work)


def deactivate(database: Database, *symbols: str) -> list[TrackedSymbol]:
    """Stop collecting ``symbols``, all or none of them; returns them. Their bars stay.

    Raises:
        UnknownSeriesError: A symbol is not tracked, or small letters fit several.
    """

    def work(connection: Session) -> list[TrackedSymbol]:
        lock(connection, SYMBOLS)
        known = _spellings(connection, symbols)
        names = list(dict.fromkeys(choose_symbol(symbol, known) for symbol in sorted(symbols)))
        found = {one.symbol: one for one in fetch(connection, _DEACTIVATE, [names], row=_symbol_of)}
        return [found[name] for name in dict.fromkeys(choose_symbol(one, known) for one in symbols)]

    return database.transaction(work)


def deactivate_all(database: Database) -> int:
    """Stop collecting every symbol; returns how many were collected. Their bars stay."""

    def work(connection: Session) -> int:
        lock(connection, SYMBOLS)
        return connection.execute(_DEACTIVATE_ALL).rowcount

    return database.transaction(work)


def choose_symbol(text: str, known: Iterable[str]) -> str:
    """The symbol of ``known`` that ``text`` means (:func:`~marketdata_assets.domain.spelling.match_symbol`).

    Raises:
        UnknownSeriesError: There is none, or small letters fit several.
    """
    match = match_symbol(text, known)
    if match.symbol is None:
        raise not_tracked(text, match.similar)
    return match.symbol


def not_tracked(symbol: str, similar: Sequence[str] = ()) -> UnknownSeriesError:
    """The error for a symbol that ``tracked_symbols`` does not have; ``similar`` differ in capitals from it."""
    if similar and is_lower(symbol):
        return UnknownSeriesError(
            f"{symbol} may be {' or '.join(similar)}: write it with the capitals and small letters of the vendor"
        )
    if similar:
        return UnknownSeriesError(
            f"{symbol} is not tracked, but {' and '.join(similar)} {'is' if len(similar) == 1 else 'are'}: capitals and"
            f" small letters tell securities apart; write {similar[0]}, or add {symbol} with `marketdata symbols add"
            f" {symbol} --yes`"
        )
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
    """The symbols of :func:`read_lines`."""
    return [symbol for _, symbol in read_lines(text, source)]


def read_lines(text: str, source: str) -> list[tuple[int, TrackedSymbol]]:
    """Symbols from CSV, each with the line on which it ends.

    The columns are ``symbol, asset_class`` and, optionally, ``name, timeframes``; timeframes are apart by spaces or
    commas. Raises :class:`ConfigurationError` naming ``source``, the line and the column.
    """
    # By StringIO: str.splitlines would end a line within a quoted name.
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    found: dict[str, tuple[int, TrackedSymbol]] = {}
    try:
        headings = _headings(reader.fieldnames or (), source)
        for row in reader:
            place = f"{source}, line {reader.line_num}"
            symbol = _listed_symbol(row, headings, place)
            key = capitalise(symbol.symbol)
            if key in found:
                message = (
                    f"{place}, {headings['symbol']}: {key} is there twice, first on line {found[key][0]};"
                    " nothing was imported"
                )
                raise ConfigurationError(message)
            found[key] = (reader.line_num, symbol)
    except csv.Error as error:
        message = f"{source}, line {reader.reader.line_num}: {error}; nothing was imported"
        raise ConfigurationError(message) from None
    return list(found.values())


_COLUMNS: Final = ("symbol", "asset_class", "name", "timeframes")


def _headings(names: Sequence[str], source: str) -> dict[str, str]:
    """What errors call each column of a file with the heading ``names``: its number and its name."""
    headings = {name: f"column {number} ({name})" for number, name in enumerate(names, start=1)}
    wanted = ",".join(_COLUMNS)
    if {"symbol", "asset_class"} <= headings.keys():
        return headings
    missing = next(name for name in _COLUMNS if name not in headings)
    separator = next((one for one in ";\t|" if any(one in name for name in names)), None)
    if separator is not None:
        what = f"its columns are apart by {separator!r}: write commas between them"
    elif not names:
        what = "it is empty"
    elif len(headings) < len(names):
        what = "its heading names a column twice"
    elif not headings.keys() & set(_COLUMNS):
        what = "it has no heading"
    else:
        what = f"its heading has no column {missing}"
    message = (
        f"{source}, line 1, column 1: {what}; the first line of such a file is {wanted}, with or without the"
        " last two; nothing was imported"
    )
    raise ConfigurationError(message)


def _listed_symbol(
    row: Mapping[str | None, str | list[str] | None], headings: Mapping[str, str], place: str
) -> TrackedSymbol:
    """The symbol of a row. Raises :class:`ConfigurationError` with ``place`` and the column that is wrong."""

    def cell(name: str) -> str:
        value = row.get(name)
        return value.strip() if isinstance(value, str) else ""

    column = f"column {len(headings) + 1}"
    try:
        if None in row:
            message = (
                f"the heading has {len(headings)} columns: put quotes around a text with a comma,"
                ' as in "1h,1d"'
            )
            raise ConfigurationError(message)  # noqa: TRY301 - reported with the place, below
        column = headings["symbol"]
        symbol = parse_symbol(cell("symbol"))
        column = headings["asset_class"]
        asset_class = parse_asset_class(cell("asset_class"))
        column = headings["symbol"]
        vendor_ticker(symbol, asset_class)  # refuses a crypto symbol that is not a pair
        column = headings.get("name", "")
        name = cell("name") or None
        if name is not None:
            check_name(symbol, name)
        column = headings.get("timeframes", "")
        timeframes = parse_timeframes(given) if (given := cell("timeframes")) else DEFAULT_TIMEFRAMES
    except ConfigurationError as error:
        message = f"{place}, {column}: {error}; nothing was imported"
        raise ConfigurationError(message) from None
    return TrackedSymbol(symbol, asset_class, name, timeframes)


def parse_asset_class(text: str) -> AssetClass:
    """The asset class named ``text``; raises :class:`ConfigurationError` naming the four that exist."""
    try:
        return AssetClass(text.strip().lower())
    except ValueError:
        message = f"unknown asset class {text!r}: use one of {', '.join(AssetClass)}"
        raise ConfigurationError(message) from None


def _symbol_of(
    symbol: str,
    asset_class: str,
    name: str | None,
    timeframes: list[str],
    active: bool,  # noqa: FBT001 - a column
) -> TrackedSymbol:
    return TrackedSymbol(symbol, AssetClass(asset_class), name, tuple(map(Timeframe, timeframes)), active)


def _class_of(symbol: str, asset_class: str) -> tuple[str, AssetClass]:
    return symbol, AssetClass(asset_class)
