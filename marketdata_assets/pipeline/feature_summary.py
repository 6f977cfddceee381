"""The summary of what a run of ``features`` computed: the range and the null share of each column."""

from __future__ import annotations

from typing import Final

import polars as pl

from marketdata_assets.domain.features.columns import FEATURES_SCHEMA

CHART_BARS: Final = 500
"""The number of latest bars that the chart shows."""
CHARTED: Final = ("time", "close", "atr_14", "volatility_20")
"""The columns that the chart needs."""
_COLUMNS: Final = [name for name, dtype in FEATURES_SCHEMA.items() if dtype.is_numeric()]


class FeatureSummary:
    """The totals of the features of a run, added up batch by batch."""

    def __init__(self) -> None:
        self._rows = 0
        self._parts: list[pl.DataFrame] = []

    def add(self, features: pl.DataFrame) -> None:
        """Add ``features`` (``FEATURES_SCHEMA``) to the totals."""
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
        """Return the columns as a Markdown table; a sentence when nothing was computed."""
        if not self._rows:
            return "No features were stale: nothing was computed."
        parts = pl.concat(self._parts).group_by("column", maintain_order=True)
        rows = parts.agg(pl.col("lowest").min(), pl.col("highest").max(), pl.col("nulls").sum())
        lines = [
            f"| {name} | {_number(low)} | {_number(high)} | {nulls / self._rows:.2%} |"
            for name, low, high, nulls in rows.iter_rows()
        ]
        return "\n".join(["| column | lowest | highest | null |", "|---|---:|---:|---:|", *lines])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.6g}"
