"""The time axis of a picture of bars: open hours stand side by side, closed hours take no room."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from marketdata_assets.domain.calendar import microseconds, moment_of
from marketdata_assets.domain.slots import Integers, expected_slots
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.windows import Window

MAX_SLOTS: Final = 5_000
"""The bars that the axis has room for: with more of them, a bar is less than a pixel wide."""
MAX_TICKS: Final = 9

_MICROSECOND: Final = timedelta(microseconds=1)
_MINUTE: Final = timedelta(minutes=1) // _MICROSECOND
_DAY: Final = timedelta(days=1) // _MICROSECOND
_STEPS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 180, 240, 360, 720)
"""The minutes between ticks within a day; a day is a multiple of each."""
_HALF_BAR: Final = 0.5


@dataclass(frozen=True, eq=False)
class TimeAxis:
    """Stretches of open time, side by side; a position counts bars from the left edge.

    Attributes:
        timeframe: The timeframe of the bars.
        calendar: The calendar whose local dates the ticks show.
        starts: The beginning of each stretch: sorted int64 microseconds since the epoch.
        ends: The end of each stretch.
        offsets: The position of each beginning.
        length: The position of the right edge.
    """

    timeframe: Timeframe
    calendar: TradingCalendar
    starts: Integers
    ends: Integers
    offsets: npt.NDArray[np.float64]
    length: float

    def positions(self, times: Integers) -> npt.NDArray[np.float64]:
        """Return the position of each of ``times``; of a time in closed hours, the beginning of the next stretch."""
        if not len(self.starts):
            return np.zeros(len(times))
        current = np.maximum(np.searchsorted(self.starts, times, side="right") - 1, 0)
        passed = np.clip(times, self.starts[current], self.ends[current]) - self.starts[current]
        share = passed / (self.ends[current] - self.starts[current])
        widths = np.diff(np.append(self.offsets, self.length))
        found: npt.NDArray[np.float64] = self.offsets[current] + share * widths[current]
        return found

    def spans(self, windows: Sequence[Window]) -> list[tuple[float, float]]:
        """Return the first and last position of each of ``windows``; a window without open hours is left out."""
        edges = np.array(
            [[microseconds(window.start), microseconds(window.end)] for window in windows], dtype=np.int64
        )
        if not len(edges):
            return []
        lefts, rights = self.positions(edges[:, 0]), self.positions(edges[:, 1])
        return [
            (float(left), float(right)) for left, right in zip(lefts, rights, strict=True) if right > left
        ]

    def ticks(self, max_ticks: int = MAX_TICKS) -> list[tuple[float, str]]:
        """Return at most ``max_ticks`` positions and labels, at round times in UTC or at local days and months."""
        best: list[tuple[float, str]] = []
        for candidates in self._candidates():
            best = self._thin_out(candidates(), max_ticks)
            if len(best) <= max_ticks:
                break
        return best[:max_ticks]

    def _candidates(self) -> Iterator[Callable[[], list[tuple[float, str]]]]:
        if self.timeframe.is_intraday:
            for minutes in _STEPS:
                if minutes * _MINUTE >= self.timeframe.duration // _MICROSECOND:
                    yield lambda minutes=minutes: self._times(minutes * _MINUTE)  # type: ignore[misc]
        yield lambda: self._days(lambda day: day, "%Y-%m-%d")
        yield lambda: self._days(lambda day: day - timedelta(days=day.weekday()), "%Y-%m-%d")
        for months in (1, 2, 3, 6):
            yield lambda months=months: self._days(  # type: ignore[misc]
                lambda day: (day.year, (day.month - 1) // months), "%Y-%m"
            )
        for years in (1, 2, 5, 10, 20, 50):
            yield lambda years=years: self._days(lambda day: day.year // years, "%Y")  # type: ignore[misc]

    def _times(self, step: int) -> list[tuple[float, str]]:
        """Return ticks every ``step`` microseconds, round in UTC; the first tick of a day has its date."""
        found = []
        last_day = None
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            times = np.arange(-(-start // step) * step, end, step, dtype=np.int64)
            for time, position in zip(times.tolist(), self.positions(times).tolist(), strict=True):
                moment = moment_of(time)
                day = f"\n{moment:%Y-%m-%d}" if moment.date() != last_day else ""
                found.append((position, f"{moment:%H:%M}{day}"))
                last_day = moment.date()
        return found

    def _days(self, group: Callable[[date], object], pattern: str) -> list[tuple[float, str]]:
        """Return a tick at the first stretch of each group of local days; a group that is cut off on the left has none."""
        found = []
        before: object = None
        for position, (start, offset) in enumerate(
            zip(self.starts.tolist(), self.offsets.tolist(), strict=True)
        ):
            day = self.calendar.local_day(moment_of(start))
            current = group(day)
            is_complete = position > 0 or current == day or pattern == "%Y-%m-%d"
            if current != before and is_complete:
                found.append((offset, f"{day:{pattern}}"))
            before = current
        return found

    def _thin_out(self, ticks: list[tuple[float, str]], max_ticks: int) -> list[tuple[float, str]]:
        """Return ``ticks`` without those whose labels would overlap the label before."""
        least = self.length / (2 * max_ticks)
        kept: list[tuple[float, str]] = []
        for position, label in ticks:
            if not kept or position - kept[-1][0] >= least or len(ticks) > 4 * max_ticks:
                kept.append((position, label))
            elif "\n" in label and "\n" not in kept[-1][1]:
                # The tick that is left out has the date of its day, so it replaces the tick before.
                kept[-1] = (position, label)
        return kept


def lay_out(
    times: Integers, timeframe: Timeframe, window: Window, calendar: TradingCalendar, now: datetime
) -> TimeAxis:
    """Return the axis of ``window``: its last :data:`MAX_SLOTS` bars, up to the last stored one or ``now``.

    Intraday stretches are the regular hours, longer where a bar of ``times`` lies outside of them; those of ``1d`` and
    ``1w`` are the sessions, each as wide as the others.

    Args:
        times: Opens of the bars, sorted int64 microseconds since the epoch; at least one.
        timeframe: The timeframe of the bars.
        window: The window that was read.
        calendar: The calendar of the open hours.
        now: The current time, after which no bar is shown as missing.
    """
    step = timeframe.duration // _MICROSECOND
    low, high = (
        microseconds(window.start),
        min(microseconds(window.end), max(microseconds(now), times[-1] + step)),
    )
    if timeframe is Timeframe.W1:
        starts = np.union1d(expected_slots(timeframe, window, calendar, now).opens, times)
        starts = starts[(starts >= low) & (starts < high)]
        ends, counts = np.append(starts[1:], starts[-1:] + step), np.ones(len(starts))
    else:
        first = calendar.local_day(
            max(window.start, moment_of(int(times[0]) - (MAX_SLOTS + 1) * max(step, _DAY)))
        )
        table = calendar.session_table(first, calendar.local_day(moment_of(int(high) - 1)))
        if timeframe is Timeframe.D1:
            starts = np.union1d(table.midnights, times)
            starts = starts[(starts >= low) & (starts < high)]
            ends, counts = (
                np.minimum(np.append(starts[1:], starts[-1:] + step), starts + step),
                np.ones(len(starts)),
            )
        else:
            starts, ends = _hours(times, step, table.midnights, table.opens, table.closes)
            starts, ends = np.maximum(starts, low), np.minimum(ends, high)
            is_open = starts < ends
            starts, ends = starts[is_open], ends[is_open]
            counts = (ends - starts) / step
    total = float(counts.sum())
    if total > MAX_SLOTS:
        behind = total - np.cumsum(counts)
        kept = behind < MAX_SLOTS
        starts, ends, counts = starts[kept].copy(), ends[kept], counts[kept].copy()
        surplus = counts.sum() - MAX_SLOTS
        if timeframe.is_intraday and surplus > 0:
            starts[0] += int(surplus) * step
            counts[0] -= int(surplus)
    offsets = np.cumsum(counts) - counts
    return TimeAxis(timeframe, calendar, starts, ends, offsets, float(counts.sum()))


def _hours(
    times: Integers, step: int, midnights: Integers, opens: Integers, closes: Integers
) -> tuple[Integers, Integers]:
    """Return the open hours of each session, and of other days that have bars, rounded to the grid of the bars."""
    starts = midnights + (opens - midnights) // step * step
    ends = midnights - (midnights - closes) // step * step
    if not len(midnights):
        return times, times + step
    position = np.searchsorted(midnights, times, side="right") - 1
    is_inside = (position >= 0) & (times < midnights[position] + _DAY)
    np.minimum.at(starts, position[is_inside], times[is_inside])
    np.maximum.at(ends, position[is_inside], times[is_inside] + step)
    odd = times[~is_inside]
    if len(odd):
        starts, ends = np.append(starts, odd), np.append(ends, odd + step)
        order = np.argsort(starts)
        starts, ends = starts[order], ends[order]
    return starts, ends


def session_borders(axis: TimeAxis, max_sessions: int = 80) -> list[float]:
    """Return where each intraday session but the first begins; nothing for more than ``max_sessions`` sessions."""
    if not axis.timeframe.is_intraday or not 1 < len(axis.starts) <= max_sessions:
        return []
    return [float(offset) for offset in axis.offsets[1:]]
