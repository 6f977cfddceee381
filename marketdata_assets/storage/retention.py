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
from marketdata_assets.storage.merge import RETENTION_LOCK
from marketdata_assets.storage.months import BARS_1M, FEATURES_1M, LOCK_SPACE, months_between
from marketdata_assets.storage.pruned import calendars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import date

    from psycopg import Connection

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.storage.connection import Database

    Session = Connection[tuple[object, ...]]

T = TypeVar("T")

LOCK_TIMEOUT: Final = timedelta(seconds=2)
"""How long a transaction waits for a lock, and so the longest that others wait behind it; then it starts again."""
PATIENCE: Final = timedelta(minutes=10)
"""For how long it starts again."""
BATCH_ROWS: Final = 50_000
"""Bars that one transaction deletes, about."""

_TABLES: Final = ("ohlcv", "features")
_LONGEST_BAR: Final = timedelta(days=7)

_FORGET: Final = (
    (
        "update bar_counts c set bars = c.bars - w.bars"
        " from unnest(%(symbols)s::text[], %(bars)s::bigint[]) as w(symbol, bars)"
        " where c.symbol = w.symbol and c.timeframe = %(timeframe)s and w.bars > 0"
    ),
    (
        "insert into pruned as p (symbol, timeframe, pruned)"
        " select w.symbol, %(timeframe)s, tstzmultirange(tstzrange(least(w.first, lower(c.covered)), w.until))"
        " from unnest(%(symbols)s::text[], %(firsts)s::timestamptz[], %(untils)s::timestamptz[])"
        "  as w(symbol, first, until)"
        " left join coverage c on c.symbol = w.symbol and c.timeframe = %(timeframe)s"
        " where least(w.first, lower(c.covered)) < w.until"
        " on conflict (symbol, timeframe) do update set pruned = p.pruned + excluded.pruned, updated_at = now()"
    ),
    (
        "update coverage c set covered = c.covered - tstzmultirange(tstzrange(null, w.until)), updated_at = now()"
        " from unnest(%(symbols)s::text[], %(untils)s::timestamptz[]) as w(symbol, until)"
        " where c.symbol = w.symbol and c.timeframe = %(timeframe)s and lower(c.covered) < w.until"
    ),
    (
        "delete from gap_report g using unnest(%(symbols)s::text[], %(untils)s::timestamptz[]) as w(symbol, until)"
        " where g.symbol = w.symbol and g.timeframe = %(timeframe)s and g.gap_end <= w.until"
    ),
    (
        # Another version: whoever computes from the bars that were there has been overtaken.
        "update features_stale s set since = w.until, version = nextval('features_stale_version'), changed_at = now()"
        " from unnest(%(symbols)s::text[], %(untils)s::timestamptz[]) as w(symbol, until)"
        " where s.symbol = w.symbol and s.timeframe = %(timeframe)s and s.since < w.until"
    ),
)
"""What follows from the bars of ``symbols`` being gone up to ``untils``, in the order in which it must."""


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
        connection.execute(
            "select pg_advisory_xact_lock(hashtextextended(%s, %s))", [RETENTION_LOCK, LOCK_SPACE]
        )
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
                size, rows = _one(
                    connection.execute(
                        sql.SQL(
                            "select pg_total_relation_size({}::regclass), (select count(*) from {})"
                        ).format(sql.Literal(table), sql.Identifier(table))
                    )
                )
                is_bars = table.startswith(BARS_1M)
                found += replace(
                    Pruned(self.timeframe, self.before),
                    bars=rows if is_bars else 0,
                    features=0 if is_bars else rows,
                    bytes_returned=size,
                )
        since = _after(max(months)) if months else None
        for symbol in self._symbols(connection):
            counts = [
                _one(
                    connection.execute(
                        f"select count(*) from {table} where symbol = %s and timeframe = %s and time < %s"  # noqa: S608 - names of this module
                        " and (%s::timestamptz is null or time >= %s)".encode(),
                        [symbol, self.timeframe.value, self._cut(symbol), since, since],
                    )
                )[0]
                for table in _TABLES
            ]
            found += self._counted(connection, *counts)
        return found

    def _cut(self, symbol: str) -> datetime:
        """The local midnight from which on bars of ``symbol`` stay."""
        return self.calendars[symbol].day_start(self.before)

    def _months(self, connection: Session) -> dict[datetime, list[str]]:
        """The tables of the months of minutes, in UTC, that are over for every market and hold a row, in order."""
        # Local midnight comes first in UTC: no other market's first kept day begins before it does there.
        end = datetime.combine(self.before, time(), UTC)
        rows = connection.execute(
            "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid"
            " where i.inhparent in (to_regclass('public.ohlcv_1m'), to_regclass('public.features_1m'))"
            " order by c.relname desc"  # bars before their features, as readers lock them
        ).fetchall()
        months: dict[datetime, list[str]] = defaultdict(list)
        for (name,) in rows:
            found = re.fullmatch(rf"(?:{BARS_1M}|{FEATURES_1M})_(\d{{4}})_(\d{{2}})", str(name))
            if found is not None:
                months[datetime(int(found[1]), int(found[2]), 1, tzinfo=UTC)].append(str(name))
        return {
            month: months[month]
            for month in sorted(months)
            if _after(month) <= end and _hold_rows(connection, months[month])
        }

    def _symbols(self, connection: Session) -> list[str]:
        rows = connection.execute(
            "select symbol from bar_counts where timeframe = %s order by 1", [self.timeframe.value]
        ).fetchall()
        return [str(symbol) for (symbol,) in rows]

    def _empty_month(self, month: datetime, tables: list[str], connection: Session) -> Pruned | None:
        if not _hold_rows(connection, tables):
            return None
        held: dict[str, tuple[int, datetime]] = {}
        features = size = 0
        for table in tables:
            size += _one(connection.execute("select pg_total_relation_size(%s::regclass)", [table]))[0]
            rows = connection.execute(
                sql.SQL("select symbol, count(*), min(time) from {} group by 1").format(sql.Identifier(table))
            ).fetchall()
            if table.startswith(BARS_1M):
                held = {str(symbol): (count, first) for symbol, count, first in rows}  # type: ignore[misc]
            else:
                features += sum(int(str(count)) for _, count, _ in rows)
        after = _after(month)
        edges, tail = {}, Pruned(self.timeframe, self.before)
        for symbol, (count, first) in held.items():
            # The month ends in UTC, the day at local midnight: what is left of it goes, too.
            until = self.calendars[symbol].day_start(after.date())
            rest, rest_features = (self._delete(connection, table, symbol, after, until) for table in _TABLES)
            tail += self._counted(connection, rest, rest_features)
            edges[symbol] = _Edge(until, count + rest, first)
        self._forget(connection, edges)
        # Last: from here on until the end of the transaction readers of this month wait.
        connection.execute(sql.SQL("truncate {}").format(sql.SQL(", ").join(map(sql.Identifier, tables))))
        whole = Pruned(self.timeframe, self.before, sum(count for count, _ in held.values()), features, size)
        return whole + tail

    def _delete_some(self, symbol: str, connection: Session) -> Pruned | None:
        cut, calendar = self._cut(symbol), self.calendars[symbol]
        series = [symbol, self.timeframe.value]
        query = "select time from ohlcv where symbol = %s and timeframe = %s and time < %s order by time"
        oldest = connection.execute(f"{query} limit 1".encode(), [*series, cut], prepare=False).fetchone()
        if oldest is None or not isinstance(oldest[0], datetime):
            return None
        first = oldest[0].astimezone(UTC)
        latest = connection.execute(
            f"{query} offset {BATCH_ROWS:d} limit 1".encode(), [*series, cut], prepare=False
        ).fetchone()
        until = cut
        if latest is not None and isinstance(latest[0], datetime):
            # Whole days only, and at least one.
            day = max(calendar.local_day(latest[0]), calendar.local_day(first) + timedelta(days=1))
            until = min(cut, calendar.day_start(day))
        bars, features = (self._delete(connection, table, symbol, None, until) for table in _TABLES)
        self._forget(connection, {symbol: _Edge(until, bars, first)})
        return self._counted(connection, bars, features)

    def _delete(
        self, connection: Session, table: str, symbol: str, since: datetime | None, until: datetime
    ) -> int:
        if since is not None and since >= until:
            return 0
        return connection.execute(
            f"delete from {table} where symbol = %s and timeframe = %s and time < %s"  # noqa: S608 - names of this module
            " and time >= coalesce(%s::timestamptz, '-infinity')".encode(),
            [symbol, self.timeframe.value, until, since],
            # With the values in sight the planner looks into no other partition, and locks none.
            prepare=False,
        ).rowcount

    def _tidy(self, connection: Session) -> Pruned | None:
        """Forget what is left of series whose bars are gone already, or never were."""
        rows = connection.execute(
            "select symbol from coverage where timeframe = %(timeframe)s union select symbol from gap_report"
            " where timeframe = %(timeframe)s union select symbol from features_stale"
            " where timeframe = %(timeframe)s union select symbol from bar_counts where timeframe = %(timeframe)s",
            {"timeframe": self.timeframe.value},
        ).fetchall()
        cuts = {str(symbol): self._cut(str(symbol)) for (symbol,) in rows}
        gone = {
            symbol: cut
            for symbol, cut in cuts.items()
            # Bars that somebody has brought back since are the next call's.
            if connection.execute(
                "select from ohlcv where symbol = %s and timeframe = %s and time < %s limit 1",
                [symbol, self.timeframe.value, cut],
                prepare=False,
            ).fetchone()
            is None
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
        rows = connection.execute(
            "select g.symbol, g.gap_start, g.gap_end, w.until from gap_report g"
            " join unnest(%(symbols)s::text[], %(untils)s::timestamptz[]) as w(symbol, until) on w.symbol = g.symbol"
            " where g.timeframe = %(timeframe)s and g.gap_start < w.until and g.gap_end > w.until",
            values,
        ).fetchall()
        for symbol, start, end, until in rows:
            if not isinstance(end, datetime) or not isinstance(until, datetime):
                continue
            calendar = self.calendars[str(symbol)]
            window = Window(until.astimezone(UTC), end.astimezone(UTC))
            left = expected_slots(self.timeframe, window, calendar, window.end + _LONGEST_BAR)
            key = [symbol, self.timeframe.value, start]
            if not len(left):
                connection.execute(
                    "delete from gap_report where symbol = %s and timeframe = %s and gap_start = %s", key
                )
                continue
            opens = moment_of(int(left.opens[0]))
            connection.execute(
                "update gap_report set gap_start = %s, day = %s, missing_bars = %s"
                " where symbol = %s and timeframe = %s and gap_start = %s",
                [opens, calendar.local_day(opens), len(left), *key],
            )

    def _counted(self, connection: Session, bars: int, features: int) -> Pruned:
        """Rows that were deleted, and the space that they leave in the tables: that of a mean row each."""
        stored = max(
            1,
            _one(
                connection.execute(
                    "select coalesce(sum(bars), 0)::bigint from bar_counts where timeframe = %s",
                    [self.timeframe.value],
                )
            )[0],
        )
        space = 0
        for table, rows in zip(_TABLES, (bars, features), strict=True):
            if rows:
                size = _one(
                    connection.execute(
                        "select coalesce(sum(pg_total_relation_size(relid)), 0)::bigint from pg_partition_tree(%s::regclass)",
                        [f"public.{table}_{self.timeframe}"],
                    )
                )[0]
                space += rows * size // (stored + rows)
        return Pruned(self.timeframe, self.before, bars, features, 0, space)


def _hold_rows(connection: Session, tables: list[str]) -> bool:
    return any(
        connection.execute(sql.SQL("select exists (select from {})").format(sql.Identifier(table))).fetchone()
        == (True,)
        for table in tables
    )


def _after(month: datetime) -> datetime:
    return months_between(month, month)[-1]


def _one(cursor: psycopg.Cursor[tuple[object, ...]]) -> tuple[int, ...]:
    row = cursor.fetchone() or ()
    return tuple(int(str(value)) for value in row)
