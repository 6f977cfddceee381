"""Holes: the days of a window that a reader could take for a history without bars, and what is known about them.

A day is *never fetched* when the calendar has it open, no bar of it is stored, and no request to the vendor, no answer
and no scan covers it. Bars that retention removed, and gaps that are lost, are holes as well; a day on which the vendor
has no bar is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from marketdata_assets.domain.calendar import microseconds, moment_of
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.slots import Integers, expected_slots
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window, union
from marketdata_assets.domain.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    from marketdata_assets.domain.calendar import SessionTable, TradingCalendar
    from marketdata_assets.domain.series import Series

_MICROSECOND: Final = timedelta(microseconds=1)
_DAY: Final = timedelta(days=1) // _MICROSECOND


@dataclass(frozen=True, slots=True)
class DayHoles:
    """Days, or weeks of ``1w``, of which no bar is stored, between the first and the last of them."""

    first: date
    last: date
    count: int


@dataclass(frozen=True, slots=True)
class LostGaps:
    """Gaps that are open or unfilled, their missing bars, and the local days of the first and the last of these."""

    gaps: int
    bars: int
    first: date
    last: date


@dataclass(frozen=True, slots=True)
class Holes:
    """What a window of one series lacks; nothing when all three are None.

    Attributes:
        series: Whose window.
        never_fetched: Days of which nothing was requested or scanned.
        removed: Days whose bars retention removed.
        lost: Gaps without an explanation.
        windows: The days of ``never_fetched``, as moments: for pictures.
    """

    series: Series
    never_fetched: DayHoles | None = None
    removed: DayHoles | None = None
    lost: LostGaps | None = None
    windows: tuple[Window, ...] = ()

    def __bool__(self) -> bool:
        return (self.never_fetched, self.removed, self.lost) != (None, None, None)

    def remedies(self) -> list[tuple[str, str]]:
        """Return what is lacking, in the words of a sentence, each with the command that fetches it."""
        of_series = f"--symbols {self.series.symbol} --timeframes {self.series.timeframe}"
        found = []
        for hole, why in ((self.never_fetched, "never fetched"), (self.removed, "removed by retention")):
            if hole is not None:
                unit = "week" if self.series.timeframe is Timeframe.W1 else "session"
                what = f"{counted(hole.count, unit)} {_between(hole)} {'was' if hole.count == 1 else 'were'} {why}"
                command = f"marketdata backfill {of_series} --start {hole.first} --end {hole.last}"
                found.append((what, command))
        if self.lost is not None:
            what = (
                f"{counted(self.lost.bars, 'bar')} {_between(self.lost)} {'is' if self.lost.bars == 1 else 'are'} lost"
                f" in {counted(self.lost.gaps, 'gap')}"
            )
            command = f"marketdata gaps {of_series} --start {self.lost.first} --end {self.lost.last} --repair"
            found.append((what, command))
        return found

    def sentence(self) -> str:
        """Return one line that says what is lacking, and what to run."""
        parts = [f"{what}: `{command}`" for what, command in self.remedies()]
        return f"{self.series}: {'; '.join(parts)}"


def _between(hole: DayHoles | LostGaps) -> str:
    return f"on {hole.first}" if hole.first == hole.last else f"from {hole.first} to {hole.last}"


def empty_days(
    times: Integers, timeframe: Timeframe, window: Window, calendar: TradingCalendar
) -> list[Window]:
    """Return the days, or weeks, of ``window`` in which bars are expected and none of ``times`` opens, in order.

    Of an intraday day it is the part of the regular hours that ``window`` holds. A bar of the extended hours counts.

    Args:
        times: Opens of the stored bars in ``window``: sorted int64 microseconds since the epoch.
        timeframe: Of the bars.
        window: Which days. The bars of a day that has not ended are expected, too: end it at what is due.
        calendar: Whose days.
    """
    low, high = microseconds(window.start), microseconds(window.end)
    if timeframe is Timeframe.W1:
        opens = expected_slots(timeframe, window, calendar, window.end).opens
        starts, ends, lasts = opens, opens + 7 * _DAY, opens + 7 * _DAY
    else:
        table = _sessions_of(window, calendar)
        firsts = table.midnights if timeframe is Timeframe.D1 else table.opens
        closes = table.midnights + 1 if timeframe is Timeframe.D1 else table.closes
        starts, ends = np.maximum(firsts, low), np.minimum(closes, high)
        # No session falls on a day on which the clock changes.
        lasts = np.minimum(table.midnights + _DAY, high)
        opens = np.maximum(table.midnights, low)
    found = np.searchsorted(times, lasts) - np.searchsorted(times, opens)
    is_empty = (found == 0) & (starts < ends)
    return [
        Window(moment_of(int(start)), moment_of(int(end)))
        for start, end in zip(starts[is_empty], ends[is_empty], strict=True)
    ]


def split_fetched(
    empty: Iterable[Window], known: Iterable[Window], timeframe: Timeframe
) -> tuple[list[Window], list[Window]]:
    """Divide ``empty``, of :func:`empty_days`, into what ``known`` windows hold, and the rest.

    A week is known when a part of it is: a request seldom begins on its Sunday.
    """
    joined = union(known)
    inside: list[Window] = []
    outside: list[Window] = []
    for day in empty:
        is_known = any(
            one.intersection(day) is not None if timeframe is Timeframe.W1 else one.covers(day)
            for one in joined
        )
        (inside if is_known else outside).append(day)
    return inside, outside


def day_holes(days: Sequence[Window], calendar: TradingCalendar) -> DayHoles | None:
    """Return ``days`` in short; None without one."""
    if not days:
        return None
    return DayHoles(calendar.local_day(days[0].start), calendar.local_day(days[-1].start), len(days))


def regular_windows(timeframe: Timeframe, window: Window, calendar: TradingCalendar) -> list[Window]:
    """Return the windows, inside of ``window``, in which the bars that touch regular hours open.

    An hour bar that opens at 09:00 touches them, and so does the 4h bar of 08:00: they hold trades from before 09:30.

    Raises:
        ConfigurationError: Bars of ``timeframe`` or on ``calendar`` have no other hours.
    """
    if not timeframe.is_intraday or calendar.is_always_open:
        what = (
            f"{timeframe} bars hold whole days" if not timeframe.is_intraday else "crypto trades at all hours"
        )
        message = f"regular hours choose among the intraday bars of stocks, ETFs and indices, and {what}: leave it out"
        raise ConfigurationError(message)
    table = _sessions_of(window, calendar)
    step = timeframe.duration // _MICROSECOND
    firsts = table.midnights + (table.opens - table.midnights) // step * step
    starts = np.maximum(firsts, microseconds(window.start))
    ends = np.minimum(table.closes, microseconds(window.end))
    return [
        Window(moment_of(int(start)), moment_of(int(end)))
        for start, end in zip(starts, ends, strict=True)
        if start < end
    ]


def _sessions_of(window: Window, calendar: TradingCalendar) -> SessionTable:
    return calendar.session_table(
        calendar.local_day(window.start), calendar.local_day(window.end - _MICROSECOND)
    )
