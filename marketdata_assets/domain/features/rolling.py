"""Sums and variances over the last n rows, each computed from its own rows alone.

A running sum that adds the newest value and subtracts the oldest depends, in its last digits, on where it began: after
a large value has left the window, its rounding error may exceed the small values that remain. Here the sum of 20 rows is
that of 16 and 4 rows, each computed from two halves, so that the value of a row depends on its window alone, bit for
bit, and takes five additions instead of twenty.
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
"""The number of rows at a time: the arrays of a step stay in the processor's cache."""


class Moments(NamedTuple):
    """The moments of each row with the n - 1 rows before it; NaN in the first n - 1 rows."""

    counted: Floats
    """The number of rows that are counted."""
    mean: Floats
    squares: Floats
    """The sum of squared deviations from the mean."""

    def sample_variance(self) -> Floats:
        """Return the variance with ddof 1; NaN where fewer than two rows are counted."""
        freedom = self.counted - 1
        return np.divide(self.squares, freedom, out=np.full_like(freedom, np.nan), where=freedom > 0)

    def population_deviation(self) -> Floats:
        """Return the square root of the variance with ddof 0; NaN where no row is counted."""
        known = self.counted > 0
        return np.sqrt(
            np.divide(self.squares, self.counted, out=np.full_like(self.mean, np.nan), where=known)
        )


def rolling_sum(values: Floats, n: int, stride: int = 1, *, block: int = BLOCK) -> Floats:
    """Return the sum of each value and the n - 1 values before it, ``stride`` apart; NaN where there are fewer."""
    reach = (n - 1) * stride
    out = np.full(len(values), np.nan)
    # A block shorter than the reach would mostly repeat the work of its neighbour.
    block = max(block, 4 * reach)
    for start in range(reach, len(values), block):
        part = values[start - reach : start + block]
        out[start : start + block] = _over_windows(_Sums(part), len(part), n, stride).values
    return out


def rolling_moments(values: Floats, n: int, counted: Flags | None = None, *, block: int = BLOCK) -> Moments:
    """Return the moments of each value and the n - 1 values before it, of those that are ``counted`` (default: all).

    Two sets are merged by the difference of their means (Chan, Golub & LeVeque 1983, American Statistician 37):
    equal values have a variance of exactly 0, and a large mean does not cost digits. A value that is not counted may be
    NaN.
    """
    count, mean, squares = (np.full(len(values), np.nan) for _ in range(3))
    for start in range(n - 1, len(values), block):
        part = values[start - n + 1 : start + block]
        weight: Floats | float = 1.0
        if counted is not None:
            counts = counted[start - n + 1 : start + block]
            weight, part = counts.astype(np.float64), np.where(counts, part, 0.0)
        rows = slice(start, start + block)
        windows = _over_windows(_Sets(weight, part, np.zeros(len(part))), len(part), n)
        count[rows], mean[rows], squares[rows] = windows
    return Moments(count, mean, squares)


class _Windows(Protocol):
    """The values of windows of one length."""

    def rows(self, chosen: slice) -> Self:
        """Return the ``chosen`` windows."""

    def join(self, later: Self) -> Self:
        """Join each window with the window of ``later`` that follows it."""


_AnyWindows = TypeVar("_AnyWindows", bound=_Windows)


def _over_windows(single: _AnyWindows, length: int, n: int, stride: int = 1) -> _AnyWindows:
    """Build windows of ``n`` rows from ``length`` windows of one row, through windows of 2, 4, 8, ... rows."""
    halves, width = single, 1
    built, covered = None, 0
    while True:
        if n & width:
            if built is None:
                built = halves
            else:
                rows = length - (covered + width - 1) * stride
                offset = covered * stride
                built = built.rows(slice(rows)).join(halves.rows(slice(offset, offset + rows)))
            covered += width
            if covered == n:
                return built
        rows = length - (2 * width - 1) * stride
        halves = halves.rows(slice(rows)).join(halves.rows(slice(width * stride, None)))
        width *= 2


class _Sums(NamedTuple):
    values: Floats

    def rows(self, chosen: slice) -> _Sums:
        return _Sums(self.values[chosen])

    def join(self, later: _Sums) -> _Sums:
        return _Sums(self.values + later.values)


class _Sets(NamedTuple):
    """The fields of :class:`Moments` without a warm-up; ``counted`` is a number where every row counts."""

    counted: Floats | float
    mean: Floats
    squares: Floats

    def rows(self, chosen: slice) -> _Sets:
        counted = self.counted if isinstance(self.counted, float) else self.counted[chosen]
        return _Sets(counted, self.mean[chosen], self.squares[chosen])

    def join(self, later: _Sets) -> _Sets:
        counted = self.counted + later.counted
        share = later.counted / np.maximum(counted, 1.0)
        apart = later.mean - self.mean
        return _Sets(
            counted,
            self.mean + apart * share,
            self.squares + later.squares + apart * apart * (self.counted * share),
        )
