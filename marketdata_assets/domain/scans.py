"""What a scan for gaps covers: its windows, the evidence around them, and which series have to be scanned again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import polars as pl

from marketdata_assets.domain.calendar import calendar_of, sunday_of
from marketdata_assets.domain.gaps import SETTLING
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.slots import expected_by_series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from marketdata_assets.domain.series import AssetClass
    from marketdata_assets.domain.slots import Slots, StoredBars

EVIDENCE: Final = {Timeframe.M1: timedelta(days=40), Timeframe.D1: timedelta(days=380)}
"""How far before a window a scan reads the habits of a series, by base: somewhat more than the sessions that judging uses."""
BEYOND: Final = timedelta(days=7)
"""How far behind a window a scan reads known gaps that continue one of its own."""
_SLOTS_AT_ONCE: Final = 3_000_000
"""Expected slots that are held in memory at once."""

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


@dataclass(frozen=True)
class ScanChunk:
    """Series of one base that are scanned together, siblings among them.

    Attributes:
        windows: The window of each series that is scanned: whole local days.
        classes: The asset class of each series.
    """

    windows: Mapping[Series, Window]
    classes: Mapping[Series, AssetClass]

    @property
    def evidence(self) -> timedelta:
        """How far before its windows a scan reads the habits of the series."""
        return EVIDENCE[next(iter(self.windows)).timeframe.base]

    def edges(self) -> dict[Series, tuple[date, date]]:
        """Return the first and the last local day of each window."""
        days = {}
        for series, window in self.windows.items():
            local_day = calendar_of(self.classes[series]).local_day
            days[series] = (local_day(window.start), local_day(window.end - timedelta(microseconds=1)))
        return days


def scan_chunks(windows: Mapping[Series, Window], classes: Mapping[str, AssetClass]) -> Iterator[ScanChunk]:
    """Divide ``windows`` into as many symbols of one base as fit in memory at once; siblings stay together.

    ``classes`` holds the asset class by symbol.
    """
    families: dict[tuple[Timeframe, str], dict[Series, Window]] = {}
    for base in (Timeframe.M1, Timeframe.D1):
        for series, window in windows.items():
            if series.timeframe.base is base:
                families.setdefault((base, series.symbol), {})[series] = window
    chunk: dict[Series, Window] = {}
    chunk_base, slots = Timeframe.M1, 0.0
    for (base, _), family in families.items():
        size = sum(
            (window.duration + EVIDENCE[base]) / series.timeframe.duration
            for series, window in family.items()
        )
        if chunk and (base is not chunk_base or slots + size > _SLOTS_AT_ONCE):
            yield ScanChunk(chunk, {series: classes[series.symbol] for series in chunk})
            chunk, slots = {}, 0.0
        chunk.update(family)
        chunk_base, slots = base, slots + size
    if chunk:
        yield ScanChunk(chunk, {series: classes[series.symbol] for series in chunk})


def widen_to_evidence(
    chunk: ScanChunk, scanned: Mapping[Series, tuple[Sequence[date], Sequence[date]]], known: pl.DataFrame
) -> dict[Series, Window]:
    """Widen each window of ``chunk`` to the evidence that judging it needs, in whole local days.

    ``scanned`` holds the scanned days of each series before and after its window, nearest first, and ``known`` the
    gaps (``symbol``, ``timeframe``, ``gap_start``, ``gap_end``) that reach into the windows. A gap that reaches into
    its window is judged by what lies before all of it.

    Days that were never fetched are no evidence, so the scanned days beyond them are. Where a history has fewer days
    before the window, days after it take their place.
    """
    edges = chunk.edges()
    around = {}
    for series, window in chunk.windows.items():
        calendar = calendar_of(chunk.classes[series])
        start, end = window.start - chunk.evidence, window.end + BEYOND
        sessions = calendar.sessions(calendar.local_day(start), edges[series][0] - timedelta(days=1))
        count = len({sunday_of(day) for day in sessions} if series.timeframe is Timeframe.W1 else sessions)
        before, after = scanned.get(series, ((), ()))
        if before:
            start = min(start, calendar.day_start(before[:count][-1]))
        if after and len(before) < count:
            end = max(end, calendar.day_window(after[:count][-1]).end)
        around[series] = Window(start, end)
    return widen_to_gaps(chunk, around, known, before=chunk.evidence)


def widen_to_gaps(
    chunk: ScanChunk,
    around: Mapping[Series, Window],
    gaps: pl.DataFrame,
    *,
    before: timedelta = timedelta(0),
) -> dict[Series, Window]:
    """Widen each window of ``around`` to whole local days that hold it and each of its ``gaps``, so that none is cut.

    ``before`` is the time to add before each gap.
    """
    edges = {
        Series(symbol, Timeframe(timeframe)): (first - before, last)
        for symbol, timeframe, first, last in gaps.group_by("symbol", "timeframe")
        .agg(pl.col("gap_start").min(), pl.col("gap_end").max())
        .iter_rows()
    }
    wider = {}
    for series, window in around.items():
        calendar = calendar_of(chunk.classes[series])
        first, last = edges.get(series, (window.start, window.end))
        start = calendar.local_day(min(window.start, first).astimezone(UTC))
        end = calendar.local_day(max(window.end, last).astimezone(UTC) - timedelta(microseconds=1))
        wider[series] = Window(calendar.day_start(start), calendar.day_window(end).end)
    return wider


def slots_to_scan(
    chunk: ScanChunk,
    around: Mapping[Series, Window],
    stored: Mapping[Series, StoredBars],
    *,
    first_bars: Mapping[Series, datetime],
    requested: Mapping[Series, Sequence[Window]],
    now: datetime,
) -> dict[Series, Slots]:
    """Return the slots expected of each series in its window of ``around``, as far as it was ever ``requested``.

    Days with a bar count as requested, since the bar may have come in another way. Nothing is expected before the
    series' bar of ``first_bars``, nor while it may still arrive at ``now``.
    """
    hull = Window(
        min(window.start for window in around.values()), max(window.end for window in around.values())
    )
    every = expected_by_series(chunk.classes, hull, now - SETTLING, first_bars)
    no_times = np.zeros(0, dtype=np.int64)
    slots = {}
    for series, window in around.items():
        inside = every[series].within(window.start, window.end)
        times = stored[series].times if series in stored else no_times
        slots[series] = inside.requested_in(requested.get(series, ()), inside.on_days_of(times))
    return slots
