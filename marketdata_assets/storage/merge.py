"""Bulk writes of a frame into a keyed table, idempotent, in a transaction of the caller.

Rows that are already stored with the same values are not touched. Changed rows leave their old values in the table's
revisions, and a null does not replace a stored number. Nothing is ever deleted. Every writer first takes the advisory
locks of its series, in sorted order, so that no two transactions deadlock or insert the same key.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import pgpq
import polars as pl
import pyarrow as pa
from psycopg import sql

from marketdata_assets.domain.bars import KEY
from marketdata_assets.domain.series import Series
from marketdata_assets.storage.locks import RETENTION, lock_all, lock_shared
from marketdata_assets.storage.rows import by_series, fetch, moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from psycopg import Cursor
    from psycopg.rows import TupleRow

    from marketdata_assets.storage.rows import Session
    from marketdata_assets.storage.tables import Table

COPY_ROWS: Final = 65_536
"""The number of rows that are encoded at once, which bounds the memory of a copy."""


_OCCUPIED: Final = sql.SQL("""
select symbol, timeframe
from unnest(%s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[]) as w(symbol, timeframe, lo, hi)
where exists (
  select from {} t
  where t.symbol = w.symbol and t.timeframe = w.timeframe and t.time between w.lo and w.hi
)
""")
# The constants let the planner prune partitions and bound the scan of a large table.
_MERGE: Final = sql.SQL("""
merge into {table} t
using pg_temp.stage s
  on t.symbol = s.symbol and t.timeframe = s.timeframe and t.time = s.time
  and t.symbol = any(%(symbols)s) and t.timeframe = any(%(timeframes)s)
  and t.time between %(first)s and %(last)s
when matched and ({old}) is distinct from ({new}){guard}
  then update set {update}, stored_at = %(stored_at)s::timestamptz
when not matched
  then insert ({columns}, stored_at) values ({row}, %(stored_at)s::timestamptz)
returning merge_action() as action, s.symbol as merged_symbol, s.timeframe as merged_timeframe,
  s.time as merged_time, {kept}
""")
_REVISE: Final = sql.SQL(""",
revised as (
  insert into {revisions} ({kept}, replaced_at)
  select {kept}, %(stored_at)s::timestamptz
  from merged
  where action = 'UPDATE'
)""")
_COUNT_MERGED: Final = sql.SQL("""
with merged as ({merged}){revised}
select merged_symbol, merged_timeframe,
  count(*) filter (where action = 'INSERT'),
  count(*) filter (where action = 'UPDATE'),
  min(merged_time)
from merged
group by 1, 2
""")


_KEPT: Final = sql.SQL("""
select s.symbol, s.timeframe, s.time
from pg_temp.stage s
join {table} t
  on t.symbol = s.symbol and t.timeframe = s.timeframe and t.time = s.time
  and t.symbol = any(%(symbols)s) and t.timeframe = any(%(timeframes)s)
  and t.time between %(first)s and %(last)s
where ({old}) is distinct from ({new})
""")


@dataclass(frozen=True, slots=True)
class MergeCounts:
    """The effect of a merge, in rows."""

    inserted: int = 0
    changed: int = 0
    unchanged: int = 0
    inserted_by_series: Mapping[Series, int] = field(default_factory=Counter, compare=False)
    touched_from: Mapping[Series, datetime] = field(default_factory=dict, compare=False)
    """The time of each series' first row that was inserted or changed."""
    kept: pl.DataFrame | None = field(default=None, compare=False)
    """The rows of the frame that differ from a stored row that the merge had to keep; None without any."""

    def __add__(self, other: MergeCounts) -> MergeCounts:
        both = (self.touched_from, other.touched_from)
        return MergeCounts(
            self.inserted + other.inserted,
            self.changed + other.changed,
            self.unchanged + other.unchanged,
            Counter(self.inserted_by_series) + Counter(other.inserted_by_series),
            {
                series: min(times[series] for times in both if series in times)
                for series in {*both[0], *both[1]}
            },
            pl.concat(kept)
            if (kept := [counts.kept for counts in (self, other) if counts.kept is not None])
            else None,
        )


class _Key(NamedTuple):
    symbol: str
    timeframe: str


class _BarKey(NamedTuple):
    symbol: str
    timeframe: str
    time: datetime


class _Merged(NamedTuple):
    """The effect of a merge on the rows of a series."""

    inserted: int
    changed: int
    first: datetime
    """The time of the first row that was inserted or changed."""


def lock_series(session: Session, series: Iterable[Series]) -> None:
    """Take the advisory locks of ``series`` until the transaction ends, in the order of their keys.

    Until then retention removes nothing.
    """
    lock_shared(session, RETENTION)
    lock_all(session, (item.key for item in series))


def read_clock(session: Session) -> datetime:
    """Return the present by the database's clock, which advances within a transaction."""
    (now,) = fetch(session, "select clock_timestamp()", row=moment)
    return now


def merge(
    session: Session,
    table: Table,
    frame: pl.DataFrame,
    *,
    stored_at: datetime | None = None,
    keep: sql.SQL | None = None,
) -> MergeCounts:
    """Merge ``frame`` into ``table`` within the open transaction.

    ``stored_at`` is the time to store with every row. None stands for the present after the locks are taken, as the
    transaction may have waited for them since it began. Stored rows ``t`` that fulfil the condition ``keep`` stay as
    they are.

    Raises:
        FrameError: The frame does not fit the table; nothing was sent.
    """
    rows = table.conform(frame)
    if rows.is_empty():
        return MergeCounts()
    spans = rows.group_by("symbol", "timeframe").agg(
        first=pl.col("time").min(), last=pl.col("time").max(), rows=pl.len()
    )
    lock_series(
        session,
        (
            Series.of(symbol, timeframe)
            for symbol, timeframe in spans.select("symbol", "timeframe").iter_rows()
        ),
    )
    at = stored_at or read_clock(session)
    occupied = _read_occupied(session, table, spans)
    if occupied.is_empty():
        _copy_stamped(session, table, rows, at)
        return _count_copied(rows)
    fresh = rows.join(occupied, on=["symbol", "timeframe"], how="anti")
    if fresh.height:
        _copy_stamped(session, table, fresh, at)
        rows = rows.join(occupied, on=["symbol", "timeframe"], how="semi")
    return _count_copied(fresh) + _merge_staged(session, table, rows, at, keep)


def _copy_stamped(session: Session, table: Table, rows: pl.DataFrame, stored_at: datetime) -> None:
    stamped = rows.with_columns(stored_at=pl.lit(stored_at, pl.Datetime("us", "UTC")))
    copy_rows(session.cursor(), sql.Identifier(table.name), [*table.columns, "stored_at"], stamped)


def _count_copied(rows: pl.DataFrame) -> MergeCounts:
    found = rows.group_by("symbol", "timeframe").agg(pl.len(), pl.col("time").min())
    by_series = {
        Series.of(symbol, timeframe): (count, first) for symbol, timeframe, count, first in found.iter_rows()
    }
    return MergeCounts(
        inserted=rows.height,
        inserted_by_series={series: count for series, (count, _) in by_series.items()},
        touched_from={series: first for series, (_, first) in by_series.items()},
    )


def _read_occupied(session: Session, table: Table, spans: pl.DataFrame) -> pl.DataFrame:
    """Read which series of ``spans`` have stored rows between the first and the last row of the frame.

    A series without such rows can be copied straight into the table: the locks keep other writers out of it.
    """
    query = _OCCUPIED.format(sql.Identifier(table.name))
    columns = [spans[name].to_list() for name in ("symbol", "timeframe", "first", "last")]
    found = fetch(session, query, columns, row=_Key)
    return pl.DataFrame(found, schema={"symbol": pl.String, "timeframe": pl.String}, orient="row")


def _merge_staged(
    session: Session, table: Table, rows: pl.DataFrame, stored_at: datetime, keep: sql.SQL | None
) -> MergeCounts:
    # Always with its schema, as the user may have a table of this name.
    stage = sql.Identifier("pg_temp", "stage")
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in table.column_types()
    )
    # A nested loop over a stale estimate is quadratic; hash and merge joins are not, and their sorts fit in
    # memory. So the stage needs no statistics: collecting them would cost nearly as much as the merge.
    session.execute("set local enable_nestloop = off; set local work_mem = '256MB'")
    session.execute(sql.SQL("drop table if exists {}").format(stage))
    session.execute(sql.SQL("create temporary table {} ({}) on commit drop").format(stage, columns))
    copy_rows(session.cursor(), stage, table.columns, rows)
    values = {
        "symbols": rows["symbol"].unique().to_list(),
        "timeframes": rows["timeframe"].unique().to_list(),
        "first": rows["time"].min(),
        "last": rows["time"].max(),
        "stored_at": stored_at,
    }
    merged = fetch(
        session,
        _merge_statement(table, keep),
        values,
        row=by_series(_Merged),
        # A prepared statement could get a plan for any window, which prunes no partitions.
        prepare=False,
    )
    kept = None
    if keep is not None:
        # Rows that still differ after the merge are stored rows that it had to keep.
        differing = fetch(session, _kept_statement(table), values, row=_BarKey, prepare=False)
        if differing:
            keys = pl.DataFrame(differing, schema=rows.select(KEY).schema, orient="row")
            kept = rows.join(keys, on=KEY, how="semi")
    session.execute("set local enable_nestloop = on")
    inserted = sum(counts.inserted for _, counts in merged)
    changed = sum(counts.changed for _, counts in merged)
    return MergeCounts(
        inserted,
        changed,
        rows.height - inserted - changed,
        {series: counts.inserted for series, counts in merged},
        {series: counts.first for series, counts in merged},
        kept,
    )


def _join_names(template: str, names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL(template).format(name=sql.Identifier(name)) for name in names)


def _kept_statement(table: Table) -> sql.Composed:
    """Return the statement that selects the keys of staged rows which differ from stored rows."""
    return _KEPT.format(
        table=sql.Identifier(table.name),
        old=_join_names("t.{name}", table.values),
        new=_join_names("coalesce(s.{name}, t.{name})", table.values),
    )


def _merge_statement(table: Table, keep: sql.SQL | None = None) -> sql.Composed:
    kept = [*table.columns, "stored_at"]
    # A value that is missing in an answer has not changed: a null does not replace a stored number.
    given = _join_names("coalesce(s.{name}, t.{name})", table.values)
    guards: list[sql.Composable] = []
    if table.weight:
        guards.append(sql.SQL(" and s.{name} >= t.{name}").format(name=sql.Identifier(table.weight)))
    if keep is not None:
        guards.append(sql.SQL(" and not {}").format(keep))
    merged = _MERGE.format(
        table=sql.Identifier(table.name),
        old=_join_names("t.{name}", table.values),
        new=given,
        guard=sql.Composed(guards),
        update=sql.SQL("({}) = row({})").format(_join_names("{name}", table.values), given),
        columns=_join_names("{name}", table.columns),
        row=_join_names("s.{name}", table.columns),
        kept=_join_names("old.{name}", kept),
    )
    revised = sql.Composed([])
    if table.revisions is not None:
        revised = _REVISE.format(revisions=sql.Identifier(table.revisions), kept=_join_names("{name}", kept))
    return _COUNT_MERGED.format(merged=merged, revised=revised)


def copy_rows(
    cursor: Cursor[TupleRow], table: sql.Identifier, columns: list[str], rows: pl.DataFrame
) -> None:
    """Copy ``rows``, which have exactly the types of ``columns``, into ``table`` by binary COPY."""
    statement = sql.SQL("copy {} ({}) from stdin with (format binary)").format(
        table, sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    arrow_schema = _arrow_schema(rows)
    encoder = pgpq.ArrowToPostgresBinaryEncoder(arrow_schema)
    with cursor.copy(statement) as copy:
        copy.write(encoder.write_header())
        for start in range(0, rows.height, COPY_ROWS):
            for batch in rows.slice(start, COPY_ROWS).to_arrow().cast(arrow_schema).to_batches():
                copy.write(encoder.write_batch(batch))
        copy.write(encoder.finish())


def _arrow_schema(rows: pl.DataFrame) -> pa.Schema:
    # pgpq encodes Arrow's plain string type, not the large one that Polars exports.
    return pa.schema(
        [
            pa.field(field.name, pa.string() if pa.types.is_large_string(field.type) else field.type)
            for field in rows.head(0).to_arrow().schema
        ]
    )
