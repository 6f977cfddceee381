"""Outliers: bars that obey every rule and still look wrong. They are flagged, never quarantined.

A jump is judged against the habits of its own series, so that one rule fits a calm index and a volatile coin. The
volume of a bar shorter than a day follows the clock (open, lunch, close, night), and of a thin bar it is mostly
noise: compared with the median of its neighbours, half a session would be flagged. So volume is judged in day
and week bars alone, where a tenth of the usual volume means lost trades and ten times means news, or a doubled print.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Final

import polars as pl

from marketdata_assets.domain.timeframe import Timeframe

MAX_RANGE: Final = 5.0
"""The largest (high - low) / low of a bar: 500 %."""
VOLUME_HIGH, VOLUME_LOW = 10.0, 0.1
"""The limits of volume, as multiples of the median of the trailing bars."""
VOLUME_WINDOW: Final = {Timeframe.D1: 20, Timeframe.W1: 13}
"""The number of trailing bars for the median of volume: a month of sessions, a quarter of weeks. Volume of other
timeframes is not judged."""
JUMP_WINDOW: Final = 60
"""The number of trailing close-to-close moves whose median is the habit of a series."""
JUMP_MULTIPLE: Final = 10.0
"""A jump exceeds the median absolute move by this factor."""
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
"""The smallest move that is a jump (0.05: 5 %, as a logarithm): smaller moves happen every earnings season."""
NEIGHBOUR: Final = timedelta(days=14)
"""The longest time between two bars whose move is judged: over a hole in the history, a move shows nothing."""
LOOKBACK: Final = JUMP_WINDOW + 1
"""The number of bars that judging needs before the first judged bar."""
_ENOUGH: Final = 10
"""The fewest trailing bars that make a habit."""
_SPLIT_RATIOS: Final = (1.5, 2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 25, 30, 40, 50, 100)
_SPLIT_TOLERANCE: Final = 0.03
"""How far the first price after a split may lie from the ratio of the split, since the market moves overnight too."""


class Outlier(StrEnum):
    """The reason why a bar is flagged."""

    RANGE = "range"
    VOLUME_HIGH = "volume_high"
    VOLUME_LOW = "volume_low"
    JUMP = "jump"
    SPLIT_LIKE = "split_like"
    """A jump by a ratio at which shares are split, in prices that are adjusted for listed splits. It is not a warning."""


def flag_outliers(bars: pl.DataFrame, timeframe: Timeframe, *, may_split: pl.Expr) -> pl.DataFrame:
    """Select the flagged rows of ``bars``, with ``outlier``, ``size`` and ``score``; a bar may be flagged twice.

    Args:
        bars: ``symbol, time, open, high, low, close, volume`` of one timeframe, sorted by symbol and time, with
            :data:`LOOKBACK` bars before the first that is to be judged. Null volume is not judged.
        timeframe: The timeframe of the bars.
        may_split: Whether the symbol of each bar can be split.

    Returns:
        ``symbol, time, outlier`` (an :class:`Outlier`), ``size``, ``score``. The unit of ``size`` depends on the rule:
        ranges and moves are shares of the price (0.3: 30 %), volumes are multiples of their median. ``score`` is the
        size as a multiple of the threshold, to sort by.
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
        .with_columns(_limit=pl.max_horizontal(JUMP_MULTIPLE * pl.col("_habit"), MIN_JUMP[timeframe]))
        .with_columns(
            _jumps=pl.col("_habit").is_not_null() & (pl.col("_move").abs() > pl.col("_limit")),
        )
    )
    change = pl.col("_move").exp() - 1
    over = pl.col("_move").abs() / pl.col("_limit")
    found = [
        _select_flagged(measured, Outlier.RANGE, pl.col("_range") > MAX_RANGE, pl.col("_range"), MAX_RANGE),
        _select_flagged(measured, Outlier.JUMP, pl.col("_jumps") & ~pl.col("_is_split"), change, score=over),
        _select_flagged(
            measured, Outlier.SPLIT_LIKE, pl.col("_jumps") & pl.col("_is_split"), change, score=over
        ),
    ]
    if timeframe in VOLUME_WINDOW:
        traded = pl.when(pl.col("volume") > 0).then(pl.col("volume"))
        measured = measured.with_columns(
            _times=pl.col("volume") / _trailing_median(traded, VOLUME_WINDOW[timeframe])
        )
        times = pl.col("_times")
        found += [
            _select_flagged(measured, Outlier.VOLUME_HIGH, times > VOLUME_HIGH, times, VOLUME_HIGH),
            _select_flagged(
                measured,
                Outlier.VOLUME_LOW,
                times < VOLUME_LOW,
                times,
                # The score of a volume of 0 is finite.
                score=(VOLUME_LOW / times.clip(lower_bound=VOLUME_LOW / 1000)),
            ),
        ]
    return pl.concat(found)


def _trailing_median(values: pl.Expr, bars: int) -> pl.Expr:
    """Return the median of the ``bars`` values before each value; null where there are too few."""
    return values.shift().rolling_median(bars, min_samples=_ENOUGH).over("symbol")


def _near_split_ratio(ratio: pl.Expr) -> pl.Expr:
    fold = pl.max_horizontal(ratio, 1 / ratio)
    return pl.any_horizontal((fold / split - 1).abs() <= _SPLIT_TOLERANCE for split in _SPLIT_RATIOS)


def _select_flagged(
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
