"""Removing bars in small transactions, with all that follows from it, after a plan of :mod:`domain.retention`.

Each transaction leaves the store as if the bars it removed had never been fetched: their features and gaps are removed
with them, coverage and ``bar_counts`` describe what is left, and ``pruned`` records what was removed. If the process is
killed between two transactions, the next call removes the rest. The records of the past stay: ``completeness_daily``,
``ohlcv_revision``, ``ohlcv_quarantine`` and ``fetch_log``.

A month of minutes that is over for every market is truncated: its space returns to the disk at once, and readers of other
months do not wait. Dropping it would lock the parent, and so every reader of minutes, and would remove the partition
that a running backfill has just made sure of.
"""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from psycopg import sql

from marketdata_assets.domain.calendar import next_month
from marketdata_assets.storage.locks import RETENTION, lock
from marketdata_assets.storage.months import BARS_1M, FEATURES_1M
from marketdata_assets.storage.rows import fetch, fetch_one, moment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from marketdata_assets.domain.retention import Pruned, PruningPlan
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

T = TypeVar("T")

BATCH_ROWS: Final = 50_000
"""Bars that one transaction deletes, about."""

_TABLES: Final = ("ohlcv", "features")

_SET_LOCK_TIMEOUT: Final = "select set_config('lock_timeout', %s, true)"

_LOWER_COUNTS: Final = """
update bar_counts c
set bars = c.bars - w.bars
from unnest(%(symbols)s::text[], %(bars)s::bigint[]) as w(symbol, bars)
where c.symbol = w.symbol and c.timeframe = %(timeframe)s and w.bars > 0
"""
_ADD_PRUNED: Final = """
insert into pruned as p (symbol, timeframe, pruned)
select w.symbol, %(timeframe)s, tstzmultirange(tstzrange(least(w.first, lower(c.covered)), w.until))
from unnest(%(symbols)s::text[], %(firsts)s::timestamptz[], %(untils)s::timestamptz[]) as w(symbol, first, until)
left join coverage c on c.symbol = w.symbol and c.timeframe = %(timeframe)s
where least(w.first, lower(c.covered)) < w.until
on conflict (symbol, timeframe) do update set pruned = p.pruned + excluded.pruned, updated_at = now()
"""
_CUT_COVERAGE: Final = """
update coverage c
set covered = c.covered - tstzmultirange(tstzrange(null, w.until)), updated_at = now()
from unnest(%(symbols)s::text[], %(untils)s::timestamptz[]) as w(symbol, until)
where c.symbol = w.symbol and c.timeframe = %(timeframe)s and lower(c.covered) < w.until
"""
_DELETE_GAPS: Final = """
delete from gap_report g
using unnest(%(symbols)s::text[], %(untils)s::timestamptz[]) as w(symbol, until)
where g.symbol = w.symbol and g.timeframe = %(timeframe)s and g.gap_end <= w.until
"""
# The new version makes a computation that has read the removed bars stale.
_MOVE_MARKS: Final = """
update features_stale s
set since = w.until, version = nextval('features_stale_version'), changed_at = now()
from unnest(%(symbols)s::text[], %(untils)s::timestamptz[]) as w(symbol, until)
where s.symbol = w.symbol and s.timeframe = %(timeframe)s and s.since < w.until
"""
_FORGET: Final = (_LOWER_COUNTS, _ADD_PRUNED, _CUT_COVERAGE, _DELETE_GAPS, _MOVE_MARKS)
"""What follows from the bars of ``symbols`` being gone up to ``untils``, in the order in which it must."""

_GAPS_OVER_EDGE: Final = """
select g.symbol, g.gap_start, g.gap_end, w.until
from gap_report g
join unnest(%(symbols)s::text[], %(untils)s::timestamptz[]) as w(symbol, until) on w.symbol = g.symbol
where g.timeframe = %(timeframe)s and g.gap_start < w.until and g.gap_end > w.until
"""
_DELETE_GAP: Final = """
delete from gap_report
where symbol = %s and timeframe = %s and gap_start = %s
"""
_SHORTEN_GAP: Final = """
update gap_report
set gap_start = %s, day = %s, missing_bars = %s
where symbol = %s and timeframe = %s and gap_start = %s
"""
_SIZE_AND_ROWS: Final = sql.SQL(
    "select pg_total_relation_size({name}::regclass), (select count(*) from {table})"
)
_SIZE: Final = "select pg_total_relation_size(%s::regclass)"
_HOLDS_ROWS: Final = sql.SQL("select exists (select from {})")
_COUNT_OLD: Final = sql.SQL("""
select count(*)
from {}
where symbol = %s and timeframe = %s and time < %s and (%s::timestamptz is null or time >= %s)
""")
_DELETE_OLD: Final = sql.SQL("""
delete from {}
where symbol = %s and timeframe = %s and time < %s and time >= coalesce(%s::timestamptz, '-infinity')
""")
_OLD_TIME: Final = """
select time
from ohlcv
where symbol = %s and timeframe = %s and time < %s
order by time
offset %s
limit 1
"""
_HAS_OLD: Final = """
select exists (
  select from ohlcv where symbol = %s and timeframe = %s and time < %s
)
"""
# Bars before their features, as readers lock them.
_MONTHS: Final = """
select c.relname::text
from pg_inherits i
join pg_class c on c.oid = i.inhrelid
where i.inhparent in (to_regclass('public.ohlcv_1m'), to_regclass('public.features_1m'))
order by c.relname desc
"""
_SYMBOLS: Final = """
select symbol
from bar_counts
where timeframe = %s
order by 1
"""
_COUNT_BY_SYMBOL: Final = sql.SQL("""
select symbol, count(*), min(time)
from {}
group by 1
""")
_TRUNCATE: Final = sql.SQL("truncate {}")
_KNOWN_SYMBOLS: Final = """
select symbol from coverage where timeframe = %(timeframe)s
union
select symbol from gap_report where timeframe = %(timeframe)s
union
select symbol from features_stale where timeframe = %(timeframe)s
union
select symbol from bar_counts where timeframe = %(timeframe)s
"""
_COUNT_STORED: Final = """
select coalesce(sum(bars), 0)::bigint
from bar_counts
where timeframe = %s
"""
_SIZE_OF_PARTITIONS: Final = """
select coalesce(sum(pg_total_relation_size(relid)), 0)::bigint
from pg_partition_tree(%s::regclass)
"""


class _SizeAndRows(NamedTuple):
    size: int
    rows: int


class _Stored(NamedTuple):
    """What a table holds of a symbol."""

    symbol: str
    rows: int
    first: datetime


class _GapOverEdge(NamedTuple):
    """A gap that reaches over the edge up to which its series is pruned."""

    symbol: str
    start: datetime
    end: datetime
    until: datetime


class _Edge(NamedTuple):
    """Up to where a symbol was pruned."""

    until: datetime
    """A local midnight."""
    bars: int = 0
    first: datetime | None = None
    """The open of the first bar that went."""


def execute_alone(database: Database, step: Callable[[Session], T], *, lock_timeout: timedelta) -> T:
    """Execute ``step`` in a transaction of its own while no other writer is active.

    Raises:
        LockedError: Another session held a lock for longer than ``lock_timeout``; nothing was changed.
    """

    def work(session: Session) -> T:
        fetch(session, _SET_LOCK_TIMEOUT, [f"{lock_timeout // timedelta(milliseconds=1)}ms"], row=str)
        # Alone: no writer is active, and none begins, until this transaction ends.
        lock(session, RETENTION)
        return step(session)

    return database.transaction(work)


def read_symbols(plan: PruningPlan, session: Session) -> list[str]:
    """Read the symbols of which bars of the plan's timeframe are or were stored."""
    return fetch(session, _SYMBOLS, [plan.timeframe.value], row=str)


def read_finished_months(plan: PruningPlan, session: Session) -> dict[datetime, list[str]]:
    """Read the tables of the months that go as a whole and hold a row, in order."""
    months: dict[datetime, list[str]] = defaultdict(list)
    for name in fetch(session, _MONTHS, row=str):
        found = re.fullmatch(rf"(?:{BARS_1M}|{FEATURES_1M})_(\d{{4}})_(\d{{2}})", name)
        if found is not None:
            months[datetime(int(found[1]), int(found[2]), 1, tzinfo=UTC)].append(name)
    return {
        month: months[month] for month in plan.finished_months(months) if _hold_rows(session, months[month])
    }


def estimate_pruned(plan: PruningPlan, session: Session) -> Pruned:
    """Count what the steps of ``plan`` would remove."""
    found = plan.removed()
    months = read_finished_months(plan, session)
    for tables in months.values():
        for table in tables:
            query = _SIZE_AND_ROWS.format(name=sql.Literal(table), table=sql.Identifier(table))
            ((size, rows),) = fetch(session, query, row=_SizeAndRows)
            is_bars = table.startswith(BARS_1M)
            found += plan.removed(
                bars=rows if is_bars else 0, features=0 if is_bars else rows, bytes_returned=size
            )
    since = next_month(max(months)) if months else None
    for symbol in read_symbols(plan, session):
        values = [symbol, plan.timeframe.value, plan.cut(symbol), since, since]
        (bars,), (features,) = (
            fetch(session, _COUNT_OLD.format(sql.Identifier(table)), values, row=int) for table in _TABLES
        )
        found += _with_space(plan, session, bars, features)
    return found


def empty_month(plan: PruningPlan, month: datetime, tables: list[str], session: Session) -> Pruned | None:
    """Truncate the ``tables`` of ``month``, and delete the rest of its last local day; None when they are empty."""
    if not _hold_rows(session, tables):
        return None
    bars: list[_Stored] = []
    features = size = 0
    for table in tables:
        (table_size,) = fetch(session, _SIZE, [table], row=int)
        size += table_size
        rows = fetch(session, _COUNT_BY_SYMBOL.format(sql.Identifier(table)), row=_Stored)
        if table.startswith(BARS_1M):
            bars = rows
        else:
            features += sum(row.rows for row in rows)
    edges, tail = {}, plan.removed()
    for symbol, count, first in bars:
        until = plan.end_of_month(symbol, month)
        rest, rest_features = (
            _delete(plan, session, table, symbol, (next_month(month), until)) for table in _TABLES
        )
        tail += _with_space(plan, session, rest, rest_features)
        edges[symbol] = _Edge(until, count + rest, first)
    _forget(plan, session, edges)
    # Last: from here on until the end of the transaction readers of this month wait.
    session.execute(_TRUNCATE.format(sql.SQL(", ").join(map(sql.Identifier, tables))))
    return plan.removed(sum(row.rows for row in bars), features, bytes_returned=size) + tail


def delete_batch(plan: PruningPlan, symbol: str, session: Session) -> Pruned | None:
    """Delete the oldest days of ``symbol``, about :data:`BATCH_ROWS` bars; None when nothing is left to delete."""
    first = _read_old_time(plan, session, symbol)
    if first is None:
        return None
    until = plan.end_of_batch(symbol, first, _read_old_time(plan, session, symbol, BATCH_ROWS))
    bars, features = (_delete(plan, session, table, symbol, (None, until)) for table in _TABLES)
    _forget(plan, session, {symbol: _Edge(until, bars, first)})
    return _with_space(plan, session, bars, features)


def forget_pruned(plan: PruningPlan, session: Session) -> Pruned | None:
    """Forget what is left of series whose bars are gone already, or never were; None when no row was left."""
    symbols = fetch(session, _KNOWN_SYMBOLS, {"timeframe": plan.timeframe.value}, row=str)
    cuts = {symbol: plan.cut(symbol) for symbol in symbols}
    gone = {
        symbol: cut
        for symbol, cut in cuts.items()
        # Bars that were fetched again since are the next call's.
        if fetch(session, _HAS_OLD, [symbol, plan.timeframe.value, cut], row=bool, prepare=False) == [False]
    }
    _forget(plan, session, {symbol: _Edge(cut) for symbol, cut in gone.items()})
    orphans = sum(_delete(plan, session, "features", symbol, (None, cut)) for symbol, cut in gone.items())
    return _with_space(plan, session, 0, orphans) if orphans else None


def _read_old_time(plan: PruningPlan, session: Session, symbol: str, offset: int = 0) -> datetime | None:
    """Read the open of the first bar of ``symbol`` that goes, or of the one ``offset`` bars later."""
    values = [symbol, plan.timeframe.value, plan.cut(symbol), offset]
    return fetch_one(session, _OLD_TIME, values, row=moment, prepare=False)


def _delete(
    plan: PruningPlan, session: Session, table: str, symbol: str, span: tuple[datetime | None, datetime]
) -> int:
    since, until = span
    if since is not None and since >= until:
        return 0
    return session.execute(
        _DELETE_OLD.format(sql.Identifier(table)),
        [symbol, plan.timeframe.value, until, since],
        # With the values in sight the planner looks into no other partition, and locks none.
        prepare=False,
    ).rowcount


def _forget(plan: PruningPlan, session: Session, edges: Mapping[str, _Edge]) -> None:
    """Let everything follow from the bars of each symbol being gone up to its edge."""
    if not edges:
        return
    values = {
        "symbols": list(edges),
        "firsts": [plan.start_of_day(symbol, edge.first) for symbol, edge in edges.items()],
        "untils": [edge.until for edge in edges.values()],
        "bars": [edge.bars for edge in edges.values()],
        "timeframe": plan.timeframe.value,
    }
    for statement in _FORGET:
        session.execute(statement, values)
    for symbol, start, end, until in fetch(session, _GAPS_OVER_EDGE, values, row=_GapOverEdge):
        key = [symbol, plan.timeframe.value, start]
        left = plan.shorten_gap(symbol, until, end)
        if left is None:
            session.execute(_DELETE_GAP, key)
        else:
            session.execute(_SHORTEN_GAP, [*left, *key])


def _with_space(plan: PruningPlan, session: Session, bars: int, features: int) -> Pruned:
    """Report deleted rows with the space that they leave in the tables: that of a mean row each."""
    (bars_left,) = fetch(session, _COUNT_STORED, [plan.timeframe.value], row=int)
    stored = max(1, bars_left)
    space = 0
    for table, rows in zip(_TABLES, (bars, features), strict=True):
        if rows:
            (size,) = fetch(session, _SIZE_OF_PARTITIONS, [f"public.{table}_{plan.timeframe}"], row=int)
            space += rows * size // (stored + rows)
    return plan.removed(bars, features, bytes_reusable=space)


def _hold_rows(session: Session, tables: list[str]) -> bool:
    return any(
        fetch(session, _HOLDS_ROWS.format(sql.Identifier(table)), row=bool) == [True] for table in tables
    )
