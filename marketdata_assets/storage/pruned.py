"""The windows that retention has removed, by series: bars are not missing there, nor is a day known to be empty.

The windows are of complete local days. Storing a bar or an answer of the vendor on such a day takes the day out again.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.slots import local_day
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window, union
from marketdata_assets.storage.rows import by_series, columns, fetch, grouped
from marketdata_assets.storage.windows import multirange

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

_CLASSES: Final = "select symbol, asset_class from tracked_symbols"
_PRUNED: Final = """
select symbol, timeframe, lower(piece), upper(piece)
from pruned, unnest(pruned) as piece
where %(keys)s::text[] is null or symbol || ':' || timeframe = any(%(keys)s)
order by 1, 2, 3
"""
_FORGET_PRUNED: Final = """
update pruned p
set pruned = p.pruned - w.back, updated_at = now()
from unnest(%s::text[], %s::text[], %s::tstzmultirange[]) as w(symbol, timeframe, back)
where p.symbol = w.symbol and p.timeframe = w.timeframe and p.pruned && w.back
"""


def calendars(session: Session) -> dict[str, TradingCalendar]:
    """Read the calendar of every symbol that was ever tracked; a symbol without a row counts as always open."""

    def known(symbol: str, asset_class: str) -> tuple[str, TradingCalendar]:
        return symbol, calendar_of(AssetClass(asset_class))

    always_open = calendar_of(AssetClass.CRYPTO)
    return defaultdict(lambda: always_open, fetch(session, _CLASSES, row=known))


def read_pruned(database: Database, series: Iterable[Series] | None = None) -> dict[Series, list[Window]]:
    """Read the pruned windows of ``series``, or of all, in order; a series without one is left out."""
    keys = None if series is None else [item.key for item in series]
    return grouped(database.fetch(_PRUNED, {"keys": keys}, row=by_series(Window)))


def pruned_windows(session: Session, keys: Sequence[str] | None) -> dict[Series, list[Window]]:
    """Read the pruned windows of the series ``keys``, or of all, as :func:`read_pruned` does, within an open transaction."""
    return grouped(fetch(session, _PRUNED, {"keys": keys}, row=by_series(Window)))


def forget_pruned(session: Session, bars: pl.DataFrame, covered: Mapping[Series, Sequence[Window]]) -> None:
    """Take the local days of ``bars`` (symbol, timeframe, time) and the ``covered`` windows out of the pruned windows."""
    pairs = bars.select("symbol", "timeframe").unique().iter_rows()
    touched = {*covered, *(Series(symbol, Timeframe(timeframe)) for symbol, timeframe in pairs)}
    pruned = pruned_windows(session, [series.key for series in touched])
    if not pruned:
        return
    known = calendars(session)
    rows = []
    for series in pruned:
        calendar = known[series.symbol]
        own = bars.filter(symbol=series.symbol, timeframe=series.timeframe.value)
        days = own.select(day=local_day(pl.col("time"), calendar))["day"].unique()
        windows = union([*covered.get(series, ()), *map(calendar.day_window, days)])
        rows.append((series.symbol, series.timeframe.value, multirange(windows)))
    session.execute(
        _FORGET_PRUNED,
        columns(rows),
    )
