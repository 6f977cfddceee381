"""Terminals and locales that lack letters, colours or width: no command ends in a traceback over them."""

from __future__ import annotations

import io
import sys

import pytest

from marketdata_assets.cli.app import main
from marketdata_assets.cli.console import make_streams_forgiving, plain_text
from marketdata_assets_tests.unit.cli.test_help import commands


class Terminal:
    """Standard output and error in one encoding."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
        self.out, self.err = io.BytesIO(), io.BytesIO()
        for name, buffer in (("stdout", self.out), ("stderr", self.err)):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(buffer, encoding=encoding, write_through=True))

    def run(self, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["marketdata", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        return int(ended.value.code or 0)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_help_is_printed_in_every_encoding_at_40_columns(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("TERM", raising=False)
    terminal = Terminal(monkeypatch, encoding)
    for path in commands():
        assert terminal.run(monkeypatch, *path, "--help") == 0, path
    assert terminal.err.getvalue() == b""
    shown = terminal.out.getvalue().decode(encoding)
    assert max(map(len, shown.splitlines())) <= 40
    # A mark of its own for whole: "?" means something else.
    assert ("✓" if encoding == "utf-8" else "v ") in shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_error_about_any_name_is_one_line(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """Names that are not even UTF-8 among them: Python hands their bytes on as lone surrogates."""
    terminal = Terminal(monkeypatch, encoding)
    for name in ("für→", "\udcff", "图"):
        assert terminal.run(monkeypatch, "bars", "AAPL", "-o", f"{name}/x.csv") == 2
    # In ASCII, typer takes the stream for one that was set up wrong, and writes UTF-8.
    lines = terminal.err.getvalue().decode("utf-8" if encoding == "ascii" else encoding).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("marketdata: --output") for line in lines)
    assert "u" in lines[0] or "ü" in lines[0]


def test_letters_have_ascii_that_stands_for_them() -> None:
    assert [plain_text(letter) for letter in "✓✗…ü²→图"] == ["v", "x", ".", "u", "2", "->", "\\u56fe"]


def test_the_streams_of_tests_and_notebooks_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    make_streams_forgiving()
