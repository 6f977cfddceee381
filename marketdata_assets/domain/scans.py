"""Which series have to be scanned for gaps again: what an earlier scan saw, compared with what is expected now."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from marketdata_assets.domain.calendar import calendar_of, sunday_of
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from marketdata_assets.domain.series import AssetClass, Series
    from marketdata_assets.domain.slots import Slots

EVIDENCE: Final = {Timeframe.M1: timedelta(days=40), Timeframe.D1: timedelta(days=380)}
"""How far before a window a scan reads the habits of a series, by base: somewhat more than the sessions that judging uses."""
BEYOND: Final = timedelta(days=7)
"""How far behind a window a scan reads known gaps that continue one of its own."""


NEVER_DUE: Final = datetime.max.replace(tzinfo=UTC)
"""The last scan of a window in which nothing is expected: later than any change."""


class ScannedDay(NamedTuple):
    """What a scan found expected of a series on a local day, and when the scan began to read."""

    expected_bars: int
    scanned_at: datetime


def last_scan(slots: Slots, scanned: Mapping[date, ScannedDay]) -> datetime | None:
    """The time before which every day of ``slots`` was scanned; None when a day was not, or not with these slots.

    ``slots`` are those that are expected now: a day that was scanned before its last bar was due does not count.
    :data:`NEVER_DUE` when nothing is expected.
    """
    counts = slots.days().value_counts()
    found = []
    for day, expected in counts.iter_rows():
        seen = scanned.get(day)
        if seen is None or seen.expected_bars != expected:
            return None
        found.append(seen.scanned_at)
    return min(found, default=NEVER_DUE)


def scan_windows(
    days: Mapping[Series, tuple[date, date]], series: Iterable[Series], classes: Mapping[str, AssetClass]
) -> dict[Series, Window]:
    """Return the window that a scan of ``days`` covers of each of ``series``, the siblings of those in ``days``.

    ``days`` holds the first and the last local day of each series that is to be scanned, ``classes`` the asset class by
    symbol. A window is whole local days, from the first to the last of all siblings. Whole weeks where week bars are among
    the siblings: a week bar belongs to its Sunday, and a fetch for it brings all the days of the week.
    """
    edges: dict[tuple[str, Timeframe], tuple[date, date]] = {}
    for one, (first, last) in days.items():
        key = (one.symbol, one.timeframe.base)
        known = edges.get(key, (first, last))
        edges[key] = (min(first, known[0]), max(last, known[1]))
    scanned = list(series)
    in_weeks = {one.symbol for one in scanned if one.timeframe is Timeframe.W1}
    windows = {}
    for one in scanned:
        calendar = calendar_of(classes[one.symbol])
        first, last = edges[one.symbol, one.timeframe.base]
        if one.timeframe.base is Timeframe.D1 and one.symbol in in_weeks:
            first, last = sunday_of(first), sunday_of(last) + timedelta(days=6)
        windows[one] = Window(calendar.day_start(first), calendar.day_window(last).end)
    return windows
