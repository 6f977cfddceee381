"""Bars as a PNG picture: candles above their volume, with the gaps between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from marketdata_assets.cli.axis import MAX_SLOTS, TimeAxis, lay_out, session_borders
from marketdata_assets.defs.assets.picture import INK, new_figure, png
from marketdata_assets.domain.bars import UTC_TIME
from marketdata_assets.domain.calendar import calendar_of, microseconds
from marketdata_assets.domain.gaps import GapState
from marketdata_assets.domain.windows import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from marketdata_assets.domain.series import AssetClass, Series

_UP, _DOWN = "#2a9d8f", "#9b1d20"
_WIDTH: Final = 0.7
_SHADES: Final = {
    GapState.OPEN: ("#f4a261", "gap: open"),
    GapState.UNFILLED: ("#e9806e", "gap: unfilled"),
    GapState.NO_TRADES: ("#d5dbe1", "gap: no trades"),
}
"""The colours of gaps without bars; a filled gap has bars."""
_NEVER: Final = "#b8bfc7"
_MARK: Final = "#6a4c93"


@dataclass(frozen=True)
class Chart:
    """The parts of a picture beside the bars.

    Attributes:
        series: The series of the bars.
        asset_class: The asset class of the symbol.
        window: The window that was read.
        title: The heading.
        gaps: The known gaps, with at least ``gap_start``, ``gap_end`` and ``state``.
        quarantined: The times of quarantined rows.
        never_fetched: The windows that were never fetched.
        now: The current time, after which no bar is missing yet.
    """

    series: Series
    asset_class: AssetClass
    window: Window
    title: str
    gaps: pl.DataFrame | None = None
    quarantined: Sequence[datetime] = ()
    never_fetched: Sequence[Window] = ()
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


def candles(bars: pl.DataFrame, chart: Chart) -> bytes:
    """Draw the last 5,000 slots of ``bars`` (``BAR_SCHEMA``, sorted by time, at least one), and return a PNG.

    Closed hours take no room. Missing bars take room, shaded by the state of their gap, and days that were never fetched
    are hatched. A bar that closed at or above its open is green, any other bar is red. Quarantined rows are marked at the
    top. Times are UTC. Bars without volume, such as those of an index, are drawn as candles only.
    """
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.ticker import EngFormatter

    axis = lay_out(
        bars["time"].cast(UTC_TIME).to_physical().to_numpy(),
        chart.series.timeframe,
        chart.window,
        calendar_of(chart.asset_class),
        chart.now,
    )
    shown = bars.filter(pl.col("time").cast(UTC_TIME).to_physical() >= int(axis.starts[0]))
    title = chart.title
    if shown.height < bars.height:
        title = f"{title}: the last {shown.height:,} of {bars.height:,} bars"
    figure = new_figure(11, 6)
    has_volume = shown["volume"].null_count() < shown.height
    heights = [4, 1] if has_volume else [1]
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    prices: Axes = panels[0][0]
    positions = axis.positions(shown["time"].cast(UTC_TIME).to_physical().to_numpy()) + 0.5
    opens, highs, lows, closes = (shown[name].to_numpy() for name in ("open", "high", "low", "close"))
    colours = [_UP if close >= open_ else _DOWN for open_, close in zip(opens, closes, strict=True)]
    wicks = np.stack([np.column_stack([positions, lows]), np.column_stack([positions, highs])], axis=1)
    prices.add_collection(LineCollection(list(wicks), colors=colours, linewidths=0.8))
    left, right = positions - _WIDTH / 2, positions + _WIDTH / 2
    low, high = np.minimum(opens, closes), np.maximum(opens, closes)
    corners = [(left, low), (right, low), (right, high), (left, high)]
    bodies = np.stack([np.column_stack(corner) for corner in corners], axis=1)
    # The edge makes a bar visible that closed where it opened and so has no body.
    prices.add_collection(
        PolyCollection(list(bodies), facecolors=colours, edgecolors=colours, linewidths=0.6)
    )
    prices.autoscale_view()
    prices.set_title(title, fontsize=10, loc="left", color=INK)
    prices.set_ylabel("price", fontsize=8, color=INK)
    if has_volume:
        volume: Axes = panels[1][0]
        volume.bar(positions, shown["volume"].fill_null(0.0).to_numpy(), width=_WIDTH, color=colours)
        volume.yaxis.set_major_formatter(EngFormatter(sep=""))
        volume.set_ylabel("volume", fontsize=8, color=INK)
    for (axes,) in panels:
        axes.grid(axis="y", color="#e6e9ec", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7, labelcolor=INK)
        for border in session_borders(axis):
            axes.axvline(border, color="#c9d1d9", linewidth=0.7, zorder=0.5)
    legend = _shade([axes for (axes,) in panels], axis, chart) + _mark(prices, axis, chart)
    if legend:
        prices.legend(handles=legend, fontsize=7, loc="upper left", framealpha=0.85, edgecolor="none")
    bottom: Axes = panels[-1][0]
    ticks = axis.ticks()
    bottom.set_xticks([position for position, _ in ticks], [label for _, label in ticks])
    bottom.set_xlabel("UTC" if chart.series.timeframe.is_intraday else "", fontsize=7, color=INK)
    bottom.set_xlim(-0.5, axis.length + 0.5)
    return png(figure)


def shaded_spans(axis: TimeAxis, chart: Chart) -> dict[GapState, list[tuple[float, float]]]:
    """Return the first and last position on ``axis`` of each gap of ``chart``, by state; filled gaps are left out."""
    found: dict[GapState, list[tuple[float, float]]] = {}
    if chart.gaps is None:
        return found
    for state in _SHADES:
        own = chart.gaps.filter(state=state.value).sort("gap_start")
        windows = [
            Window(start.astimezone(UTC), end.astimezone(UTC))
            for start, end in own.select("gap_start", "gap_end").iter_rows()
        ]
        if spans := axis.spans(windows):
            found[state] = spans
    return found


def _shade(panels: Sequence[Axes], axis: TimeAxis, chart: Chart) -> list[Artist]:
    from matplotlib.patches import Patch

    legend: list[Artist] = []
    for state, spans in shaded_spans(axis, chart).items():
        colour, label = _SHADES[state]
        _fill(panels, spans, facecolor=colour, alpha=0.55, linewidth=0)
        legend.append(Patch(facecolor=colour, alpha=0.55, label=label))
    if spans := axis.spans(chart.never_fetched):
        _fill(panels, spans, facecolor="none", edgecolor=_NEVER, hatch="///", linewidth=0)
        legend.append(Patch(facecolor="none", edgecolor=_NEVER, hatch="///", label="never fetched"))
    return legend


def _fill(panels: Sequence[Axes], spans: Sequence[tuple[float, float]], **style: object) -> None:
    """Fill ``spans`` from the bottom to the top of each panel, without changing its scale."""
    from matplotlib.collections import PolyCollection

    for axes in panels:
        corners = [[(left, 0), (right, 0), (right, 1), (left, 1)] for left, right in spans]
        axes.add_collection(
            PolyCollection(corners, transform=axes.get_xaxis_transform(), zorder=0.4, **style),  # type: ignore[arg-type]
            autolim=False,
        )


def _mark(prices: Axes, axis: TimeAxis, chart: Chart) -> list[Artist]:
    times = np.array([microseconds(time) for time in chart.quarantined], dtype=np.int64)
    inside = times[times >= axis.starts[0]]
    if not len(inside):
        return []
    return list(
        prices.plot(
            axis.positions(inside) + 0.5,
            np.full(len(inside), 0.985),
            linestyle="none",
            marker="v",
            markersize=5,
            color=_MARK,
            label="quarantined row",
            transform=prices.get_xaxis_transform(),
            clip_on=False,
        )
    )


__all__ = ["MAX_SLOTS", "Chart", "candles", "shaded_spans"]
