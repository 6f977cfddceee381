"""Windows as values of SQL: ranges, and rows that a statement joins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql
from psycopg.types.multirange import TimestamptzMultirange
from psycopg.types.range import TimestamptzRange

from marketdata_assets.domain.windows import union

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from marketdata_assets.domain.series import Series
    from marketdata_assets.domain.windows import Window


def multirange(windows: Iterable[Window]) -> TimestamptzMultirange:
    """Return ``windows`` as one multirange of times."""
    return TimestamptzMultirange(TimestamptzRange(window.start, window.end) for window in union(windows))


def merged_windows(windows: Mapping[Series, Sequence[Window]]) -> list[tuple[Series, Window]]:
    """Return a pair of the series and the window for each window, after merging adjacent windows of a series."""
    return [
        (series, window) for series, series_windows in windows.items() for window in union(series_windows)
    ]


def window_values(windows: Iterable[tuple[Series, Window]]) -> sql.Composed:
    """Return the rows that ``(values …) as w(symbol, timeframe, lo, hi)`` is made of: one for each of ``windows``.

    Literals rather than parameters: the planner prunes partitions by them, and ADBC binds no arrays.
    """
    return sql.SQL(", ").join(
        sql.SQL("({}, {}, {}::timestamptz, {}::timestamptz)").format(
            *map(
                sql.Literal,
                (series.symbol, series.timeframe.value, window.start.isoformat(), window.end.isoformat()),
            )
        )
        for series, window in windows
    )
