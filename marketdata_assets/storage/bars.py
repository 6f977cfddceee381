"""Bars in and out of Postgres: batches with their evidence, coverage, and columnar reads."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl
from psycopg import sql

from marketdata_assets.domain.bars import BAR_SCHEMA, KEY, QUARANTINE_SCHEMA
from marketdata_assets.domain.calendar import WEEK, calendar_of
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.features import mark_stale
from marketdata_assets.storage.merge import MergeCounts, lock_series, merge, read_clock
from marketdata_assets.storage.months import ensure_months, months_between
from marketdata_assets.storage.pruned import bring_back
from marketdata_assets.storage.rows import (
    by_series,
    columns,
    fetch,
    grouped,
    key_columns,
    moment_or_none,
    series_of,
)
from marketdata_assets.storage.tables import OHLCV, Table
from marketdata_assets.storage.windows import multirange, span_values, spans_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import date
    from zoneinfo import ZoneInfo

    from marketdata_assets.domain.series import Instrument
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

_VENDOR_COLUMNS: Final = ("time", "open", "high", "low", "close", "volume", "vwap", "transactions")

_ADD_COUNTS: Final = """
insert into bar_counts as c (symbol, timeframe, bars)
select *
from unnest(%s::text[], %s::text[], %s::bigint[])
on conflict (symbol, timeframe) do update set bars = c.bars + excluded.bars
"""
_WRITE_QUARANTINE: Final = """
with kept as (
  insert into ohlcv_quarantine as q (symbol, timeframe, time, rule, vendor_row, first_seen, last_seen)
  select w.*, seen.at, seen.at
  from unnest(%s::text[], %s::text[], %s::timestamptz[], %s::text[], %s::json[]) as w,
    (select %s::timestamptz as at) as seen
  on conflict (symbol, timeframe, rule, md5(vendor_row::text)) do update set
    last_seen = excluded.last_seen,
    times_seen = q.times_seen + 1
  returning symbol, timeframe, time, times_seen
)
select symbol, timeframe, min(time)
from kept
where times_seen = 1
group by 1, 2
"""
_TIMEFRAMES_OF_BASE: Final = """
select timeframe
from bar_counts
where symbol = %s and timeframe = any(%s)
"""
# An upsert that adds nothing would rewrite the row all the same.
_ADD_COVERAGE: Final = """
insert into coverage as c (symbol, timeframe, covered)
select *
from unnest(%s::text[], %s::text[], %s::tstzmultirange[])
on conflict (symbol, timeframe) do update set covered = c.covered + excluded.covered, updated_at = now()
where not c.covered @> excluded.covered
"""
_WRITE_FETCH_LOG: Final = """
insert into fetch_log (
  id, symbol, base, window_start, window_end, timeframes, status, pages, bars, retries, rate_limited,
  duration_seconds, waited_seconds, request_id, error, run_id, requested_at, shared, finished_at
)
values (
  %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
  %s, %s, %s, %s, %s, %s, %s, case when %s then clock_timestamp() end
)
on conflict (id) do update set
  status = excluded.status,
  pages = excluded.pages,
  bars = excluded.bars,
  retries = excluded.retries,
  rate_limited = excluded.rate_limited,
  duration_seconds = excluded.duration_seconds,
  waited_seconds = excluded.waited_seconds,
  request_id = excluded.request_id,
  error = excluded.error,
  finished_at = excluded.finished_at
"""
# A range that brought no page brought no bar.
_CAME_BY_RANGE: Final = sql.SQL("""
exists (
  select from fetch_log f
  where f.symbol = t.symbol and f.base = t.timeframe and not f.shared and f.pages > 0
    and f.window_start <= t.time and f.window_end > t.time
)
""")
_COVERAGE: Final = """
select symbol, timeframe, lower(one), upper(one)
from coverage, unnest(covered) as one
where symbol = any(%s)
order by 1, 2, 3
"""
_ROWS: Final = sql.SQL("""
select bars.*
from (values {spans}) as w(symbol, timeframe, lo, hi),
  lateral ({rows}) as bars
""")
_INSIDE: Final = sql.SQL("""
  select {columns} from {table} t
  where t.symbol = w.symbol and t.timeframe = w.timeframe and t.time >= w.lo and t.time < w.hi
""")
_INSIDE_AND_BEFORE: Final = sql.SQL("""
  {inside}
  union all
  (
    select {columns} from {table} t
    where t.symbol = w.symbol and t.timeframe = w.timeframe and t.time < w.lo
    order by t.time desc
    limit {limit}
  )
""")
_COUNT_BY_DAY: Final = sql.SQL("""
select w.symbol, w.timeframe, (t.time at time zone {zone})::date as day, count(*) as rows
from (values {spans}) as w(symbol, timeframe, lo, hi)
join {table} t
  on t.symbol = w.symbol and t.timeframe = w.timeframe and t.time >= w.lo and t.time < w.hi
group by 1, 2, 3
""")
# The values are literals: the planner prunes partitions by them.
_ROWS_OF_SERIES: Final = sql.SQL("""
select {columns}
from {table}
where symbol = {symbol} and timeframe = {timeframe}
  and time >= {start}::timestamptz and time < {end}::timestamptz{within}
order by time{order}{limit}
""")
_WITH_BARS: Final = """
select w.symbol, w.timeframe
from unnest(%s::text[], %s::text[]) as w(symbol, timeframe)
where (
  select o.time from ohlcv o
  where o.symbol = w.symbol and o.timeframe = w.timeframe
  order by o.time
  limit 1
) is not null
"""
_BARS_BY_SERIES: Final = "select symbol, timeframe, bars from bar_counts"
_COUNT: Final = "select coalesce(sum(bars), 0)::bigint as bars from bar_counts"


@dataclass(frozen=True, slots=True)
class FetchLogEntry:
    """A row of ``fetch_log``: one request to the vendor, as far as it has come. Counts are totals so far.

    A ``shared`` one made no request: its answer came with those for whole days of a market, whose name is their symbol.
    """

    symbol: str
    base: Timeframe
    window: Window
    timeframes: tuple[Timeframe, ...]
    status: str
    requested_at: datetime
    pages: int = 0
    bars: int = 0
    retries: int = 0
    rate_limited: int = 0
    duration_seconds: float = 0.0
    waited_seconds: float = 0.0
    request_id: str | None = None
    error: str | None = None
    run_id: str | None = None
    shared: bool = False
    id: uuid.UUID = field(default_factory=uuid.uuid4)


@dataclass(frozen=True, slots=True)
class BarBatch:
    """What is committed together: bars, the rows that broke a rule, and the evidence of both.

    Attributes:
        bars: ``BAR_SCHEMA``, any number of series.
        quarantined: ``QUARANTINE_SCHEMA``.
        covered: Windows that ``bars`` answers whole, by series.
        fetches: The requests that the bars came from.
        blocked: Keys of partitions that are not recorded, whatever was stored.
        day_bars: ``BAR_SCHEMA``: day bars of whole markets. They replace no bar that a range of its symbol brought.
        differing: Gets the ``day_bars`` that differ from such a bar, when the batch is committed.
    """

    bars: pl.DataFrame
    quarantined: pl.DataFrame = field(default_factory=QUARANTINE_SCHEMA.to_frame)
    covered: Mapping[Series, Sequence[Window]] = field(default_factory=dict)
    fetches: Sequence[FetchLogEntry] = ()
    blocked: Collection[str] = ()
    day_bars: pl.DataFrame = field(default_factory=BAR_SCHEMA.to_frame)
    differing: list[pl.DataFrame] = field(default_factory=list)


def write_batch(database: Database, batch: BarBatch) -> MergeCounts:
    """Commit ``batch`` in one transaction, or nothing of it.

    Safe to repeat: bars merge, coverage adds up, a request's log row carries totals.
    """
    minutes = batch.bars.filter(pl.col("timeframe") == Timeframe.M1.value)["time"]
    first, last = minutes.min(), minutes.max()
    if isinstance(first, datetime) and isinstance(last, datetime):
        months = months_between(first, last)
        database.transaction(lambda connection: ensure_months(connection, months))

    def work(connection: Session) -> MergeCounts:
        # Locks for everything that follows, in one sorted go: the merge's own are then held already.
        rows = (batch.bars, batch.day_bars, batch.quarantined)
        lock_series(connection, {*batch.covered, *(series for frame in rows for series in _series_of(frame))})
        stored_at = read_clock(connection)
        counts = merge(connection, OHLCV, batch.bars, stored_at=stored_at)
        if batch.day_bars.height:
            counts += merge(connection, OHLCV, batch.day_bars, stored_at=stored_at, keep=_CAME_BY_RANGE)
        _add_counts(connection, counts.inserted_by_series)
        broken_from = _write_quarantine(connection, batch.quarantined, stored_at)
        _mark_features_stale(connection, counts.touched_from, broken_from)
        _add_coverage(connection, batch.covered)
        bring_back(connection, pl.concat([batch.bars, batch.day_bars]), batch.covered)
        _write_fetch_log(connection, batch.fetches)
        return counts

    counts = database.transaction(work)
    if counts.kept is not None:
        batch.differing.append(counts.kept)
    return counts


def _series_of(bars: pl.DataFrame) -> list[Series]:
    pairs = bars.select("symbol", "timeframe").unique().iter_rows()
    return [Series(symbol, Timeframe(timeframe)) for symbol, timeframe in pairs]


def _add_counts(connection: Session, inserted: Mapping[Series, int]) -> None:
    rows = [(one.symbol, one.timeframe.value, count) for one, count in inserted.items() if count]
    if rows:
        connection.execute(_ADD_COUNTS, columns(rows))


def _write_quarantine(connection: Session, rows: pl.DataFrame, seen_at: datetime) -> dict[Series, datetime]:
    """Keep ``rows``, seen at ``seen_at``; returns the time of each base series' first row that was not there yet."""
    if rows.is_empty():
        return {}
    encoded = rows.select(
        *("symbol", "timeframe", "time", "rule"),
        vendor_row=pl.coalesce("vendor_row", pl.struct(_VENDOR_COLUMNS).struct.json_encode()),
    ).unique(["symbol", "timeframe", "rule", "vendor_row"])
    # In one order everywhere, like every lock.
    encoded = encoded.sort("symbol", "timeframe", "rule", "vendor_row")
    values = [encoded[name].to_list() for name in ("symbol", "timeframe", "time", "rule", "vendor_row")]
    found = fetch(connection, _WRITE_QUARANTINE, [*values, seen_at], row=by_series(moment_or_none))
    return {series: time for series, time in found if time is not None}


def _mark_features_stale(
    connection: Session,
    touched_from: Mapping[Series, datetime],
    broken_from: Mapping[Series, datetime],
) -> None:
    """Bars have changed, or a day is held back now that was not: features are out of date from there on."""
    since = dict(touched_from)
    for base, time in broken_from.items():
        # Longer bars of that day are made of what is left.
        longer = [one.value for one in Timeframe if one.base is base.timeframe]
        for timeframe in fetch(connection, _TIMEFRAMES_OF_BASE, [base.symbol, longer], row=Timeframe):
            series = Series(base.symbol, timeframe)
            # A week bar opens up to a week before the day that it lacks.
            begins = time - WEEK if series.timeframe is Timeframe.W1 else time
            since[series] = min(begins, since.get(series, begins))
    mark_stale(connection, since, "bars were added or changed")


def _add_coverage(connection: Session, covered: Mapping[Series, Sequence[Window]]) -> None:
    rows = [
        (one.symbol, one.timeframe.value, multirange(windows)) for one, windows in covered.items() if windows
    ]
    if rows:
        connection.execute(_ADD_COVERAGE, columns(rows))


def _write_fetch_log(connection: Session, fetches: Sequence[FetchLogEntry]) -> None:
    if not fetches:
        return
    with connection.cursor() as cursor:
        cursor.executemany(
            _WRITE_FETCH_LOG,
            [
                (
                    one.id,
                    one.symbol,
                    one.base.value,
                    one.window.start,
                    one.window.end,
                    [timeframe.value for timeframe in one.timeframes],
                    one.status,
                    one.pages,
                    one.bars,
                    one.retries,
                    one.rate_limited,
                    one.duration_seconds,
                    one.waited_seconds,
                    one.request_id,
                    one.error,
                    one.run_id,
                    one.requested_at,
                    one.shared,
                    one.status != "partial",
                )
                for one in fetches
            ],
        )


def read_coverage(database: Database, symbols: Sequence[str]) -> dict[Series, list[Window]]:
    """The covered windows of every series of ``symbols``."""
    return grouped(database.fetch(_COVERAGE, [list(symbols)], row=by_series(Window)))


def read_rows(
    database: Database,
    table: Table,
    windows: Mapping[Series, Sequence[Window]],
    *,
    columns: Sequence[str] | None = None,
    lookback_bars: int = 0,
) -> pl.DataFrame:
    """Rows of ``table`` whose time lies in the windows of their series, sorted by key.

    Args:
        database: Where to read.
        table: Which table.
        windows: By series.
        columns: Which columns, default all of the table's schema.
        lookback_bars: How many bars before each window come with it, however long ago they opened.
    """
    selected = table.selection(columns)
    spans = spans_of(windows)
    if not spans:
        return table.schema.to_frame().select(selected)
    fetched = list(dict.fromkeys([*KEY, *selected]))
    listed = sql.SQL(", ").join(sql.SQL("t.{}").format(sql.Identifier(name)) for name in fetched)
    name = sql.Identifier(table.name)
    rows = _INSIDE.format(columns=listed, table=name)
    if lookback_bars > 0:
        rows = _INSIDE_AND_BEFORE.format(
            inside=rows, columns=listed, table=name, limit=sql.Literal(lookback_bars)
        )
    query = _ROWS.format(spans=span_values(spans), rows=rows)
    frame = database.read_frame(query.as_string(None))
    if lookback_bars > 0:
        frame = frame.unique(KEY)
    schema = pl.Schema({name: table.schema[name] for name in fetched})
    return (
        frame.cast(schema).sort(KEY).select(selected)
        if frame.width
        else table.schema.to_frame().select(selected)
    )


def read_series(
    database: Database,
    table: Table,
    series: Series,
    window: Window,
    *,
    limit: int | None = None,
    newest: bool = False,
    within: Sequence[Window] | None = None,
) -> pl.DataFrame:
    """Rows of ``table`` of one series whose time lies in ``window``, in the table's schema, sorted by time.

    Args:
        database: Where to read.
        table: Which table.
        series: Whose rows.
        window: From when to when.
        limit: How many rows at the most; None for all.
        newest: With a limit, keep the last rows instead of the first.
        within: Only rows whose time lies in one of these windows as well; None for all.
    """
    if within is not None and not within:
        return table.schema.to_frame()
    # The key is known: sent with every row, it would be a fifth of what is read.
    values = [name for name in table.columns if name not in ("symbol", "timeframe")]
    query = _ROWS_OF_SERIES.format(
        columns=sql.SQL(", ").join(map(sql.Identifier, values)),
        table=sql.Identifier(table.name),
        symbol=sql.Literal(series.symbol),
        timeframe=sql.Literal(series.timeframe.value),
        start=sql.Literal(window.start.isoformat()),
        end=sql.Literal(window.end.isoformat()),
        within=sql.SQL("")
        if within is None
        else sql.SQL(" and time <@ {}").format(sql.Literal(multirange(within))),
        order=sql.SQL(" desc" if newest else ""),
        limit=sql.SQL("") if limit is None else sql.SQL(" limit {}").format(sql.Literal(limit)),
    )
    frame = database.read_frame(query.as_string(None))
    if frame.is_empty():
        return table.schema.to_frame()
    # By columns: starting the query engine for them would take as long as reading them.
    rows = pl.DataFrame(
        [
            pl.Series("symbol", [series.symbol]).new_from_index(0, frame.height),
            pl.Series("timeframe", [series.timeframe.value]).new_from_index(0, frame.height),
            *(frame[name].cast(table.schema[name]) for name in values),
        ]
    )
    return rows.reverse() if newest else rows


def count_by_day(
    database: Database, table: Table, windows: Mapping[Series, Sequence[Window]], timezone: ZoneInfo
) -> dict[tuple[date, Series], int]:
    """How many rows of ``table`` each series has on each local date of ``timezone``; days without are left out."""
    spans = spans_of(windows)
    if not spans:
        return {}
    query = _COUNT_BY_DAY.format(
        zone=sql.Literal(timezone.key), spans=span_values(spans), table=sql.Identifier(table.name)
    )
    counts = database.read_frame(query.as_string(None))
    return {
        (day, Series(symbol, Timeframe(timeframe))): rows
        for symbol, timeframe, day, rows in counts.iter_rows()
    }


def bars_by_series(database: Database) -> dict[Series, int]:
    """How many bars of each series are stored; a series without one is left out or 0."""
    rows = database.read_frame(_BARS_BY_SERIES)
    return {Series(symbol, Timeframe(timeframe)): bars for symbol, timeframe, bars in rows.iter_rows()}


def covered_without_bars(
    database: Database,
    instruments: Collection[Instrument],
    coverage: Mapping[Series, Sequence[Window]],
    days: Collection[date],
) -> dict[Instrument, Window]:
    """Those of ``instruments`` of which some of ``days`` are covered and no bar is stored, each with such a window.

    ``coverage`` is that of :func:`read_coverage`. Not yet listed, or not known to the vendor: the store cannot tell.
    """
    with_bars = {series.symbol for series, bars in bars_by_series(database).items() if bars}
    found = {}
    for instrument in instruments:
        if instrument.symbol in with_bars or not days:
            continue
        calendar = calendar_of(instrument.asset_class)
        wanted = Window(
            calendar.day_start(min(days)).astimezone(UTC),
            calendar.day_start(max(days) + timedelta(days=1)).astimezone(UTC),
        )
        for series, windows in coverage.items():
            if series.symbol == instrument.symbol and any(wanted.intersection(one) for one in windows):
                found[instrument] = wanted
    return found


def series_with_bars(database: Database, series: Iterable[Series]) -> set[Series]:
    """Those of ``series`` of which a bar is stored."""
    return set(database.fetch(_WITH_BARS, key_columns(series), row=series_of))


def count_rows(database: Database) -> int:
    """How many bars are stored."""
    return int(database.read_frame(_COUNT).item())
