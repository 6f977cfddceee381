"""Slots: the bar opens that a trading calendar leads to expect, as sorted integers.

Bars of extended hours may exist and are never expected. Slots are int64 microseconds since the epoch, in UTC, so that
two years of minutes compare in milliseconds; series on one calendar share one array.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from marketdata_assets.domain.bars import UTC_TIME, bucket_close, bucket_open
from marketdata_assets.domain.calendar import calendar_of, microseconds, moment_of
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import union

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from marketdata_assets.domain.calendar import SessionTable, TradingCalendar
    from marketdata_assets.domain.series import AssetClass
    from marketdata_assets.domain.windows import Window


Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_MICROSECOND = timedelta(microseconds=1)
_MINUTE = timedelta(minutes=1) // _MICROSECOND


@dataclass(frozen=True, eq=False)
class Slots:
    """Expected bar opens of one timeframe on one calendar.

    Attributes:
        timeframe: The timeframe of every slot.
        calendar: The calendar whose sessions the slots touch.
        opens: Sorted, distinct int64 microseconds since the epoch, in UTC. Shared: never write to it.
    """

    timeframe: Timeframe
    calendar: TradingCalendar
    opens: Integers

    def __len__(self) -> int:
        return len(self.opens)

    def within(self, start: datetime | None = None, end: datetime | None = None) -> Slots:
        """Return the slots that open in ``[start, end)``; None leaves that side open. The result is a view, not a copy."""
        first = 0 if start is None else np.searchsorted(self.opens, microseconds(start))
        last = None if end is None else np.searchsorted(self.opens, microseconds(end))
        return replace(self, opens=self.opens[first:last])

    def positions(self, gaps: pl.DataFrame) -> tuple[Integers, Integers]:
        """Return the positions of the first slot of each of ``gaps``, and of the first slot after the gap."""
        first, last = (
            np.searchsorted(self.opens, gaps[edge].cast(UTC_TIME).to_physical().to_numpy())
            for edge in ("gap_start", "gap_end")
        )
        return first, last

    def requested_in(self, requested: Iterable[Window], known: Flags) -> Slots:
        """Return the slots that lie in a ``requested`` window or are ``known`` to be requested, a flag for each slot.

        The other slots belong to days that were never fetched: they are neither missing nor evidence.
        """
        edges = [microseconds(edge) for window in union(requested) for edge in (window.start, window.end)]
        is_requested = (np.searchsorted(edges, self.opens, side="right") % 2 == 1) | known
        return self if is_requested.all() else replace(self, opens=self.opens[is_requested])

    def closes(self, positions: Integers | None = None) -> Integers:
        """Return the closes of the slots at ``positions`` (default: of all slots), in microseconds."""
        opens = self.opens if positions is None else self.opens[positions]
        closes = pl.DataFrame({"opened": opens}).select(
            bucket_close(pl.col("opened").cast(UTC_TIME), self.timeframe, self.calendar).to_physical()
        )
        return closes["opened"].to_numpy()

    def ends_before_a_hole(self, positions: Integers) -> Flags:
        """Whether days that were never fetched lie between each slot at ``positions``, ascending, and the next slot.

        That is so where the calendar expects base slots between the close of the first slot and the open of the second.
        """
        ends = np.zeros(len(positions), dtype=np.bool_)
        # Buckets tile time: a slot that opens one duration later follows directly.
        following = self.opens[positions + 1]
        is_apart = following - self.opens[positions] != self.timeframe.duration // _MICROSECOND
        apart = positions[is_apart]
        edges = np.stack([self.closes(apart), self.opens[apart + 1]], axis=1).ravel()
        ends[is_apart] = np.diff(base_slots_before(edges, self.timeframe, self.calendar))[::2] > 0
        return ends

    def on_days_of(self, times: Integers) -> Flags:
        """Whether each slot lies on a local day on which a bar of ``times`` opens."""
        bars = pl.DataFrame({"time": times}).select(pl.col("time").cast(UTC_TIME))
        days = bars.select(day=local_day(pl.col("time"), self.calendar))["day"].unique()
        return self.days().is_in(days.implode()).to_numpy()

    def days(self) -> pl.Series:
        """Return the local date of each slot, which is its partition, as ``pl.Date`` named ``day``."""
        opens = pl.DataFrame({"time": self.opens}).select(pl.col("time").cast(UTC_TIME))
        return opens.select(day=local_day(pl.col("time"), self.calendar))["day"]

    def stored(self, times: Integers) -> Flags:
        """Whether each slot has a bar among the bar opens ``times``, sorted; opens that are not slots are ignored."""
        found = np.zeros(len(self.opens), dtype=np.bool_)
        if len(self.opens):
            inside = times[
                np.searchsorted(times, self.opens[0]) : np.searchsorted(times, self.opens[-1], side="right")
            ]
            positions = np.searchsorted(self.opens, inside)
            found[positions[self.opens[positions] == inside]] = True
        return found


class StoredBars(NamedTuple):
    """The stored bars of one series, sorted by time, whether expected or not."""

    times: Integers
    """Bar opens: int64 microseconds since the epoch, in UTC."""
    base_bars: Integers | None
    """The number of base bars that each bar is made of; None when it was not read."""


def each_position(first: Integers, last: Integers) -> Integers:
    """Return every position of the stretches that begin at ``first`` and end before ``last``, stretch after stretch."""
    sizes = last - first
    positions: Integers = np.arange(sizes.sum()) + np.repeat(first - (np.cumsum(sizes) - sizes), sizes)
    return positions


def local_day(time: pl.Expr, calendar: TradingCalendar) -> pl.Expr:
    """Return the local date of each ``time``: the partition of a bar that opens at that time."""
    return time.dt.convert_time_zone(calendar.timezone.key).dt.date()


def expected_slots(
    timeframe: Timeframe,
    window: Window,
    calendar: TradingCalendar,
    now: datetime,
    first_bar: datetime | None = None,
) -> Slots:
    """Return the slots that open in ``window``: the opens of bars that touch regular hours and have closed at ``now``.

    Slots lie on the grid of :func:`~marketdata_assets.domain.bars.bucket_open`, so an hour slot that opens at 09:00 is
    expected for a session that opens at 09:30. A day slot opens at the local midnight of each session, a week slot on the
    Sunday of each week with a session. No slot is expected before ``first_bar``, the open of the series'
    first bar; None when it is unknown.
    """
    last = calendar.local_day(window.end - _MICROSECOND)
    if timeframe is Timeframe.W1:
        last += timedelta(days=6)
    table = calendar.session_table(calendar.local_day(window.start), last)
    opens = _opens(timeframe, table, calendar)
    # Buckets tile time: a bar has closed when it opened before the bar that is open at ``now``.
    present = now + calendar.idle_before_midnight if timeframe is Timeframe.D1 else now
    closed = pl.select(bucket_open(pl.lit(present, UTC_TIME), timeframe, calendar)).item()
    start = window.start if first_bar is None else max(window.start, first_bar)
    return Slots(timeframe, calendar, opens).within(start, min(window.end, closed))


def expected_by_series(
    series: Mapping[Series, AssetClass],
    window: Window,
    now: datetime,
    first_bars: Mapping[Series, datetime] | None = None,
) -> dict[Series, Slots]:
    """Return the :func:`expected_slots` of each of ``series``; series of one timeframe and calendar share an array.

    ``first_bars`` holds the open of the first bar of each series of which it is known.
    """
    known = first_bars or {}
    shared: dict[tuple[Timeframe, TradingCalendar], Slots] = {}
    expected: dict[Series, Slots] = {}
    for member, asset_class in series.items():
        key = (member.timeframe, calendar_of(asset_class))
        if key not in shared:
            shared[key] = expected_slots(key[0], window, key[1], now)
        expected[member] = shared[key].within(known.get(member))
    return expected


def stored_by_series(bars: pl.DataFrame) -> dict[Series, StoredBars]:
    """Return the bars of each series of ``bars``, which has the columns symbol, timeframe, time and, if read, base_bars."""
    stored: dict[Series, StoredBars] = {}
    for part in bars.partition_by("symbol", "timeframe", maintain_order=True):
        ordered = part if part["time"].is_sorted() else part.sort("time")
        series = Series(part["symbol"][0], Timeframe(part["timeframe"][0]))
        stored[series] = StoredBars(
            ordered["time"].cast(UTC_TIME).to_physical().to_numpy(),
            ordered["base_bars"].cast(pl.Int64).to_numpy() if "base_bars" in bars.columns else None,
        )
    return stored


def base_slots_before(moments: Integers, timeframe: Timeframe, calendar: TradingCalendar) -> Integers:
    """Count the base slots of ``timeframe`` that open before each of ``moments``, from an arbitrary zero on.

    The difference of two counts is the number of base slots between two moments: regular minutes for an intraday
    timeframe, sessions for ``1d`` and ``1w``. ``moments`` are sorted int64 microseconds since the epoch, on whole minutes.
    """
    if not len(moments):
        return moments
    first, last = (calendar.local_day(moment_of(int(edge))) for edge in moments[[0, -1]])
    table = calendar.session_table(first, last)
    if not timeframe.is_intraday:
        return np.searchsorted(table.midnights, moments)
    if not len(table.days):
        return np.zeros_like(moments)
    minutes = (table.closes - table.opens) // _MINUTE
    before = np.cumsum(minutes) - minutes
    current = np.maximum(np.searchsorted(table.opens, moments, side="right") - 1, 0)
    elapsed = (moments - table.opens[current]) // _MINUTE
    counted: Integers = before[current] + np.clip(elapsed, 0, minutes[current])
    return counted


def _opens(timeframe: Timeframe, table: SessionTable, calendar: TradingCalendar) -> Integers:
    if timeframe is Timeframe.D1:
        return table.midnights
    if timeframe is Timeframe.W1:
        # Day 0 of the epoch was a Thursday, four days after a Sunday.
        weekday = (table.days.astype(np.int64) + 4) % 7
        sundays = np.unique(table.days - weekday)
        return np.array([microseconds(calendar.day_start(day)) for day in sundays.tolist()], dtype=np.int64)
    # No session falls on a day on which the clock changes: time since local midnight is the local time.
    step = timeframe.duration // _MICROSECOND
    first = table.midnights + (table.opens - table.midnights) // step * step
    counts = -(-(table.closes - first) // step)
    position = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    opens: Integers = np.repeat(first, counts) + position * step
    return opens
