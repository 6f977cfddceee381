"""The picture that a run of ``features`` shows: a chart of one series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.defs.assets.picture import INK, new_figure, png

if TYPE_CHECKING:
    import polars as pl

    from marketdata_assets.domain.series import Series

_PRICE, _ATR, _VOLATILITY = "#24292f", "#e76f51", "#2a9d8f"


def feature_chart(series: Series, latest: pl.DataFrame) -> bytes:
    """Draw the close, ``atr_14`` and ``volatility_20`` of ``series``, one above the other, as PNG.

    ``latest`` has the columns ``CHARTED``, ``close`` split-adjusted, sorted by time.
    """
    figure = new_figure(7.5, 4.5)
    # By position, because nights and weekends would fill most of the picture.
    position = list(range(latest.height))
    panels = figure.subplots(3, 1, sharex=True, height_ratios=[2, 1, 1])
    for axes, values, name, colour in zip(
        panels,
        (latest["close"], latest["atr_14"], latest["volatility_20"]),
        ("close", "atr_14", "volatility_20"),
        (_PRICE, _ATR, _VOLATILITY),
        strict=True,
    ):
        axes.plot(position, values.to_list(), color=colour, linewidth=0.9)
        axes.set_ylabel(name, fontsize=7, color=INK)
        axes.tick_params(labelsize=7, labelcolor=INK)
        axes.spines[["top", "right"]].set_visible(False)
    ticks = position[:: max(1, len(position) // 6)]
    panels[-1].set_xticks(ticks, [f"{latest['time'][tick]:%Y-%m-%d %H:%M}" for tick in ticks])
    panels[0].set_title(f"{series}, split-adjusted, UTC", fontsize=9, loc="left", color=INK)
    return png(figure)
