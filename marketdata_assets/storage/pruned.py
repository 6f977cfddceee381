"""What retention has removed, by series: nothing is missing there, and nothing there is known to be empty.

Windows are whole local days. Whoever stores a bar in one, or an answer of the vendor, takes it out again.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl
from psycopg.types.multirange import TimestamptzMultirange
from psycopg.types.range import TimestamptzRange

from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.slots import local_day
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window, union

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from psycopg import Connection

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.storage.connection import Database


def calendars(connection: Connection[tuple[object, ...]]) -> dict[str, TradingCalendar]:
    """The calendar of every symbol that was ever tracked; a symbol whose row is gone counts as always open."""
    rows = connection.execute("select symbol, asset_class from tracked_symbols").fetchall()
    always_open = calendar_of(AssetClass.CRYPTO)
    known = {str(symbol): calendar_of(AssetClass(str(asset_class))) for symbol, asset_class in rows}
    return defaultdict(lambda: always_open, known)


def read_pruned(database: Database, series: Iterable[Series] | None = None) -> dict[Series, list[Window]]:
    """The pruned windows of ``series``, or of all, in order; a series without one is left out."""
    keys = None if series is None else [one.key for one in series]

    def read(connection: Connection[tuple[object, ...]]) -> dict[Series, list[Window]]:
        return pruned_windows(connection, keys)

    return database.transaction(read)


def pruned_windows(
    connection: Connection[tuple[object, ...]], keys: Sequence[str] | None
) -> dict[Series, list[Window]]:
    """:func:`read_pruned` within an open transaction, by series keys."""
    rows = connection.execute(
        "select symbol, timeframe, lower(one), upper(one) from pruned, unnest(pruned) as one"
        " where %s::text[] is null or symbol || ':' || timeframe = any(%s) order by 1, 2, 3",
        [keys, keys],
    ).fetchall()
    found: dict[Series, list[Window]] = {}
    for symbol, timeframe, start, end in rows:
        if isinstance(start, datetime) and isinstance(end, datetime):
            window = Window(start.astimezone(UTC), end.astimezone(UTC))
            found.setdefault(Series(str(symbol), Timeframe(str(timeframe))), []).append(window)
    return found


def bring_back(
    connection: Connection[tuple[object, ...]], bars: pl.DataFrame, covered: Mapping[Series, Sequence[Window]]
) -> None:
    """Take the local days of ``bars`` (symbol, timeframe, time) and the ``covered`` windows out of what is pruned."""
    pairs = bars.select("symbol", "timeframe").unique().iter_rows()
    touched = {*covered, *(Series(symbol, Timeframe(timeframe)) for symbol, timeframe in pairs)}
    pruned = pruned_windows(connection, [one.key for one in touched])
    if not pruned:
        return
    known = calendars(connection)
    rows = []
    for one in pruned:
        calendar = known[one.symbol]
        own = bars.filter(symbol=one.symbol, timeframe=one.timeframe.value)
        days = own.select(day=local_day(pl.col("time"), calendar))["day"].unique()
        windows = union([*covered.get(one, ()), *map(calendar.day_window, days)])
        rows.append((one.symbol, one.timeframe.value, multirange(windows)))
    connection.execute(
        "update pruned p set pruned = p.pruned - w.back, updated_at = now()"
        " from unnest(%s::text[], %s::text[], %s::tstzmultirange[]) as w(symbol, timeframe, back)"
        " where p.symbol = w.symbol and p.timeframe = w.timeframe and p.pruned && w.back",
        [list(column) for column in zip(*rows, strict=True)],
    )


def multirange(windows: Iterable[Window]) -> TimestamptzMultirange:
    """``windows`` as Postgres has them."""
    return TimestamptzMultirange(TimestamptzRange(one.start, one.end) for one in union(windows))
