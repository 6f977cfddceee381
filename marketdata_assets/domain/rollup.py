"""Rolling up: longer bars made from base bars, deterministically and without the vendor's anchor quirks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from marketdata_assets.domain.bars import BAR_SCHEMA, bucket_open

if TYPE_CHECKING:
    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.timeframe import Timeframe


def roll_up(base: pl.DataFrame, timeframe: Timeframe, calendar: TradingCalendar) -> pl.DataFrame:
    """Roll up bars of ``timeframe`` from ``base`` (:data:`BAR_SCHEMA`, sorted by time within a symbol).

    Open, high, low and close are the first, highest, lowest and last; volume and transactions add up; vwap is
    the volume-weighted mean of the base vwaps. A value that every base bar lacks is null (an index has no volume).
    A bucket without a base bar has no bar. ``base_bars`` counts the base bars of each bar. All bars of ``base``
    take part, those of extended hours included.
    """
    if timeframe.is_base:
        return base
    traded = pl.col("vwap").is_not_null() & pl.col("volume").is_not_null()
    weight = pl.col("volume").filter(traded)
    weighted = (pl.col("vwap") * pl.col("volume")).filter(traded).sum() / weight.sum()
    return (
        base.group_by("symbol", time=bucket_open(pl.col("time"), timeframe, calendar), maintain_order=True)
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            _sum_or_null("volume"),
            # Where all volumes are zero there are no weights: the vwap is unknown, not NaN.
            vwap=pl.when(weight.sum() > 0).then(weighted),
            transactions=_sum_or_null("transactions"),
            base_bars=pl.col("base_bars").sum().cast(pl.Int32),
        )
        .with_columns(timeframe=pl.lit(timeframe.value))
        .select(BAR_SCHEMA.names())
    )


def _sum_or_null(column: str) -> pl.Expr:
    return pl.when(pl.col(column).is_not_null().any()).then(pl.col(column).sum())
