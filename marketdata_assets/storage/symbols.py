"""The table ``tracked_symbols`` of the symbols to collect and their timeframes."""

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
from marketdata_assets.domain.tickers import infer_asset_class, question_spelling, vendor_ticker
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
# One row for each split; a single row for a symbol without splits.
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
# Lower case by the rules of ASCII on both sides, whatever the locale of the database.
_SPELLINGS: Final = """
select symbol
from tracked_symbols
where lower(symbol collate "C") in (select lower(spelling collate "C") from unnest(%s::text[]) spelling)
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
# The statement itself fills in the values that are left out, so that no other change comes in between. The row's xmax
# distinguishes an insertion from an update.
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
    """A row of ``tracked_symbols``. The vendor ticker and the calendar follow from symbol and asset class."""

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
        """The name of the symbol's trading calendar."""
        return calendar_of(self.asset_class).name

    @property
    def series(self) -> list[Series]:
        """The series of the symbol, one per timeframe, the shortest first."""
        return [Series(self.symbol, timeframe) for timeframe in Timeframe if timeframe in self.timeframes]

    @property
    def facts(self) -> dict[str, object]:
        """The fields, the vendor ticker and the calendar by name, as JSON values for commands and the HTTP API."""
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
    """List the tracked symbols in the order in which they were added."""
    return database.fetch(_LIST, [active_only], row=_symbol_of)


def list_active_keys(database: Database) -> list[str]:
    """Return the series keys of the active symbols, in the order in which these were added."""
    return [one.key for symbol in list_symbols(database, active_only=True) for one in symbol.series]


def list_active_names(session: Session) -> list[str]:
    """Return the active symbols, sorted."""
    return fetch(session, _ACTIVE_NAMES, row=str)


def asset_classes(database: Database) -> dict[str, AssetClass]:
    """Return the asset class of every tracked symbol, active or not."""
    return {tracked.symbol: tracked.asset_class for tracked in list_symbols(database)}


def find_symbol(database: Database, symbol: str) -> TrackedSymbol:
    """Find the row that ``symbol`` means (:func:`~marketdata_assets.domain.spelling.match_symbol`), active or not.

    Raises:
        UnknownSeriesError: No tracked symbol matches, or a symbol in lower case matches several.
    """
    found = {tracked.symbol: tracked for tracked in database.fetch(_FIND, [symbol], row=_symbol_of)}
    return found[choose_symbol(symbol, found)]


class SymbolToRead(NamedTuple):
    """A tracked symbol, with the facts that are needed before a window of its bars is read."""

    tracked: TrackedSymbol
    splits: pl.DataFrame | None
    """The splits as :func:`~marketdata_assets.storage.actions.read_splits` returns them; None when they were never fetched."""
    has_lost_gaps: bool
    """Whether a gap that is open or unfilled overlaps the window."""


def find_with_splits(database: Database, symbol: str, timeframe: Timeframe, window: Window) -> SymbolToRead:
    """Find the row that ``symbol`` means, active or not, its splits, and whether ``window`` of its ``timeframe`` has a loss.

    One query reads all three, as every read of bars needs them.

    Raises:
        UnknownSeriesError: The symbol is not tracked.
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
    """A split in the columns of ``SPLIT_SCHEMA``; all are null for a symbol without splits."""

    symbol: str | None
    day: date | None
    before: float | None
    after: float | None


class _WithSplit(NamedTuple):
    """A symbol with one of its splits."""

    tracked: TrackedSymbol
    is_checked: bool
    has_lost_gaps: bool
    split: _Split


def _with_split(*columns: Any) -> _WithSplit:  # noqa: ANN401 - the columns of the symbol, the facts and the split
    is_checked, has_lost_gaps, *split = columns[5:]
    return _WithSplit(_symbol_of(*columns[:5]), is_checked, has_lost_gaps, _Split._make(split))


class Outcome(StrEnum):
    """The outcome of adding a symbol."""

    NEW = "new"
    CHANGED = "changed"
    """The symbol was tracked with other values, or no longer tracked."""
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class WantedSymbol:
    """A symbol to collect. None leaves a value unchanged; a new symbol gets a guessed class and the default timeframes."""

    symbol: str
    asset_class: AssetClass | None = None
    name: str | None = None
    timeframes: tuple[Timeframe, ...] | None = None


def add_symbols(
    database: Database, symbols: Iterable[WantedSymbol | TrackedSymbol], *, is_careful: bool = False
) -> list[tuple[TrackedSymbol, Outcome]]:
    """Track ``symbols``, new or deactivated ones, all or none; return each as it is tracked now, with the outcome.

    A :class:`TrackedSymbol` is taken as a :class:`WantedSymbol` with all its values; ``active`` is ignored. A symbol
    in lower case means the tracked symbol with the same letters, otherwise the symbol in capitals.

    Args:
        database: The database to write to.
        symbols: The symbols to track.
        is_careful: Whether to reject a new symbol that is not spelt as the vendor spells such an instrument, or that
            differs from a known one only in upper and lower case.

    Raises:
        ConfigurationError: A crypto symbol is not a pair, or a name is not one line of plain text.
        AnotherInstrumentError: Bars of a symbol are stored with another asset class.
        DoubtfulSymbolError: A new symbol is probably a mistake.
        UnknownSeriesError: A symbol in lower case matches several tracked symbols.
    """
    wanted = list(symbols)
    for symbol in wanted:
        if symbol.name is not None:
            check_name(symbol.symbol, symbol.name)

    def write(session: Session) -> list[tuple[TrackedSymbol, Outcome]]:
        # One lock for the whole list: the rows are written in the order of ``symbols``, which is that of the series,
        # so two transactions that lock row by row could deadlock.
        lock(session, SYMBOLS)
        known = _spellings(session, [symbol.symbol for symbol in wanted])
        # Two spellings may mean one symbol: nflx, NFLX.
        resolved = [_resolve_symbol(symbol, known, is_careful=is_careful) for symbol in wanted]
        named = {symbol.symbol: symbol for symbol in resolved}
        stored = dict(fetch(session, _LOCK_WITH_BARS, [list(named)], row=_class_of))
        outcomes = {}
        for symbol in named.values():
            stored_as = stored.get(symbol.symbol)
            if stored_as is not None and symbol.asset_class not in (None, stored_as):
                message = (
                    f"bars of {symbol.symbol} are stored as {stored_as}, not {symbol.asset_class}: its history would mix"
                    " two instruments; nothing was added"
                )
                raise AnotherInstrumentError(message, symbol=symbol.symbol)
            outcomes[symbol.symbol] = _upsert(session, symbol)
        found = {tracked.symbol: tracked for tracked in fetch(session, _NAMED, [list(named)], row=_symbol_of)}
        return [(found[name], outcome) for name, outcome in outcomes.items()]

    return database.transaction(write)


def add_universe(database: Database) -> None:
    """Track the packaged universe as presets, unless a symbol was ever tracked.

    A preset is tracked like every other symbol, but the matrix leaves it out until one of its series is scanned.
    """

    def write(session: Session) -> None:
        lock(session, SYMBOLS)
        if fetch(session, _IS_EVER_TRACKED, row=bool) == [False]:
            for preset in packaged_universe():
                _upsert(session, preset)
            session.execute(_MAKE_PRESETS)

    database.transaction(write)


def list_presets(database: Database) -> frozenset[str]:
    """List the symbols of the package that were neither added since, nor had their timeframes set."""
    return frozenset(database.fetch(_PRESETS, row=str))


def unused_presets(database: Database) -> frozenset[str]:
    """List the presets (:func:`list_presets`) that were never requested, not even without success, and never scanned.

    Monitoring and hints leave these presets out: without a request, no bar of them can be late or missing. A preset
    that the daily run fetches is monitored from its first request on.
    """
    return frozenset(database.fetch(_UNUSED_PRESETS, row=str))


def _spellings(session: Session, symbols: Collection[str]) -> list[str]:
    """Read the tracked symbols that equal one of ``symbols``, upper or lower case aside."""
    return fetch(session, _SPELLINGS, [list(symbols)], row=str)


def _resolve_symbol(
    wanted: WantedSymbol | TrackedSymbol, known: Collection[str], *, is_careful: bool
) -> WantedSymbol | TrackedSymbol:
    """Return ``wanted`` with the symbol that its text means, known or new."""
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
        vendor_ticker(named.symbol, named.asset_class)  # raises for a crypto symbol that is not a pair
    return named


def _question_capitals(symbol: str, similar: Sequence[str]) -> str:
    """Return the question whether the new ``symbol`` means one of ``similar``, known symbols that differ only in case."""
    names = " and ".join(similar)
    return (
        f"{symbol} differs from {names} only in upper and lower case, which distinguishes securities: do you mean"
        f" {similar[0]}?"
    )


def _upsert(session: Session, wanted: WantedSymbol | TrackedSymbol) -> Outcome:
    is_new = fetch_one(
        session,
        _UPSERT,
        {
            "symbol": wanted.symbol,
            "asset_class": wanted.asset_class,
            "guess": infer_asset_class(wanted.symbol),
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
    """Collect ``symbol`` in ``timeframes`` from now on, and return it. Bars of a timeframe that is left out stay.

    Raises:
        UnknownSeriesError: The symbol is not tracked, or in lower case and matches several.
    """

    def work(session: Session) -> TrackedSymbol:
        name = choose_symbol(symbol, _spellings(session, [symbol]))
        values = [[timeframe.value for timeframe in timeframes], name]
        tracked = fetch_one(session, _SET_TIMEFRAMES, values, row=_symbol_of)
        if tracked is None:
            raise not_tracked(symbol)
        return tracked

    return database.transaction(work)


def deactivate(database: Database, *symbols: str) -> list[TrackedSymbol]:
    """Stop collecting ``symbols``, all or none of them, and return them. Their bars stay.

    Raises:
        UnknownSeriesError: A symbol is not tracked, or in lower case and matches several.
    """

    def work(session: Session) -> list[TrackedSymbol]:
        lock(session, SYMBOLS)
        known = _spellings(session, symbols)
        names = list(dict.fromkeys(choose_symbol(symbol, known) for symbol in sorted(symbols)))
        found = {tracked.symbol: tracked for tracked in fetch(session, _DEACTIVATE, [names], row=_symbol_of)}
        return [found[name] for name in dict.fromkeys(choose_symbol(symbol, known) for symbol in symbols)]

    return database.transaction(work)


def deactivate_all(database: Database) -> int:
    """Stop collecting every symbol, and return how many were collected. Their bars stay."""

    def work(session: Session) -> int:
        lock(session, SYMBOLS)
        return session.execute(_DEACTIVATE_ALL).rowcount

    return database.transaction(work)


def choose_symbol(text: str, known: Iterable[str]) -> str:
    """Return the symbol of ``known`` that ``text`` means (:func:`~marketdata_assets.domain.spelling.match_symbol`).

    Raises:
        UnknownSeriesError: No symbol matches, or ``text`` is in lower case and matches several.
    """
    match = match_symbol(text, known)
    if match.symbol is None:
        raise not_tracked(text, match.similar)
    return match.symbol


def not_tracked(symbol: str, similar: Sequence[str] = ()) -> UnknownSeriesError:
    """Return the error for a symbol that is not tracked; ``similar`` are tracked symbols that differ only in case."""
    if similar and is_lower(symbol):
        return UnknownSeriesError(
            f"{symbol} may be {' or '.join(similar)}: write it in the vendor's upper and lower case"
        )
    if similar:
        return UnknownSeriesError(
            f"{symbol} is not tracked, but {' and '.join(similar)} {'is' if len(similar) == 1 else 'are'}: upper and"
            f" lower case distinguish securities; write {similar[0]}, or add {symbol} with `marketdata symbols add"
            f" {symbol} --yes`"
        )
    return UnknownSeriesError(
        f"{symbol} is not tracked, or no longer: add it with `marketdata symbols add {symbol}`,"
        " or see `marketdata symbols list --all`"
    )


def packaged_universe() -> list[TrackedSymbol]:
    """Return the universe that comes with the package: 20 US stocks, 20 ETFs, 22 crypto pairs."""
    return read_universe(
        files("marketdata_assets").joinpath("universe.csv").read_text("utf-8"), "universe.csv"
    )


def read_universe(text: str, source: str) -> list[TrackedSymbol]:
    """Read the symbols of :func:`read_lines`, without the line numbers."""
    return [symbol for _, symbol in read_lines(text, source)]


def read_lines(text: str, source: str) -> list[tuple[int, TrackedSymbol]]:
    """Read symbols from CSV, each with the number of the line on which its row ends.

    The columns are ``symbol, asset_class`` and, optionally, ``name, timeframes``; timeframes are separated by spaces or
    commas.

    Raises:
        ConfigurationError: A row is not valid; the message names ``source``, the line and the column.
    """
    # StringIO, because str.splitlines would end a line within a quoted name.
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    found: dict[str, tuple[int, TrackedSymbol]] = {}
    try:
        headings = _headings(reader.fieldnames or (), source)
        for row in reader:
            where = f"{source}, line {reader.line_num}"
            symbol = _parse_row(row, headings, where)
            key = capitalise(symbol.symbol)
            if key in found:
                message = (
                    f"{where}, {headings['symbol']}: {key} appears twice, first on line {found[key][0]};"
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
    """Return the words by which errors name each column of a file with the heading ``names``: its number and name."""
    headings = {name: f"column {number} ({name})" for number, name in enumerate(names, start=1)}
    wanted = ",".join(_COLUMNS)
    if {"symbol", "asset_class"} <= headings.keys():
        return headings
    missing = next(name for name in _COLUMNS if name not in headings)
    separator = next((character for character in ";\t|" if any(character in name for name in names)), None)
    if separator is not None:
        what = f"its columns are separated by {separator!r}: write commas between them"
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


def _parse_row(
    row: Mapping[str | None, str | list[str] | None], headings: Mapping[str, str], where: str
) -> TrackedSymbol:
    """Parse the symbol of a row; raise :class:`ConfigurationError` with ``where`` and the column that is wrong."""

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
            raise ConfigurationError(message)  # noqa: TRY301 - reported with the line, below
        column = headings["symbol"]
        symbol = parse_symbol(cell("symbol"))
        column = headings["asset_class"]
        asset_class = parse_asset_class(cell("asset_class"))
        column = headings["symbol"]
        vendor_ticker(symbol, asset_class)  # raises for a crypto symbol that is not a pair
        column = headings.get("name", "")
        name = cell("name") or None
        if name is not None:
            check_name(symbol, name)
        column = headings.get("timeframes", "")
        timeframes = parse_timeframes(given) if (given := cell("timeframes")) else DEFAULT_TIMEFRAMES
    except ConfigurationError as error:
        message = f"{where}, {column}: {error}; nothing was imported"
        raise ConfigurationError(message) from None
    return TrackedSymbol(symbol, asset_class, name, timeframes)


def parse_asset_class(text: str) -> AssetClass:
    """Return the asset class named ``text``; raise :class:`ConfigurationError` with the existing ones for another name."""
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
