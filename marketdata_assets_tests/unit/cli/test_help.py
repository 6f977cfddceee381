"""What the command line teaches, completes and keeps from pipes."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from marketdata_assets.cli import completion
from marketdata_assets.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Iterator


def commands() -> list[tuple[str, ...]]:
    """The path of every command, groups and the root included."""

    def walk(command: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield path
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*path, name))

    return list(walk(get_command(app), ()))


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_help_has_an_example_of_its_command(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*path, "--help"], prog_name="marketdata")
    assert done.exit_code == 0
    shown = " ".join(done.stdout.split())
    example = shown.partition("Example: ")[2]
    assert " ".join(("marketdata", *path)) in example
    assert "\x1b" not in done.stdout


COMPLETED = [
    ("stat", ["status"]),
    ("symbols dea", ["deactivate"]),
    ("bars AA", ["AAPL"]),
    ("bars AAPL 1", ["1m", "15m", "1h", "1d", "1w"]),
    ("backfill --symbols SPY,A", ["SPY,AAPL"]),
    ("gaps --symbols SPY,", ["SPY,AAPL"]),
    ("features --timeframes 1m,1", ["1m,15m", "1m,1h", "1m,1d", "1m,1w"]),
    ("symbols set-timeframes SP", ["SPY"]),
]


@pytest.mark.parametrize(("typed", "offered"), COMPLETED)
def test_the_shell_completes_commands_symbols_and_timeframes(
    typed: str, offered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "_symbols", lambda: ["AAPL", "SPY"])
    line = f"marketdata {typed}"
    done = CliRunner().invoke(
        app,
        [],
        prog_name="marketdata",
        env={
            "_MARKETDATA_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - 1),
        },
    )
    assert done.stdout.split() == offered


def test_completion_can_be_installed() -> None:
    shown = CliRunner().invoke(app, ["--help"], prog_name="marketdata").stdout
    assert "--install-completion" in shown
    assert "--show-completion" in shown


def test_a_store_that_is_down_completes_nothing_and_is_not_started() -> None:
    # The home of the test is empty.
    assert completion.complete_symbol("A") == []
    assert completion.complete_symbols("SPY,A") == []


def test_a_database_that_is_away_completes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    assert completion.complete_symbol("A") == []
    monkeypatch.setenv("DATABASE_URL", "mysql://nothing")
    assert completion.complete_symbol("A") == []


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_paragraphs_are_wrapped_by_the_terminal_and_flags_show_no_type(path: tuple[str, ...]) -> None:
    runner = CliRunner(env={"COLUMNS": "200"})
    shown = runner.invoke(app, [*path, "--help"], prog_name="marketdata").stdout
    assert "<bool>" not in shown
    lines = [line.rstrip() for line in shown[: shown.find("╭")].splitlines()]
    # At 200 columns a line is only followed by another one of its paragraph when it is nearly full.
    for line, following in pairwise(lines):
        if line.strip() and following.strip() and "Usage:" not in line:
            assert len(line) > 110, line
