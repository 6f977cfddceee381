"""Windows: half-open intervals of UTC time, and the set operations on them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """The half-open interval ``[start, end)`` of aware UTC time; ``end`` is always after ``start``."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for edge in (self.start, self.end):
            if edge.tzinfo is not UTC:
                message = f"a window's edges are aware UTC datetimes, not {edge!r}"
                raise ValueError(message)
        if self.start >= self.end:
            message = f"a window ends after it starts, not {self.start:%Y-%m-%dT%H:%M:%SZ}..{self.end:%Y-%m-%dT%H:%M:%SZ}"
            raise ValueError(message)

    @property
    def duration(self) -> timedelta:
        """The length of the window: ``end - start``."""
        return self.end - self.start

    def contains(self, moment: datetime) -> bool:
        """Whether ``start <= moment < end``."""
        return self.start <= moment < self.end

    def covers(self, other: Window) -> bool:
        """Whether every moment of ``other`` lies in this window."""
        return self.start <= other.start and other.end <= self.end

    def intersection(self, other: Window) -> Window | None:
        """Return the window of the moments that lie in this window and in ``other``, or None without any."""
        start, end = max(self.start, other.start), min(self.end, other.end)
        return Window(start, end) if start < end else None

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%dT%H:%MZ}..{self.end:%Y-%m-%dT%H:%MZ}"


def union(windows: Iterable[Window]) -> list[Window]:
    """Return the moments of ``windows`` as disjoint, non-adjacent windows in order."""
    merged: list[Window] = []
    for window in sorted(windows):
        if merged and window.start <= merged[-1].end:
            if window.end > merged[-1].end:
                merged[-1] = Window(merged[-1].start, window.end)
        else:
            merged.append(window)
    return merged


def difference(windows: Iterable[Window], removed: Iterable[Window]) -> list[Window]:
    """Return the moments of ``windows`` that lie in none of ``removed``, as disjoint windows in order."""
    holes = union(removed)
    remaining: list[Window] = []
    index = 0
    for window in union(windows):
        start = window.start
        while index < len(holes) and holes[index].end <= start:
            index += 1
        for hole in holes[index:]:
            if hole.start >= window.end:
                break
            if hole.start > start:
                remaining.append(Window(start, hole.start))
            start = max(start, hole.end)
        if start < window.end:
            remaining.append(Window(start, window.end))
    return remaining
