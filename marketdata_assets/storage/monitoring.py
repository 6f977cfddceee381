"""The facts that ``domain.monitoring`` judges: requests to the vendor, sizes of tables, slow queries, losses.

Every read is bounded, so that it can be repeated every half a minute: it goes by an index, Postgres' own statistics or
small tables. Bars are read only to estimate growth: a week of a few series.
"""

from __future__ import annotations

import re
import shutil
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Final, LiteralString, NamedTuple

import psycopg

from marketdata_assets.domain.calendar import WEEK
from marketdata_assets.domain.holes import LostGaps
from marketdata_assets.domain.monitoring import (
    BACKFILL_MEMORY,
    RECENT,
    SLOW_QUERY,
    Disk,
    FailedFetch,
    SlowQueries,
    SlowQuery,
    TableSize,
    VendorUse,
)
from marketdata_assets.domain.wording import one_line
from marketdata_assets.storage.rows import fetch, fetch_one, moment_or_none

if TYPE_CHECKING:
    from datetime import datetime

    from marketdata_assets.config import Settings
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

_SHOWN: Final = 10
_TEXT: Final = 300
_MAINTENANCE: Final = (
    r"^\s*(/\*.*\*/\s*)?(copy\s+[^(\s]|(vacuum|analyze|reindex|cluster|create|alter|drop|truncate|checkpoint"
    r"|fetch|listen|begin|commit)\M)"
)
"""Statements whose duration grows with the rows, and for which no user waits at a screen.

``COPY (select …) TO STDOUT`` is not among them, as ADBC sends every read of ``Database.read_frame`` in that form.
"""
# Postgres shows the first kilobyte of a running statement: the end may be missing.
_COPIED: Final = re.compile(r"\s*copy\s*\((.*?)(\)\s*to\s+stdout\b.*)?", re.IGNORECASE | re.DOTALL)

# The requests of a row of `fetch_log`: its pages, its retries, and the last one when it failed for good.
_VENDOR: Final = """
with counted as (
  select f.*, f.pages + f.retries + (f.status = 'failed')::int as requests,
    f.requested_at >= %(day)s as is_of_today,
    f.requested_at >= %(month)s as is_of_this_month,
    coalesce(f.finished_at, f.requested_at) > %(recent)s as is_recent
  from fetch_log f
  where f.requested_at >= least(%(month)s::timestamptz, %(long)s) and f.requested_at <= %(now)s and not f.shared
)
select
  coalesce(sum(requests) filter (where is_of_today), 0)::bigint,
  coalesce(sum(rate_limited) filter (where is_of_today), 0)::bigint,
  count(*) filter (where is_of_today and status = 'failed'),
  coalesce(sum(requests) filter (where is_of_this_month), 0)::bigint,
  coalesce(sum(rate_limited) filter (where is_of_this_month), 0)::bigint,
  coalesce(sum(requests) filter (where is_recent), 0)::bigint,
  coalesce(sum(rate_limited) filter (where is_recent), 0)::bigint
from counted
"""
_BUSIEST: Final = """
select date_trunc('minute', f.requested_at, 'UTC'),
  sum(f.pages + f.retries + (f.status = 'failed')::int)::bigint as requests
from fetch_log f
where f.requested_at >= %(day)s and f.requested_at <= %(now)s and not f.shared
group by 1
order by 2 desc, 1
limit 1
"""
_BLOCKED: Final = """
select max(blocked_until)
from rate_limit
where blocked_until > %s and isfinite(blocked_until)
"""

# reltuples is -1 until the rows are counted.
_SIZES: Final = """
select c.relname::text,
  sum(pg_total_relation_size(l.oid))::bigint,
  sum(l.reltuples) filter (where l.relkind = 'r' and l.reltuples >= 0)::bigint
from pg_class c
cross join lateral (
  select c.oid as relid where c.relkind = 'r'
  union all
  select t.relid from pg_partition_tree(c.oid) t where c.relkind = 'p'
) as part
join pg_class l on l.oid = part.relid
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
group by c.relname
"""
_SIZE_OF_DAGSTER: Final = """
select coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
from pg_class c
where c.relnamespace = to_regnamespace('dagster') and c.relkind = 'r'
"""
_COUNT_BARS: Final = "select coalesce(sum(bars), 0)::bigint from bar_counts"
_DATABASE_SIZE: Final = "select pg_database_size(current_database())"
# The rows that a week adds to all series are estimated from ten of each kind, as series with the same timeframe and
# calendar have about as many bars. It is always the same ten.
_SAMPLED: Final = """
with kinds as (
  select s.symbol, s.timeframe, t.calendar,
    row_number() over (partition by s.timeframe, t.calendar order by md5(s.symbol)) as position,
    count(*) over (partition by s.timeframe, t.calendar) as of_kind
  from bar_counts s
  left join tracked_symbols t on t.symbol = s.symbol and t.active
  where s.bars > 0
)
select coalesce(sum(kind.rows), 0)::bigint
from (
  select avg(found.rows) * max(k.of_kind) as rows
  from kinds k
  cross join lateral (
    select count(*) as rows from <table> o
    where o.symbol = k.symbol and o.timeframe = k.timeframe and o.time >= %s and o.time < %s
  ) as found
  where k.position <= 10
  group by k.timeframe, k.calendar
) as kind
"""
_RECENT_ROWS: Final[dict[str, LiteralString]] = {
    "ohlcv": _SAMPLED.replace("<table>", "ohlcv"),
    "features": _SAMPLED.replace("<table>", "features"),
    "fetch_log": "select count(*) from fetch_log where requested_at >= %s and requested_at < %s",
}

_HAS_STATEMENTS: Final = "select exists (select from pg_extension where extname = 'pg_stat_statements')"
_STATEMENTS: Final = """
select s.query, s.mean_exec_time, s.calls
from pg_stat_statements s
join pg_database d on d.oid = s.dbid and d.datname = current_database()
where s.mean_exec_time > %s and s.query !~* %s
order by s.mean_exec_time desc
limit %s
"""
# A statement that queues behind another writer of its series is not a slow query.
_ACTIVITY: Final = """
select query, extract(epoch from clock_timestamp() - query_start)::float8 * 1000 as taken,
  nullif(application_name, '')
from pg_stat_activity
where datname = current_database() and backend_type = 'client backend' and state = 'active'
  and pid <> pg_backend_pid() and query_start < clock_timestamp() - %s * interval '1 millisecond'
  and wait_event is distinct from 'advisory' and query !~* %s
order by taken desc
limit %s
"""

# Several later answers may cover the window together; one that only overlaps it does not. Pruned windows do not count.
_FAILED: Final = """
select distinct on (f.symbol) f.symbol, f.window_start, f.window_end,
  coalesce(f.error, 'its answer did not arrive completely'), f.requested_at
from fetch_log f
join tracked_symbols t on t.symbol = f.symbol and t.active
where f.base = '1m' and f.status = 'failed' and f.requested_at between %s and %s
  and not coalesce((
      select range_agg(tstzrange(l.window_start, l.window_end)) from fetch_log l
      where l.symbol = f.symbol and l.base = f.base and l.status = 'ok' and l.requested_at > f.requested_at
        and l.window_start < f.window_end and l.window_end > f.window_start
    ), '{}')
    + coalesce((select p.pruned from pruned p where p.symbol = f.symbol and p.timeframe = '1m'), '{}')
    @> tstzmultirange(tstzrange(f.window_start, f.window_end))
order by f.symbol, f.requested_at desc
"""
_LOSSES: Final = """
select count(*), coalesce(sum(g.missing_bars), 0)::bigint, min(g.day), max(g.day)
from gap_report g
join tracked_symbols t on t.symbol = g.symbol and t.active and g.timeframe = any(t.timeframes)
where g.state in ('open', 'unfilled')
having count(*) > 0
"""


class _Requests(NamedTuple):
    """The requests of today, of this month and of the last minutes; how many were rate-limited, and how many failed."""

    today: int
    refused_today: int
    failed_today: int
    month: int
    refused_month: int
    recent: int
    refused_recent: int


class _Busiest(NamedTuple):
    minute: datetime
    requests: int


class _Size(NamedTuple):
    table: str
    size: int
    rows: int | None


def vendor_use(database: Database, per_minute: int, now: datetime) -> VendorUse:
    """Read the requests to the vendor up to ``now``, from ``fetch_log`` and the rows of the rate limiter.

    A running request counts with its stored pages. ``per_minute`` is the limit of the vendor's plan.
    """
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    # A long request may have begun before the minutes that are counted.
    when = {"now": now, "day": day, "month": day.replace(day=1), "recent": now - RECENT, "long": day - WEEK}

    def read(session: Session) -> VendorUse:
        (requests,) = fetch(session, _VENDOR, when, row=_Requests)
        busiest = fetch_one(session, _BUSIEST, when, row=_Busiest)
        (blocked_until,) = fetch(session, _BLOCKED, [now], row=moment_or_none)
        return VendorUse(
            per_minute,
            requests.today,
            requests.refused_today,
            requests.failed_today,
            requests.month,
            requests.refused_month,
            busiest.minute if busiest else None,
            busiest.requests if busiest else 0,
            requests.recent,
            requests.refused_recent,
            blocked_until,
        )

    return database.transaction(read)


def table_sizes(database: Database, now: datetime) -> list[TableSize]:
    """Read the size of each table, the largest first; Dagster's own tables, when in this database, are one row.

    The daily growth of bars and features is counted in at most ten series of each timeframe and calendar, and multiplied
    by the number of such series: it is exact for few series, and takes no longer for many.
    """

    def read(session: Session) -> list[TableSize]:
        (bars,) = fetch(session, _COUNT_BARS, row=int)
        growth = {}
        for table, query in _RECENT_ROWS.items():
            (recent,) = fetch(session, query, [now - WEEK, now], row=int)
            growth[table] = recent / WEEK.days
        sizes = [
            TableSize(table, size, bars if table == "ohlcv" else rows, growth.get(table))
            for table, size, rows in fetch(session, _SIZES, row=_Size)
        ]
        (of_dagster,) = fetch(session, _SIZE_OF_DAGSTER, row=int)
        if of_dagster:
            sizes.append(TableSize("dagster.*", of_dagster, None))
        return sorted(sizes, key=lambda entry: (-entry.size, entry.table))

    return database.transaction(read)


def database_size(database: Database) -> int:
    """Return the size of the whole database on disk, in bytes."""
    (size,) = database.fetch(_DATABASE_SIZE, row=int)
    return size


def slow_queries(database: Database) -> SlowQueries:
    """Read at most ten statements that take longer than :data:`~marketdata_assets.domain.monitoring.SLOW_QUERY`.

    Where the extension ``pg_stat_statements`` is in use, their mean counts; otherwise they are the ones running at
    present. Maintenance is left out.
    """
    slowest = [SLOW_QUERY / timedelta(milliseconds=1), _MAINTENANCE, _SHOWN]

    def means(session: Session) -> SlowQueries | None:
        if fetch(session, _HAS_STATEMENTS, row=bool) == [False]:
            return None
        return SlowQueries(
            "pg_stat_statements", tuple(fetch(session, _STATEMENTS, slowest, row=_slow_statement))
        )

    try:
        known = database.transaction(means)
    except (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.UndefinedTable):
        # The extension exists, but the server does not load its library, or has it in another schema.
        known = None
    if known:
        return known
    return SlowQueries("pg_stat_activity", tuple(database.fetch(_ACTIVITY, slowest, row=_running_statement)))


def _slow_statement(text: str, mean: float, calls: int) -> SlowQuery:
    return SlowQuery(_shorten(text), mean, calls=calls)


def _running_statement(text: str, taken: float, application: str | None) -> SlowQuery:
    return SlowQuery(_shorten(text), taken, application)


def disk_of(settings: Settings) -> Disk | None:
    """Return the disk of the embedded server; None when the database may be on another machine's disk."""
    if settings.database_url is not None or not settings.home.is_dir():
        return None
    found = shutil.disk_usage(settings.home)
    # As `df` counts: the space that is reserved for root is not available.
    return Disk(str(settings.home), found.used + found.free, found.used)


def failed_fetches(database: Database, now: datetime) -> list[FailedFetch]:
    """Read each active symbol's latest failed request for minutes, of the last day, that later requests did not answer.

    A request is answered when its complete window lies in the windows of later requests that succeeded.
    """
    return database.fetch(_FAILED, [now - BACKFILL_MEMORY, now], row=FailedFetch)


def count_losses(database: Database) -> LostGaps | None:
    """Count the open and unfilled gaps of the active series, and their missing bars; None when there is no such gap."""
    return next(iter(database.fetch(_LOSSES, row=LostGaps)), None)


def _shorten(text: str) -> str:
    """Return a statement on one line, with its values replaced, so that two of a kind are equal."""
    copied = _COPIED.fullmatch(text)
    requested = copied[1] if copied else text
    without = re.sub(r"'(?:[^']|'')*'|(?<![\w$])\d+(?:\.\d+)?", "?", one_line(requested))
    return without if len(without) <= _TEXT else f"{without[: _TEXT - 1]}…"
