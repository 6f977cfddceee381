"""The completeness matrix as a self-contained HTML page: frames in, text out."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from marketdata_assets.cli.matrix_lines import ended_line, summary_of
from marketdata_assets.domain.completeness import ENDED, Status, cell, grid
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.wording import minute_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    import polars as pl

    from marketdata_assets.storage.completeness import Recent

_HALF, _NEARLY_COMPLETE = 0.5, 0.9
_LEGEND: Final = {
    "w": "whole",
    "g1": "90 % or more",
    "g2": "half or more",
    "g3": "less than half",
    "e": "all missing",
    "u": "never scanned",
    "n": "nothing expected",
}
"""The classes of cells in the style sheet, and their meanings."""

_NUMBER: Final = "{:,}".format


class _Cell(NamedTuple):
    """A cell of a table: its class in the style sheet, its tooltip, and its text."""

    name: str
    title: str = ""
    text: str = ""


def matrix_page(
    matrix: pl.DataFrame,
    recent: Recent | None,
    lost: pl.DataFrame,
    *,
    lost_count: int,
    ended: pl.DataFrame | None = None,
) -> str:
    """Render the page: symbols x timeframes, series x days, and the gaps without an explanation.

    ``matrix`` has ``MATRIX_SCHEMA``; ``lost`` (``KNOWN_GAP_SCHEMA``) holds the largest of ``lost_count`` gaps, and ``ended``
    the rows whose scanned days end before the day that is due.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _NUMBER, "minute": minute_of}
    layout = grid(matrix)
    cells = _matrix_cells(matrix, ended)
    return environment.get_template("matrix.html").render(
        summary=summary_of(matrix),
        legend=_LEGEND,
        timeframes=layout.timeframes,
        symbols=[
            (symbol, [cells.get((symbol, timeframe)) for timeframe in layout.timeframes])
            for symbol in layout.symbols
        ],
        mark=ENDED,
        ended=ended_line(ended),
        recent=recent,
        weeks=None if recent is None else _weeks(recent),
        days=None if recent is None else _days(recent),
        gaps=lost.to_dicts(),
        gap_count=lost_count,
    )


def _class(status: Status, share: float | None) -> str:
    if status is Status.GAPS and share is not None:
        return "g1" if share >= _NEARLY_COMPLETE else "g2" if share >= _HALF else "g3"
    return {Status.WHOLE: "w", Status.EMPTY: "e", Status.UNCHECKED: "u"}.get(status, "n")


def _matrix_cells(matrix: pl.DataFrame, ended: pl.DataFrame | None) -> dict[tuple[str, Timeframe], _Cell]:
    marked = set() if ended is None else set(ended.select("symbol", "timeframe").iter_rows())
    found = grid(matrix).cells
    cells = {}
    for row in matrix.iter_rows(named=True):
        symbol, timeframe = row["symbol"], Timeframe(row["timeframe"])
        title = (
            f"{row['expected_bars']:,} expected, {row['present_bars']:,} present, {row['no_trade_bars']:,} without trades,"
            f" {row['missing_bars']:,} missing; bars from {minute_of(row['first_bar']) or 'none'}"
            f" to {minute_of(row['last_bar']) or 'none'}"
        )
        if row["last_scanned"] is not None:
            title += f"; scanned from {row['first_scanned']} to {row['last_scanned']}"
        status = found[symbol, timeframe]
        text = cell(*status, ended=(symbol, timeframe.value) in marked)
        cells[symbol, timeframe] = _Cell(_class(*status), title, text)
    return cells


def _weeks(recent: Recent) -> list[tuple[date, int]]:
    """List the first day and the length of each week, counted back from the last day: the first may be shorter."""
    count = (recent.last - recent.first).days + 1
    starts = [0, *range(count % 7 or 7, count, 7)]
    return [
        (recent.first + timedelta(days=start), end - start)
        for start, end in zip(starts, [*starts[1:], count], strict=True)
    ]


def _days(recent: Recent) -> Iterable[tuple[str, list[_Cell]]]:
    """Yield each series with a cell for each day: blank before the series' first day, faint when no bar is expected."""
    count = (recent.last - recent.first).days + 1
    for (symbol, timeframe), part in recent.days.group_by("symbol", "timeframe", maintain_order=True):
        before = (part["day"][0] - recent.first).days
        cells = [_Cell("")] * before + [_Cell("n")] * (count - before)
        for day, status, share, missing, expected in part.select(
            "day", "status", "completeness", "missing_bars", "expected_bars"
        ).iter_rows():
            name = _class(Status(status), share)
            # Most days are complete and need no tooltip, which keeps the page small.
            title = "" if name == "w" else f"{day}: {missing:,} of {expected:,} missing"
            cells[(day - recent.first).days] = _Cell(name, title)
        yield f"{symbol}:{timeframe}", cells
