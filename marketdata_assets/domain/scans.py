"""Scans for gaps: the windows that a scan covers, the evidence around them, and which days were scanned before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl

from marketdata_assets.domain.calendar import WEEK, calendar_of, sunday_of
from marketdata_assets.domain.gaps import EVIDENCE
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from marketdata_assets.domain.series import AssetClass
    from marketdata_assets.domain.slots import Slots

BEYOND: Final = WEEK
"""How far behind a window a scan reads known gaps that continue a gap of the window."""
_SLOTS_AT_ONCE: Final = 3_000_000
"""The number of expected slots in memory at once."""

NEVER_DUE: Final = datetime.max.replace(tzinfo=UTC)
"""The time of the last scan of a window without expected slots: later than any change."""


class ScannedDay(NamedTuple):
    """The number of bars that a scan expected of a series on a local day, and when the scan began to read (UTC)."""

    expected_bars: int
    scanned_at: datetime


def last_scan(slots: Slots, scanned: Mapping[date, ScannedDay]) -> datetime | None:
    """Return the earliest of the last scans of the days of ``slots``; None when a day was not scanned with these slots.

    ``slots`` are the slots that are expected now: a scan of a day before its last bar was due does not count. The result
    is :data:`NEVER_DUE` when no slot is expected.
    """
    counts = slots.days().value_counts()
    found = []
    for day, expected in counts.iter_rows():
        last = scanned.get(day)
        if last is None or last.expected_bars != expected:
            return None
        found.append(last.scanned_at)
    return min(found, default=NEVER_DUE)


def scan_windows(
    days: Mapping[Series, tuple[date, date]], series: Iterable[Series], classes: Mapping[str, AssetClass]
) -> dict[Series, Window]:
    """Return the window that a scan of ``days`` covers of each of ``series``, the siblings of those in ``days``.

    ``days`` holds the first and the last local day of each series that is to be scanned, ``classes`` the asset class by
    symbol. A window consists of whole local days, from the first to the last of all siblings, and of whole weeks where week
    bars are among the siblings: a week bar belongs to its Sunday, and a request for it fetches all the days of the week.
    """
    edges: dict[tuple[str, Timeframe], tuple[date, date]] = {}
    for member, (first, last) in days.items():
        key = (member.symbol, member.timeframe.base)
        known = edges.get(key, (first, last))
        edges[key] = (min(first, known[0]), max(last, known[1]))
    scanned = list(series)
    in_weeks = {member.symbol for member in scanned if member.timeframe is Timeframe.W1}
    windows = {}
    for member in scanned:
        calendar = calendar_of(classes[member.symbol])
        first, last = edges[member.symbol, member.timeframe.base]
        if member.timeframe.base is Timeframe.D1 and member.symbol in in_weeks:
            first, last = sunday_of(first), sunday_of(last) + timedelta(days=6)
        windows[member] = Window(calendar.day_start(first), calendar.day_window(last).end)
    return windows


@dataclass(frozen=True)
class ScanChunk:
    """Series of one base that are scanned together, siblings among them.

    Attributes:
        windows: The window of each scanned series: whole local days.
        classes: The asset class of each series.
    """

    windows: Mapping[Series, Window]
    classes: Mapping[Series, AssetClass]

    @property
    def evidence(self) -> timedelta:
        """How far before its windows a scan reads the habits of the series."""
        return EVIDENCE[next(iter(self.windows)).timeframe.base]

    @cached_property
    def days(self) -> dict[Series, tuple[date, date]]:
        """The first and the last local day of each window."""
        days = {}
        for series, window in self.windows.items():
            calendar = calendar_of(self.classes[series])
            days[series] = (calendar.local_day(window.start), calendar.last_day_before(window.end))
        return days


def scan_chunks(windows: Mapping[Series, Window], classes: Mapping[str, AssetClass]) -> Iterator[ScanChunk]:
    """Divide ``windows`` into chunks of one base that fit in memory; siblings stay together.

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
    gaps (``symbol``, ``timeframe``, ``gap_start``, ``gap_end``) that reach into the windows. A gap that
    reaches into its window is judged by the evidence before its beginning.

    Days that were never fetched are not evidence: scanned days beyond them take their place. Where a history has too few
    days before the window, days after it take their place.
    """
    around = {}
    for series, window in chunk.windows.items():
        calendar = calendar_of(chunk.classes[series])
        start, end = window.start - chunk.evidence, window.end + BEYOND
        sessions = calendar.sessions(calendar.local_day(start), chunk.days[series][0] - timedelta(days=1))
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
    """Widen each window of ``around`` to whole local days that hold it and each of its ``gaps``, so that no gap is cut.

    ``before`` is the time to add before each gap.
    """
    edges = {
        Series.of(symbol, timeframe): (first - before, last)
        for symbol, timeframe, first, last in gaps.group_by("symbol", "timeframe")
        .agg(pl.col("gap_start").min(), pl.col("gap_end").max())
        .iter_rows()
    }
    wider = {}
    for series, window in around.items():
        calendar = calendar_of(chunk.classes[series])
        first, last = edges.get(series, (window.start, window.end))
        start = calendar.local_day(min(window.start, first).astimezone(UTC))
        end = calendar.last_day_before(max(window.end, last).astimezone(UTC))
        wider[series] = Window(calendar.day_start(start), calendar.day_window(end).end)
    return wider
