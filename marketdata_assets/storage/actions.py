"""Writing corporate actions to Postgres, and reading them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl
from psycopg import sql

from marketdata_assets.domain.actions import (
    DATES,
    FACTS,
    KEYS,
    NUMBER,
    SCHEMAS,
    ActionKind,
    number_dividends,
    reach_of,
)
from marketdata_assets.domain.adjust import SPLIT_SCHEMA
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.storage.features import mark_stale, read_stale
from marketdata_assets.storage.locks import LockSpace, lock
from marketdata_assets.storage.merge import lock_series
from marketdata_assets.storage.rows import by_series, fetch, moment_or_none

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import date, datetime

    from marketdata_assets.domain.series import Series
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.features import Stale
    from marketdata_assets.storage.rows import Session

_EXACT: Final = frozenset({"split_from", "split_to", "cash_amount"})
"""The columns that Postgres keeps as decimal numbers: ratios must stay exact, and amounts are part of a key."""
_POSTGRES_TYPES: Final[dict[pl.DataType, str]] = {
    pl.String(): "text",
    pl.Float64(): "double precision",
    pl.Int32(): "integer",
    pl.Date(): "date",
    pl.Time(): "time",
    pl.Datetime("us", "UTC"): "timestamptz",
}
_OF_ONE_ENDPOINT: Final = frozenset({"adjustment_type", "distribution_type", "dividend_type"})
"""The columns that one of the two endpoints of a kind leaves out: the value that the other one gave stays."""

_MERGE: Final = sql.SQL("""
merge into {table} t
using (select * from unnest({arrays}) as s({names})) s on {same}
when matched and ({old}, t.withdrawn_at) is distinct from ({given}, null)
  then update set ({columns}) = row({given}), withdrawn_at = null, updated_at = now()
when not matched by target
  then insert ({names}) values ({new})
when not matched by source and t.symbol = any(%s) and t.{date} >= %s::date and t.withdrawn_at is null
  then update set withdrawn_at = now()
returning merge_action(), new.withdrawn_at is not null
""")
_COUNT_LISTED: Final = sql.SQL("""
select count(*)
from {}
where symbol = any(%s) and withdrawn_at is null
""")
_WRITE_CHECKS: Final = """
insert into corporate_action_checks as c (kind, symbol, endpoint)
select %s, symbol, %s
from unnest(%s::text[]) as symbol
on conflict (kind, symbol) do update set endpoint = excluded.endpoint, checked_at = now()
"""
_HAS_UNAPPLIED: Final = """
select exists (
  select from splits s
  join corporate_action_checks c on c.kind = 'splits' and c.symbol = s.symbol
  where s.symbol = any(%s) and s.withdrawn_at is null and s.split_from <> s.split_to
    and s.execution_date > c.applied_through and s.execution_date <= %s
)
"""
_APPLY_THROUGH: Final = """
update corporate_action_checks
set applied_through = greatest(applied_through, %s)
where kind = 'splits' and symbol = any(%s)
"""
_APPLIED: Final = """
select s.symbol, s.execution_date, s.split_from, s.split_to
from splits s
join corporate_action_checks c on c.kind = 'splits' and c.symbol = s.symbol
where s.symbol = any(%s) and s.withdrawn_at is null and s.split_from <> s.split_to
  and s.execution_date <= c.applied_through
"""
_FIRST_BARS: Final = """
select c.symbol, c.timeframe, (
  select o.time from ohlcv o
  where o.symbol = c.symbol and o.timeframe = c.timeframe
  order by o.time
  limit 1
)
from bar_counts c
where c.symbol = any(%s)
"""
_NUMBERED: Final = sql.SQL("""
select {}
from dividends
where symbol = any(%s)
""")
_LISTED: Final = sql.SQL("""
select {}
from {}
where withdrawn_at is null and symbol in (select jsonb_array_elements_text($1::jsonb))
order by {}
""")
_CHECKED: Final = """
select symbol
from corporate_action_checks
where kind = %s and symbol = any(%s)
"""


class _Merged(NamedTuple):
    """The effect of a merge on a row."""

    action: str
    is_withdrawn: bool


class _Applied(NamedTuple):
    """A split that has taken effect on features."""

    symbol: str
    day: date
    ratio: Fraction
    """Not 1."""


@dataclass(frozen=True, slots=True)
class ActionCounts:
    """The effect of storing a list, in rows.

    Attributes:
        inserted: New rows.
        changed: Rows with another value, and rows that are listed again after they were withdrawn.
        unchanged: Listed rows that were already stored with the same values.
        withdrawn: Rows that the vendor no longer lists, now marked as withdrawn.
        kept: Rows from before the first day that the list covers, which is why it lacks them: not touched.
    """

    inserted: int = 0
    changed: int = 0
    unchanged: int = 0
    withdrawn: int = 0
    kept: int = 0


def store_actions(
    database: Database,
    kind: ActionKind,
    rows: pl.DataFrame,
    *,
    symbols: Sequence[str],
    endpoint: str,
    today: date,
) -> ActionCounts:
    """Store ``rows`` (the schema of ``kind``, one per ``FACTS``) as the list of ``symbols``, in one transaction.

    ``rows`` is the complete list that ``endpoint`` gave for ``symbols``. Stored rows that are not in it are marked as
    withdrawn, as far back as the list reaches (:func:`~marketdata_assets.domain.actions.reach_of`); nothing is
    deleted. The call is safe to repeat.
    """
    merge = _merge_statement(kind)
    reach = reach_of(kind, rows, today)
    count_listed = _COUNT_LISTED.format(sql.Identifier(kind.value))

    def work(session: Session) -> ActionCounts:
        # Two writers of one list would insert the same keys.
        _lock_lists(session, kind)
        before = _read_applied(session, symbols) if kind is ActionKind.SPLITS else set()
        keyed = (
            number_dividends(rows, _read_numbered(session, symbols)) if kind is ActionKind.DIVIDENDS else rows
        )
        arrays = [_column(keyed[name]) for name in _stored_columns(kind)]
        merged = fetch(session, merge, [*arrays, list(symbols), reach], row=_Merged)
        (listed,) = fetch(session, count_listed, [list(symbols)], row=int)
        session.execute(_WRITE_CHECKS, [kind.value, endpoint, list(symbols)])
        if kind is ActionKind.SPLITS:
            _apply_through(session, symbols, today)
            differing = before ^ _read_applied(session, symbols)
            _mark_features_stale(session, {split.symbol for split in differing})
        inserted = sum(row.action == "INSERT" for row in merged)
        withdrawn = sum(row.is_withdrawn for row in merged)
        changed = len(merged) - inserted - withdrawn
        return ActionCounts(
            inserted,
            changed,
            unchanged=rows.height - inserted - changed,
            withdrawn=withdrawn,
            kept=listed - rows.height,
        )

    return database.transaction(work)


def stale_at(database: Database, now: datetime, series: Collection[Series]) -> dict[Series, Stale]:
    """Return the stale marks of ``series``, after marking what the splits executed by ``now`` make stale.

    A split is listed before its day, and no row arrives on the day itself: only a reader can notice that it has come.
    """
    symbols = sorted({item.symbol for item in series})
    today = calendar_of(AssetClass.STOCK).local_day(now)

    def work(session: Session) -> None:
        _lock_lists(session, ActionKind.SPLITS)
        before = _read_applied(session, symbols)
        _apply_through(session, symbols, today)
        executed = _read_applied(session, symbols) - before
        _mark_features_stale(session, {split.symbol for split in executed})

    if _has_unapplied_split(database, symbols, today):
        database.transaction(work)
    return read_stale(database, series)


def _has_unapplied_split(database: Database, symbols: Sequence[str], today: date) -> bool:
    """Whether a split of ``symbols`` was executed by ``today`` and is not yet applied to features."""
    return database.fetch(_HAS_UNAPPLIED, [list(symbols), today], row=bool) == [True]


def _lock_lists(session: Session, kind: ActionKind) -> None:
    """Hold the lock of the lists of ``kind``."""
    lock(session, f"actions {kind}", LockSpace.LISTS)


def _apply_through(session: Session, symbols: Sequence[str], today: date) -> None:
    session.execute(_APPLY_THROUGH, [today, list(symbols)])


def _read_applied(session: Session, symbols: Sequence[str]) -> set[_Applied]:
    """Read the splits of ``symbols`` that have taken effect on features."""

    def split(symbol: str, day: date, before: Decimal, after: Decimal) -> _Applied:
        return _Applied(symbol, day, Fraction(before) / Fraction(after))

    return set(fetch(session, _APPLIED, [list(symbols)], row=split))


def _mark_features_stale(session: Session, symbols: Collection[str]) -> None:
    """Mark all features of ``symbols`` as stale.

    A split moves every price before it, and an exponential mean depends on all of them.
    """
    firsts = fetch(session, _FIRST_BARS, [sorted(symbols)], row=by_series(moment_or_none))
    since = {series: first for series, first in firsts if first is not None}
    lock_series(session, since)
    mark_stale(session, since, "a split took effect, or was corrected or withdrawn")


def _column(values: pl.Series) -> list[object]:
    """Return the values of a column as psycopg sends them, decimal numbers by their digits."""
    if values.name in _EXACT:
        return [None if value is None else Decimal(str(value)) for value in values]
    return values.to_list()


def _read_numbered(session: Session, symbols: Sequence[str]) -> pl.DataFrame:
    """Read the stored dividends of ``symbols``, as ``number_dividends`` takes them."""
    schema = {
        name: SCHEMAS[ActionKind.DIVIDENDS][name] for name in (*FACTS[ActionKind.DIVIDENDS], "vendor_id")
    }
    columns = sql.SQL(", ").join(
        sql.SQL("cash_amount::double precision" if name in _EXACT else "{name}").format(
            name=sql.Identifier(name)
        )
        for name in (*schema, NUMBER)
    )
    found = session.execute(_NUMBERED.format(columns), [list(symbols)]).fetchall()
    return pl.DataFrame(found, schema={**schema, NUMBER: pl.Int16()}, orient="row")


def _stored_columns(kind: ActionKind) -> list[str]:
    """Return the columns that storing a list of ``kind`` writes."""
    return list(dict.fromkeys([*SCHEMAS[kind].names(), *KEYS[kind]]))


def _postgres_type(kind: ActionKind, name: str) -> sql.SQL:
    if name == NUMBER:
        return sql.SQL("smallint")
    return sql.SQL("numeric" if name in _EXACT else _POSTGRES_TYPES[SCHEMAS[kind][name]])


def _arrays(kind: ActionKind, names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("%s::{}[]").format(_postgres_type(kind, name)) for name in names)


def _pairs(separator: str, template: str, names: Sequence[str]) -> sql.Composed:
    return sql.SQL(separator).join(sql.SQL(template).format(name=sql.Identifier(name)) for name in names)


def _merge_statement(kind: ActionKind) -> sql.Composed:
    names = _stored_columns(kind)
    values = [name for name in names if name not in KEYS[kind]]
    own = [name for name in values if name in _OF_ONE_ENDPOINT]
    given = sql.SQL(", ").join(
        sql.SQL("coalesce(s.{name}, t.{name})" if name in own else "s.{name}").format(
            name=sql.Identifier(name)
        )
        for name in values
    )
    return _MERGE.format(
        table=sql.Identifier(kind.value),
        arrays=_arrays(kind, names),
        names=_pairs(", ", "{name}", names),
        same=_pairs(" and ", "t.{name} = s.{name}", KEYS[kind]),
        old=_pairs(", ", "t.{name}", values),
        given=given,
        columns=_pairs(", ", "{name}", values),
        new=_pairs(", ", "s.{name}", names),
        date=sql.Identifier(DATES[kind]),
    )


def read_splits(database: Database, symbols: Sequence[str]) -> pl.DataFrame:
    """Read the splits that the vendor lists for ``symbols``, future ones included, as ``SPLIT_SCHEMA``, sorted."""
    return _read_listed(database, ActionKind.SPLITS, SPLIT_SCHEMA, symbols)


def read_actions(database: Database, kind: ActionKind, symbols: Sequence[str]) -> pl.DataFrame:
    """Read the vendor's list for ``symbols``, without withdrawn rows, in the schema of ``kind``, sorted by key."""
    return _read_listed(database, kind, SCHEMAS[kind], symbols)


def _read_listed(
    database: Database, kind: ActionKind, schema: pl.Schema, symbols: Sequence[str]
) -> pl.DataFrame:
    columns = sql.SQL(", ").join(
        # A numeric would arrive as text.
        sql.SQL("{name}::double precision as {name}" if name in _EXACT else "{name}").format(
            name=sql.Identifier(name)
        )
        for name in schema
    )
    query = _LISTED.format(columns, sql.Identifier(kind.value), _pairs(", ", "{name}", KEYS[kind]))
    rows = database.read_frame(query.as_string(None), [json.dumps(list(symbols))])
    return rows.cast(schema).select(schema.names()) if rows.width else schema.to_frame()


def find_unfetched(database: Database, kind: ActionKind, symbols: Iterable[str]) -> list[str]:
    """Return the ``symbols``, in their order, whose list of ``kind`` was never fetched and stored."""
    wanted = list(symbols)
    if not wanted:
        return []
    checked = set(database.fetch(_CHECKED, [kind.value, wanted], row=str))
    return [symbol for symbol in wanted if symbol not in checked]


def count_actions(database: Database, kind: ActionKind) -> int:
    """Count the rows of ``kind`` that the vendor lists, of every symbol that was ever tracked."""
    query = f"select count(*) as n from {kind.value} where withdrawn_at is null"  # noqa: S608 - a table of this package
    return int(database.read_frame(query).item())
