from __future__ import annotations

from datetime import date
from io import StringIO

import polars as pl
import pytest
from rich.console import Console

from marketdata_assets.cli import console
from marketdata_assets.cli.matrix import print_matrix
from marketdata_assets.cli.matrix_lines import summary_of, unchecked_line
from marketdata_assets_tests.unit.matrix import matrix_of

GREEN, YELLOW, RED = "\x1b[32m", "\x1b[33m", "\x1b[31m"


def printed(
    monkeypatch: pytest.MonkeyPatch, matrix: pl.DataFrame, ended: pl.DataFrame | None = None
) -> list[str]:
    """The lines of a terminal."""
    terminal = Console(file=StringIO(), force_terminal=True, color_system="standard", width=100)
    monkeypatch.setattr(console, "out", terminal)
    print_matrix(matrix, ended)
    assert isinstance(terminal.file, StringIO)
    return terminal.file.getvalue().splitlines()


def test_a_terminal_shows_symbols_by_timeframes_in_colour(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(monkeypatch, matrix_of(1, ("1m", "5m", "15m", "1h", "4h", "1d")))
    assert all(name in lines[1] for name in ("symbol", "1m", "15m", "1d"))
    assert "30m" not in lines[1]
    (row,) = [line for line in lines if "S0" in line]
    cells = [cell.replace(" ", "") for cell in row.split("│")[2:-1]]
    # Padding is coloured too: the mark stands between a colour and its end.
    assert [cell.removesuffix("\x1b[0m") for cell in cells] == [
        f"{GREEN}✓",
        f"{YELLOW}99.0%",
        f"{RED}60.0%",
        f"{RED}10.0%",
        f"{RED}✗",
        "\x1b[35m?",
    ]
    assert capsys.readouterr().out.startswith("matrix: 1 whole, 3 with gaps, 1 empty")


def test_a_series_that_was_scanned_only_up_to_an_earlier_day_is_marked_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = matrix_of(1, ("1m", "5m"))
    ended = matrix.head(1).with_columns(last_scanned=date(2024, 6, 28), due=date(2026, 11, 26))
    (row,) = [line for line in printed(monkeypatch, matrix, ended) if "S0" in line]
    assert f"{GREEN}✓…" in row.replace(" ", "")
    assert "99.0%…" not in row
    assert capsys.readouterr().err.strip() == (
        "1 series ends before the day that is due, such as S0:1m, scanned up to 2024-06-28 where 2026-11-26 is due:"
        " `marketdata backfill --symbols S0 --timeframes 1m --start 2024-06-29` fetches the rest"
    )


def test_a_timeframe_that_a_symbol_is_not_tracked_in_is_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    both = matrix_of(2, ("1h", "1d"))
    lines = printed(monkeypatch, both.filter((pl.col("symbol") == "S0") | (pl.col("timeframe") == "1d")))
    (row,) = [line for line in lines if "S1" in line]
    assert [cell.strip() == "" for cell in row.split("│")[2:-1]] == [True, False]


def test_a_pipe_gets_a_line_a_series(capsys: pytest.CaptureFixture[str]) -> None:
    matrix = matrix_of(3, ("1h", "1d"))
    print_matrix(matrix)
    said = capsys.readouterr()
    heading, *lines = [line.split("\t") for line in said.out.splitlines()]
    assert heading == matrix.columns
    assert len(lines) == 6
    assert all(len(line) == len(heading) for line in lines)
    found = dict(zip(heading, lines[1], strict=True))
    assert (found["symbol"], found["timeframe"], found["status"]) == ("S0", "1d", "gaps")
    assert (found["completeness"], found["first_bar"], found["as_of"]) == ("0.99", "", "2024-07-05")
    assert "as of 2024-07-05" in said.err


def test_what_was_never_scanned_is_a_line_with_its_command() -> None:
    days = pl.DataFrame(
        {"symbol": ["A", "B", "B"], "timeframe": ["1d"] * 3, "day": [date(2024, 7, day) for day in (1, 3, 5)]}
    )
    assert unchecked_line(days) == (
        "3 days of 2 series were never fetched, or never scanned, such as B:1d from 2024-07-03 to 2024-07-05:"
        " `marketdata backfill --symbols B --timeframes 1d --start 2024-07-03 --end 2024-07-05` fetches them"
    )
    assert unchecked_line(days.clear()) is None


def test_the_summary_counts_what_there_is_as_of_the_newest_day() -> None:
    matrix = matrix_of(1, ("1h", "1d"))
    older = matrix.with_columns(as_of=pl.Series([date(2024, 7, 1), date(2024, 7, 5)]))
    assert summary_of(older) == "1 whole, 1 with gaps, as of 2024-07-05 (UTC)"
    assert summary_of(matrix.clear()) == "no series"


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100])
def test_symbols_figures_and_headings_are_whole_at_any_width(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    terminal = Console(file=StringIO(), force_terminal=True, color_system=None, width=width)
    monkeypatch.setattr(console, "out", terminal)
    matrix = matrix_of(1, ("1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w"))
    shares = pl.Series([0.399, 0.0001, 0.9999, 0.5, 0.25, 0.1, 0.999, 0.857])
    print_matrix(matrix.with_columns(symbol=pl.lit("BTC-USD"), status=pl.lit("gaps"), completeness=shares))
    assert isinstance(terminal.file, StringIO)
    lines = terminal.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    words = [word for line in lines for word in line.replace("│", " ").replace("┃", " ").split()]
    figures = {"39.9%", "<0.1%", "99.9%", "50.0%", "25.0%", "10.0%", "85.7%"}
    assert {"symbol", "1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w", "BTC-USD", *figures} <= set(words)
