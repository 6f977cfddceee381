"""The features of volume: the volume-weighted price of the session, and volume relative to that of earlier days."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from marketdata_assets.domain.features.columns import LOOKBACK_SESSIONS
from marketdata_assets.domain.features.rolling import rolling_sum

if TYPE_CHECKING:
    from marketdata_assets.domain.features.layout import Layout, Losses
    from marketdata_assets.domain.features.rolling import Floats
    from marketdata_assets.domain.slots import Flags, Integers

_SESSIONS: Final = LOOKBACK_SESSIONS["relative_volume_20"]


def session_vwap(price: Floats, volume: Floats, layout: Layout) -> Floats:
    """Return the volume-weighted mean of ``price`` from the anchor of each bar to the bar; NaN before any volume.

    A bar whose ``volume`` is NaN has no weight, and its value is NaN.
    """
    if not layout.timeframe.is_intraday:
        return np.where(volume > 0, price, np.nan)
    begins = layout.age == 0
    begins[1:] |= layout.anchor[1:] != layout.anchor[:-1]
    weight = np.where(np.isnan(volume), 0.0, volume)
    sums = pl.DataFrame({"session": np.cumsum(begins), "weight": weight, "paid": price * weight}).select(
        pl.col("weight", "paid").cum_sum().over("session")
    )
    weighed, paid = sums["weight"].to_numpy(), sums["paid"].to_numpy()
    known = (weighed > 0) & ~np.isnan(volume)
    out = np.full(len(price), np.nan)
    np.divide(paid, weighed, out=out, where=known)
    return out


def relative_volume(volume: Floats, layout: Layout, losses: Losses) -> tuple[Floats, Flags]:
    """Return volume over its mean at the same local time in the 20 sessions before, and whether slots of these were lost.

    Of the 20 sessions, those with a bar at that time count; a bar on a day without a session does not count in the mean
    of others. The ratio is NaN for the first 20 sessions of a series, and where none of the sessions has volume at that
    time.
    """
    out, lost = np.full(len(volume), np.nan), np.zeros(len(volume), dtype=np.bool_)
    clock = layout.clock(layout.times, layout.day)
    for symbol, bars in layout.each_series():
        grid = _Grid(layout, bars, clock[bars])
        out[bars] = grid.relative(volume[bars])
        if symbol in losses.slots:
            lost[bars] = grid.is_affected(losses.slots[symbol]) & ~np.isnan(out[bars])
    return out, lost


class _Grid:
    """The bars of one series as a table: a row per session (for week bars: per week), a column per time of the day.

    A bar on a day without a session is in the row of the next session, but is not counted there.
    """

    def __init__(self, layout: Layout, bars: slice, clock: Integers) -> None:
        days = layout.day[bars]
        self._layout = layout
        self._first = int(layout.sessions_before[days[0]])
        self._row = layout.sessions_before[days] - self._first
        self._rows = int(self._row[-1]) + 1
        self._counts = layout.in_session[bars]
        self._first_clock = int(clock.min())
        self._width = int(clock.max()) - self._first_clock + 1
        self._cell = self._row * self._width + clock - self._first_clock
        self._has_history = self._row >= _SESSIONS

    def relative(self, volume: Floats) -> Floats:
        known = ~np.isnan(volume)
        out = np.full(len(volume), np.nan)
        if not (self._has_history & known).any():
            return out
        cells = self._rows * self._width
        traded, bars = np.zeros(cells), np.zeros(cells)
        counted = known & self._counts
        traded[self._cell[counted]] = volume[counted]
        bars[self._cell[counted]] = 1.0
        before = self._cell[self._has_history] - self._width
        sums, counts = (rolling_sum(table, _SESSIONS, self._width)[before] for table in (traded, bars))
        # Volume times the count, over the sum, has one rounding fewer than volume over the mean.
        scaled = volume[self._has_history] * counts
        out[self._has_history] = np.divide(scaled, sums, out=np.full(len(sums), np.nan), where=sums > 0)
        return out

    def is_affected(self, slots: Integers) -> Flags:
        """Whether one of ``slots`` lies in the 20 sessions before each bar, at the same time of day."""
        days = self._layout.days_of(slots)
        column = self._layout.clock(slots, days) - self._first_clock
        row = self._layout.sessions_before[days] - self._first
        inside = (column >= 0) & (column < self._width) & (row >= 0) & (row < self._rows)
        column, row = column[inside], row[inside]
        steps = np.zeros((self._rows + 1, self._width), dtype=np.int32)
        np.add.at(steps, (np.minimum(row + 1, self._rows), column), 1)
        np.add.at(steps, (np.minimum(row + 1 + _SESSIONS, self._rows), column), -1)
        is_affected: Flags = np.cumsum(steps, axis=0).ravel()[self._cell] > 0
        return is_affected
