"""Gaps and completeness in Postgres: the bars to scan, known gaps, and what became of them."""

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
from marketdata_assets.storage.windows import span_values

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
"""Gaps as people and machines read them: ``resolved_at`` is when a gap left the state open."""

_ASKED_SCHEMA: Final = pl.Schema({"repairs": pl.Int32(), "repair_asked_at": LISTED_SCHEMA["gap_start"]})
_REPLACED_SCHEMA: Final = pl.Schema(
    {
        **{
            name: LISTED_SCHEMA[name]
            for name in ("symbol", "timeframe", "gap_start", "state", "resolved_at", "gap_end")
        },
        **_ASKED_SCHEMA,
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

_ZONE: Final = "case t.calendar when '24/7' then 'UTC' else 'America/New_York' end"
"""The time zone of the days of the symbol ``t``, as ``domain.calendar`` has it."""

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
_ASKED: Final = """
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
      d.day::timestamp at time zone z.zone, (d.day + 1)::timestamp at time zone z.zone
    )) as days
  from w
  join completeness_daily d
    on d.symbol = w.symbol and d.timeframe = w.timeframe and d.day between w.lo::date - 1 and w.hi::date + 1
  join tracked_symbols t on t.symbol = w.symbol,
    lateral (select <zone> as zone) as z
  group by 1, 2
) as scanned,
  unnest(scanned.days) as piece
""".replace("<zone>", _ZONE)
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
_REJECTED: Final = """
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
from (values {spans}) as w(symbol, timeframe, lo, hi)
join gap_report g
  on g.symbol = w.symbol and g.timeframe = w.timeframe and g.gap_start < w.hi and g.gap_end > w.lo
where {which}
order by g.symbol, g.timeframe, g.gap_start{limit}
""")
_OF_LOST: Final = sql.SQL("""
from gap_report g
join tracked_symbols t on t.symbol = g.symbol and g.timeframe = any(t.timeframes)
where {lost} and g.symbol in (select jsonb_array_elements_text($1::jsonb))
""")
_LARGEST: Final = sql.SQL("""
select {columns}
{of_lost}
order by g.missing_bars desc, g.symbol, g.timeframe, g.gap_start
limit {limit}
""")
_COUNT_LOST: Final = sql.SQL("""
select count(*) as n
{of_lost}
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
# How whole a day was stays known when its bars are pruned.
_DELETE_DAYS: Final = """
delete from completeness_daily d
using unnest(%s::text[], %s::text[], %s::date[], %s::date[]) as w(symbol, timeframe, first, last)
where d.symbol = w.symbol and d.timeframe = w.timeframe and d.day between w.first and w.last
  and not exists (
    select from pruned p
    join tracked_symbols t on t.symbol = p.symbol
    where p.symbol = d.symbol and p.timeframe = d.timeframe
      and p.pruned @> (
        d.day::timestamp at time zone <zone>
      )
  )
""".replace("<zone>", _ZONE)


class _Around(NamedTuple):
    """The scanned days before and after a series' days, the nearest first."""

    earlier: list[date]
    later: list[date]


def database_time(database: Database) -> datetime:
    """Return the present by the database's clock, which every ``stored_at`` is of."""
    return database.transaction(read_clock)


def read_stored_bars(database: Database, windows: Mapping[Series, Window]) -> dict[Series, StoredBars]:
    """The stored bars of each series in its window."""
    columns = ["symbol", "timeframe", "time", "base_bars"]
    spans = {series: [window] for series, window in windows.items()}
    return stored_by_series(read_rows(database, OHLCV, spans, columns=columns))


def first_bars(database: Database, series: Iterable[Series]) -> dict[Series, datetime]:
    """The open of the first stored bar of each series' symbol in any timeframe of the same base.

    A series without such a bar is left out.
    """
    wanted = list(series)
    timeframes = {one.timeframe for one in wanted} | {one.timeframe.base for one in wanted}
    values = [sorted({one.symbol for one in wanted}), sorted(one.value for one in timeframes)]
    found = dict(database.fetch(_FIRST_BARS, values, row=by_series(moment)))
    firsts: dict[Series, datetime] = {}
    for one in wanted:
        sources = (one, Series(one.symbol, one.timeframe.base))
        if times := [found[source] for source in sources if source in found]:
            firsts[one] = min(times)
    return firsts


def read_requested(database: Database, windows: Mapping[Series, Window]) -> dict[Series, list[Window]]:
    """What of each series was asked of the vendor, whatever came of it, is stored whole or was looked through before.

    As far as it overlaps the window of the series; what retention has removed does not count.
    """
    wanted = [
        (one.symbol, one.timeframe.value, one.timeframe.base.value, window.start, window.end)
        for one, window in windows.items()
    ]

    def read(connection: Session) -> dict[Series, list[Window]]:
        requested = grouped(fetch(connection, _ASKED, columns(wanted), row=by_series(Window)))
        for series, removed in pruned_windows(connection, [one.key for one in requested]).items():
            requested[series] = difference(requested[series], removed)
        return requested

    return database.transaction(read) if wanted else {}


def scanned_around(
    database: Database, days: Mapping[Series, tuple[date, date]], limit: int
) -> dict[Series, tuple[tuple[date, ...], tuple[date, ...]]]:
    """Read the scanned days of each series before and after its first and last of ``days``, the nearest first.

    At most ``limit`` on either side; a series without any is left out.
    """
    wanted = [(one.symbol, one.timeframe.value, first, last) for one, (first, last) in days.items()]
    if not wanted:
        return {}
    found = database.fetch(_SCANNED_AROUND, [*columns(wanted), limit, limit], row=by_series(_Around))
    return {
        series: (tuple(days.earlier), tuple(days.later))
        for series, days in found
        if days.earlier or days.later
    }


def read_rejected(database: Database, windows: Mapping[Series, Window]) -> pl.DataFrame:
    """``symbol, timeframe, time`` of the vendor's rows that broke a rule and left no bar, around ``windows``."""
    first, last = min(one.start for one in windows.values()), max(one.end for one in windows.values())
    rows = database.read_frame(
        _REJECTED,
        [
            first,
            last,
            json.dumps(sorted({one.symbol for one in windows})),
            json.dumps(sorted(RULES_WITHOUT_LOSS)),
        ],
    )
    schema = pl.Schema(
        dict.fromkeys(("symbol", "timeframe"), KNOWN_GAP_SCHEMA["symbol"]) | {"time": UTC_TIME}
    )
    return rows.cast(schema) if rows.width else schema.to_frame()


def quarantined_times(database: Database, series: Series, window: Window) -> list[datetime]:
    """Return the times, each once, of the vendor's rows of ``series`` or its base that broke a rule in ``window``."""
    rows = database.read_frame(
        _QUARANTINED_TIMES,
        [series.symbol, series.timeframe.value, series.timeframe.base.value, window.start, window.end],
    )
    return rows["time"].to_list() if rows.width else []


def read_gaps(database: Database, windows: Mapping[Series, Window]) -> pl.DataFrame:
    """The known gaps of each series that reach into its window and are not filled, as ``KNOWN_GAP_SCHEMA``."""
    standing = sql.SQL("g.state <> {}").format(sql.Literal(GapState.FILLED.value))
    return _read(database, windows, KNOWN_GAP_SCHEMA, standing)


def list_gaps(
    database: Database, windows: Mapping[Series, Window], states: Collection[str] | None = None
) -> pl.DataFrame:
    """Every gap in one of ``states`` (default: any) that reaches into the window of its series, the largest first.

    As ``LISTED_SCHEMA``.
    """
    which = sql.SQL("true") if states is None else _state_in(states)
    return _read(database, windows, LISTED_SCHEMA, which).sort("missing_bars", descending=True)


def sorted_gaps(
    database: Database,
    windows: Mapping[Series, Window],
    states: Collection[str] | None = None,
    *,
    after: tuple[str, str, datetime] | None = None,
    limit: int | None = None,
) -> pl.DataFrame:
    """What :func:`list_gaps` lists, in the order of the key (symbol, timeframe, gap_start): a page at a time.

    Only keys behind ``after``, and at most ``limit`` rows. A gap that is found or split meanwhile moves no other one
    to another page.
    """
    which = sql.SQL("true") if states is None else _state_in(states)
    if after is not None:
        symbol, timeframe, start = after
        which = sql.SQL(
            "{} and (g.symbol, g.timeframe, g.gap_start) > ({}::text, {}::text, {}::timestamptz)"
        ).format(which, *map(sql.Literal, (symbol, timeframe, start.isoformat())))
    return _read(database, windows, LISTED_SCHEMA, which, limit)


def lost_gaps(database: Database, symbols: Collection[str], limit: int) -> tuple[pl.DataFrame, int]:
    """The largest ``limit`` gaps of the series of ``symbols`` that are open or unfilled, and how many there are.

    As ``KNOWN_GAP_SCHEMA``, largest first, of the timeframes that the symbols are tracked in.
    """
    of_lost = _OF_LOST.format(lost=_state_in(LOSSES))
    largest = _LARGEST.format(columns=_listed(KNOWN_GAP_SCHEMA), of_lost=of_lost, limit=sql.Literal(limit))
    wanted = json.dumps(list(symbols))
    rows = database.read_frame(largest.as_string(None), [wanted])
    count = int(database.read_frame(_COUNT_LOST.format(of_lost=of_lost).as_string(None), [wanted]).item())
    return (rows.cast(KNOWN_GAP_SCHEMA) if rows.width else KNOWN_GAP_SCHEMA.to_frame()), count


def _listed(schema: pl.Schema) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("g.{}").format(sql.Identifier(name)) for name in schema.names())


def _state_in(states: Collection[str]) -> sql.Composable:
    if not states:
        return sql.SQL("false")
    # Literals, not a parameter: the planner must see that a partial index covers them.
    return sql.SQL("g.state in ({})").format(sql.SQL(", ").join(map(sql.Literal, states)))


def gap_rows(gaps: pl.DataFrame) -> list[dict[str, object]]:
    """``gaps`` as JSON can hold them: dates and times in ISO 8601."""
    return [
        {name: value.isoformat() if isinstance(value, date) else value for name, value in row.items()}
        for row in gaps.iter_rows(named=True)
    ]


def _read(
    database: Database,
    windows: Mapping[Series, Window],
    schema: pl.Schema,
    which: sql.Composable,
    limit: int | None = None,
) -> pl.DataFrame:
    if not windows:
        return schema.to_frame()
    query = _GAPS.format(
        columns=_listed(schema),
        spans=span_values(windows.items()),
        which=which,
        limit=sql.SQL("") if limit is None else sql.SQL(" limit {}").format(sql.Literal(limit)),
    )
    frame = database.read_frame(query.as_string(None))
    return frame.cast(schema).select(schema.names()) if frame.width else schema.to_frame()


@contextmanager
def exclusive_scan(database: Database, series: Iterable[Series]) -> Iterator[None]:
    """Hold the right to scan ``series``, over all of reading, fetching and writing.

    A second scan of any of them waits. In a session of its own: the server frees it when this process is gone.
    """
    with connect(database.url, application_name="marketdata gaps") as session:
        session.autocommit = True
        # However long the vendor keeps the other one waiting.
        session.execute("set lock_timeout = 0")
        session.execute("set statement_timeout = 0")
        lock_for_session(session, (one.key for one in series), LockSpace.GAP_SCANS)
        yield


def write_gaps(database: Database, result: ScanResult) -> None:
    """Replace what is known in the spans of ``result`` by what it found, in one transaction.

    ``detected_at`` that is null becomes now; filled gaps that are known stay.
    """

    def work(connection: Session) -> None:
        lock_series(connection, result.spans)
        spans = [
            (one.symbol, one.timeframe.value, span.start, span.end, *result.days[one])
            for one, span in result.spans.items()
        ]
        symbols, timeframes, starts, ends, firsts, lasts = columns(spans)
        replaced = connection.execute(_REPLACE_GAPS, [symbols, timeframes, starts, ends]).fetchall()
        earlier = pl.DataFrame(replaced, schema=_REPLACED_SCHEMA, orient="row")
        mark_stale(connection, _losses_changed_from(earlier, result.gaps), "gaps were found or explained")
        _forget_filled(connection, result.gaps)
        start = ["symbol", "timeframe", "gap_start"]
        gaps = (
            result.gaps.select(KNOWN_GAP_SCHEMA.names())
            .join(earlier.select(*start, "state", "resolved_at"), on=[*start, "state"], how="left")
            .join(earlier.select(*start, *_ASKED_SCHEMA), on=start, how="left")
            .with_columns(pl.col("repairs").fill_null(0))
        )
        written = [*LISTED_SCHEMA, *_ASKED_SCHEMA]
        others = ", ".join(f"{name} = excluded.{name}" for name in written[3:])
        _insert(
            connection,
            "gap_report",
            gaps.select(written),
            # What was filled once may be missing again, or be filled with more.
            f"on conflict (symbol, timeframe, gap_start) do update set {others}",
        )
        connection.execute(_DELETE_DAYS, [symbols, timeframes, firsts, lasts])
        others = ", ".join(f"{name} = excluded.{name}" for name in (*_DAILY[3:], "checked_at"))
        _insert(
            connection,
            "completeness_daily",
            result.daily.select(_DAILY).with_columns(checked_at=pl.lit(result.begun, UTC_TIME)),
            f"on conflict (symbol, timeframe, day) do update set {others}",
        )

    if result.spans:
        database.transaction(work)


def _forget_filled(connection: Session, gaps: pl.DataFrame) -> None:
    """What is missing again is not filled."""
    standing = gaps.filter(pl.col("state") != GapState.FILLED.value)
    connection.execute(
        _FORGET_FILLED,
        [standing[name].to_list() for name in ("symbol", "timeframe", "gap_start", "gap_end")],
    )


def _losses_changed_from(earlier: pl.DataFrame, gaps: pl.DataFrame) -> dict[Series, datetime]:
    """The start of each series' first gap that counts as lost in one of the frames and not in the other."""
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


def _insert(connection: Session, table: str, rows: pl.DataFrame, conflict: str) -> None:
    if rows.is_empty():
        return
    names = ", ".join(rows.columns)
    values = ", ".join(_COMPUTED.get(name, name) for name in rows.columns)
    arrays = ", ".join(f"%s::{_TYPES[name]}[]" for name in rows.columns)
    statement = (
        f"insert into {table} ({names}) select {values}"  # noqa: S608 - names of this module
        f" from unnest({arrays}) as t({names}) {conflict}"
    )
    connection.execute(statement.encode(), [rows[name].to_list() for name in rows.columns])
