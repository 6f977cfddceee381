"""What a run of ``features`` shows of itself: ranges and null shares of its columns, and a chart of one series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.defs.assets.picture import INK, new_figure, png
from marketdata_assets.domain.features.columns import FEATURES_SCHEMA

if TYPE_CHECKING:
    from marketdata_assets.domain.series import Series

CHART_BARS: Final = 500
"""Bars that the chart shows at most, the latest."""
CHARTED: Final = ("time", "close", "atr_14", "volatility_20")
"""Columns that the chart is made of."""
_COLUMNS: Final = [name for name, dtype in FEATURES_SCHEMA.items() if dtype.is_numeric()]
_PRICE, _ATR, _VOLATILITY = "#24292f", "#e76f51", "#2a9d8f"


class FeatureSummary:
    """Adds up the features of a run, batch by batch."""

    def __init__(self) -> None:
        self._rows = 0
        self._parts: list[pl.DataFrame] = []

    def add(self, features: pl.DataFrame) -> None:
        """Count ``features`` (``FEATURES_SCHEMA``) in."""
        if features.is_empty():
            return
        self._rows += features.height
        self._parts.append(
            pl.DataFrame(
                {
                    "column": _COLUMNS,
                    "lowest": features.select(pl.col(_COLUMNS).min().cast(pl.Float64)).row(0),
                    "highest": features.select(pl.col(_COLUMNS).max().cast(pl.Float64)).row(0),
                    "nulls": features.select(pl.col(_COLUMNS).null_count()).row(0),
                },
                schema={
                    "column": pl.String(),
                    "lowest": pl.Float64(),
                    "highest": pl.Float64(),
                    "nulls": pl.Int64(),
                },
            )
        )

    def table(self) -> str:
        """The columns as a Markdown table; a sentence when nothing was computed."""
        if not self._rows:
            return "Everything was up to date: nothing was computed."
        found = pl.concat(self._parts).group_by("column", maintain_order=True)
        rows = found.agg(pl.col("lowest").min(), pl.col("highest").max(), pl.col("nulls").sum())
        lines = [
            f"| {name} | {_number(low)} | {_number(high)} | {nulls / self._rows:.2%} |"
            for name, low, high, nulls in rows.iter_rows()
        ]
        return "\n".join(["| column | lowest | highest | null |", "|---|---:|---:|---:|", *lines])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.6g}"


def feature_chart(series: Series, latest: pl.DataFrame) -> bytes:
    """Close, ``atr_14`` and ``volatility_20`` of ``series``, one above the other, as PNG.

    ``latest`` has the columns ``CHARTED``, ``close`` split-adjusted, sorted by time.
    """
    figure = new_figure(7.5, 4.5)
    # By position: nights and weekends would be most of the picture.
    place = list(range(latest.height))
    panels = figure.subplots(3, 1, sharex=True, height_ratios=[2, 1, 1])
    for axes, values, name, colour in zip(
        panels,
        (latest["close"], latest["atr_14"], latest["volatility_20"]),
        ("close", "atr_14", "volatility_20"),
        (_PRICE, _ATR, _VOLATILITY),
        strict=True,
    ):
        axes.plot(place, values.to_list(), color=colour, linewidth=0.9)
        axes.set_ylabel(name, fontsize=7, color=INK)
        axes.tick_params(labelsize=7, labelcolor=INK)
        axes.spines[["top", "right"]].set_visible(False)
    ticks = place[:: max(1, len(place) // 6)]
    panels[-1].set_xticks(ticks, [f"{latest['time'][tick]:%Y-%m-%d %H:%M}" for tick in ticks])
    panels[0].set_title(f"{series}, split-adjusted, UTC", fontsize=9, loc="left", color=INK)
    return png(figure)
