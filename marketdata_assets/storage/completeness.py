"""Completeness in Postgres: what was found day by day, summed up per series, with one row kept per day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.completeness import (
    COMPLETENESS_SCHEMA,
    DAILY_COMPLETENESS_SCHEMA,
    Status,
    summed,
    unchecked_days,
)
from marketdata_assets.storage.symbols import list_symbols

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import date

    from psycopg import Connection

    from marketdata_assets.domain.series import AssetClass, Series
    from marketdata_assets.storage.connection import Database

MATRIX_SCHEMA: Final = pl.Schema({**COMPLETENESS_SCHEMA, "as_of": pl.Date()})
"""``COMPLETENESS_SCHEMA`` and the day on which the row was written; null when the matrix never saw the series."""

RECENT_DAYS: Final = 60
"""Days that :func:`read_recent` looks back over."""

_ACTIVE: Final = "(select symbol, timeframe, position from tracked_symbols, unnest(timeframes) as timeframe where active) as s"


@dataclass(frozen=True, slots=True)
class Recent:
    """Completeness by day over the last days; ``first`` and ``last`` are None before anything was looked at."""

    first: date | None
    last: date | None
    days: pl.DataFrame
    """``DAILY_COMPLETENESS_SCHEMA``, in the order of the tracked series. Days without an expected bar have no row."""


def write_matrix(database: Database, as_of: date) -> pl.DataFrame:
    """Sum up every active series and keep that as the history's row of ``as_of``; returns the rows.

    A second call for the same day replaces its rows. Days between the first and the last day that were looked
    through of a series, and were not, count as missing.
    """
    classes = active_series(database)
    daily = _stored_days(database, None)
    spans = _spans(daily, classes)
    known = pl.concat([daily, unchecked_days(daily, spans, classes)])
    rows = (
        summed(known, classes)
        .join(_edges(database), on=["symbol", "timeframe"], how="left", maintain_order="left")
        .with_columns(as_of=pl.lit(as_of))
        .select(MATRIX_SCHEMA.names())
        .cast(MATRIX_SCHEMA)
    )
    names = MATRIX_SCHEMA.names()
    others = [name for name in names if name not in ("symbol", "timeframe", "as_of")]
    statement = (
        f"insert into completeness_history ({', '.join(names)}) values ({', '.join(['%s'] * len(names))})"  # noqa: S608 - names of this module
        f" on conflict (symbol, timeframe, as_of) do update set"
        f" {', '.join(f'{name} = excluded.{name}' for name in others)}"
    )

    def write(connection: Connection[tuple[object, ...]]) -> None:
        # In the order of the key, so that two writers wait for each other instead of deadlocking.
        connection.cursor().executemany(statement.encode(), rows.sort("symbol", "timeframe").rows())

    database.transaction(write)
    return rows


def read_matrix(database: Database, symbols: Collection[str] | None = None) -> pl.DataFrame:
    """The newest row of each active series (of ``symbols``, when given), as ``MATRIX_SCHEMA``.

    In the order of ``tracked_symbols``, shortest timeframe first. A series without a row is unchecked.
    """
    rows = _framed(
        database.read_frame(
            f"select symbol, timeframe, {', '.join(f'm.{name}' for name in MATRIX_SCHEMA.names()[2:])}"  # noqa: S608 - names of this module
            f" from {_ACTIVE} left join completeness_matrix m using (symbol, timeframe)"
        ),
        MATRIX_SCHEMA,
    ).with_columns(
        pl.col("expected_bars", "present_bars", "no_trade_bars", "missing_bars").fill_null(0),
        pl.col("status").fill_null(Status.UNCHECKED.value),
    )
    ordered = _ordered(rows, active_series(database))
    return ordered if symbols is None else ordered.filter(pl.col("symbol").is_in(list(symbols)))


def read_recent(database: Database, symbols: Collection[str] | None = None) -> Recent:
    """Completeness by day over the 60 days up to the last one that was looked through of any active series.

    A day of a series that expects bars and lies between its first day that was looked through and the end has
    the status unchecked when it was not. A series that was never looked through has no row at all.
    """
    classes = active_series(database)
    edges = _framed(
        database.read_frame(
            "select symbol, timeframe, min(day) as first, max(day) as last from completeness_daily"  # noqa: S608 - names of this module
            f" join {_ACTIVE} using (symbol, timeframe) group by 1, 2"
        ),
        pl.Schema({"symbol": pl.String(), "timeframe": pl.String(), "first": pl.Date(), "last": pl.Date()}),
    )
    if edges.is_empty():
        return Recent(None, None, DAILY_COMPLETENESS_SCHEMA.to_frame())
    last: date = max(edges["last"].to_list())
    first = last - timedelta(days=RECENT_DAYS - 1)
    starts = {(symbol, timeframe): start for symbol, timeframe, start, _ in edges.iter_rows()}
    spans = {
        one: (max(first, starts[one.symbol, one.timeframe.value]), last)
        for one in classes
        if (one.symbol, one.timeframe.value) in starts
    }
    daily = _stored_days(database, first)
    days = _ordered(pl.concat([daily, unchecked_days(daily, spans, classes)]).sort("day"), classes)
    chosen = days if symbols is None else days.filter(pl.col("symbol").is_in(list(symbols)))
    return Recent(first, last, chosen)


def active_series(database: Database) -> dict[Series, AssetClass]:
    """The asset class of every series that is collected, in the order of ``tracked_symbols``."""
    return {
        series: symbol.asset_class
        for symbol in list_symbols(database, active_only=True)
        for series in symbol.series
    }


def _stored_days(database: Database, since: date | None) -> pl.DataFrame:
    names = ", ".join(DAILY_COMPLETENESS_SCHEMA.names())
    where = "" if since is None else f" where day >= '{since.isoformat()}'"
    return _framed(
        database.read_frame(
            f"select {names} from completeness_daily join {_ACTIVE} using (symbol, timeframe){where}"  # noqa: S608 - names of this module and a date
        ),
        DAILY_COMPLETENESS_SCHEMA,
    )


def _edges(database: Database) -> pl.DataFrame:
    """The opens of the first and last stored bar of each active series: two looks into the key's index each."""
    side = "select time from ohlcv o where o.symbol = s.symbol and o.timeframe = s.timeframe order by time"
    return _framed(
        database.read_frame(
            f"select s.symbol, s.timeframe, ({side} limit 1) as first_bar, ({side} desc limit 1) as last_bar"  # noqa: S608 - names of this module
            f" from {_ACTIVE}"
        ),
        pl.Schema({name: MATRIX_SCHEMA[name] for name in ("symbol", "timeframe", "first_bar", "last_bar")}),
    )


def _spans(daily: pl.DataFrame, classes: Mapping[Series, AssetClass]) -> dict[Series, tuple[date, date]]:
    edges = daily.group_by("symbol", "timeframe").agg(first=pl.col("day").min(), last=pl.col("day").max())
    found = {(symbol, timeframe): (first, last) for symbol, timeframe, first, last in edges.iter_rows()}
    return {
        one: found[one.symbol, one.timeframe.value]
        for one in classes
        if (one.symbol, one.timeframe.value) in found
    }


def _ordered(rows: pl.DataFrame, series: Collection[Series]) -> pl.DataFrame:
    """``rows`` in the order of ``series``; the order within a series stays."""
    places = pl.DataFrame(
        [(one.symbol, one.timeframe.value, place) for place, one in enumerate(series)],
        schema={"symbol": pl.String(), "timeframe": pl.String(), "place": pl.Int64()},
        orient="row",
    )
    joined = rows.join(places, on=["symbol", "timeframe"], maintain_order="left")
    return joined.sort("place", maintain_order=True).drop("place")


def _framed(rows: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """``rows`` with exactly ``schema``: an empty answer arrives without types."""
    return rows.select(schema.names()).cast(schema) if rows.width else schema.to_frame()
