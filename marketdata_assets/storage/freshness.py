"""What is stored about the newest bars of every active series, and whether they are fresh."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.bars import UTC_TIME
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.freshness import (
    Due,
    Freshness,
    Known,
    due,
    evidence_window,
    is_settled,
    judge_freshness,
    last_daily_run,
)
from marketdata_assets.storage.gaps import read_asked, read_held
from marketdata_assets.storage.symbols import list_symbols, unused_presets
from marketdata_assets.storage.values import moment_or_none

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import Connection

    from marketdata_assets.domain.series import AssetClass, Series
    from marketdata_assets.domain.slots import Held
    from marketdata_assets.domain.timeframe import Timeframe
    from marketdata_assets.domain.windows import Window
    from marketdata_assets.storage.connection import Database

FRESHNESS_SCHEMA: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "timeframe": pl.String(),
        "state": pl.String(),
        "late": pl.Int64(),
        "newest": UTC_TIME,
        "due": UTC_TIME,
        "reason": pl.String(),
    }
)
"""One row a series: ``state`` is a :class:`~marketdata_assets.domain.freshness.Freshness`.

``late`` counts the sessions, or weeks, that were due and have no bar since ``newest``, the open of the newest bar;
both are null without a bar. ``due`` is the open of the last bar that should be stored.
"""

_SERIES_AT_ONCE: Final = 100


def freshness_of(database: Database, now: datetime) -> pl.DataFrame:
    """How fresh each active series is at ``now``, as :data:`FRESHNESS_SCHEMA`, in the order of ``tracked_symbols``.

    A series that was added, or changed, after the latest daily run began, and has no bar yet, is left out. So is a preset
    of which nothing was ever fetched.
    """
    unused = unused_presets(database)
    classes = {
        series: symbol.asset_class
        for symbol in list_symbols(database, active_only=True)
        if symbol.symbol not in unused
        for series in symbol.series
    }
    last = _due_by_series(classes, now)
    known = _read_known(database, last, now)
    windows = {
        one: evidence_window(one.timeframe, calendar_of(classes[one]), now)
        for one, each in known.items()
        if not is_settled(each, last[one])
    }
    held = _read_in_chunks(database, windows)
    asked = read_asked(database, windows)
    rows = []
    for one, each in known.items():
        calendar = calendar_of(classes[one])
        verdict = judge_freshness(
            one, calendar, last[one], each, held=held.get(one), now=now, asked=asked.get(one, ())
        )
        rows.append(
            (
                *(one.symbol, one.timeframe.value, verdict.state.value, verdict.late),
                *(each.newest, last[one].opens, verdict.reason),
            )
        )
    return pl.DataFrame(rows, schema=FRESHNESS_SCHEMA, orient="row")


def stale_rows(freshness: pl.DataFrame) -> pl.DataFrame:
    """The rows of ``freshness`` (:data:`FRESHNESS_SCHEMA`) that are not fresh, the latest first."""
    stale = freshness.filter(pl.col("state") != Freshness.FRESH.value)
    return stale.sort("late", descending=True, nulls_last=False, maintain_order=True)


def _due_by_series(classes: Mapping[Series, AssetClass], now: datetime) -> dict[Series, Due]:
    shared: dict[tuple[Timeframe, str], Due | None] = {}
    found = {}
    for one, asset_class in classes.items():
        calendar = calendar_of(asset_class)
        key = (one.timeframe, calendar.name)
        if key not in shared:
            shared[key] = due(one.timeframe, calendar, now)
        if (last := shared[key]) is not None:
            found[one] = last
    return found


def _read_known(database: Database, last: Mapping[Series, Due], now: datetime) -> dict[Series, Known]:
    columns = [
        [one.symbol for one in last],
        [one.timeframe.value for one in last],
        [one.timeframe.base.value for one in last],
        [each.opens for each in last.values()],
        [each.closes for each in last.values()],
    ]

    def read(connection: Connection[tuple[object, ...]]) -> list[tuple[object, ...]]:
        of_series = (
            "from fetch_log f where f.symbol = w.symbol and f.base = w.base and w.timeframe = any(f.timeframes)"
            " and f.window_start <= w.opens and f.window_end >= w.closes"
        )
        return connection.execute(
            "select newest.time, answered.requested_at is not null, failed.told, t.updated_at"  # noqa: S608 - text of this function
            " from unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[])"
            "  with ordinality as w(symbol, timeframe, base, opens, closes, place)"
            " join tracked_symbols t on t.symbol = w.symbol"
            " left join lateral (select o.time from ohlcv o where o.symbol = w.symbol"
            "  and o.timeframe = w.timeframe order by o.time desc limit 1) as newest on true"
            f" left join lateral (select f.requested_at {of_series} and f.status = 'ok'"
            "  order by f.window_start desc limit 1) as answered on true"
            f" left join lateral (select coalesce(f.error, 'its answer did not arrive whole') as told {of_series}"
            "  and f.status <> 'ok' order by f.requested_at desc limit 1) as failed on true"
            " order by w.place".encode(),
            columns,
        ).fetchall()

    run = last_daily_run(now)
    found = {}
    for one, (newest, answered, failure, since) in zip(
        last, database.transaction(read) if last else [], strict=True
    ):
        is_new = isinstance(since, datetime) and since > run
        if newest is None and not answered and is_new:
            continue
        found[one] = Known(
            moment_or_none(newest),
            bool(answered),
            None if failure is None else str(failure),
        )
    return found


def _read_in_chunks(database: Database, windows: Mapping[Series, Window]) -> dict[Series, Held]:
    chunks: dict[int, dict[Series, Window]] = defaultdict(dict)
    for place, (one, window) in enumerate(windows.items()):
        chunks[place // _SERIES_AT_ONCE][one] = window
    held: dict[Series, Held] = {}
    for chunk in chunks.values():
        held |= read_held(database, chunk)
    return held
