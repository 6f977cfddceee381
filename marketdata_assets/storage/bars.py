"""Writing bars to Postgres in batches with their evidence, and reading bars and coverage."""

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
from marketdata_assets.storage.pruned import forget_pruned
from marketdata_assets.storage.rows import (
    by_series,
    columns,
    fetch,
    grouped,
    key_columns,
    moment_or_none,
)
from marketdata_assets.storage.tables import OHLCV, Table
from marketdata_assets.storage.windows import merged_windows, multirange, window_values

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
# A request without a page returned no bar.
_CAME_BY_RANGE: Final = sql.SQL("""
exists (
  select from fetch_log f
  where f.symbol = t.symbol and f.base = t.timeframe and not f.shared and f.pages > 0
    and f.window_start <= t.time and f.window_end > t.time
)
""")
_COVERAGE: Final = """
select symbol, timeframe, lower(piece), upper(piece)
from coverage, unnest(covered) as piece
where symbol = any(%s)
order by 1, 2, 3
"""
_ROWS: Final = sql.SQL("""
select bars.*
from (values {windows}) as w(symbol, timeframe, lo, hi),
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
from (values {windows}) as w(symbol, timeframe, lo, hi)
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
    """A row of ``fetch_log``: one request to the vendor and its progress. Counts are totals so far.

    A ``shared`` row stands for no request of its own: its answer came with whole days of a market, which have rows
    under the name of the market.
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
    """A batch that is committed in one transaction: bars, quarantined rows, and the evidence of both.

    Attributes:
        bars: Bars of any number of series, as ``BAR_SCHEMA``.
        quarantined: Rows that broke a rule, as ``QUARANTINE_SCHEMA``.
        covered: The windows for which ``bars`` is complete, by series.
        fetches: The requests that the bars came from.
        day_bars: Day bars of whole markets, as ``BAR_SCHEMA``. They replace no bar that came by a range of its symbol.
        differing: Receives the ``day_bars`` that differ from such a bar, when the batch is committed.
    """

    bars: pl.DataFrame
    quarantined: pl.DataFrame = field(default_factory=QUARANTINE_SCHEMA.to_frame)
    covered: Mapping[Series, Sequence[Window]] = field(default_factory=dict)
    fetches: Sequence[FetchLogEntry] = ()
    day_bars: pl.DataFrame = field(default_factory=BAR_SCHEMA.to_frame)
    differing: list[pl.DataFrame] = field(default_factory=list)


def write_batch(database: Database, batch: BarBatch) -> MergeCounts:
    """Commit ``batch`` in one transaction.

    The call is safe to repeat: bars merge, coverage adds up, and a request's log row carries totals.
    """
    minutes = batch.bars.filter(pl.col("timeframe") == Timeframe.M1.value)["time"]
    first, last = minutes.min(), minutes.max()
    if isinstance(first, datetime) and isinstance(last, datetime):
        months = months_between(first, last)
        database.transaction(lambda session: ensure_months(session, months))

    def work(session: Session) -> MergeCounts:
        # All locks in one sorted pass, before the merges take their own: locks taken in two passes could deadlock.
        rows = (batch.bars, batch.day_bars, batch.quarantined)
        lock_series(session, {*batch.covered, *(series for frame in rows for series in _series_of(frame))})
        stored_at = read_clock(session)
        counts = merge(session, OHLCV, batch.bars, stored_at=stored_at)
        if batch.day_bars.height:
            counts += merge(session, OHLCV, batch.day_bars, stored_at=stored_at, keep=_CAME_BY_RANGE)
        _add_counts(session, counts.inserted_by_series)
        quarantined_from = _write_quarantine(session, batch.quarantined, stored_at)
        _mark_features_stale(session, counts.touched_from, quarantined_from)
        _add_coverage(session, batch.covered)
        stored = pl.concat([batch.bars.select(KEY), batch.day_bars.select(KEY)])
        forget_pruned(session, stored, batch.covered)
        _write_fetch_log(session, batch.fetches)
        return counts

    counts = database.transaction(work)
    if counts.kept is not None:
        batch.differing.append(counts.kept)
    return counts


def _series_of(bars: pl.DataFrame) -> list[Series]:
    pairs = bars.select("symbol", "timeframe").unique().iter_rows()
    return [Series.of(symbol, timeframe) for symbol, timeframe in pairs]


def _add_counts(session: Session, inserted: Mapping[Series, int]) -> None:
    rows = [(series.symbol, series.timeframe.value, count) for series, count in inserted.items() if count]
    if rows:
        session.execute(_ADD_COUNTS, columns(rows))


def _write_quarantine(session: Session, rows: pl.DataFrame, seen_at: datetime) -> dict[Series, datetime]:
    """Write ``rows``, seen at ``seen_at``, and return the time of each base series' first row that is new."""
    if rows.is_empty():
        return {}
    encoded = rows.select(
        *("symbol", "timeframe", "time", "rule"),
        vendor_row=pl.coalesce("vendor_row", pl.struct(_VENDOR_COLUMNS).struct.json_encode()),
    ).unique(["symbol", "timeframe", "rule", "vendor_row"])
    # In the same order in every transaction, so that two writers wait for each other instead of deadlocking.
    encoded = encoded.sort("symbol", "timeframe", "rule", "vendor_row")
    values = [encoded[name].to_list() for name in ("symbol", "timeframe", "time", "rule", "vendor_row")]
    found = fetch(session, _WRITE_QUARANTINE, [*values, seen_at], row=by_series(moment_or_none))
    return {series: time for series, time in found if time is not None}


def _mark_features_stale(
    session: Session,
    touched_from: Mapping[Series, datetime],
    quarantined_from: Mapping[Series, datetime],
) -> None:
    """Mark features as stale from each series' first changed bar on, or from the first newly quarantined row of its base."""
    since = dict(touched_from)
    for base, time in quarantined_from.items():
        # The longer bars of that day are rolled up without the quarantined row.
        longer = [timeframe.value for timeframe in Timeframe if timeframe.base is base.timeframe]
        for timeframe in fetch(session, _TIMEFRAMES_OF_BASE, [base.symbol, longer], row=Timeframe):
            series = Series(base.symbol, timeframe)
            # A week bar opens up to a week before the quarantined day.
            begins = time - WEEK if series.timeframe is Timeframe.W1 else time
            since[series] = min(begins, since.get(series, begins))
    mark_stale(session, since, "bars were added or changed")


def _add_coverage(session: Session, covered: Mapping[Series, Sequence[Window]]) -> None:
    rows = [
        (series.symbol, series.timeframe.value, multirange(windows))
        for series, windows in covered.items()
        if windows
    ]
    if rows:
        session.execute(_ADD_COVERAGE, columns(rows))


def _write_fetch_log(session: Session, fetches: Sequence[FetchLogEntry]) -> None:
    if not fetches:
        return
    with session.cursor() as cursor:
        cursor.executemany(
            _WRITE_FETCH_LOG,
            [
                (
                    entry.id,
                    entry.symbol,
                    entry.base.value,
                    entry.window.start,
                    entry.window.end,
                    [timeframe.value for timeframe in entry.timeframes],
                    entry.status,
                    entry.pages,
                    entry.bars,
                    entry.retries,
                    entry.rate_limited,
                    entry.duration_seconds,
                    entry.waited_seconds,
                    entry.request_id,
                    entry.error,
                    entry.run_id,
                    entry.requested_at,
                    entry.shared,
                    entry.status != "partial",
                )
                for entry in fetches
            ],
        )


def read_coverage(database: Database, symbols: Sequence[str]) -> dict[Series, list[Window]]:
    """Read the covered windows of every series of ``symbols``."""
    return grouped(database.fetch(_COVERAGE, [list(symbols)], row=by_series(Window)))


def read_rows(
    database: Database,
    table: Table,
    windows: Mapping[Series, Sequence[Window]],
    *,
    columns: Sequence[str] | None = None,
    lookback_bars: int = 0,
) -> pl.DataFrame:
    """Read the rows of ``table`` whose time lies in the windows of their series, sorted by key.

    Args:
        database: The database to read from.
        table: The table to read.
        windows: The windows to read, by series.
        columns: The columns to read; the default is all of the table's schema.
        lookback_bars: The number of bars before each window to read as well, however long ago they opened.
    """
    selected = table.selection(columns)
    merged = merged_windows(windows)
    if not merged:
        return table.schema.to_frame().select(selected)
    fetched = list(dict.fromkeys([*KEY, *selected]))
    listed = sql.SQL(", ").join(sql.SQL("t.{}").format(sql.Identifier(name)) for name in fetched)
    name = sql.Identifier(table.name)
    rows = _INSIDE.format(columns=listed, table=name)
    if lookback_bars > 0:
        rows = _INSIDE_AND_BEFORE.format(
            inside=rows, columns=listed, table=name, limit=sql.Literal(lookback_bars)
        )
    query = _ROWS.format(windows=window_values(merged), rows=rows)
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
    """Read the rows of ``table`` of one series whose time lies in ``window``, in the table's schema, sorted by time.

    Args:
        database: The database to read from.
        table: The table to read.
        series: The series to read.
        window: The window of UTC time to read.
        limit: The maximum number of rows; None for all.
        newest: With a limit, whether to keep the last rows instead of the first.
        within: Windows, in one of which a row's time must lie as well; None for no such condition.
    """
    if within is not None and not within:
        return table.schema.to_frame()
    # The series is known: its symbol and timeframe, sent with every row, would be a fifth of the bytes.
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
    # Column by column: starting Polars' query engine would take as long as reading the rows.
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
    """Count the rows of ``table`` that each series has on each local date of ``timezone``; days without rows are left out."""
    merged = merged_windows(windows)
    if not merged:
        return {}
    query = _COUNT_BY_DAY.format(
        zone=sql.Literal(timezone.key), windows=window_values(merged), table=sql.Identifier(table.name)
    )
    counts = database.read_frame(query.as_string(None))
    return {(day, Series.of(symbol, timeframe)): rows for symbol, timeframe, day, rows in counts.iter_rows()}


def bars_by_series(database: Database) -> dict[Series, int]:
    """Read the number of stored bars of each series; a series without bars is left out or 0."""
    rows = database.read_frame(_BARS_BY_SERIES)
    return {Series.of(symbol, timeframe): bars for symbol, timeframe, bars in rows.iter_rows()}


def symbols_with_bars(database: Database) -> set[str]:
    """Return the symbols of which a bar is stored in any timeframe."""
    return {series.symbol for series, bars in bars_by_series(database).items() if bars}


def covered_without_bars(
    database: Database,
    instruments: Collection[Instrument],
    coverage: Mapping[Series, Sequence[Window]],
    days: Collection[date],
) -> dict[Instrument, Window]:
    """Return the ``instruments`` without a stored bar for which some of ``days`` are covered, each with the window of ``days``.

    ``coverage`` is the result of :func:`read_coverage`. Such an instrument is not yet listed or not known to the vendor;
    the store cannot distinguish the two.
    """
    with_bars = symbols_with_bars(database)
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
            if series.symbol == instrument.symbol and any(wanted.intersection(window) for window in windows):
                found[instrument] = wanted
    return found


def series_with_bars(database: Database, series: Iterable[Series]) -> set[Series]:
    """Return the ``series`` that have a stored bar."""
    return set(database.fetch(_WITH_BARS, key_columns(series), row=Series.of))


def count_rows(database: Database) -> int:
    """Return the number of stored bars."""
    return int(database.read_frame(_COUNT).item())
