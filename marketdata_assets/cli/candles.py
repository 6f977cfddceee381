"""Bars as a picture: candles over their volume, as PNG."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from marketdata_assets.assets.picture import INK, new_figure, png

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

MAX_BARS: Final = 5_000
"""Candles that a picture shows: with more, none is a pixel wide."""

_UP, _DOWN = "#2a9d8f", "#9b1d20"
_WIDTH: Final = 0.7
_TICKS: Final = 8


def candles(bars: pl.DataFrame, title: str) -> bytes:
    """The last 5,000 of ``bars`` (``BAR_SCHEMA``, sorted by time, at least one) as PNG.

    Bars stand side by side, whatever time lies between them; their times are UTC. A bar that closed at its open or
    above is green, the others red. Without a volume, as of an index, there are only candles.
    """
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.ticker import EngFormatter

    shown = bars.tail(MAX_BARS)
    if shown.height < bars.height:
        title = f"{title}: the last {MAX_BARS:,} of {bars.height:,} bars"
    figure = new_figure(11, 6)
    has_volume = shown["volume"].null_count() < shown.height
    heights = [4, 1] if has_volume else [1]
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    prices: Axes = panels[0][0]
    place = np.arange(shown.height, dtype=float)
    opens, highs, lows, closes = (shown[name].to_numpy() for name in ("open", "high", "low", "close"))
    colours = [_UP if close >= open_ else _DOWN for open_, close in zip(opens, closes, strict=True)]
    wicks = np.stack([np.column_stack([place, lows]), np.column_stack([place, highs])], axis=1)
    prices.add_collection(LineCollection(list(wicks), colors=colours, linewidths=0.8))
    left, right = place - _WIDTH / 2, place + _WIDTH / 2
    low, high = np.minimum(opens, closes), np.maximum(opens, closes)
    corners = [(left, low), (right, low), (right, high), (left, high)]
    bodies = np.stack([np.column_stack(corner) for corner in corners], axis=1)
    # A line as well: a bar that closed where it opened has no body.
    prices.add_collection(
        PolyCollection(list(bodies), facecolors=colours, edgecolors=colours, linewidths=0.6)
    )
    prices.autoscale_view()
    prices.set_title(title, fontsize=10, loc="left", color=INK)
    prices.set_ylabel("price", fontsize=8, color=INK)
    if has_volume:
        volume: Axes = panels[1][0]
        volume.bar(place, shown["volume"].fill_null(0.0).to_numpy(), width=_WIDTH, color=colours)
        volume.yaxis.set_major_formatter(EngFormatter(sep=""))
        volume.set_ylabel("volume", fontsize=8, color=INK)
    for (axes,) in panels:
        axes.grid(axis="y", color="#e6e9ec", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7, labelcolor=INK)
    _label(panels[-1][0], shown)
    return png(figure)


def _label(axes: Axes, shown: pl.DataFrame) -> None:
    times = shown["time"]
    ticks = range(0, shown.height, math.ceil(shown.height / _TICKS))
    is_daily = shown["timeframe"][0] in ("1d", "1w")
    pattern = "%Y-%m-%d" if is_daily else "%m-%d %H:%M"
    axes.set_xticks(list(ticks), [f"{times[tick]:{pattern}}" for tick in ticks])
    axes.set_xlabel("UTC", fontsize=7, color=INK)
    axes.set_xlim(-1, shown.height)
