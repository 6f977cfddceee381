"""Gaps and completeness in Postgres: the bars to scan, known gaps, and what became of them."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Final

import polars as pl
from psycopg import sql

from marketdata_assets.domain.bars import RULES_WITHOUT_LOSS, UTC_TIME
from marketdata_assets.domain.gap_history import KNOWN_SCHEMA
from marketdata_assets.domain.gaps import LOSSES, GapState
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.slots import Held, held_by_series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window, difference
from marketdata_assets.storage.bars import read_rows
from marketdata_assets.storage.connection import connect
from marketdata_assets.storage.features import mark_stale
from marketdata_assets.storage.merge import lock_series, read_clock
from marketdata_assets.storage.pruned import pruned_windows
from marketdata_assets.storage.tables import OHLCV

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from psycopg import Connection

    from marketdata_assets.domain.gap_history import ScanResult
    from marketdata_assets.storage.connection import Database

_LOOK_LOCKS: Final = 0x6D67  # any constant that nobody else hashes advisory locks with

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
LISTED_SCHEMA: Final = pl.Schema({**KNOWN_SCHEMA, "resolved_at": KNOWN_SCHEMA["gap_start"]})
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


def database_time(database: Database) -> datetime:
    """Return the present by the database's clock, which every ``stored_at`` is of."""
    return database.transaction(read_clock)


def read_held(database: Database, windows: Mapping[Series, Window]) -> dict[Series, Held]:
    """The stored bars of each series in its window."""
    columns = ["symbol", "timeframe", "time", "base_bars"]
    spans = {series: [window] for series, window in windows.items()}
    return held_by_series(read_rows(database, OHLCV, spans, columns=columns))


def first_bars(database: Database, series: Iterable[Series]) -> dict[Series, datetime]:
    """The open of the first stored bar of each series' symbol in any timeframe of the same base.

    A series without such a bar is left out.
    """
    wanted = list(series)

    def read(connection: Connection[tuple[object, ...]]) -> dict[Series, datetime]:
        symbols = sorted({one.symbol for one in wanted})
        rows = connection.execute(
            "select s.symbol, f.timeframe, b.time from unnest(%s::text[]) as s(symbol),"
            " unnest(%s::text[]) as f(timeframe), lateral (select time from ohlcv o"
            "  where o.symbol = s.symbol and o.timeframe = f.timeframe order by time limit 1) as b",
            [
                symbols,
                sorted(
                    {one.timeframe.value for one in wanted} | {one.timeframe.base.value for one in wanted}
                ),
            ],
        ).fetchall()
        found = {(str(symbol), str(timeframe)): time for symbol, timeframe, time in rows}
        firsts: dict[Series, datetime] = {}
        for one in wanted:
            times = [
                time
                for (symbol, timeframe), time in found.items()
                if symbol == one.symbol
                and timeframe in (one.timeframe.value, one.timeframe.base.value)
                and isinstance(time, datetime)
            ]
            if times:
                firsts[one] = min(times)
        return firsts

    return database.transaction(read)


def read_asked(database: Database, windows: Mapping[Series, Window]) -> dict[Series, list[Window]]:
    """What of each series was asked of the vendor, whatever came of it, is stored whole or was looked through before.

    As far as it overlaps the window of the series; what retention has removed does not count.
    """
    wanted = list(windows.items())

    def read(connection: Connection[tuple[object, ...]]) -> dict[Series, list[Window]]:
        rows = connection.execute(
            "with w as (select * from unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[],"
            " %s::timestamptz[]) as w(symbol, timeframe, base, lo, hi))"
            " select w.symbol, w.timeframe, f.window_start, f.window_end from w join fetch_log f"
            "  on f.symbol = w.symbol and f.base = w.base and w.timeframe = any(f.timeframes)"
            "  and f.window_start < w.hi and f.window_end > w.lo"
            " union all select w.symbol, w.timeframe, lower(piece), upper(piece) from w join coverage c"
            "  on c.symbol = w.symbol and c.timeframe = w.timeframe,"
            "  unnest(c.covered * tstzmultirange(tstzrange(w.lo, w.hi))) as piece"
            " union all select looked.symbol, looked.timeframe, lower(piece), upper(piece) from (select w.symbol,"
            "  w.timeframe, range_agg(tstzrange(d.day::timestamp at time zone z.zone,"
            "   (d.day + 1)::timestamp at time zone z.zone)) as days"
            "  from w join completeness_daily d on d.symbol = w.symbol and d.timeframe = w.timeframe"
            "   and d.day between w.lo::date - 1 and w.hi::date + 1 join tracked_symbols t on t.symbol = w.symbol,"
            "  lateral (select case t.calendar when '24/7' then 'UTC' else 'America/New_York' end as zone) as z"
            "  group by 1, 2) as looked, unnest(looked.days) as piece",
            [
                list(column)
                for column in zip(
                    *(
                        (one.symbol, one.timeframe.value, one.timeframe.base.value, window.start, window.end)
                        for one, window in wanted
                    ),
                    strict=True,
                )
            ],
        ).fetchall()
        asked: dict[Series, list[Window]] = {}
        for symbol, timeframe, start, end in rows:
            if isinstance(start, datetime) and isinstance(end, datetime):
                series = Series(str(symbol), Timeframe(str(timeframe)))
                asked.setdefault(series, []).append(Window(start.astimezone(UTC), end.astimezone(UTC)))
        for series, removed in pruned_windows(connection, [one.key for one in asked]).items():
            asked[series] = difference(asked[series], removed)
        return asked

    return database.transaction(read) if wanted else {}


def scanned_around(
    database: Database, days: Mapping[Series, tuple[date, date]], limit: int
) -> dict[Series, tuple[tuple[date, ...], tuple[date, ...]]]:
    """Read the scanned days of each series before and after its first and last of ``days``, the nearest first.

    At most ``limit`` on either side; a series without any is left out.
    """
    wanted = list(days.items())

    def read(connection: Connection[tuple[object, ...]]) -> list[tuple[object, ...]]:
        return connection.execute(
            "select w.symbol, w.timeframe, earlier.days, later.days"
            " from unnest(%s::text[], %s::text[], %s::date[], %s::date[]) as w(symbol, timeframe, first, last),"
            " lateral (select coalesce(array_agg(day order by day desc), '{}') as days from (select day"
            "  from completeness_daily d where d.symbol = w.symbol and d.timeframe = w.timeframe and d.day < w.first"
            "  order by day desc limit %s) as nearest) as earlier,"
            " lateral (select coalesce(array_agg(day order by day), '{}') as days from (select day"
            "  from completeness_daily d where d.symbol = w.symbol and d.timeframe = w.timeframe and d.day > w.last"
            "  order by day limit %s) as nearest) as later",
            [
                [one.symbol for one, _ in wanted],
                [one.timeframe.value for one, _ in wanted],
                [first for _, (first, _) in wanted],
                [last for _, (_, last) in wanted],
                limit,
                limit,
            ],
        ).fetchall()

    found: dict[Series, tuple[tuple[date, ...], tuple[date, ...]]] = {}
    for symbol, timeframe, earlier, later in database.transaction(read) if wanted else ():
        before, after = (
            tuple(day for day in side if isinstance(day, date)) if isinstance(side, list) else ()
            for side in (earlier, later)
        )
        if before or after:
            found[Series(str(symbol), Timeframe(str(timeframe)))] = (before, after)
    return found


def read_rejected(database: Database, windows: Mapping[Series, Window]) -> pl.DataFrame:
    """``symbol, timeframe, time`` of the vendor's rows that broke a rule and left no bar, around ``windows``."""
    first, last = min(one.start for one in windows.values()), max(one.end for one in windows.values())
    rows = database.read_frame(
        "select symbol, timeframe, time from ohlcv_quarantine where time >= $1 and time < $2"
        " and symbol in (select jsonb_array_elements_text($3::jsonb))"
        " and not rule in (select jsonb_array_elements_text($4::jsonb))",
        [
            first,
            last,
            json.dumps(sorted({one.symbol for one in windows})),
            json.dumps(sorted(RULES_WITHOUT_LOSS)),
        ],
    )
    schema = pl.Schema(dict.fromkeys(("symbol", "timeframe"), KNOWN_SCHEMA["symbol"]) | {"time": UTC_TIME})
    return rows.cast(schema) if rows.width else schema.to_frame()


def quarantined_times(database: Database, series: Series, window: Window) -> list[datetime]:
    """Return the times, each once, of the vendor's rows of ``series`` or its base that broke a rule in ``window``."""
    rows = database.read_frame(
        "select distinct time from ohlcv_quarantine where symbol = $1 and timeframe in ($2, $3)"
        " and time >= $4 and time < $5 order by time",
        [series.symbol, series.timeframe.value, series.timeframe.base.value, window.start, window.end],
    )
    return rows["time"].to_list() if rows.width else []


def read_gaps(database: Database, windows: Mapping[Series, Window]) -> pl.DataFrame:
    """The known gaps of each series that reach into its window and are not filled, as ``KNOWN_SCHEMA``."""
    standing = sql.SQL("g.state <> {}").format(sql.Literal(GapState.FILLED.value))
    return _read(database, windows, KNOWN_SCHEMA, standing)


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

    As ``KNOWN_SCHEMA``, largest first, of the timeframes that the symbols are tracked in.
    """
    lost = (
        "from gap_report g join tracked_symbols t on t.symbol = g.symbol and g.timeframe = any(t.timeframes)"
        f" where {_state_in(LOSSES).as_string(None)}"
        " and g.symbol in (select jsonb_array_elements_text($1::jsonb))"
    )
    names = ", ".join(f"g.{name}" for name in KNOWN_SCHEMA.names())
    wanted = json.dumps(list(symbols))
    rows = database.read_frame(
        f"select {names} {lost} order by g.missing_bars desc, g.symbol, g.timeframe, g.gap_start limit {limit:d}",
        [wanted],
    )
    count = int(database.read_frame(f"select count(*) as n {lost}", [wanted]).item())
    return (rows.cast(KNOWN_SCHEMA) if rows.width else KNOWN_SCHEMA.to_frame()), count


def _state_in(states: Iterable[str]) -> sql.Composed:
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
    values = sql.SQL(", ").join(
        sql.SQL("({}, {}, {}::timestamptz, {}::timestamptz)").format(
            *map(
                sql.Literal,
                (one.symbol, one.timeframe.value, window.start.isoformat(), window.end.isoformat()),
            )
        )
        for one, window in windows.items()
    )
    query = sql.SQL(
        "select {} from (values {}) as w(symbol, timeframe, lo, hi)"
        " join gap_report g on g.symbol = w.symbol and g.timeframe = w.timeframe"
        " and g.gap_start < w.hi and g.gap_end > w.lo where {} order by g.symbol, g.timeframe, g.gap_start{}"
    ).format(
        sql.SQL(", ").join(sql.SQL("g.{}").format(sql.Identifier(name)) for name in schema.names()),
        values,
        which,
        sql.SQL("") if limit is None else sql.SQL(" limit {}").format(sql.Literal(limit)),
    )
    frame = database.read_frame(query.as_string(None))
    return frame.cast(schema).select(schema.names()) if frame.width else schema.to_frame()


@contextmanager
def exclusive_scan(database: Database, series: Iterable[Series]) -> Iterator[None]:
    """Hold the right to scan ``series``, over all of reading, fetching and writing.

    A second scan of any of them waits. In a session of its own: the server frees it when this process is gone.
    """
    keys = sorted(one.key for one in series)
    with connect(database.url, application_name="marketdata gaps") as session:
        session.autocommit = True
        # However long the vendor keeps the other one waiting.
        session.execute("set lock_timeout = 0")
        session.execute("set statement_timeout = 0")
        session.execute(
            "select pg_advisory_lock(hashtextextended(key, %s))"
            " from unnest(%s::text[]) with ordinality as wanted(key, place) order by place",
            [_LOOK_LOCKS, keys],
        )
        yield


def write_gaps(database: Database, result: ScanResult) -> None:
    """Replace what is known in the spans of ``result`` by what it found, in one transaction.

    ``detected_at`` that is null becomes now; filled gaps that are known stay.
    """

    def work(connection: Connection[tuple[object, ...]]) -> None:
        lock_series(connection, result.spans)
        spans = [
            (one.symbol, one.timeframe.value, span.start, span.end, *result.days[one])
            for one, span in result.spans.items()
        ]
        columns = [list(column) for column in zip(*spans, strict=True)]
        replaced = connection.execute(
            "delete from gap_report g using unnest(%s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[])"
            " as w(symbol, timeframe, lo, hi) where g.symbol = w.symbol and g.timeframe = w.timeframe"
            " and g.gap_start < w.hi and g.gap_end > w.lo and g.state <> 'filled'"
            " returning g.symbol, g.timeframe, g.gap_start, g.state, g.resolved_at, g.gap_end,"
            " g.repairs, g.repair_asked_at",
            columns[:4],
        ).fetchall()
        earlier = pl.DataFrame(replaced, schema=_REPLACED_SCHEMA, orient="row")
        mark_stale(connection, _losses_changed_from(earlier, result.gaps), "gaps were found or explained")
        _forget_filled(connection, result.gaps)
        start = ["symbol", "timeframe", "gap_start"]
        gaps = (
            result.gaps.select(KNOWN_SCHEMA.names())
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
        connection.execute(
            "delete from completeness_daily d using unnest(%s::text[], %s::text[], %s::date[], %s::date[])"
            " as w(symbol, timeframe, first, last) where d.symbol = w.symbol and d.timeframe = w.timeframe"
            " and d.day between w.first and w.last"
            # How whole a day was stays known when its bars are pruned.
            " and not exists (select from pruned p join tracked_symbols t on t.symbol = p.symbol"
            "  where p.symbol = d.symbol and p.timeframe = d.timeframe and p.pruned @> (d.day::timestamp"
            "   at time zone case t.calendar when '24/7' then 'UTC' else 'America/New_York' end))",
            [*columns[:2], *columns[4:]],
        )
        others = ", ".join(f"{name} = excluded.{name}" for name in (*_DAILY[3:], "checked_at"))
        _insert(
            connection,
            "completeness_daily",
            result.daily.select(_DAILY).with_columns(checked_at=pl.lit(result.begun, UTC_TIME)),
            f"on conflict (symbol, timeframe, day) do update set {others}",
        )

    if result.spans:
        database.transaction(work)


def _forget_filled(connection: Connection[tuple[object, ...]], gaps: pl.DataFrame) -> None:
    """What is missing again is not filled."""
    standing = gaps.filter(pl.col("state") != GapState.FILLED.value)
    connection.execute(
        "delete from gap_report g using unnest(%s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[])"
        " as w(symbol, timeframe, lo, hi) where g.symbol = w.symbol and g.timeframe = w.timeframe"
        " and g.gap_start < w.hi and g.gap_end > w.lo and g.state = 'filled'",
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


def _insert(
    connection: Connection[tuple[object, ...]], table: str, rows: pl.DataFrame, conflict: str
) -> None:
    if rows.is_empty():
        return
    columns: Sequence[str] = rows.columns
    values = ", ".join(_COMPUTED.get(name, name) for name in columns)
    arrays = ", ".join(f"%s::{_TYPES[name]}[]" for name in columns)
    statement = (
        f"insert into {table} ({', '.join(columns)}) select {values}"  # noqa: S608 - names of this module
        f" from unnest({arrays}) as t({', '.join(columns)}) {conflict}"
    )
    connection.execute(statement.encode(), [rows[name].to_list() for name in columns])
