"""The holes of a window that was read, and what is stored about them."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.freshness import due
from marketdata_assets.domain.gaps import LOSSES
from marketdata_assets.domain.holes import Holes, LostGaps, day_holes, empty_days, split_fetched
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.gaps import read_requested, sorted_gaps
from marketdata_assets.storage.pruned import read_pruned

if TYPE_CHECKING:
    import polars as pl

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.freshness import Due
    from marketdata_assets.domain.series import AssetClass, Series
    from marketdata_assets.domain.timeframe import Timeframe
    from marketdata_assets.storage.connection import Database

_MICROSECOND: Final = timedelta(microseconds=1)


def find_holes(
    database: Database,
    series: Series,
    asset_class: AssetClass,
    window: Window,
    times: pl.Series,
    *,
    has_lost_gaps: bool,
    now: datetime,
) -> Holes:
    """Find the bars that ``window`` of ``series`` lacks of those that are due at ``now``.

    The database is queried only about days without a bar, and about gaps if ``has_lost_gaps``.

    Args:
        database: The market database.
        series: The series that was read.
        asset_class: The asset class of its symbol.
        window: The window that was read.
        times: The opens of the bars that were read, sorted.
        has_lost_gaps: Whether a gap that is open or unfilled may reach into ``window``.
        now: The current time, UTC.
    """
    calendar = calendar_of(asset_class)
    lost = _find_lost_gaps(database, series, asset_class, window) if has_lost_gaps else None
    last = _due_at(series.timeframe, calendar, now.replace(minute=0, second=0, microsecond=0))
    scanned = None if last is None else _cut_at(window, last.closes)
    if scanned is None:
        return Holes(series, lost=lost)
    # NumPy, because Polars' query engine would take as long as everything else here.
    opens = times.to_numpy().astype("datetime64[us]").view(np.int64)
    empty = empty_days(opens, series.timeframe, scanned, calendar)
    if not empty:
        return Holes(series, lost=lost)
    around = Window(empty[0].start, empty[-1].end)
    requested = read_requested(database, {series: around}).get(series, [])
    _, unrequested = split_fetched(empty, requested, series.timeframe)
    pruned = read_pruned(database, [series]).get(series, []) if unrequested else []
    removed, never = split_fetched(unrequested, pruned, series.timeframe)
    # An empty day or week bar counts only from its open for its nominal duration.
    whole = (
        never
        if series.timeframe.is_intraday
        else [Window(slot.start, slot.start + series.timeframe.duration) for slot in never]
    )
    return Holes(series, day_holes(never, calendar), day_holes(removed, calendar), lost, tuple(whole))


@lru_cache(maxsize=64)
def _due_at(timeframe: Timeframe, calendar: TradingCalendar, hour: datetime) -> Due | None:
    """Return what is due at ``hour``; cached, because computing it takes longer than reading a day of minutes."""
    return due(timeframe, calendar, hour)


def _cut_at(window: Window, end: datetime) -> Window | None:
    return Window(window.start, min(window.end, end)) if window.start < end else None


def _find_lost_gaps(
    database: Database, series: Series, asset_class: AssetClass, window: Window
) -> LostGaps | None:
    found = sorted_gaps(database, {series: window}, LOSSES)
    if found.is_empty():
        return None
    calendar = calendar_of(asset_class)
    first, last = found["gap_start"].min(), found["gap_end"].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        message = "gaps begin and end at moments"
        raise TypeError(message)
    return LostGaps(
        found.height,
        int(found["missing_bars"].sum()),
        calendar.local_day(first),
        calendar.local_day(last - _MICROSECOND),
    )
