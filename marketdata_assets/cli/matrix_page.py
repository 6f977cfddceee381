"""The completeness matrix as one HTML page that needs nothing else: frames in, text out."""

from __future__ import annotations

from datetime import datetime, timedelta
from html import escape
from typing import TYPE_CHECKING, Final

from marketdata_assets.cli.matrix import ended_line, summary_of
from marketdata_assets.domain.completeness import ENDED, Status, cell, grid

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import polars as pl

    from marketdata_assets.storage.completeness import Recent

_HALF, _NEARLY_WHOLE = 0.5, 0.9
_LEGEND: Final = {
    "w": "whole",
    "g1": "90 % or more",
    "g2": "half or more",
    "g3": "less than half",
    "e": "all missing",
    "u": "never looked through",
    "n": "nothing expected",
}
"""Class of a cell, and what it says."""

_STYLE: Final = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #24292f; --faint: #57606a; --line: #d8dee4;
  --nothing: #eef1f4; --unchecked: #b4bac1; --whole: #2a9d8f; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --ink: #e6edf3; --faint: #9198a1;
  --line: #30363d; --nothing: #1b2129; --unchecked: #59636e; --whole: #1f7a70; } }
body { background: var(--ground); color: var(--ink); font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto;
  max-width: 1180px; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; color: var(--faint); }
table { border-collapse: separate; border-spacing: 1px; font-variant-numeric: tabular-nums; }
th { font-weight: 500; text-align: left; white-space: nowrap; padding-right: .6rem; }
thead th { position: sticky; top: 0; background: var(--ground); color: var(--faint); }
.scroll { max-height: 80vh; overflow: auto; }
.matrix td { min-width: 4.2rem; padding: .15rem .4rem; text-align: center; }
.matrix thead th { text-align: center; }
.days th { font-size: 11px; line-height: 13px; }
.days tbody th { position: sticky; left: 0; background: var(--ground); }
.days td { width: 16px; min-width: 16px; height: 14px; padding: 0; }
.gaps { border-collapse: collapse; width: 100%; }
.gaps td, .gaps th { border-bottom: 1px solid var(--line); padding: .25rem .6rem .25rem 0; vertical-align: top; }
.gaps td { white-space: nowrap; } .gaps td:last-child { white-space: normal; }
.gaps .number, .gaps th:nth-child(4), .gaps th:nth-child(6) { text-align: right; }
.key { display: inline-block; width: .9em; height: .9em; margin: 0 .3em 0 1em; vertical-align: -.1em; }
.key:first-child { margin-left: 0; }
.w { background: var(--whole); color: #ffffff; } .u { background: var(--unchecked); color: var(--ink); }
.n { background: var(--nothing); color: var(--faint); }
.g1 { background: #ffe08a; color: #24292f; } .g2 { background: #f4a261; color: #24292f; }
.g3 { background: #d1553a; color: #ffffff; } .e { background: #9b1d20; color: #ffffff; }
"""


def matrix_page(
    matrix: pl.DataFrame,
    recent: Recent | None,
    lost: pl.DataFrame,
    *,
    lost_count: int,
    ended: pl.DataFrame | None = None,
) -> str:
    """The page: symbols x timeframes, series x days, and what is missing without an explanation.

    ``matrix`` are rows of ``MATRIX_SCHEMA``, ``lost`` (``KNOWN_SCHEMA``) the largest of ``lost_count`` gaps, ``ended``
    the rows whose scanned days end before the day that is due.
    """
    line = ended_line(ended)
    sections = [
        "<h1>Completeness of market data</h1>",
        f"<p>Series: {escape(summary_of(matrix))}</p>",
        f"<p>{''.join(_keys())}</p>",
        "<p>Blank: not tracked, or before the first day that was looked through.</p>",
        "<h2>Symbols × timeframes</h2>",  # noqa: RUF001 - a product sign on purpose
        *_matrix(matrix, ended),
        *([f"<p>{ENDED} {escape(line)}.</p>"] if line else []),
        *_days(recent),
        *_gaps(lost, lost_count),
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Completeness of market data</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            *sections,
            "</body>\n</html>\n",
        ]
    )


def _keys() -> Iterable[str]:
    for name, said in _LEGEND.items():
        yield f'<span class="key {name}"></span>{said}'


def _class(status: Status, share: float | None) -> str:
    if status is Status.GAPS and share is not None:
        return "g1" if share >= _NEARLY_WHOLE else "g2" if share >= _HALF else "g3"
    return {Status.WHOLE: "w", Status.EMPTY: "e", Status.UNCHECKED: "u"}.get(status, "n")


def _matrix(matrix: pl.DataFrame, ended: pl.DataFrame | None) -> Iterable[str]:
    laid = grid(matrix)
    short = set() if ended is None else set(ended.select("symbol", "timeframe").iter_rows())
    said = {
        (symbol, timeframe): (
            f"{expected:,} expected, {present:,} present, {no_trades:,} without trades, {missing:,} missing;"
            f" bars from {_moment(first)} to {_moment(last)}"
            + (f"; scanned from {since} to {until}" if until is not None else "")
        )
        for symbol, timeframe, expected, present, no_trades, missing, first, last, since, until in matrix.select(
            *("symbol", "timeframe", "expected_bars", "present_bars", "no_trade_bars", "missing_bars"),
            *("first_bar", "last_bar", "first_scanned", "last_scanned"),
        ).iter_rows()
    }
    yield '<table class="matrix">'
    yield _head(["", *laid.timeframes])
    for symbol in laid.symbols:
        cells = []
        for timeframe in laid.timeframes:
            found = laid.cells.get((symbol, timeframe))
            cells.append(
                "<td></td>"
                if found is None
                else f'<td class="{_class(*found)}" title="{said[symbol, timeframe]}">'
                f"{escape(cell(*found, ended=(symbol, timeframe.value) in short))}</td>"
            )
        yield f"<tr><th>{escape(symbol)}</th>{''.join(cells)}</tr>"
    yield "</tbody></table>"


def _days(recent: Recent | None) -> Iterable[str]:
    if recent is None:
        return
    count = (recent.last - recent.first).days + 1
    yield f"<h2>By day, {recent.first} to {recent.last}</h2>"
    yield '<div class="scroll"><table class="days">'
    # Weeks counted from the last day back, each under its first day; the first of them may be shorter.
    starts = [0, *range(count % 7 or 7, count, 7)]
    weeks = "".join(
        f'<th colspan="{end - start}">{recent.first + timedelta(days=start):%m-%d}</th>'
        for start, end in zip(starts, [*starts[1:], count], strict=True)
    )
    yield f"<thead><tr><th></th>{weeks}</tr></thead><tbody>"
    for (symbol, timeframe), part in recent.days.group_by("symbol", "timeframe", maintain_order=True):
        before = (part["day"][0] - recent.first).days
        cells = ["<td></td>"] * before + ['<td class="n"></td>'] * (count - before)
        for day, status, share, missing, expected in part.select(
            "day", "status", "completeness", "missing_bars", "expected_bars"
        ).iter_rows():
            name = _class(Status(status), share)
            # A whole day is nothing to look up, and most are: the page stays small.
            said = "" if name == "w" else f' title="{day}: {missing:,} of {expected:,} missing"'
            cells[(day - recent.first).days] = f'<td class="{name}"{said}></td>'
        yield f"<tr><th>{escape(f'{symbol}:{timeframe}')}</th>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _gaps(lost: pl.DataFrame, count: int) -> Iterable[str]:
    yield "<h2>Missing without an explanation</h2>"
    if lost.is_empty():
        yield "<p>No gap is open or unfilled.</p>"
        return
    shown = f"The {lost.height:,} largest of {count:,} gaps" if lost.height < count else f"{count:,} gaps"
    yield f"<p>{shown}; times are UTC.</p>"
    yield '<table class="gaps">'
    yield _head(["series", "from", "until", "bars", "state", "attempts", "reason"])
    for symbol, timeframe, start, end, bars, state, attempts, reason in lost.select(
        *("symbol", "timeframe", "gap_start", "gap_end", "missing_bars", "state", "attempts", "reason")
    ).iter_rows():
        yield (
            f"<tr><td>{escape(f'{symbol}:{timeframe}')}</td><td>{_moment(start)}</td><td>{_moment(end)}</td>"
            f'<td class="number">{bars:,}</td><td>{escape(state)}</td><td class="number">{attempts}</td>'
            f"<td>{escape(reason)}</td></tr>"
        )
    yield "</tbody></table>"


def _head(names: Sequence[str]) -> str:
    return f"<thead><tr>{''.join(f'<th>{escape(name)}</th>' for name in names)}</tr></thead><tbody>"


def _moment(time: datetime | None) -> str:
    return "none" if time is None else f"{time:%Y-%m-%d %H:%M}"
