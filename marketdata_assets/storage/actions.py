"""Corporate actions in and out of Postgres."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final, cast

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
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.storage.features import mark_stale, read_stale
from marketdata_assets.storage.merge import lock_series

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import date

    from psycopg import Connection

    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.features import Stale

_EXACT: Final = frozenset({"split_from", "split_to", "cash_amount"})
"""Columns that Postgres keeps as decimal numbers: ratios must stay exact, and amounts are part of a key."""
_POSTGRES_TYPES: Final[dict[pl.DataType, str]] = {
    pl.String(): "text",
    pl.Float64(): "double precision",
    pl.Int32(): "integer",
    pl.Date(): "date",
    pl.Time(): "time",
    pl.Datetime("us", "UTC"): "timestamptz",
}
_LOCK: Final = "select pg_advisory_xact_lock(hashtextextended(%s, 0))"
_ONE_ENDPOINTS_OWN: Final = frozenset({"adjustment_type", "distribution_type", "dividend_type"})
"""Columns that one of a kind's endpoints leaves out: what the other has said stays."""


@dataclass(frozen=True, slots=True)
class ActionCounts:
    """What storing a list did, in rows.

    Attributes:
        inserted: New ones.
        changed: Those with another value, and those that are listed again after they were withdrawn.
        unchanged: Those that were not touched.
        withdrawn: Those that the vendor lists no more, marked now.
        kept: Those that the list lacks but does not reach back to: not touched either.
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
    """Make ``rows`` (the schema of ``kind``, one per ``FACTS``) what is stored of ``symbols``, in one transaction.

    ``rows`` is the whole list of ``symbols`` that ``endpoint`` gave. What is stored and not in it is marked as
    withdrawn as far back as the list reaches (:func:`~marketdata_assets.domain.actions.reach_of`); nothing is
    deleted. Safe to repeat.
    """
    merge = _merge_statement(kind)
    reach = reach_of(kind, rows, today)
    listed = sql.SQL("select count(*) from {} where symbol = any(%s) and withdrawn_at is null").format(
        sql.Identifier(kind.value)
    )

    def work(connection: Connection[tuple[object, ...]]) -> ActionCounts:
        # Two writers of one list would insert the same keys.
        connection.execute(_LOCK, [f"actions {kind}"])
        before = _applied(connection, symbols) if kind is ActionKind.SPLITS else set()
        keyed = (
            number_dividends(rows, _numbered(connection, symbols)) if kind is ActionKind.DIVIDENDS else rows
        )
        arrays = [_column(keyed[name]) for name in _stored_columns(kind)]
        merged = connection.execute(merge, [*arrays, list(symbols), reach]).fetchall()
        (still,) = connection.execute(listed, [list(symbols)]).fetchone() or (0,)
        connection.execute(
            "insert into corporate_action_checks as c (kind, symbol, endpoint)"
            " select %s, symbol, %s from unnest(%s::text[]) as symbol"
            " on conflict (kind, symbol) do update set endpoint = excluded.endpoint, checked_at = now()",
            [kind.value, endpoint, list(symbols)],
        )
        if kind is ActionKind.SPLITS:
            _apply_through(connection, symbols, today)
            differing = before ^ _applied(connection, symbols)
            _mark_features_stale(connection, {symbol for symbol, *_ in differing})
        inserted = sum(action == "INSERT" for action, _ in merged)
        withdrawn = sum(gone is True for _, gone in merged)
        changed = len(merged) - inserted - withdrawn
        return ActionCounts(
            inserted,
            changed,
            unchanged=rows.height - inserted - changed,
            withdrawn=withdrawn,
            kept=int(str(still)) - rows.height,
        )

    return database.transaction(work)


def stale_at(database: Database, now: datetime, series: Collection[Series]) -> dict[Series, Stale]:
    """What is out of date of ``series``, splits that were executed by ``now`` included.

    A split is listed before its day, and the day itself brings no row: nobody but the reader would notice it.
    """
    symbols = sorted({one.symbol for one in series})
    today = calendar_of(AssetClass.STOCK).local_day(now)

    def work(connection: Connection[tuple[object, ...]]) -> None:
        connection.execute(_LOCK, [f"actions {ActionKind.SPLITS}"])
        before = _applied(connection, symbols)
        _apply_through(connection, symbols, today)
        executed = _applied(connection, symbols) - before
        _mark_features_stale(connection, {symbol for symbol, *_ in executed})

    if _takes_effect(database, symbols, today):
        database.transaction(work)
    return read_stale(database, series)


def _takes_effect(database: Database, symbols: Sequence[str], today: date) -> bool:
    """Whether a split of ``symbols`` was executed by ``today`` and not applied."""

    def work(connection: Connection[tuple[object, ...]]) -> bool:
        found = connection.execute(
            "select from splits s join corporate_action_checks c on c.kind = 'splits' and c.symbol = s.symbol"
            " where s.symbol = any(%s) and s.withdrawn_at is null and s.split_from <> s.split_to"
            " and s.execution_date > c.applied_through and s.execution_date <= %s limit 1",
            [list(symbols), today],
        )
        return found.fetchone() is not None

    return database.transaction(work)


def _apply_through(connection: Connection[tuple[object, ...]], symbols: Sequence[str], today: date) -> None:
    connection.execute(
        "update corporate_action_checks set applied_through = greatest(applied_through, %s)"
        " where kind = 'splits' and symbol = any(%s)",
        [today, list(symbols)],
    )


def _applied(
    connection: Connection[tuple[object, ...]], symbols: Sequence[str]
) -> set[tuple[str, date, Fraction]]:
    """The splits of ``symbols`` that have taken effect on features: symbol, day and ratio, which is not 1."""
    rows = connection.execute(
        "select s.symbol, s.execution_date, s.split_from, s.split_to from splits s"
        " join corporate_action_checks c on c.kind = 'splits' and c.symbol = s.symbol"
        " where s.symbol = any(%s) and s.withdrawn_at is null and s.execution_date <= c.applied_through",
        [list(symbols)],
    ).fetchall()
    found = cast("list[tuple[str, date, Decimal, Decimal]]", rows)
    return {
        (symbol, day, Fraction(before) / Fraction(after))
        for symbol, day, before, after in found
        if before != after
    }


def _mark_features_stale(connection: Connection[tuple[object, ...]], symbols: Collection[str]) -> None:
    """A split moves the prices of all that lies before it, and means remember for ever: all is out of date."""
    rows = connection.execute(
        "select c.symbol, c.timeframe, (select o.time from ohlcv o where o.symbol = c.symbol"
        " and o.timeframe = c.timeframe order by o.time limit 1) from bar_counts c where c.symbol = any(%s)",
        [sorted(symbols)],
    ).fetchall()
    since = {
        Series(str(symbol), Timeframe(str(timeframe))): first
        for symbol, timeframe, first in rows
        if isinstance(first, datetime)
    }
    lock_series(connection, since)
    mark_stale(connection, since, "a split took effect, or was corrected or withdrawn")


def _column(values: pl.Series) -> list[object]:
    """The values of a column as psycopg sends them; what Postgres keeps exactly goes there by its digits."""
    if values.name in _EXACT:
        return [None if value is None else Decimal(str(value)) for value in values]
    return values.to_list()


def _numbered(connection: Connection[tuple[object, ...]], symbols: Sequence[str]) -> pl.DataFrame:
    """The dividends of ``symbols`` that are stored, as ``number_dividends`` takes them."""
    schema = {
        name: SCHEMAS[ActionKind.DIVIDENDS][name] for name in (*FACTS[ActionKind.DIVIDENDS], "vendor_id")
    }
    columns = sql.SQL(", ").join(
        sql.SQL("cash_amount::double precision" if name in _EXACT else "{name}").format(
            name=sql.Identifier(name)
        )
        for name in (*schema, NUMBER)
    )
    query = sql.SQL("select {} from dividends where symbol = any(%s)").format(columns)
    found = connection.execute(query, [list(symbols)]).fetchall()
    return pl.DataFrame(found, schema={**schema, NUMBER: pl.Int16()}, orient="row")


def _stored_columns(kind: ActionKind) -> list[str]:
    """The columns that storing a list of ``kind`` writes."""
    return list(dict.fromkeys([*SCHEMAS[kind].names(), *KEYS[kind]]))


def _type(kind: ActionKind, name: str) -> sql.SQL:
    if name == NUMBER:
        return sql.SQL("smallint")
    return sql.SQL("numeric" if name in _EXACT else _POSTGRES_TYPES[SCHEMAS[kind][name]])


def _arrays(kind: ActionKind, names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("%s::{}[]").format(_type(kind, name)) for name in names)


def _pairs(separator: str, template: str, names: Sequence[str]) -> sql.Composed:
    return sql.SQL(separator).join(sql.SQL(template).format(name=sql.Identifier(name)) for name in names)


def _merge_statement(kind: ActionKind) -> sql.Composed:
    names = _stored_columns(kind)
    values = [name for name in names if name not in KEYS[kind]]
    own = [name for name in values if name in _ONE_ENDPOINTS_OWN]
    said = sql.SQL(", ").join(
        sql.SQL("coalesce(s.{name}, t.{name})" if name in own else "s.{name}").format(
            name=sql.Identifier(name)
        )
        for name in values
    )
    return sql.SQL(
        "merge into {table} t using (select * from unnest({arrays}) as s({names})) s on {same}"
        " when matched and ({old}, t.withdrawn_at) is distinct from ({said}, null)"
        " then update set ({columns}) = row({said}), withdrawn_at = null, updated_at = now()"
        " when not matched by target then insert ({names}) values ({new})"
        " when not matched by source and t.symbol = any(%s) and t.{date} >= %s::date and t.withdrawn_at is null"
        " then update set withdrawn_at = now()"
        " returning merge_action(), new.withdrawn_at is not null"
    ).format(
        table=sql.Identifier(kind.value),
        arrays=_arrays(kind, names),
        names=_pairs(", ", "{name}", names),
        same=_pairs(" and ", "t.{name} = s.{name}", KEYS[kind]),
        old=_pairs(", ", "t.{name}", values),
        said=said,
        columns=_pairs(", ", "{name}", values),
        new=_pairs(", ", "s.{name}", names),
        date=sql.Identifier(DATES[kind]),
    )


def read_splits(database: Database, symbols: Sequence[str]) -> pl.DataFrame:
    """The splits of ``symbols`` that the vendor lists, future ones included, as ``SPLIT_SCHEMA``, sorted."""
    return _read(database, ActionKind.SPLITS, SPLIT_SCHEMA, symbols)


def read_actions(database: Database, kind: ActionKind, symbols: Sequence[str]) -> pl.DataFrame:
    """What the vendor lists of ``symbols``, in the schema of ``kind``, sorted by key; withdrawn rows left out."""
    return _read(database, kind, SCHEMAS[kind], symbols)


def _read(database: Database, kind: ActionKind, schema: pl.Schema, symbols: Sequence[str]) -> pl.DataFrame:
    columns = sql.SQL(", ").join(
        # A numeric would arrive as text.
        sql.SQL("{name}::double precision as {name}" if name in _EXACT else "{name}").format(
            name=sql.Identifier(name)
        )
        for name in schema
    )
    query = sql.SQL(
        "select {} from {} where withdrawn_at is null"
        " and symbol in (select jsonb_array_elements_text($1::jsonb)) order by {}"
    ).format(columns, sql.Identifier(kind.value), _pairs(", ", "{name}", KEYS[kind]))
    rows = database.read_frame(query.as_string(None), [json.dumps(list(symbols))])
    return rows.cast(schema).select(schema.names()) if rows.width else schema.to_frame()


def unchecked(database: Database, kind: ActionKind, symbols: Iterable[str]) -> list[str]:
    """Those of ``symbols``, in their order, of which the vendor's whole list of ``kind`` was never stored."""
    wanted = list(symbols)

    def work(connection: Connection[tuple[object, ...]]) -> set[object]:
        rows = connection.execute(
            "select symbol from corporate_action_checks where kind = %s and symbol = any(%s)",
            [kind.value, wanted],
        ).fetchall()
        return {row[0] for row in rows}

    if not wanted:
        return []
    checked = database.transaction(work)
    return [one for one in wanted if one not in checked]


def count_actions(database: Database, kind: ActionKind) -> int:
    """How many rows of ``kind`` the vendor lists, of every symbol that was ever tracked."""
    query = f"select count(*) as n from {kind.value} where withdrawn_at is null"  # noqa: S608 - a table of this project
    return int(database.read_frame(query).item())
