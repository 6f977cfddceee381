"""Gaps and completeness in Postgres: the bars to scan, the known gaps, and the results of scans."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl
from psycopg import sql

from marketdata_assets.domain.bars import RULES_WITHOUT_LOSS, UTC_TIME
from marketdata_assets.domain.gap_scan import KNOWN_GAP_SCHEMA
from marketdata_assets.domain.gaps import LOSSES, GapState
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.slots import StoredBars, stored_by_series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window, difference
from marketdata_assets.storage.bars import read_rows
from marketdata_assets.storage.connection import connect
from marketdata_assets.storage.features import mark_stale
from marketdata_assets.storage.locks import LockSpace, lock_for_session
from marketdata_assets.storage.merge import lock_series, read_clock
from marketdata_assets.storage.pruned import pruned_windows
from marketdata_assets.storage.rows import by_series, columns, fetch, grouped, moment
from marketdata_assets.storage.tables import OHLCV
from marketdata_assets.storage.windows import window_values

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from datetime import datetime

    from marketdata_assets.domain.gap_scan import ScanResult
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

_DAILY: Final = (
    "symbol",
    "timeframe",
    "day",
    "expected_bars",
    "present_bars",
    "no_trade_bars",
    "missing_bars",
    "completeness",
    "status",
)
LISTED_SCHEMA: Final = pl.Schema({**KNOWN_GAP_SCHEMA, "resolved_at": KNOWN_GAP_SCHEMA["gap_start"]})
"""The columns of listed gaps: ``resolved_at`` is the time at which a gap left the state open."""

_REPAIRS_SCHEMA: Final = pl.Schema({"repairs": pl.Int32(), "repair_asked_at": LISTED_SCHEMA["gap_start"]})
_REPLACED_SCHEMA: Final = pl.Schema(
    {
        **{
            name: LISTED_SCHEMA[name]
            for name in ("symbol", "timeframe", "gap_start", "state", "resolved_at", "gap_end")
        },
        **_REPAIRS_SCHEMA,
    }
)

_TYPES: Final = {
    "symbol": "text",
    "timeframe": "text",
    "day": "date",
    "gap_start": "timestamptz",
    "gap_end": "timestamptz",
    "missing_bars": "bigint",
    "state": "text",
    "attempts": "integer",
    "failure": "text",
    "reason": "text",
    "detected_at": "timestamptz",
    "resolved_at": "timestamptz",
    "repairs": "integer",
    "repair_asked_at": "timestamptz",
    "expected_bars": "bigint",
    "present_bars": "bigint",
    "no_trade_bars": "bigint",
    "completeness": "double precision",
    "status": "text",
    "checked_at": "timestamptz",
}

_FIRST_BARS: Final = """
select s.symbol, f.timeframe, b.time
from unnest(%s::text[]) as s(symbol),
  unnest(%s::text[]) as f(timeframe),
  lateral (
    select time from ohlcv o
    where o.symbol = s.symbol and o.timeframe = f.timeframe
    order by time
    limit 1
  ) as b
"""
_REQUESTED: Final = """
with w as (
  select *
  from unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[])
    as w(symbol, timeframe, base, lo, hi)
)
select w.symbol, w.timeframe, f.window_start, f.window_end
from w
join fetch_log f
  on f.symbol = w.symbol and f.base = w.base and w.timeframe = any(f.timeframes)
  and f.window_start < w.hi and f.window_end > w.lo
union all
select w.symbol, w.timeframe, lower(piece), upper(piece)
from w
join coverage c on c.symbol = w.symbol and c.timeframe = w.timeframe,
  unnest(c.covered * tstzmultirange(tstzrange(w.lo, w.hi))) as piece
union all
select scanned.symbol, scanned.timeframe, lower(piece), upper(piece)
from (
  select w.symbol, w.timeframe,
    range_agg(tstzrange(
      d.day::timestamp at time zone t.timezone, (d.day + 1)::timestamp at time zone t.timezone
    )) as days
  from w
  join completeness_daily d
    on d.symbol = w.symbol and d.timeframe = w.timeframe and d.day between w.lo::date - 1 and w.hi::date + 1
  join tracked_symbols t on t.symbol = w.symbol
  group by 1, 2
) as scanned,
  unnest(scanned.days) as piece
"""
_SCANNED_AROUND: Final = """
select w.symbol, w.timeframe, earlier.days, later.days
from unnest(%s::text[], %s::text[], %s::date[], %s::date[]) as w(symbol, timeframe, first, last),
  lateral (
    select coalesce(array_agg(day order by day desc), '{}') as days
    from (
      select day from completeness_daily d
      where d.symbol = w.symbol and d.timeframe = w.timeframe and d.day < w.first
      order by day desc
      limit %s
    ) as nearest
  ) as earlier,
  lateral (
    select coalesce(array_agg(day order by day), '{}') as days
    from (
      select day from completeness_daily d
      where d.symbol = w.symbol and d.timeframe = w.timeframe and d.day > w.last
      order by day
      limit %s
    ) as nearest
  ) as later
"""
_QUARANTINED_ROWS: Final = """
select symbol, timeframe, time
from ohlcv_quarantine
where time >= $1 and time < $2
  and symbol in (select jsonb_array_elements_text($3::jsonb))
  and not rule in (select jsonb_array_elements_text($4::jsonb))
"""
_QUARANTINED_TIMES: Final = """
select distinct time
from ohlcv_quarantine
where symbol = $1 and timeframe in ($2, $3) and time >= $4 and time < $5
order by time
"""
_GAPS: Final = sql.SQL("""
select {columns}
from (values {windows}) as w(symbol, timeframe, lo, hi)
join gap_report g
  on g.symbol = w.symbol and g.timeframe = w.timeframe and g.gap_start < w.hi and g.gap_end > w.lo
where {which}
order by g.symbol, g.timeframe, g.gap_start{limit}
""")
_OF_LOSSES: Final = sql.SQL("""
from gap_report g
join tracked_symbols t on t.symbol = g.symbol and g.timeframe = any(t.timeframes)
where {is_loss} and g.symbol in (select jsonb_array_elements_text($1::jsonb))
""")
_LARGEST: Final = sql.SQL("""
select {columns}
{of_losses}
order by g.missing_bars desc, g.symbol, g.timeframe, g.gap_start
limit {limit}
""")
_COUNT_LOSSES: Final = sql.SQL("""
select count(*) as n
{of_losses}
""")
_REPLACE_GAPS: Final = """
delete from gap_report g
using unnest(%s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[]) as w(symbol, timeframe, lo, hi)
where g.symbol = w.symbol and g.timeframe = w.timeframe
  and g.gap_start < w.hi and g.gap_end > w.lo and g.state <> 'filled'
returning g.symbol, g.timeframe, g.gap_start, g.state, g.resolved_at, g.gap_end, g.repairs, g.repair_asked_at
"""
_FORGET_FILLED: Final = """
delete from gap_report g
using unnest(%s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[]) as w(symbol, timeframe, lo, hi)
where g.symbol = w.symbol and g.timeframe = w.timeframe
  and g.gap_start < w.hi and g.gap_end > w.lo and g.state = 'filled'
"""
# The completeness of a day stays known after its bars are pruned.
_DELETE_DAYS: Final = """
delete from completeness_daily d
using unnest(%s::text[], %s::text[], %s::date[], %s::date[]) as w(symbol, timeframe, first, last)
where d.symbol = w.symbol and d.timeframe = w.timeframe and d.day between w.first and w.last
  and not exists (
    select from pruned p
    join tracked_symbols t on t.symbol = p.symbol
    where p.symbol = d.symbol and p.timeframe = d.timeframe
      and p.pruned @> (
        d.day::timestamp at time zone t.timezone
      )
  )
"""


class _Around(NamedTuple):
    """The scanned days before and after the days of a series, the nearest first."""

    earlier: list[date]
    later: list[date]


def database_time(database: Database) -> datetime:
    """Return the present by the database's clock, which sets every ``stored_at``."""
    return database.transaction(read_clock)


def read_stored_bars(database: Database, windows: Mapping[Series, Window]) -> dict[Series, StoredBars]:
    """Read the stored bars of each series in its window."""
    columns = ["symbol", "timeframe", "time", "base_bars"]
    windows_of_series = {series: [window] for series, window in windows.items()}
    return stored_by_series(read_rows(database, OHLCV, windows_of_series, columns=columns))


def first_bars(database: Database, series: Iterable[Series]) -> dict[Series, datetime]:
    """Read the open of the first stored bar of each series or of its base, whichever is earlier.

    A series without such a bar is left out.
    """
    wanted = list(series)
    timeframes = {item.timeframe for item in wanted} | {item.timeframe.base for item in wanted}
    values = [sorted({item.symbol for item in wanted}), sorted(timeframe.value for timeframe in timeframes)]
    found = dict(database.fetch(_FIRST_BARS, values, row=by_series(moment)))
    firsts: dict[Series, datetime] = {}
    for item in wanted:
        sources = (item, Series(item.symbol, item.timeframe.base))
        if times := [found[source] for source in sources if source in found]:
            firsts[item] = min(times)
    return firsts


def read_requested(database: Database, windows: Mapping[Series, Window]) -> dict[Series, list[Window]]:
    """Read the windows of each series that were requested, with any result, are covered, or were scanned before.

    Only windows that overlap the window of the series count, and nothing that retention has removed.
    """
    wanted = [
        (item.symbol, item.timeframe.value, item.timeframe.base.value, window.start, window.end)
        for item, window in windows.items()
    ]

    def read(session: Session) -> dict[Series, list[Window]]:
        requested = grouped(fetch(session, _REQUESTED, columns(wanted), row=by_series(Window)))
        for series, removed in pruned_windows(session, [item.key for item in requested]).items():
            requested[series] = difference(requested[series], removed)
        return requested

    return database.transaction(read) if wanted else {}


def nearest_scanned_days(
    database: Database, days: Mapping[Series, tuple[date, date]], limit: int
) -> dict[Series, tuple[tuple[date, ...], tuple[date, ...]]]:
    """Read the scanned days of each series before the first and after the last of its ``days``, the nearest first.

    There are at most ``limit`` days on either side; a series without any is left out.
    """
    wanted = [(item.symbol, item.timeframe.value, first, last) for item, (first, last) in days.items()]
    if not wanted:
        return {}
    found = database.fetch(_SCANNED_AROUND, [*columns(wanted), limit, limit], row=by_series(_Around))
    return {
        series: (tuple(days.earlier), tuple(days.later))
        for series, days in found
        if days.earlier or days.later
    }


def read_quarantined_rows(database: Database, windows: Mapping[Series, Window]) -> pl.DataFrame:
    """Read ``symbol, timeframe, time`` of the quarantined rows that left no bar, from the first to the last of ``windows``."""
    first, last = (
        min(window.start for window in windows.values()),
        max(window.end for window in windows.values()),
    )
    rows = database.read_frame(
        _QUARANTINED_ROWS,
        [
            first,
            last,
            json.dumps(sorted({series.symbol for series in windows})),
            json.dumps(sorted(RULES_WITHOUT_LOSS)),
        ],
    )
    schema = pl.Schema(
        dict.fromkeys(("symbol", "timeframe"), KNOWN_GAP_SCHEMA["symbol"]) | {"time": UTC_TIME}
    )
    return rows.cast(schema) if rows.width else schema.to_frame()


def quarantined_times(database: Database, series: Series, window: Window) -> list[datetime]:
    """Read the times, each once, of the quarantined rows of ``series`` or its base in ``window``."""
    rows = database.read_frame(
        _QUARANTINED_TIMES,
        [series.symbol, series.timeframe.value, series.timeframe.base.value, window.start, window.end],
    )
    return rows["time"].to_list() if rows.width else []


def read_gaps(database: Database, windows: Mapping[Series, Window]) -> pl.DataFrame:
    """Read the known gaps of each series that overlap its window and are not filled, as ``KNOWN_GAP_SCHEMA``."""
    not_filled = sql.SQL("g.state <> {}").format(sql.Literal(GapState.FILLED.value))
    return _read_gaps_where(database, windows, KNOWN_GAP_SCHEMA, not_filled)


def list_gaps(
    database: Database, windows: Mapping[Series, Window], states: Collection[str] | None = None
) -> pl.DataFrame:
    """List the gaps in ``states`` (default: all) that overlap the window of their series, as ``LISTED_SCHEMA``.

    The largest come first.
    """
    which = sql.SQL("true") if states is None else _state_in(states)
    return _read_gaps_where(database, windows, LISTED_SCHEMA, which).sort("missing_bars", descending=True)


def sorted_gaps(
    database: Database,
    windows: Mapping[Series, Window],
    states: Collection[str] | None = None,
    *,
    after: tuple[str, str, datetime] | None = None,
    limit: int | None = None,
) -> pl.DataFrame:
    """List the gaps of :func:`list_gaps` in the order of their key (symbol, timeframe, gap_start), one page per call.

    A page has only keys after ``after``, and at most ``limit`` rows. A gap that is found or split between two calls
    does not move another gap to another page.
    """
    which = sql.SQL("true") if states is None else _state_in(states)
    if after is not None:
        symbol, timeframe, start = after
        which = sql.SQL(
            "{} and (g.symbol, g.timeframe, g.gap_start) > ({}::text, {}::text, {}::timestamptz)"
        ).format(which, *map(sql.Literal, (symbol, timeframe, start.isoformat())))
    return _read_gaps_where(database, windows, LISTED_SCHEMA, which, limit)


def list_losses(database: Database, symbols: Collection[str], limit: int) -> tuple[pl.DataFrame, int]:
    """List the largest ``limit`` gaps of ``symbols`` that are open or unfilled, and count all of them.

    The gaps are of the timeframes in which the symbols are tracked, as ``KNOWN_GAP_SCHEMA``, the largest first.
    """
    of_losses = _OF_LOSSES.format(is_loss=_state_in(LOSSES))
    largest = _LARGEST.format(
        columns=_gap_columns(KNOWN_GAP_SCHEMA), of_losses=of_losses, limit=sql.Literal(limit)
    )
    wanted = json.dumps(list(symbols))
    rows = database.read_frame(largest.as_string(None), [wanted])
    count = int(
        database.read_frame(_COUNT_LOSSES.format(of_losses=of_losses).as_string(None), [wanted]).item()
    )
    return (rows.cast(KNOWN_GAP_SCHEMA) if rows.width else KNOWN_GAP_SCHEMA.to_frame()), count


def _gap_columns(schema: pl.Schema) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("g.{}").format(sql.Identifier(name)) for name in schema.names())


def _state_in(states: Collection[str]) -> sql.Composable:
    if not states:
        return sql.SQL("false")
    # Literals, not a parameter: the planner must see that a partial index covers them.
    return sql.SQL("g.state in ({})").format(sql.SQL(", ").join(map(sql.Literal, states)))


def gap_rows(gaps: pl.DataFrame) -> list[dict[str, object]]:
    """Return ``gaps`` as rows of JSON values: dates and times in ISO 8601."""
    return [
        {name: value.isoformat() if isinstance(value, date) else value for name, value in row.items()}
        for row in gaps.iter_rows(named=True)
    ]


def _read_gaps_where(
    database: Database,
    windows: Mapping[Series, Window],
    schema: pl.Schema,
    which: sql.Composable,
    limit: int | None = None,
) -> pl.DataFrame:
    if not windows:
        return schema.to_frame()
    query = _GAPS.format(
        columns=_gap_columns(schema),
        windows=window_values(windows.items()),
        which=which,
        limit=sql.SQL("") if limit is None else sql.SQL(" limit {}").format(sql.Literal(limit)),
    )
    frame = database.read_frame(query.as_string(None))
    return frame.cast(schema).select(schema.names()) if frame.width else schema.to_frame()


@contextmanager
def exclusive_scan(database: Database, series: Iterable[Series]) -> Iterator[None]:
    """Hold the right to scan ``series``, from reading through fetching to writing.

    A second scan of any of the series waits. The locks are held by a session of their own, so that the server frees
    them when this process is gone.
    """
    with connect(database.url, application_name="marketdata gaps") as session:
        session.autocommit = True
        # Wait for another scan however long its requests to the vendor take.
        session.execute("set lock_timeout = 0")
        session.execute("set statement_timeout = 0")
        lock_for_session(session, (item.key for item in series), LockSpace.GAP_SCANS)
        yield


def write_gaps(database: Database, result: ScanResult) -> None:
    """Replace the known gaps and days in the windows of ``result`` with the scan's, in one transaction.

    A null ``detected_at`` becomes the present. Known gaps that are filled stay.
    """

    def work(session: Session) -> None:
        lock_series(session, result.spans)
        keys_and_days = [
            (series.symbol, series.timeframe.value, window.start, window.end, *result.days[series])
            for series, window in result.spans.items()
        ]
        symbols, timeframes, starts, ends, firsts, lasts = columns(keys_and_days)
        replaced = session.execute(_REPLACE_GAPS, [symbols, timeframes, starts, ends]).fetchall()
        earlier = pl.DataFrame(replaced, schema=_REPLACED_SCHEMA, orient="row")
        mark_stale(session, _first_changed_losses(earlier, result.gaps), "gaps were found or explained")
        _forget_filled(session, result.gaps)
        start = ["symbol", "timeframe", "gap_start"]
        gaps = (
            result.gaps.select(KNOWN_GAP_SCHEMA.names())
            .join(earlier.select(*start, "state", "resolved_at"), on=[*start, "state"], how="left")
            .join(earlier.select(*start, *_REPAIRS_SCHEMA), on=start, how="left")
            .with_columns(pl.col("repairs").fill_null(0))
        )
        written = [*LISTED_SCHEMA, *_REPAIRS_SCHEMA]
        others = ", ".join(f"{name} = excluded.{name}" for name in written[3:])
        _insert(
            session,
            "gap_report",
            gaps.select(written),
            # Slots that were filled once may be missing again, and a filled gap may grow.
            f"on conflict (symbol, timeframe, gap_start) do update set {others}",
        )
        session.execute(_DELETE_DAYS, [symbols, timeframes, firsts, lasts])
        others = ", ".join(f"{name} = excluded.{name}" for name in (*_DAILY[3:], "checked_at"))
        _insert(
            session,
            "completeness_daily",
            result.daily.select(_DAILY).with_columns(checked_at=pl.lit(result.begun, UTC_TIME)),
            f"on conflict (symbol, timeframe, day) do update set {others}",
        )

    if result.spans:
        database.transaction(work)


def _forget_filled(session: Session, gaps: pl.DataFrame) -> None:
    """Delete the filled gaps that overlap gaps which are not filled: their slots are missing again."""
    not_filled = gaps.filter(pl.col("state") != GapState.FILLED.value)
    session.execute(
        _FORGET_FILLED,
        [not_filled[name].to_list() for name in ("symbol", "timeframe", "gap_start", "gap_end")],
    )


def _first_changed_losses(earlier: pl.DataFrame, gaps: pl.DataFrame) -> dict[Series, datetime]:
    """Return the start of each series' first gap that is a loss in one of the frames and not in the other."""
    key = ["symbol", "timeframe", "gap_start", "gap_end"]
    before, after = (frame.filter(pl.col("state").is_in(LOSSES)).select(key) for frame in (earlier, gaps))
    changed = pl.concat(
        [before.join(after, on=key, how="anti"), after.join(before, on=key, how="anti").cast(before.schema)]
    )
    return {
        Series(symbol, Timeframe(timeframe)): start
        for symbol, timeframe, start in changed.group_by("symbol", "timeframe")
        .agg(pl.col("gap_start").min())
        .iter_rows()
    }


_COMPUTED: Final = {
    "checked_at": "coalesce(checked_at, now())",
    "detected_at": "coalesce(detected_at, now())",
    "resolved_at": "case when state <> 'open' then coalesce(resolved_at, now()) end",
}


def _insert(session: Session, table: str, rows: pl.DataFrame, conflict: str) -> None:
    if rows.is_empty():
        return
    names = ", ".join(rows.columns)
    values = ", ".join(_COMPUTED.get(name, name) for name in rows.columns)
    arrays = ", ".join(f"%s::{_TYPES[name]}[]" for name in rows.columns)
    statement = (
        f"insert into {table} ({names}) select {values}"  # noqa: S608 - names of this module
        f" from unnest({arrays}) as t({names}) {conflict}"
    )
    session.execute(statement.encode(), [rows[name].to_list() for name in rows.columns])
