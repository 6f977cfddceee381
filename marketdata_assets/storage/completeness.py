"""Completeness in Postgres: the results of scans by day, their sums by series, and the history of those sums."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl
from psycopg import sql

from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.completeness import (
    COMPLETENESS_SCHEMA,
    DAILY_COMPLETENESS_SCHEMA,
    Status,
    counted_days,
    sum_days,
    unchecked_days,
)
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.storage.merge import read_clock
from marketdata_assets.storage.pruned import read_pruned
from marketdata_assets.storage.symbols import list_presets, list_symbols

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from marketdata_assets.domain.series import AssetClass
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

MATRIX_SCHEMA: Final = pl.Schema(
    {**COMPLETENESS_SCHEMA, "as_of": pl.Date(), "first_scanned": pl.Date(), "last_scanned": pl.Date()}
)
"""``COMPLETENESS_SCHEMA``, the day on which the row was written, and the first and last scanned day.

``as_of`` is null when the matrix was never written for the series. The scanned days are null when no day was scanned, or
when an older version wrote the row.
"""

_KEY: Final = ("symbol", "timeframe", "as_of")

RECENT_DAYS: Final = 60
"""The number of days that :func:`read_recent` covers."""

_ACTIVE: Final = "(select symbol, unnest(timeframes) as timeframe from tracked_symbols where active) as s"
_WRITE_HISTORY: Final = sql.SQL("""
insert into completeness_history ({names})
values ({values})
on conflict (symbol, timeframe, as_of) do update set {updates}
""").format(
    names=sql.SQL(", ").join(map(sql.Identifier, MATRIX_SCHEMA.names())),
    values=sql.SQL(", ").join([sql.SQL("%s")] * len(MATRIX_SCHEMA)),
    updates=sql.SQL(", ").join(
        sql.SQL("{name} = excluded.{name}").format(name=sql.Identifier(name))
        for name in MATRIX_SCHEMA.names()
        if name not in _KEY
    ),
)
_MATRIX: Final = f"""
select symbol, timeframe, {", ".join(f"m.{name}" for name in MATRIX_SCHEMA.names()[2:])}
from {_ACTIVE}
left join completeness_matrix m using (symbol, timeframe)
"""  # noqa: S608 - names of this module
_DAYS: Final = f"""
select {", ".join(DAILY_COMPLETENESS_SCHEMA.names())}
from completeness_daily
join {_ACTIVE} using (symbol, timeframe)
where day between $1 and $2
"""  # noqa: S608 - names of this module
_STORED_EDGES: Final = f"""
select s.symbol, s.timeframe,
  (
    select time from ohlcv o
    where o.symbol = s.symbol and o.timeframe = s.timeframe
    order by time
    limit 1
  ) as first_bar,
  (
    select time from ohlcv o
    where o.symbol = s.symbol and o.timeframe = s.timeframe
    order by time desc
    limit 1
  ) as last_bar
from {_ACTIVE}
"""  # noqa: S608 - same
_SCANNED: Final = """
select d.symbol, d.timeframe, d.day
from completeness_daily d
join unnest(%s::text[], %s::text[], %s::date[], %s::date[]) as s(symbol, timeframe, first, until)
  on d.symbol = s.symbol and d.timeframe = s.timeframe and d.day >= s.first and d.day < s.until
"""
_SCANNED_EDGES: Final = """
select symbol, timeframe, min(day) as first, max(day) as last
from completeness_daily
group by 1, 2
"""


class _Scanned(NamedTuple):
    symbol: str
    timeframe: str
    day: date


@dataclass(frozen=True, slots=True)
class Recent:
    """The completeness of each day from ``first`` to ``last``, both inclusive."""

    first: date
    last: date
    days: pl.DataFrame
    """``DAILY_COMPLETENESS_SCHEMA``, in the order of the tracked series, then by day."""


def sum_matrix(database: Database, as_of: date) -> pl.DataFrame:
    """Sum up every active series as :func:`write_matrix` stores it, and write nothing."""
    classes = active_series(database)
    daily = _read_days(database)
    edges = _read_edges(database)
    scanned = _read_scanned_days(database, classes)
    holes = unchecked_days(daily, _days_to_count(database, scanned, edges, classes), classes)
    known = _drop_pruned_days(database, pl.concat([daily, holes]), classes)
    scanned_days = pl.DataFrame(
        [(series.symbol, series.timeframe.value, *days) for series, days in scanned.items()],
        schema={
            name: MATRIX_SCHEMA[name] for name in ("symbol", "timeframe", "first_scanned", "last_scanned")
        },
        orient="row",
    )
    return (
        _drop_unscanned_presets(sum_days(known, classes), list_presets(database))
        .join(edges, on=["symbol", "timeframe"], how="left", maintain_order="left")
        .join(scanned_days, on=["symbol", "timeframe"], how="left", maintain_order="left")
        .with_columns(as_of=pl.lit(as_of))
        .select(MATRIX_SCHEMA.names())
        .cast(MATRIX_SCHEMA)
    )


def write_matrix(database: Database, as_of: date) -> pl.DataFrame:
    """Sum up every active series, write the sums to the history as of ``as_of``, and return them as ``MATRIX_SCHEMA``.

    The rows are in the order of ``tracked_symbols``, shortest timeframe first. A second call for the same day replaces
    its rows. Presets without a scanned series are left out. Days that were not scanned count as missing when they lie
    between the first and the last scanned day or stored bar of their series. Days that retention has removed do not
    count.
    """
    rows = sum_matrix(database, as_of)

    def write(session: Session) -> None:
        # In the order of the key, so that two writers wait for each other instead of deadlocking.
        session.cursor().executemany(_WRITE_HISTORY, rows.sort("symbol", "timeframe").rows())

    database.transaction(write)
    return rows


def read_matrix(database: Database, symbols: Collection[str] | None = None) -> pl.DataFrame:
    """Read the newest row of each active series (of ``symbols``, when given), as ``MATRIX_SCHEMA``.

    The rows are in the order of ``tracked_symbols``, shortest timeframe first. A series without a row is unchecked.
    Presets without a scanned series are left out, unless ``symbols`` names them.
    """
    rows = _conform(database.read_frame(_MATRIX), MATRIX_SCHEMA).with_columns(
        pl.col("expected_bars", "present_bars", "no_trade_bars", "missing_bars").fill_null(0),
        pl.col("status").fill_null(Status.UNCHECKED.value),
    )
    if symbols is None:
        rows = _drop_unscanned_presets(rows, list_presets(database))
    return _select_symbols(_sort_by_series(rows, active_series(database)), symbols)


def _drop_unscanned_presets(rows: pl.DataFrame, presets: Collection[str]) -> pl.DataFrame:
    """Return ``rows`` without the symbols of ``presets`` whose every series is unchecked."""
    is_unscanned = (pl.col("status") == Status.UNCHECKED.value).all().over("symbol")
    return rows.filter(~(pl.col("symbol").is_in(list(presets)) & is_unscanned))


def read_recent(database: Database, symbols: Collection[str] | None = None) -> Recent | None:
    """Read the completeness of each of the 60 days up to the last one, of any active series, that was scanned or has a bar.

    None before the first scan. A day without expected bars has no row. A day that was not scanned has the status
    unchecked, from the first day of its series that was scanned or has a bar. A series that was never scanned has no
    rows; nor has a day that retention has removed.
    """
    classes = active_series(database)
    scanned = _read_scanned_days(database, classes)
    if not scanned:
        return None
    counted = _days_to_count(database, scanned, _read_edges(database), classes)
    # A range that ends after the last scanned day ends exclusively.
    last = max(
        end if end == scanned[series][1] else end - timedelta(days=1) for series, (_, end) in counted.items()
    )
    first = last - timedelta(days=RECENT_DAYS - 1)
    ranges = {series: (max(first, start), max(last, end)) for series, (start, end) in counted.items()}
    daily = _read_days(database, first)
    days = _drop_pruned_days(
        database, pl.concat([daily, unchecked_days(daily, ranges, classes)]), classes
    ).sort("day")
    return Recent(first, last, _select_symbols(_sort_by_series(days, classes), symbols))


def completeness_between(
    database: Database, series: Collection[Series], first: date, last: date
) -> pl.DataFrame:
    """Sum up each of ``series`` over the local days ``first`` to ``last``, both inclusive, in the order of ``series``.

    The columns are those of :func:`~marketdata_assets.domain.completeness.sum_days`. Days that were not scanned do not
    count.
    """
    return sum_days(_read_days(database, first, last), series)


def read_unchecked(
    database: Database,
    series: Collection[Series],
    first: date | None = None,
    until: date | None = None,
    *,
    now: datetime | None = None,
) -> pl.DataFrame:
    """Read the local days of ``series`` that expect bars and were never scanned, as ``DAILY_COMPLETENESS_SCHEMA``.

    The days of a series begin with its first one that was scanned or has a bar, or with ``first`` when that is later.
    They end before ``until``; without it, with the last day that was scanned or has a bar, as in the matrix. The local
    day of ``now`` (default: the present, by the database's clock) and later ones are left out, as their bars are not yet
    due. Days that retention has removed, series that were never scanned and inactive series are left out. The query reads
    a row for every scanned day: call it for few series or few days.
    """
    wanted = set(series)
    classes = {item: asset_class for item, asset_class in active_series(database).items() if item in wanted}
    at = now or database.transaction(read_clock)
    counted = _days_to_count(
        database, _read_scanned_days(database, classes), _read_edges(database), classes, at
    )
    ranges = {
        item: (
            max(first or start, start),
            end if until is None else min(until, calendar_of(classes[item]).local_day(at)),
        )
        for item, (start, end) in counted.items()
    }
    if not ranges:
        return DAILY_COMPLETENESS_SCHEMA.to_frame()
    edges = [
        [item.symbol for item in ranges],
        [item.timeframe.value for item in ranges],
        [start for start, _ in ranges.values()],
        [end for _, end in ranges.values()],
    ]

    schema = {name: DAILY_COMPLETENESS_SCHEMA[name] for name in ("symbol", "timeframe", "day")}
    checked = pl.DataFrame(database.fetch(_SCANNED, edges, row=_Scanned), schema=schema, orient="row")
    return _drop_pruned_days(database, unchecked_days(checked, ranges, classes), classes)


def incomplete_series(matrix: pl.DataFrame) -> list[Series]:
    """Return the series of ``matrix`` (``MATRIX_SCHEMA``) that lack bars: every day of the others was scanned."""
    lacking = matrix.filter(pl.col("missing_bars") > 0).select("symbol", "timeframe")
    return [Series(symbol, Timeframe(timeframe)) for symbol, timeframe in lacking.iter_rows()]


def active_series(database: Database) -> dict[Series, AssetClass]:
    """Return the asset class of every active series, in the order of ``tracked_symbols``."""
    return {
        series: symbol.asset_class
        for symbol in list_symbols(database, active_only=True)
        for series in symbol.series
    }


def _read_days(database: Database, first: date = date.min, last: date = date.max) -> pl.DataFrame:
    """Read the scanned days of each active series from ``first`` to ``last``, as ``DAILY_COMPLETENESS_SCHEMA``."""
    return _conform(database.read_frame(_DAYS, [first, last]), DAILY_COMPLETENESS_SCHEMA)


def _drop_pruned_days(
    database: Database, days: pl.DataFrame, classes: Mapping[Series, AssetClass]
) -> pl.DataFrame:
    """Return ``days`` (symbol, timeframe and day of series in ``classes``) without those that retention has removed."""
    removed = [
        (
            series.symbol,
            series.timeframe.value,
            calendar.local_day(window.start),
            calendar.local_day(window.end),
        )
        for series, windows in read_pruned(database, classes).items()
        for calendar in (calendar_of(classes[series]),)
        for window in windows
    ]
    ranges = pl.DataFrame(
        removed,
        schema={"symbol": pl.String(), "timeframe": pl.String(), "_from": pl.Date(), "_until": pl.Date()},
        orient="row",
    )
    gone = (
        days.select("symbol", "timeframe", "day")
        .join(ranges, on=["symbol", "timeframe"])
        .filter(pl.col("day").is_between("_from", "_until", closed="left"))
    )
    return days.join(gone, on=["symbol", "timeframe", "day"], how="anti", maintain_order="left")


def _read_scanned_days(database: Database, series: Iterable[Series]) -> dict[Series, tuple[date, date]]:
    """Read the first and last scanned day of each of ``series`` that expected a bar."""
    edges = database.read_frame(_SCANNED_EDGES)
    found = {(symbol, timeframe): (first, last) for symbol, timeframe, first, last in edges.iter_rows()}
    return {
        item: found[item.symbol, item.timeframe.value]
        for item in series
        if (item.symbol, item.timeframe.value) in found
    }


def _days_to_count(
    database: Database,
    scanned: Mapping[Series, tuple[date, date]],
    edges: pl.DataFrame,
    classes: Mapping[Series, AssetClass],
    now: datetime | None = None,
) -> dict[Series, tuple[date, date]]:
    """Return the local days, the end exclusive, over which the completeness of each ``scanned`` series is counted.

    ``edges`` is the result of :func:`_read_edges`.
    """
    at = now or database.transaction(read_clock)
    bars = {
        (symbol, timeframe): (first.astimezone(UTC), last.astimezone(UTC))
        for symbol, timeframe, first, last in edges.drop_nulls().iter_rows()
    }
    return {
        series: counted_days(
            series.timeframe,
            days,
            bars.get((series.symbol, series.timeframe.value)),
            calendar_of(classes[series]),
            at,
        )
        for series, days in scanned.items()
    }


def _read_edges(database: Database) -> pl.DataFrame:
    """Read the opens of the first and last stored bar of each active series: two index lookups for each."""
    return _conform(
        database.read_frame(_STORED_EDGES),
        pl.Schema({name: MATRIX_SCHEMA[name] for name in ("symbol", "timeframe", "first_bar", "last_bar")}),
    )


def _select_symbols(rows: pl.DataFrame, symbols: Collection[str] | None) -> pl.DataFrame:
    return rows if symbols is None else rows.filter(pl.col("symbol").is_in(list(symbols)))


def _sort_by_series(rows: pl.DataFrame, series: Collection[Series]) -> pl.DataFrame:
    """Sort ``rows`` in the order of ``series``; the order within a series stays."""
    positions = pl.DataFrame(
        [(item.symbol, item.timeframe.value, position) for position, item in enumerate(series)],
        schema={"symbol": pl.String(), "timeframe": pl.String(), "position": pl.Int64()},
        orient="row",
    )
    joined = rows.join(positions, on=["symbol", "timeframe"], maintain_order="left")
    return joined.sort("position", maintain_order=True).drop("position")


def _conform(rows: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Return ``rows`` with exactly ``schema``: an empty result arrives without types."""
    return rows.select(schema.names()).cast(schema) if rows.width else schema.to_frame()
