"""The windows of UTC time that partitions represent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.domain.calendar import TradingCalendar, calendar_of
from marketdata_assets.domain.partitions import days_by_series
from marketdata_assets.domain.windows import Window, union
from marketdata_assets.storage.symbols import asset_classes, not_tracked

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from marketdata_assets.domain.series import Series
    from marketdata_assets.storage.connection import Database


def partition_windows(database: Database, keys: Iterable[str]) -> dict[Series, list[Window]]:
    """Return the windows of UTC time that the partitions of ``keys`` represent, adjacent days merged, by series.

    Raises:
        ConfigurationError: A series is not tracked, so that its time zone is unknown.
    """
    days = days_by_series(keys)
    calendars = calendars_of(database, days)
    # There are few distinct sets of days: the windows of each are computed once.
    known: dict[tuple[str, tuple[date, ...]], list[Window]] = {}
    windows = {}
    for series, series_days in days.items():
        calendar = calendars[series]
        shared = (calendar.name, tuple(series_days))
        if shared not in known:
            known[shared] = union(calendar.day_window(day) for day in series_days)
        windows[series] = known[shared]
    return windows


def partition_windows_of(
    database: Database, series: Iterable[Series], first: date, last: date
) -> dict[Series, Window]:
    """Return the window of UTC time from the local day ``first`` to ``last``, both inclusive, for each of ``series``."""
    return {
        item: Window(calendar.day_start(first), calendar.day_window(last).end)
        for item, calendar in calendars_of(database, series).items()
    }


def calendars_of(database: Database, series: Iterable[Series]) -> dict[Series, TradingCalendar]:
    """Return the trading calendar of each of ``series``.

    Raises:
        ConfigurationError: A series is not tracked, so that its calendar is unknown.
    """
    classes = asset_classes(database)
    calendars = {}
    for item in series:
        if item.symbol not in classes:
            raise not_tracked(item.symbol)
        calendars[item] = calendar_of(classes[item.symbol])
    return calendars
