"""Features made of volume: the session's volume-weighted price, and volume beside that of the days before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from marketdata_assets.domain.features.columns import LOOKBACK_DAYS
from marketdata_assets.domain.features.rolling import rolling_sum

if TYPE_CHECKING:
    from marketdata_assets.domain.features.layout import Layout, Losses
    from marketdata_assets.domain.features.rolling import Floats
    from marketdata_assets.domain.slots import Flags, Integers

_DAYS: Final = LOOKBACK_DAYS["relative_volume_20"]


def session_vwap(price: Floats, volume: Floats, layout: Layout) -> Floats:
    """The volume-weighted mean of ``price`` from each bar's anchor to the bar; NaN before any volume.

    A bar whose ``volume`` is NaN has no weight, and its own value is NaN.
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
    """Volume over its mean at the same local time on the 20 days before, and whether slots of that were lost.

    Days are the local days on which the series has a bar, of them those with a bar at that time count. NaN while
    there are fewer than 20 days before, and where nothing was traded at that time on any of them.
    """
    out, lost = np.full(len(volume), np.nan), np.zeros(len(volume), dtype=np.bool_)
    clock = layout.clock(layout.times, layout.day)
    for symbol, bars in layout.each_series():
        grid = _Grid(layout, bars, clock[bars])
        out[bars] = grid.relative(volume[bars])
        if symbol in losses.slots:
            lost[bars] = grid.reached(losses.slots[symbol]) & ~np.isnan(out[bars])
    return out, lost


class _Grid:
    """The bars of one series as a table: a row per local day with a bar, a column per time of the day."""

    def __init__(self, layout: Layout, bars: slice, clock: Integers) -> None:
        opens_day = layout.opens_day[bars]
        self._layout = layout
        self._row = np.cumsum(opens_day) - 1
        self._days = layout.day[bars][opens_day]
        self._first_clock = int(clock.min())
        self._width = int(clock.max()) - self._first_clock + 1
        self._cell = self._row * self._width + clock - self._first_clock
        self._has_history = self._row >= _DAYS

    def relative(self, volume: Floats) -> Floats:
        known = ~np.isnan(volume)
        out = np.full(len(volume), np.nan)
        if not (self._has_history & known).any():
            return out
        cells = len(self._days) * self._width
        traded, bars = np.zeros(cells), np.zeros(cells)
        traded[self._cell[known]] = volume[known]
        bars[self._cell[known]] = 1.0
        before = self._cell[self._has_history] - self._width
        sums, counts = (rolling_sum(each, _DAYS, self._width)[before] for each in (traded, bars))
        # Volume over the mean, with one rounding fewer; without trades in the days before there is no mean.
        scaled = volume[self._has_history] * counts
        out[self._has_history] = np.divide(scaled, sums, out=np.full(len(sums), np.nan), where=sums > 0)
        return out

    def reached(self, slots: Integers) -> Flags:
        """Whether one of ``slots`` lies in the 20 days before each bar, at the same time of the day."""
        days = self._layout.days_of(slots)
        column = self._layout.clock(slots, days) - self._first_clock
        inside = (column >= 0) & (column < self._width)
        days, column = days[inside], column[inside]
        row = np.searchsorted(self._days, days)
        # A day with a bar is left behind 20 days later, a wholly lost one when the 20 days around it have passed.
        has_bar = self._days[np.minimum(row, len(self._days) - 1)] == days
        begins = np.minimum(row + has_bar, len(self._days))
        ends = np.minimum(begins + _DAYS, len(self._days))
        steps = np.zeros((len(self._days) + 1, self._width), dtype=np.int32)
        np.add.at(steps, (begins, column), 1)
        np.add.at(steps, (ends, column), -1)
        reached: Flags = np.cumsum(steps, axis=0).ravel()[self._cell] > 0
        return reached
