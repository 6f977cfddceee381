"""Completeness as PNG pictures: frames in, bytes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from marketdata_assets.defs.assets.picture import INK, new_figure, png
from marketdata_assets.domain.completeness import Status, cell, grid

if TYPE_CHECKING:
    from datetime import date

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ROWS: Final = 124
"""The number of series, or symbols, that a picture shows: it stays legible, and under some 150 KB."""

_WHOLE, _UNCHECKED, _NOTHING = "#2a9d8f", "#b4bac1", "#f1f3f5"
_GAPS: Final = ("#9b1d20", "#e76f51", "#f4a261", "#f6c945")
"""From empty to nearly complete. Darker is worse, so that the picture can be read without telling red from green."""


def matrix_picture(matrix: pl.DataFrame, *, max_rows: int = MAX_ROWS) -> bytes:
    """Draw symbols x timeframes, each cell coloured by its completeness and labelled, as PNG.

    ``matrix`` has symbol, timeframe, status, completeness (from 0 to 1), expected_bars and missing_bars, one row per
    series. Of more than ``max_rows`` symbols only the least complete are shown, and the title says so.
    """
    symbols = matrix["symbol"].unique(maintain_order=True).to_list()
    shown = _worst(matrix, "symbol", symbols, max_rows)
    title = "Completeness: symbols x timeframes"
    if len(shown) < len(symbols):
        title += f": the {len(shown)} least complete of {len(symbols):,} symbols"
    laid = grid(matrix.filter(pl.col("symbol").is_in(shown)))
    rows, columns = len(laid.symbols), len(laid.timeframes)
    figure, axes = _figure(width=7.5, rows=rows, inches_per_row=0.2)
    colours = np.full((max(rows, 1), max(columns, 1), 3), 1.0)
    for (symbol, timeframe), (status, share) in laid.cells.items():
        row, column = laid.symbols.index(symbol), laid.timeframes.index(timeframe)
        colours[row, column] = _colour(status, share)
        dark = colours[row, column].mean() < 0.5  # noqa: PLR2004 - half way between black and white
        axes.text(
            column,
            row,
            cell(status, share),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else INK,
        )
    axes.imshow(colours, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(columns), [timeframe.value for timeframe in laid.timeframes], fontsize=8)
    axes.set_yticks(range(rows), laid.symbols, fontsize=7)
    _draw_grid(axes, columns, rows)
    return _png(figure, axes, title)


def days_picture(days: pl.DataFrame, first: date, last: date, *, max_rows: int = MAX_ROWS) -> bytes:
    """Draw series x days from ``first`` to ``last``, each cell coloured by its completeness, as PNG.

    ``days`` has ``DAILY_COMPLETENESS_SCHEMA``, sorted by day within each series. A series is blank before its first day.
    Of more than ``max_rows`` series only the least complete are shown, and the title says so.
    """
    keys = pl.concat_str("symbol", pl.lit(":"), "timeframe")
    keyed = days.filter(pl.col("day").is_between(first, last)).with_columns(key=keys)
    series = keyed["key"].unique(maintain_order=True).to_list()
    shown = _worst(keyed, "key", series, max_rows)
    title = f"Completeness by day, {first} to {last}"
    if len(shown) < len(series):
        title += f": the {len(shown)} least complete of {len(series):,} series"
    count = (last - first).days + 1
    figure, axes = _figure(width=11, rows=len(shown), inches_per_row=0.125)
    # Blank before the first day of a series: whether anything was expected is unknown.
    colours = np.full((max(len(shown), 1), count, 3), 1.0)
    for row, key in enumerate(shown):
        own = keyed.filter(key=key)
        colours[row, (own["day"][0] - first).days :] = _rgb(_NOTHING)
        for day, status, share in own.select("day", "status", "completeness").iter_rows():
            colours[row, (day - first).days] = _colour(Status(status), share)
    axes.imshow(colours, aspect="auto", interpolation="nearest")
    ticks = range(count - 1, -1, -7)
    dates = pl.date_range(first, last, eager=True).to_list()
    axes.set_xticks(list(ticks), [f"{dates[tick]:%m-%d}" for tick in ticks], fontsize=7)
    axes.set_yticks(range(len(shown)), shown, fontsize=6)
    _draw_grid(axes, count, len(shown))
    return _png(figure, axes, title)


def _worst(counts: pl.DataFrame, key: str, every: list[str], max_rows: int) -> list[str]:
    """Return the ``max_rows`` least complete of ``every`` value of the column ``key``, in their order."""
    if len(every) <= max_rows:
        return every
    expected, missing = pl.col("expected_bars").sum(), pl.col("missing_bars").sum()
    # Values that were never scanned expect nothing: they come after those that are known to lack bars.
    shares = counts.group_by(key).agg(share=pl.when(expected > 0).then(missing / expected))
    worst = set(shares.sort("share", key, descending=[True, False], nulls_last=True).head(max_rows)[key])
    return [value for value in every if value in worst]


def _figure(*, width: float, rows: int, inches_per_row: float) -> tuple[Figure, Axes]:
    figure = new_figure(width, max(rows, 1) * inches_per_row + 1.1)
    return figure, figure.add_subplot()


def _draw_grid(axes: Axes, columns: int, rows: int) -> None:
    """Draw white lines between the cells and the column names above them, without a frame."""
    axes.set_xticks([position - 0.5 for position in range(columns + 1)], minor=True)
    axes.set_yticks([position - 0.5 for position in range(rows + 1)], minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="both", length=0, labelcolor=INK, top=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)


def _png(figure: Figure, axes: Axes, title: str) -> bytes:
    from matplotlib.patches import Patch  # noqa: PLC0415 - see the docstring of the module picture

    axes.set_title(title, fontsize=9, loc="left", color=INK)
    named = {
        "whole": _WHOLE,
        "few missing": _GAPS[-1],
        "many missing": _GAPS[1],
        "all missing": _GAPS[0],
        "never scanned": _UNCHECKED,
        "nothing expected": _NOTHING,
    }
    figure.legend(
        handles=[Patch(facecolor=colour, edgecolor=_UNCHECKED, label=name) for name, colour in named.items()],
        loc="outside lower left",
        ncols=len(named),
        fontsize=6.5,
        frameon=False,
        handlelength=1,
        columnspacing=1,
    )
    return png(figure)


def _colour(status: Status, share: float | None) -> tuple[float, float, float]:
    if status is Status.WHOLE:
        return _rgb(_WHOLE)
    if status is Status.UNCHECKED:
        return _rgb(_UNCHECKED)
    if status is Status.NOTHING_EXPECTED or share is None:
        return _rgb(_NOTHING)
    # A day that lacks 1 % must not look like a day that lacks half: equal steps of the ramp up to 50, 90 and 100 %.
    position = float(np.interp(share, [0.0, 0.5, 0.9, 1.0], range(len(_GAPS))))
    red, green, blue = (
        float(np.interp(position, range(len(_GAPS)), [_rgb(colour)[channel] for colour in _GAPS]))
        for channel in range(3)
    )
    return red, green, blue


def _rgb(colour: str) -> tuple[float, float, float]:
    return int(colour[1:3], 16) / 255, int(colour[3:5], 16) / 255, int(colour[5:7], 16) / 255
