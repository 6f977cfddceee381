"""Sums and variances over the last n rows, made anew for every row.

A running sum that adds the newest value and takes off the oldest depends, in its last digits, on where it began:
after a large value has left the window, nothing but its rounding may be left of the small ones. Here the sum of
20 rows is that of 16 and 4, each made of two halves, so that a row's value depends on its window alone, bit
for bit, and costs five additions instead of twenty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from typing import Self

    from marketdata_assets.domain.slots import Flags

Floats = npt.NDArray[np.float64]

BLOCK: Final = 1 << 14
"""Rows at a time: what a step reads and writes stays in the processor's cache."""


class Moments(NamedTuple):
    """Of each row and the n - 1 rows before it; NaN in the first n - 1 rows."""

    counted: Floats
    """How many of the rows are counted."""
    mean: Floats
    squares: Floats
    """The sum of squared deviations from the mean."""

    def sample_variance(self) -> Floats:
        """With ddof 1; NaN where fewer than two rows are counted."""
        freedom = self.counted - 1
        return np.divide(self.squares, freedom, out=np.full_like(freedom, np.nan), where=freedom > 0)

    def population_deviation(self) -> Floats:
        """Return the square root of the variance with ddof 0; NaN where no row is counted."""
        known = self.counted > 0
        return np.sqrt(
            np.divide(self.squares, self.counted, out=np.full_like(self.mean, np.nan), where=known)
        )


def rolling_sum(values: Floats, n: int, stride: int = 1, *, block: int = BLOCK) -> Floats:
    """Return the sum of each value and the n - 1 before it that are ``stride`` apart; NaN where there are fewer."""
    reach = (n - 1) * stride
    out = np.full(len(values), np.nan)
    # A block shorter than its reach would mostly repeat its neighbour's work.
    block = max(block, 4 * reach)
    for start in range(reach, len(values), block):
        part = values[start - reach : start + block]
        out[start : start + block] = _over_windows(_Sums(part), len(part), n, stride).values
    return out


def rolling_moments(values: Floats, n: int, counted: Flags | None = None, *, block: int = BLOCK) -> Moments:
    """Return the moments of each value and the n - 1 before it, of those that are ``counted`` (all of them by default).

    Two sets are merged by the difference of their means (Chan, Golub & LeVeque 1983, American Statistician 37):
    equal values have a variance of exactly 0, and a large mean costs no digits. A value that does not count may
    be NaN.
    """
    count, mean, squares = (np.full(len(values), np.nan) for _ in range(3))
    for start in range(n - 1, len(values), block):
        part = values[start - n + 1 : start + block]
        each: Floats | float = 1.0
        if counted is not None:
            counts = counted[start - n + 1 : start + block]
            each, part = counts.astype(np.float64), np.where(counts, part, 0.0)
        rows = slice(start, start + block)
        windows = _over_windows(_Sets(each, part, np.zeros(len(part))), len(part), n)
        count[rows], mean[rows], squares[rows] = windows
    return Moments(count, mean, squares)


class _Windows(Protocol):
    """What is known of each window of any one length."""

    def rows(self, chosen: slice) -> Self:
        """Some of the windows."""

    def joined(self, later: Self) -> Self:
        """Each window and the one of ``later`` that follows on it as one."""


_AnyWindows = TypeVar("_AnyWindows", bound=_Windows)


def _over_windows(single: _AnyWindows, length: int, n: int, stride: int = 1) -> _AnyWindows:
    """Windows of ``n`` rows from ``length`` of one row, by way of windows of 2, 4, 8, ... rows."""
    halves, width = single, 1
    whole, covered = None, 0
    while True:
        if n & width:
            if whole is None:
                whole = halves
            else:
                rows = length - (covered + width - 1) * stride
                offset = covered * stride
                whole = whole.rows(slice(rows)).joined(halves.rows(slice(offset, offset + rows)))
            covered += width
            if covered == n:
                return whole
        rows = length - (2 * width - 1) * stride
        halves = halves.rows(slice(rows)).joined(halves.rows(slice(width * stride, None)))
        width *= 2


class _Sums(NamedTuple):
    values: Floats

    def rows(self, chosen: slice) -> _Sums:
        return _Sums(self.values[chosen])

    def joined(self, later: _Sums) -> _Sums:
        return _Sums(self.values + later.values)


class _Sets(NamedTuple):
    """:class:`Moments` without a warm-up; ``counted`` is one number where every row counts."""

    counted: Floats | float
    mean: Floats
    squares: Floats

    def rows(self, chosen: slice) -> _Sets:
        counted = self.counted if isinstance(self.counted, float) else self.counted[chosen]
        return _Sets(counted, self.mean[chosen], self.squares[chosen])

    def joined(self, later: _Sets) -> _Sets:
        counted = self.counted + later.counted
        share = later.counted / np.maximum(counted, 1.0)
        apart = later.mean - self.mean
        return _Sets(
            counted,
            self.mean + apart * share,
            self.squares + later.squares + apart * apart * (self.counted * share),
        )
