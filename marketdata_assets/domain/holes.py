"""Holes: the days of a window that could be mistaken for days without trades, and what is known about them.

A day is *never fetched* when it is a session, none of its bars is stored, and no request to the vendor and no scan covers
it. Bars that retention removed and gaps that count as loss are holes as well; a day for which the vendor has no bar is not
a hole.
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
    """The number of days (of ``1w``, weeks) without a stored bar, and the first and the last of them."""

    first: date
    last: date
    count: int


@dataclass(frozen=True, slots=True)
class LostGaps:
    """The number of gaps that are open or unfilled, of their missing bars, and the local days of the first and the last bar."""

    gaps: int
    bars: int
    first: date
    last: date


@dataclass(frozen=True, slots=True)
class Holes:
    """The holes of a window of one series; falsy without a hole.

    Attributes:
        series: The series of the window.
        never_fetched: The days that were neither requested nor scanned, or None.
        removed: The days whose bars were removed by retention, or None.
        lost: The gaps without an explanation, or None.
        windows: The days of ``never_fetched`` as UTC windows, for charts.
    """

    series: Series
    never_fetched: DayHoles | None = None
    removed: DayHoles | None = None
    lost: LostGaps | None = None
    windows: tuple[Window, ...] = ()

    def __bool__(self) -> bool:
        return (self.never_fetched, self.removed, self.lost) != (None, None, None)

    def remedies(self) -> list[tuple[str, str]]:
        """Return a phrase for each kind of hole, with the command that fetches its bars."""
        of_series = f"--symbols {self.series.symbol} --timeframes {self.series.timeframe}"
        found = []
        for hole, why in ((self.never_fetched, "never fetched"), (self.removed, "removed by retention")):
            if hole is not None:
                unit = "week" if self.series.timeframe is Timeframe.W1 else "session"
                what = f"{counted(hole.count, unit)} {_name_days(hole)} {'was' if hole.count == 1 else 'were'} {why}"
                command = f"marketdata backfill {of_series} --start {hole.first} --end {hole.last}"
                found.append((what, command))
        if self.lost is not None:
            what = (
                f"{counted(self.lost.bars, 'bar')} {_name_days(self.lost)} {'is' if self.lost.bars == 1 else 'are'} lost"
                f" in {counted(self.lost.gaps, 'gap')}"
            )
            command = f"marketdata gaps {of_series} --start {self.lost.first} --end {self.lost.last} --repair"
            found.append((what, command))
        return found

    def sentence(self) -> str:
        """Return one line that says what is missing, and what to run."""
        parts = [f"{what}: `{command}`" for what, command in self.remedies()]
        return f"{self.series}: {'; '.join(parts)}"


def _name_days(hole: DayHoles | LostGaps) -> str:
    return f"on {hole.first}" if hole.first == hole.last else f"from {hole.first} to {hole.last}"


def empty_days(
    times: Integers, timeframe: Timeframe, window: Window, calendar: TradingCalendar
) -> list[Window]:
    """Return the days, or weeks, of ``window`` in which bars are expected and none of ``times`` opens, in order.

    For an intraday timeframe, a day is the part of its regular hours that lies in ``window``. A bar of the extended hours
    makes its day non-empty.

    Args:
        times: Opens of the stored bars in ``window``: sorted int64 microseconds since the epoch.
        timeframe: The timeframe of the bars.
        window: The window whose days are searched. The bars of a day that has not ended are expected too, so the window
            should end where bars are not due yet.
        calendar: The calendar of the days.
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
    """Divide ``empty``, from :func:`empty_days`, into the days that lie in ``known`` windows, and the others.

    A week is known when a part of it is: requests rarely begin on its Sunday.
    """
    joined = union(known)
    inside: list[Window] = []
    outside: list[Window] = []
    for day in empty:
        is_known = any(
            known_window.intersection(day) is not None
            if timeframe is Timeframe.W1
            else known_window.covers(day)
            for known_window in joined
        )
        (inside if is_known else outside).append(day)
    return inside, outside


def day_holes(days: Sequence[Window], calendar: TradingCalendar) -> DayHoles | None:
    """Summarise ``days``; None without a day."""
    if not days:
        return None
    return DayHoles(calendar.local_day(days[0].start), calendar.local_day(days[-1].start), len(days))


def regular_windows(timeframe: Timeframe, window: Window, calendar: TradingCalendar) -> list[Window]:
    """Return the windows, within ``window``, in which the bars that touch regular hours open.

    An hour bar that opens at 09:00 touches them, and so does the 4h bar of 08:00, although both hold
    trades from before 09:30.

    Raises:
        ConfigurationError: Bars of ``timeframe`` or on ``calendar`` have no extended hours.
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
