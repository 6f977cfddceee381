"""Columns of bars as the vendor stores them, their grids, and the JSON that the vendor sends.

Times are a bar's open in Unix milliseconds UTC, prices are floats in the instrument's currency.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import date, datetime, time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from marketdata_assets.domain.calendar import milliseconds, moment_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from zoneinfo import ZoneInfo

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Base = Literal["minute", "day"]

MINUTE_MS = 60_000
DAY_MS = 86_400_000
_EPOCH = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """Bars in ascending time, one array per column. None stands for a column that the vendor does not send."""

    time: Integers
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats | None = None
    vwap: Floats | None = None
    transactions: Integers | None = None

    def __len__(self) -> int:
        return len(self.time)

    def take(self, selection: slice | npt.NDArray[np.bool_]) -> Bars:
        """Return the bars in a slice or where a mask is true."""
        columns: dict[str, Any] = {
            name: None if column is None else column[selection] for name, column in self.columns()
        }
        return Bars(**columns)

    def between(self, start_ms: int, end_ms: int) -> Bars:
        """Return the bars that open in ``[start_ms, end_ms)``."""
        low, high = np.searchsorted(self.time, (start_ms, end_ms))
        return self.take(slice(int(low), int(high)))

    def columns(self) -> list[tuple[str, npt.NDArray[Any] | None]]:
        """Return the names and arrays of the columns."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    @staticmethod
    def empty() -> Bars:
        """Return an empty set of bars."""
        none = np.empty(0)
        return Bars(np.empty(0, dtype=np.int64), none, none, none, none)

    @staticmethod
    def concatenate(parts: Sequence[Bars]) -> Bars:
        """Concatenate ``parts``, which are in ascending time and have the same columns."""
        parts = [part for part in parts if len(part)]
        if len(parts) <= 1:
            return parts[0] if parts else Bars.empty()
        columns: dict[str, Any] = {}
        for name, first in parts[0].columns():
            columns[name] = None if first is None else np.concatenate([getattr(part, name) for part in parts])
        return Bars(**columns)

    def frame(self) -> pl.DataFrame:
        """Return the bars with the vendor's names (v, vw, o, c, h, l, t, n), without absent columns."""
        wire = {
            "v": self.volume,
            "vw": self.vwap,
            "o": self.open,
            "c": self.close,
            "h": self.high,
            "l": self.low,
            "t": self.time,
            "n": self.transactions,
        }
        return pl.DataFrame({name: column for name, column in wire.items() if column is not None})


def encode(bars: Bars, *, newest_first: bool = False) -> bytes:
    """Encode ``bars`` as a JSON array. Whole numbers lose their ``.0``, as in recorded vendor pages."""
    frame = bars.frame()
    text = (frame.reverse() if newest_first else frame).write_json().encode()
    return text.replace(b".0,", b",").replace(b".0}", b"}")


def roll(bars: Bars, starts: Integers) -> Bars:
    """Roll ``bars`` up to one bar for each bucket; ``starts`` holds the bucket open of each bar."""
    if not len(bars):
        return bars
    first = np.flatnonzero(np.concatenate(([True], starts[1:] != starts[:-1])))
    last = np.concatenate((first[1:], [len(bars)])) - 1
    rolled = Bars(
        time=starts[first],
        open=bars.open[first],
        high=np.maximum.reduceat(bars.high, first),
        low=np.minimum.reduceat(bars.low, first),
        close=bars.close[last],
    )
    if bars.volume is not None:
        volume: Floats = np.add.reduceat(bars.volume, first)
        rolled = replace(rolled, volume=_round(volume, 8))
        if bars.vwap is not None:
            spent: Floats = np.add.reduceat(bars.vwap * bars.volume, first)
            mean: Floats = np.divide(spent, volume, out=rolled.close.copy(), where=volume > 0)
            rolled = replace(rolled, vwap=_round(mean, decimals(rolled.close)))
    if bars.transactions is not None:
        rolled = replace(rolled, transactions=np.add.reduceat(bars.transactions, first))
    return rolled


def scale_prices(bars: Bars, factor: Floats) -> Bars:
    """Multiply prices by ``factor`` at the vendor's four decimals, and divide volume by it."""
    return replace(
        bars,
        **{name: np.round(getattr(bars, name) * factor, 4) for name in ("open", "high", "low", "close")},
        vwap=None if bars.vwap is None else np.round(bars.vwap * factor, 4),
        volume=None if bars.volume is None else np.round(bars.volume / factor, 4),
    )


def _round(values: Floats, digits: int) -> Floats:
    rounded: Floats = np.round(values, digits)
    return rounded


def decimals(prices: Floats) -> int:
    """Return the number of decimals of a vwap: four, more for an instrument that costs cents."""
    smallest = float(prices.min()) if len(prices) else 1.0
    return 4 if smallest >= 1 else min(12, 5 - int(np.floor(np.log10(max(smallest, 1e-8)))))


def day_number(day: date) -> int:
    """Return the number of days from 1970-01-01 to ``day``."""
    return day.toordinal() - _EPOCH


def day_of(number: int) -> date:
    """Return the date that is ``number`` days after 1970-01-01."""
    return date.fromordinal(number + _EPOCH)


@lru_cache(maxsize=100_000)
def midnight_ms(number: int, timezone: ZoneInfo) -> int:
    """Return the Unix milliseconds at which the local day of that number begins."""
    return milliseconds(datetime.combine(day_of(number), time(), timezone))


def moment_of_ms(ms: int) -> datetime:
    """Return Unix milliseconds as an aware UTC time."""
    return moment_of(1000 * ms)


def local_day_number(ms: int, timezone: ZoneInfo) -> int:
    """Return the number of the local day that contains ``ms``, in Unix milliseconds."""
    return day_number(moment_of_ms(ms).astimezone(timezone).date())


_SUNDAY = 3  # 1970-01-04
_MONTHS = {"month": 1, "quarter": 3, "year": 12}


@dataclass(frozen=True, slots=True)
class Grid:
    """The grid on which bars of ``multiplier`` ``timespan`` begin.

    Minutes and hours keep a fixed UTC phase, which is why vendor 4-hour bars open at 03, 07, 11, 15 and 19
    Eastern in winter; days begin at local midnight, weeks on Sunday (docs/vendor.md, "Bars").
    """

    multiplier: int
    timespan: str
    timezone: ZoneInfo

    @property
    def base(self) -> Base:
        """The base bars that are rolled up to this timespan, and that ``limit`` counts."""
        return "minute" if self.timespan in ("minute", "hour") else "day"

    @property
    def _step(self) -> int:
        return self.multiplier * (MINUTE_MS if self.timespan == "minute" else 60 * MINUTE_MS)

    def start(self, ms: int) -> int:
        """Return the open of the bucket that contains ``ms``."""
        if self.base == "minute":
            return ms // self._step * self._step
        number = local_day_number(ms, self.timezone)
        return midnight_ms(self._first_day(self._bucket(number)), self.timezone)

    def end(self, ms: int) -> int:
        """Return the open of the bucket after the one that contains ``ms``."""
        if self.base == "minute":
            return ms // self._step * self._step + self._step
        number = local_day_number(ms, self.timezone)
        return midnight_ms(self._first_day(self._bucket(number) + 1), self.timezone)

    def starts(self, times: Integers) -> Integers:
        """Return the bucket opens of base bars that open at ``times``."""
        if self.base == "minute":
            return times // self._step * self._step
        if self.timespan == "day" and self.multiplier == 1:
            return times
        buckets = [self.start(int(ms)) for ms in times]
        return np.array(buckets, dtype=np.int64)

    def _bucket(self, number: int) -> int:
        if self.timespan == "day":
            return number // self.multiplier
        if self.timespan == "week":
            return (number - _SUNDAY) // 7 // self.multiplier
        day = day_of(number)
        return (day.year * 12 + day.month - 1) // (_MONTHS[self.timespan] * self.multiplier)

    def _first_day(self, bucket: int) -> int:
        if self.timespan == "day":
            return bucket * self.multiplier
        if self.timespan == "week":
            return bucket * 7 * self.multiplier + _SUNDAY
        year, month = divmod(bucket * _MONTHS[self.timespan] * self.multiplier, 12)
        return day_number(date(year, month + 1, 1))
