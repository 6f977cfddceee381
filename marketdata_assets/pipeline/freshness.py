"""Whether the newest stored bars of every active series are fresh."""

from __future__ import annotations

from collections import defaultdict
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
    is_final,
    judge_freshness,
    last_daily_run,
)
from marketdata_assets.storage.freshness import read_newest
from marketdata_assets.storage.gaps import read_requested, read_stored_bars
from marketdata_assets.storage.symbols import list_symbols, unused_presets

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from marketdata_assets.domain.series import AssetClass, Series
    from marketdata_assets.domain.slots import StoredBars
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
        if not is_final(each, last[one])
    }
    stored = _read_in_chunks(database, windows)
    requested = read_requested(database, windows)
    rows = []
    for one, each in known.items():
        calendar = calendar_of(classes[one])
        verdict = judge_freshness(
            one, calendar, last[one], each, stored=stored.get(one), now=now, requested=requested.get(one, ())
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
    run = last_daily_run(now)
    found = {}
    for one, newest in zip(last, read_newest(database, last), strict=True):
        is_new = newest.changed_at > run
        if newest.opens is None and not newest.is_answered and is_new:
            continue
        found[one] = Known(newest.opens, newest.is_answered, newest.failure)
    return found


def _read_in_chunks(database: Database, windows: Mapping[Series, Window]) -> dict[Series, StoredBars]:
    chunks: dict[int, dict[Series, Window]] = defaultdict(dict)
    for position, (one, window) in enumerate(windows.items()):
        chunks[position // _SERIES_AT_ONCE][one] = window
    stored: dict[Series, StoredBars] = {}
    for chunk in chunks.values():
        stored |= read_stored_bars(database, chunk)
    return stored
