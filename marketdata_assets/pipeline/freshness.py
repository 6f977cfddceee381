"""The freshness of every active series: whether its newest stored bars are those that are due."""

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
    is_decided,
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
"""One row per series: ``state`` is a :class:`~marketdata_assets.domain.freshness.Freshness`.

``late`` counts the sessions, or weeks, that were due and have no bar since ``newest``, the open of the newest bar;
both are null without a bar. ``due`` is the open of the last bar that should be stored.
"""

_SERIES_AT_ONCE: Final = 100


def freshness_of(database: Database, now: datetime) -> pl.DataFrame:
    """Return how fresh each active series is at ``now`` (UTC), as :data:`FRESHNESS_SCHEMA`, ordered as ``tracked_symbols`` is.

    A series that was added, or changed, after the latest daily run began, and has no bar yet, is left out. So is a preset
    without any fetched bars.
    """
    unused = unused_presets(database)
    classes = {
        series: symbol.asset_class
        for symbol in list_symbols(database, active_only=True)
        if symbol.symbol not in unused
        for series in symbol.series
    }
    last = _find_due(classes, now)
    known = _read_known(database, last, now)
    windows = {
        series: evidence_window(series.timeframe, calendar_of(classes[series]), now)
        for series, facts in known.items()
        if not is_decided(facts, last[series])
    }
    stored = _read_in_chunks(database, windows)
    requested = read_requested(database, windows)
    rows = []
    for series, facts in known.items():
        calendar = calendar_of(classes[series])
        verdict = judge_freshness(
            series,
            calendar,
            last[series],
            facts,
            stored=stored.get(series),
            now=now,
            requested=requested.get(series, ()),
        )
        rows.append(
            (
                *(series.symbol, series.timeframe.value, verdict.state.value, verdict.late),
                *(facts.newest, last[series].opens, verdict.reason),
            )
        )
    return pl.DataFrame(rows, schema=FRESHNESS_SCHEMA, orient="row")


def stale_rows(freshness: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of ``freshness`` (:data:`FRESHNESS_SCHEMA`) that are not fresh, those that are most late first."""
    stale = freshness.filter(pl.col("state") != Freshness.FRESH.value)
    return stale.sort("late", descending=True, nulls_last=False, maintain_order=True)


def _find_due(classes: Mapping[Series, AssetClass], now: datetime) -> dict[Series, Due]:
    shared: dict[tuple[Timeframe, str], Due | None] = {}
    found = {}
    for series, asset_class in classes.items():
        calendar = calendar_of(asset_class)
        key = (series.timeframe, calendar.name)
        if key not in shared:
            shared[key] = due(series.timeframe, calendar, now)
        if (last := shared[key]) is not None:
            found[series] = last
    return found


def _read_known(database: Database, last: Mapping[Series, Due], now: datetime) -> dict[Series, Known]:
    daily_run = last_daily_run(now)
    found = {}
    for series, newest in zip(last, read_newest(database, last), strict=True):
        is_new = newest.changed_at > daily_run
        if newest.opens is None and not newest.is_answered and is_new:
            continue
        found[series] = Known(newest.opens, newest.is_answered, newest.failure)
    return found


def _read_in_chunks(database: Database, windows: Mapping[Series, Window]) -> dict[Series, StoredBars]:
    chunks: dict[int, dict[Series, Window]] = defaultdict(dict)
    for position, (series, window) in enumerate(windows.items()):
        chunks[position // _SERIES_AT_ONCE][series] = window
    stored: dict[Series, StoredBars] = {}
    for chunk in chunks.values():
        stored |= read_stored_bars(database, chunk)
    return stored
