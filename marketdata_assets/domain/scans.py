"""Which series have to be scanned for gaps again: what an earlier scan saw, compared with what is expected now."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from marketdata_assets.domain.series import Series
    from marketdata_assets.domain.slots import Slots

EVIDENCE: Final = {Timeframe.M1: timedelta(days=40), Timeframe.D1: timedelta(days=380)}
"""How far before a window a scan reads the habits of a series, by base: somewhat more than the sessions that judging uses."""
BEYOND: Final = timedelta(days=7)
"""How far behind a window a scan reads known gaps that continue one of its own."""


NEVER_DUE: Final = datetime.max.replace(tzinfo=UTC)
"""The last scan of a window in which nothing is expected: later than any change."""


class ScannedDay(NamedTuple):
    """What a scan found expected of a series on a local day, and when the scan was written."""

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


def with_their_group(series: Iterable[Series], chosen: Collection[Series]) -> set[Series]:
    """Those of ``series`` that share symbol and base with one of ``chosen``: what is found of a base goes for all of them."""
    groups = {(one.symbol, one.timeframe.base) for one in chosen}
    return {one for one in series if (one.symbol, one.timeframe.base) in groups}
