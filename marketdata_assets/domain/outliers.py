"""Outliers: bars that obey every rule and still look wrong. They are flagged, never rejected.

A jump is judged against the habits of its own series, so that a calm index and a wild coin have one rule. The
volume of a bar shorter than a day follows the clock (open, lunch, close, night), and a thin one is mostly
noise: against the median of its neighbours half a session would be flagged. Volume is judged in day and week
bars alone, where a tenth of the usual means lost trades and ten times means news, or a doubled print.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Final

import polars as pl

from marketdata_assets.domain.timeframe import Timeframe

MAX_RANGE: Final = 5.0
"""Largest (high - low) / low of a bar: 500 %."""
VOLUME_HIGH, VOLUME_LOW = 10.0, 0.1
"""Volume as multiples of the median of the trailing bars."""
VOLUME_WINDOW: Final = {Timeframe.D1: 20, Timeframe.W1: 13}
"""Trailing bars of the volume's median: a month of sessions, a quarter of weeks. Only these are judged."""
JUMP_WINDOW: Final = 60
"""Trailing close-to-close moves that tell how far a series is used to move, in bars."""
JUMP_MULTIPLE: Final = 10.0
"""A jump exceeds the median absolute move this many times over."""
MIN_JUMP: Final = {
    Timeframe.M1: 0.05,
    Timeframe.M5: 0.06,
    Timeframe.M15: 0.08,
    Timeframe.M30: 0.10,
    Timeframe.H1: 0.15,
    Timeframe.H4: 0.20,
    Timeframe.D1: 0.25,
    Timeframe.W1: 0.40,
}
"""The smallest move that is called a jump (0.05: 5 %, as a logarithm): moves below happen every earnings season."""
NEIGHBOUR: Final = timedelta(days=14)
"""A close-to-close move over a longer time says nothing about either bar: history has a hole there."""
LOOKBACK: Final = JUMP_WINDOW + 1
"""Bars before the first judged one that judging needs."""
_ENOUGH: Final = 10
"""Trailing bars without which there is no habit to judge by."""
_SPLIT_RATIOS: Final = (1.5, 2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 25, 30, 40, 50, 100)
_SPLIT_TOLERANCE: Final = 0.03
"""How far the first price after a split may lie from the split's ratio: the market moved over night, too."""


class Outlier(StrEnum):
    """Why a bar is flagged."""

    RANGE = "range"
    VOLUME_HIGH = "volume_high"
    VOLUME_LOW = "volume_low"
    JUMP = "jump"
    SPLIT_LIKE = "split_like"
    """A jump by a ratio at which shares are split, in prices that a listed split would have adjusted. Not a warning."""


def flag_outliers(bars: pl.DataFrame, timeframe: Timeframe, *, may_split: pl.Expr) -> pl.DataFrame:
    """Return the flagged rows of ``bars``, with ``outlier``, ``size`` and ``score``; a bar may be flagged twice.

    Args:
        bars: ``symbol, time, open, high, low, close, volume`` of one timeframe, sorted by symbol and time, with
            :data:`LOOKBACK` bars before the first that is to be judged. Null volume is not judged.
        timeframe: Theirs.
        may_split: Whether the symbol is one whose shares can be split.

    ``size`` is in the rule's own unit: range and moves as a share of the price (0.3: 30 %), volume as a
    multiple of its median. ``score`` is how many times over the threshold it is, to sort by.
    """
    is_neighbour = pl.col("time") - pl.col("time").shift().over("symbol") <= NEIGHBOUR
    previous = pl.when(is_neighbour).then(pl.col("close").shift().over("symbol"))
    move = (pl.col("close") / previous).log()
    # A session begins at the new price; within it the first trades may still be at the old one.
    begins = ["open", "close"] if timeframe.is_intraday else ["open"]
    measured = (
        bars.with_columns(
            _range=(pl.col("high") - pl.col("low")) / pl.col("low"),
            _move=move,
            _is_split=may_split
            & pl.any_horizontal(_near_split_ratio(pl.col(name) / previous) for name in begins),
        )
        .with_columns(_habit=_trailing_median(pl.col("_move").abs(), JUMP_WINDOW))
        .with_columns(_most=pl.max_horizontal(JUMP_MULTIPLE * pl.col("_habit"), MIN_JUMP[timeframe]))
        .with_columns(
            _jumps=pl.col("_habit").is_not_null() & (pl.col("_move").abs() > pl.col("_most")),
        )
    )
    change = pl.col("_move").exp() - 1
    over = pl.col("_move").abs() / pl.col("_most")
    found = [
        _flagged(measured, Outlier.RANGE, pl.col("_range") > MAX_RANGE, pl.col("_range"), MAX_RANGE),
        _flagged(measured, Outlier.JUMP, pl.col("_jumps") & ~pl.col("_is_split"), change, score=over),
        _flagged(measured, Outlier.SPLIT_LIKE, pl.col("_jumps") & pl.col("_is_split"), change, score=over),
    ]
    if timeframe in VOLUME_WINDOW:
        traded = pl.when(pl.col("volume") > 0).then(pl.col("volume"))
        measured = measured.with_columns(
            _times=pl.col("volume") / _trailing_median(traded, VOLUME_WINDOW[timeframe])
        )
        times = pl.col("_times")
        found += [
            _flagged(measured, Outlier.VOLUME_HIGH, times > VOLUME_HIGH, times, VOLUME_HIGH),
            _flagged(
                measured,
                Outlier.VOLUME_LOW,
                times < VOLUME_LOW,
                times,
                # nothing traded at all is as far off as can be told
                score=(VOLUME_LOW / times.clip(lower_bound=VOLUME_LOW / 1000)),
            ),
        ]
    return pl.concat(found)


def _trailing_median(values: pl.Expr, bars: int) -> pl.Expr:
    """Return the median of the ``bars`` values before each; null where there are too few."""
    return values.shift().rolling_median(bars, min_samples=_ENOUGH).over("symbol")


def _near_split_ratio(ratio: pl.Expr) -> pl.Expr:
    fold = pl.max_horizontal(ratio, 1 / ratio)
    return pl.any_horizontal((fold / one - 1).abs() <= _SPLIT_TOLERANCE for one in _SPLIT_RATIOS)


def _flagged(
    measured: pl.DataFrame,
    kind: Outlier,
    broken: pl.Expr,
    size: pl.Expr,
    limit: float | None = None,
    *,
    score: pl.Expr | None = None,
) -> pl.DataFrame:
    return measured.filter(broken).select(
        "symbol",
        "time",
        outlier=pl.lit(kind.value),
        size=size.cast(pl.Float64),
        score=(size / limit if score is None else score).cast(pl.Float64),
    )
