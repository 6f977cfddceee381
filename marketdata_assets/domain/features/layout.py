"""The layout of bars: the position of each in its series, local day and session, and the slots lost before it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from marketdata_assets.domain.bars import UTC_TIME
from marketdata_assets.domain.calendar import moment_of
from marketdata_assets.domain.gaps import slots_in_gaps
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.slots import Slots, expected_slots
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.slots import Flags, Integers

_MICROSECOND: Final = timedelta(microseconds=1)
_DAY: Final = timedelta(days=1)
_WEEK: Final = 7
_NEVER: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Layout:
    """The bars of any number of series of one timeframe on one calendar, series after series, each sorted by time.

    Arrays have one value per bar unless stated otherwise; moments are int64 microseconds since the epoch, in
    UTC. They are shared: never write to them.

    Attributes:
        timeframe: The timeframe of every bar.
        calendar: The calendar of every series.
        symbols: The symbol of each series.
        edges: The position of the first bar of each series, and the number of bars: one value more than series.
        times: The open of each bar.
    """

    timeframe: Timeframe
    calendar: TradingCalendar
    symbols: list[str]
    edges: Integers
    times: Integers

    def each_series(self) -> Iterator[tuple[str, slice]]:
        """Yield the symbol of each series and the slice of its bars."""
        for symbol, (start, end) in zip(self.symbols, pairwise(self.edges.tolist()), strict=True):
            yield symbol, slice(start, end)

    @cached_property
    def position(self) -> Integers:
        """The number of bars of all series before each bar."""
        return np.arange(len(self.times))

    @cached_property
    def age(self) -> Integers:
        """The number of bars of the same series before each bar."""
        return self.position - np.repeat(self.edges[:-1], np.diff(self.edges))

    def since(self, events: Flags) -> Integers:
        """Count the bars since the latest of ``events`` in the same series, 0 at an event; without one, the largest int64."""
        latest = np.maximum.accumulate(np.where(events, self.position, -1))
        return np.where(latest >= self.position - self.age, self.position - latest, _NEVER)

    @cached_property
    def _midnights(self) -> Integers:
        """The local midnight of every date from that of the first bar to the date after the last bar."""
        first, last = (self.calendar.local_day(moment_of(int(edge(self.times)))) for edge in (np.min, np.max))
        dates = pl.date_range(first, last + _DAY, eager=True).cast(pl.Datetime("us"))
        local = dates.dt.replace_time_zone(self.calendar.timezone.key)
        return local.dt.convert_time_zone("UTC").to_physical().to_numpy()

    def days_of(self, moments: Integers) -> Integers:
        """Return the local date of each moment, all on days of the bars, counted from that of the earliest bar."""
        return np.searchsorted(self._midnights, moments, side="right") - 1

    @cached_property
    def day(self) -> Integers:
        """The local date of each bar, counted from that of the earliest bar."""
        return self.days_of(self.times)

    @cached_property
    def opens_day(self) -> Flags:
        """Whether each bar is the first of its series on its local day."""
        first: Flags = self.age == 0
        first[1:] |= self.day[1:] != self.day[:-1]
        return first

    @property
    def _days(self) -> tuple[date, date]:
        first, last = (moment_of(int(self._midnights[edge])) for edge in (0, -1))
        return self.calendar.local_day(first), self.calendar.local_day(last)

    @cached_property
    def sessions_before(self) -> Integers:
        """The number of sessions before each local date, from that of the earliest bar to the date after the last bar.

        A date without a session has the number of the next session. For week bars, weeks are counted.
        """
        first, last = self._days
        opens = np.zeros(len(self._midnights), dtype=np.int64)
        if self.timeframe is Timeframe.W1:
            opens[-(first.isoweekday() % _WEEK) % _WEEK :: _WEEK] = 1
        else:
            opens[self.days_of(self.calendar.session_table(first, last).midnights)] = 1
        return np.cumsum(opens) - opens

    @cached_property
    def in_session(self) -> Flags:
        """Whether each bar lies on a local date that :attr:`sessions_before` counts."""
        counts = np.diff(self.sessions_before)
        inside: Flags = counts[self.day] > 0
        return inside

    def clock(self, moments: Integers, days: Integers) -> Integers:
        """Return the number of the slot of the local day that opens at each moment: 0 at midnight."""
        step = min(self.timeframe.duration, _DAY) // _MICROSECOND
        return (moments - self._midnights[days]) // step

    @cached_property
    def anchor(self) -> Integers:
        """The moment at which the volume-weighted price of the session begins, for each bar.

        Intraday: the slot in which regular hours open, for the bars from that slot to the end of the local day; local
        midnight for earlier bars, and on a day without a session. A day or week bar begins with itself.
        """
        if not self.timeframe.is_intraday:
            return self.times
        table = self.calendar.session_table(*self._days)
        step = self.timeframe.duration // _MICROSECOND
        opens = np.full(len(self._midnights), _NEVER)
        # As in expected_slots: no session falls on a day on which the clock changes.
        opens[self.days_of(table.midnights)] = (
            table.midnights + (table.opens - table.midnights) // step * step
        )
        opened = opens[self.day]
        return np.where(self.times >= opened, opened, self._midnights[self.day])

    @property
    def breaks_overnight(self) -> bool:
        """Whether bars are shorter than a day and nights lie between the days."""
        return self.timeframe.is_intraday and not self.calendar.is_always_open


@dataclass(frozen=True, eq=False)
class Losses:
    """The expected slots in lost gaps that no bar fills.

    Attributes:
        slots: The sorted lost slots of each symbol: int64 microseconds since the epoch, in UTC. Series without a loss
            have no entry.
        crossed: Whether slots were lost between the bar before and each bar.
        in_session: Whether slots were lost between the anchor of each bar (:attr:`Layout.anchor`) and the bar.
    """

    slots: dict[str, Integers]
    crossed: Flags
    in_session: Flags


def find_losses(layout: Layout, gaps: pl.DataFrame | None) -> Losses:
    """Find the slots that the series of ``layout`` lost in ``gaps`` (symbol, timeframe, gap_start, gap_end).

    A slot of a gap that has a bar is not lost, whatever the gap covers. Slots outside the local days of the bars
    are left out.
    """
    crossed, in_session = (np.zeros(len(layout.times), dtype=np.bool_) for _ in range(2))
    found: dict[str, Integers] = {}
    if gaps is not None:
        ours = gaps.filter(timeframe=layout.timeframe.value)
        incomplete = set(ours["symbol"].to_list())
        slots = _expected_slots(layout) if incomplete.intersection(layout.symbols) else None
        for symbol, bars in layout.each_series():
            if slots is None or symbol not in incomplete:
                continue
            times = layout.times[bars]
            own = ours.filter(symbol=symbol).with_columns(pl.col("gap_start", "gap_end").cast(UTC_TIME))
            [inside] = slots_in_gaps(own, {Series(symbol, layout.timeframe): slots}).values()
            lost = slots.opens[inside & ~slots.stored(times)]
            if not len(lost):
                continue
            found[symbol] = lost
            before = np.searchsorted(lost, times)
            crossed[bars][1:] = before[1:] > before[:-1]
            in_session[bars] = before > np.searchsorted(lost, layout.anchor[bars])
    return Losses(found, crossed, in_session)


def _expected_slots(layout: Layout) -> Slots:
    calendar = layout.calendar
    first, last = (calendar.local_day(moment_of(int(edge(layout.times)))) for edge in (np.min, np.max))
    window = Window(calendar.day_start(first), calendar.day_start(last + _DAY))
    # Every slot of a gap has closed; whether other slots have closed makes no difference.
    return expected_slots(layout.timeframe, window, calendar, window.end + 2 * layout.timeframe.duration)
