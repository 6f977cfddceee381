"""Commands that messages and `status` tell to run: each can be pasted."""

from __future__ import annotations

import ast
import re
import shlex
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.main import get_command

import marketdata_assets
from marketdata_assets.cli.app import app
from marketdata_assets.domain.holes import LostGaps
from marketdata_assets.domain.monitoring import (
    Disk,
    FailedFetch,
    JobRun,
    Runs,
    SlowQueries,
    SlowQuery,
    StaleSeries,
    Topic,
    VendorUse,
    Vitals,
    concerns,
    headings,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2023, 7, 6, 12, tzinfo=UTC)
PACKAGE = Path(marketdata_assets.__file__).parent
FILLED = {"first": "2024-01-02", "last": "2024-01-03", "timeframe": "1m"}
WITHOUT_COMMAND = {Topic.RATE_LIMIT, Topic.SLOW_QUERY}


def problem_of(line: str, *, may_lack_arguments: bool = False) -> str | None:
    """Why ``line`` is not a command that runs, or None; nothing is run."""
    words = shlex.split(line, comments=True)
    assert words[0] == "marketdata", line
    # typer brings its own click, whose types are private.
    command, context, rest = get_command(app), None, words[1:]
    while True:
        try:
            context = command.make_context(command.name, list(rest), parent=context)
        except Exception as error:  # noqa: BLE001 - usage errors of the private click, told apart by name
            lacks = type(error).__name__ in {"MissingParameter", "NoArgsIsHelpError"}
            return None if lacks and may_lack_arguments else f"{line}: {error!r}"
        if not hasattr(command, "resolve_command"):
            return None
        try:
            _, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        except Exception as error:  # noqa: BLE001 - as above
            return f"{line}: {error!r}"


def test_a_command_that_does_not_run_is_noticed() -> None:
    assert problem_of("marketdata gaps --repair, over these days") is not None
    assert problem_of("marketdata backfil") is not None
    assert problem_of("marketdata symbols add") is not None
    assert problem_of("marketdata symbols add", may_lack_arguments=True) is None
    assert problem_of("marketdata gaps --repair --start 2024-01-02") is None


@pytest.mark.parametrize("symbols", [1, 3, 40])
def test_what_status_tells_to_do_can_be_pasted(symbols: int) -> None:
    failed = FailedFetch("BRK.B", NOW - timedelta(days=9), NOW + timedelta(days=2), "HTTP 503", NOW)
    vitals = Vitals(
        VendorUse(150, requests_recent=100, refused_recent=60),
        stale=tuple(StaleSeries(f"S{number}:1w", "late", late=number) for number in range(symbols)),
        slow=SlowQueries("pg_stat_activity", (SlowQuery("select 1", 501.0),)),
        disk=Disk("/data", 1000, 901),
        failed_fetches=(failed,),
        gaps=LostGaps(3, 40, date(2023, 1, 3), date(2023, 2, 1)),
        runs=Runs((JobRun("bars", "0123456789", "FAILURE", NOW),)),
    )
    remedies = {one.topic: one.remedy for one in headings(concerns(vitals, NOW))}
    assert set(remedies) == set(Topic)
    assert [problem_of(line) for topic, line in remedies.items() if topic not in WITHOUT_COMMAND] == [
        None
    ] * 6
    assert remedies[Topic.GAPS] == "marketdata gaps --repair --start 2023-01-03 --end 2023-02-01"
    assert remedies[Topic.MINUTE_BACKFILL] == (
        "marketdata backfill --symbols BRK.B --timeframes 1m --start 2023-06-27 --end 2023-07-06"
    )
    assert ("--symbols" in remedies[Topic.STALE]) is (symbols <= 20)


def quoted_commands() -> Iterator[str]:
    """Every command between backticks in a string of the package that is not a docstring, its values filled in."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        docstrings = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        inside = {
            id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                text = "".join(
                    str(part.value)
                    if isinstance(part, ast.Constant)
                    else FILLED.get(ast.unparse(part)[3:-2], "AAPL")
                    for part in node.values
                )
            elif (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and id(node) not in inside | docstrings
            ):
                text = node.value
            else:
                continue
            yield from re.findall(r"`(marketdata [^`]*)`", text)


def test_what_messages_tell_to_run_exists_with_its_options() -> None:
    commands = sorted(set(quoted_commands()))
    assert len(commands) > 15
    # An ellipsis stands for what the reader knows.
    problems = [problem_of(line, may_lack_arguments=True) for line in commands if "…" not in line]
    assert [problem for problem in problems if problem is not None] == []
