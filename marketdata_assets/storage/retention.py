"""Removing bars that are older than their timeframe is kept: in small transactions, with all that follows from it.

Each transaction leaves the store as if the bars it removed had never been wanted: their features and gaps go with
them, coverage and ``bar_counts`` say what is left, and ``pruned`` says what was removed. Killed between two of them,
the rest is removed by the next call. What tells of the past stays: ``completeness_daily``, ``ohlcv_revision``,
``ohlcv_quarantine`` and ``fetch_log``.

A month of minutes that is over for every market is truncated: its space returns to the disk at once, and nobody who
does not read that month waits. Dropping it would lock the parent, and so every reader of minutes, and would take
the ground from under a backfill that has just made sure of it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import psycopg
import stamina
from psycopg import sql

from marketdata_assets.domain.calendar import moment_of
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.slots import expected_slots
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.locks import RETENTION, lock
from marketdata_assets.storage.months import BARS_1M, FEATURES_1M, months_between
from marketdata_assets.storage.pruned import calendars
from marketdata_assets.storage.rows import fetch, fetch_one, moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import date

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

T = TypeVar("T")

LOCK_TIMEOUT: Final = timedelta(seconds=2)
"""How long a transaction waits for a lock, and so the longest that others wait behind it; then it starts again."""
PATIENCE: Final = timedelta(minutes=10)
"""For how long it starts again."""
BATCH_ROWS: Final = 50_000
"""Bars that one transaction deletes, about."""

_TABLES: Final = ("ohlcv", "features")
_LONGEST_BAR: Final = timedelta(days=7)

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
# Another version: whoever computes from the bars that were there has been overtaken.
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


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed of a timeframe, or would be.

    Attributes:
        timeframe: Of the bars.
        before: The first local day whose bars stay.
        bars: How many bars.
        features: How many rows of features went with them.
        bytes_returned: Space that returned to the disk: that of whole months.
        bytes_reusable: About how much space inside the tables later bars will fill.
    """

    timeframe: Timeframe
    before: date
    bars: int = 0
    features: int = 0
    bytes_returned: int = 0
    bytes_reusable: int = 0

    def __add__(self, other: Pruned) -> Pruned:
        return replace(
            self,
            bars=self.bars + other.bars,
            features=self.features + other.features,
            bytes_returned=self.bytes_returned + other.bytes_returned,
            bytes_reusable=self.bytes_reusable + other.bytes_reusable,
        )


def prunable(database: Database, first_kept: Mapping[Timeframe, date]) -> list[Pruned]:
    """What :func:`prune` would remove now; removes nothing."""
    known = database.transaction(calendars)
    return [
        database.transaction(_Pruner(timeframe, before, known).estimate)
        for timeframe, before in first_kept.items()
    ]


def prune(
    database: Database,
    first_kept: Mapping[Timeframe, date],
    *,
    lock_timeout: timedelta = LOCK_TIMEOUT,
    patience: timedelta = PATIENCE,
    on_batch: Callable[[Pruned], None] = lambda _: None,
) -> list[Pruned]:
    """Remove the bars of each timeframe that open before its first kept local day, whatever their symbol.

    Bars of other timeframes stay, those that were rolled up from the removed ones as well. ``on_batch`` is told
    of each transaction that removed something, once it is committed.

    Raises:
        MarketDataError: Others held a lock for all of ``patience``. What was removed before stays removed.
    """
    done = []
    known = database.transaction(calendars)
    for timeframe, before in first_kept.items():
        pruner = _Pruner(timeframe, before, known)
        total = Pruned(timeframe, before)
        for step in pruner.steps(database):
            while (removed := _patiently(database, step, lock_timeout, patience, pruner)) is not None:
                total += removed
                on_batch(removed)
        done.append(total)
    return done


def _patiently(
    database: Database,
    step: Callable[[Session], T],
    lock_timeout: timedelta,
    patience: timedelta,
    pruner: _Pruner,
) -> T:
    def work(connection: Session) -> T:
        connection.execute(
            f"set local lock_timeout = {round(lock_timeout.total_seconds() * 1000):d}".encode()
        )
        # Alone: no writer is under way, and none begins, until this transaction ends.
        lock(connection, RETENTION)
        return step(connection)

    busy = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
    try:
        return stamina.retry(on=busy, attempts=None, timeout=patience, wait_initial=0.2, wait_max=5.0)(
            database.transaction
        )(work)
    except busy:
        message = (
            f"{pruner.timeframe} bars before {pruner.before} could not all be pruned: others hold locks on them;"
            " what was pruned stays so, run `marketdata prune` again for the rest"
        )
        raise MarketDataError(message) from None


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


@dataclass(frozen=True, slots=True)
class _Pruner:
    """Prunes one timeframe."""

    timeframe: Timeframe
    before: date
    calendars: Mapping[str, TradingCalendar]
    """By symbol; it knows one for any."""

    def steps(self, database: Database) -> Iterator[Callable[[Session], Pruned | None]]:
        """What to do until it returns None, one after the other."""
        if self.timeframe is Timeframe.M1:
            for month, tables in database.transaction(self._months).items():
                yield partial(self._empty_month, month, tables)
        for symbol in database.transaction(self._symbols):
            yield partial(self._delete_some, symbol)
        yield self._tidy

    def estimate(self, connection: Session) -> Pruned:
        """What there is to remove."""
        found = Pruned(self.timeframe, self.before)
        months = self._months(connection) if self.timeframe is Timeframe.M1 else {}
        for tables in months.values():
            for table in tables:
                query = _SIZE_AND_ROWS.format(name=sql.Literal(table), table=sql.Identifier(table))
                ((size, rows),) = fetch(connection, query, row=_SizeAndRows)
                is_bars = table.startswith(BARS_1M)
                found += replace(
                    Pruned(self.timeframe, self.before),
                    bars=rows if is_bars else 0,
                    features=0 if is_bars else rows,
                    bytes_returned=size,
                )
        since = _after(max(months)) if months else None
        for symbol in self._symbols(connection):
            values = [symbol, self.timeframe.value, self._cut(symbol), since, since]
            (bars,), (features,) = (
                fetch(connection, _COUNT_OLD.format(sql.Identifier(table)), values, row=int)
                for table in _TABLES
            )
            found += self._counted(connection, bars, features)
        return found

    def _cut(self, symbol: str) -> datetime:
        """The local midnight from which on bars of ``symbol`` stay."""
        return self.calendars[symbol].day_start(self.before)

    def _months(self, connection: Session) -> dict[datetime, list[str]]:
        """The tables of the months of minutes, in UTC, that are over for every market and hold a row, in order."""
        # Local midnight comes first in UTC: no other market's first kept day begins before it does there.
        end = datetime.combine(self.before, time(), UTC)
        months: dict[datetime, list[str]] = defaultdict(list)
        for name in fetch(connection, _MONTHS, row=str):
            found = re.fullmatch(rf"(?:{BARS_1M}|{FEATURES_1M})_(\d{{4}})_(\d{{2}})", name)
            if found is not None:
                months[datetime(int(found[1]), int(found[2]), 1, tzinfo=UTC)].append(name)
        return {
            month: months[month]
            for month in sorted(months)
            if _after(month) <= end and _hold_rows(connection, months[month])
        }

    def _symbols(self, connection: Session) -> list[str]:
        return fetch(connection, _SYMBOLS, [self.timeframe.value], row=str)

    def _empty_month(self, month: datetime, tables: list[str], connection: Session) -> Pruned | None:
        if not _hold_rows(connection, tables):
            return None
        held: list[_Stored] = []
        features = size = 0
        for table in tables:
            (table_size,) = fetch(connection, _SIZE, [table], row=int)
            size += table_size
            rows = fetch(connection, _COUNT_BY_SYMBOL.format(sql.Identifier(table)), row=_Stored)
            if table.startswith(BARS_1M):
                held = rows
            else:
                features += sum(row.rows for row in rows)
        after = _after(month)
        edges, tail = {}, Pruned(self.timeframe, self.before)
        for symbol, count, first in held:
            # The month ends in UTC, the day at local midnight: what is left of it goes, too.
            until = self.calendars[symbol].day_start(after.date())
            rest, rest_features = (self._delete(connection, table, symbol, after, until) for table in _TABLES)
            tail += self._counted(connection, rest, rest_features)
            edges[symbol] = _Edge(until, count + rest, first)
        self._forget(connection, edges)
        # Last: from here on until the end of the transaction readers of this month wait.
        connection.execute(_TRUNCATE.format(sql.SQL(", ").join(map(sql.Identifier, tables))))
        whole = Pruned(self.timeframe, self.before, sum(row.rows for row in held), features, size)
        return whole + tail

    def _delete_some(self, symbol: str, connection: Session) -> Pruned | None:
        cut, calendar = self._cut(symbol), self.calendars[symbol]
        first = self._old_time(connection, symbol, cut)
        if first is None:
            return None
        latest = self._old_time(connection, symbol, cut, BATCH_ROWS)
        until = cut
        if latest is not None:
            # Whole days only, and at least one.
            day = max(calendar.local_day(latest), calendar.local_day(first) + timedelta(days=1))
            until = min(cut, calendar.day_start(day))
        bars, features = (self._delete(connection, table, symbol, None, until) for table in _TABLES)
        self._forget(connection, {symbol: _Edge(until, bars, first)})
        return self._counted(connection, bars, features)

    def _old_time(self, connection: Session, symbol: str, cut: datetime, offset: int = 0) -> datetime | None:
        """The open of the first bar of ``symbol`` before ``cut``, or of the one ``offset`` bars later."""
        values = [symbol, self.timeframe.value, cut, offset]
        return fetch_one(connection, _OLD_TIME, values, row=moment, prepare=False)

    def _delete(
        self, connection: Session, table: str, symbol: str, since: datetime | None, until: datetime
    ) -> int:
        if since is not None and since >= until:
            return 0
        return connection.execute(
            _DELETE_OLD.format(sql.Identifier(table)),
            [symbol, self.timeframe.value, until, since],
            # With the values in sight the planner looks into no other partition, and locks none.
            prepare=False,
        ).rowcount

    def _tidy(self, connection: Session) -> Pruned | None:
        """Forget what is left of series whose bars are gone already, or never were."""
        symbols = fetch(connection, _KNOWN_SYMBOLS, {"timeframe": self.timeframe.value}, row=str)
        cuts = {symbol: self._cut(symbol) for symbol in symbols}
        gone = {
            symbol: cut
            for symbol, cut in cuts.items()
            # Bars that somebody has brought back since are the next call's.
            if fetch(connection, _HAS_OLD, [symbol, self.timeframe.value, cut], row=bool, prepare=False)
            == [False]
        }
        self._forget(connection, {symbol: _Edge(cut) for symbol, cut in gone.items()})
        orphans = sum(self._delete(connection, "features", symbol, None, cut) for symbol, cut in gone.items())
        return self._counted(connection, 0, orphans) if orphans else None

    def _forget(self, connection: Session, edges: Mapping[str, _Edge]) -> None:
        """Let everything follow from the bars of each symbol being gone up to its edge."""
        if not edges:
            return
        firsts = [
            None
            if edge.first is None
            else (calendar := self.calendars[symbol]).day_start(calendar.local_day(edge.first))
            for symbol, edge in edges.items()
        ]
        values = {
            "symbols": list(edges),
            "firsts": firsts,
            "untils": [edge.until for edge in edges.values()],
            "bars": [edge.bars for edge in edges.values()],
            "timeframe": self.timeframe.value,
        }
        for statement in _FORGET:
            connection.execute(statement, values)
        self._cut_gaps(connection, values)

    def _cut_gaps(self, connection: Session, values: Mapping[str, object]) -> None:
        """Shorten the gaps that reach over the edge: what is pruned is not missing."""
        for symbol, start, end, until in fetch(connection, _GAPS_OVER_EDGE, values, row=_GapOverEdge):
            calendar = self.calendars[symbol]
            window = Window(until, end)
            left = expected_slots(self.timeframe, window, calendar, window.end + _LONGEST_BAR)
            key = [symbol, self.timeframe.value, start]
            if not len(left):
                connection.execute(_DELETE_GAP, key)
                continue
            opens = moment_of(int(left.opens[0]))
            connection.execute(_SHORTEN_GAP, [opens, calendar.local_day(opens), len(left), *key])

    def _counted(self, connection: Session, bars: int, features: int) -> Pruned:
        """Rows that were deleted, and the space that they leave in the tables: that of a mean row each."""
        (bars_left,) = fetch(connection, _COUNT_STORED, [self.timeframe.value], row=int)
        stored = max(1, bars_left)
        space = 0
        for table, rows in zip(_TABLES, (bars, features), strict=True):
            if rows:
                (size,) = fetch(
                    connection, _SIZE_OF_PARTITIONS, [f"public.{table}_{self.timeframe}"], row=int
                )
                space += rows * size // (stored + rows)
        return Pruned(self.timeframe, self.before, bars, features, 0, space)


def _hold_rows(connection: Session, tables: list[str]) -> bool:
    return any(
        fetch(connection, _HOLDS_ROWS.format(sql.Identifier(table)), row=bool) == [True] for table in tables
    )


def _after(month: datetime) -> datetime:
    return months_between(month, month)[-1]
