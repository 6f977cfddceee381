"""The documentation against what it speaks of: its links, its commands, its thresholds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from typer.main import get_command

from marketdata_assets.cli.app import app
from marketdata_assets.domain import monitoring
from marketdata_assets_tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

ROOTS = [REPOSITORY, REPOSITORY / "marketdata_assets", REPOSITORY / "marketdata_assets_tests"]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_that_is_named_by_its_path_is_there(page: Path) -> None:
    spans = re.findall(r"`([^`\s]+\.py)\b[^`]*`", page.read_text("utf-8"))
    named = [span for span in spans if "/" in span]
    missing = [path for path in named if not any((root / path).is_file() for root in ROOTS)]
    assert not missing


def test_every_command_that_is_written_down_exists_and_every_command_is_in_the_readme() -> None:
    known = set(getattr(get_command(app), "commands", {}))
    for page in PAGES:
        code = {
            name
            for span in re.findall(r"`+[^`]+`+", page.read_text("utf-8"))
            for name in re.findall(r"\bmarketdata ([a-z]+)", span)
        }
        assert code <= known, page
    table = (REPOSITORY / "README.md").read_text("utf-8")
    assert [name for name in sorted(known) if f"| `marketdata {name}" not in table] == []


def test_the_thresholds_of_alerts_are_those_of_the_code() -> None:
    told = (REPOSITORY / "docs" / "operating.md").read_text("utf-8")
    minutes = monitoring.RECENT.total_seconds() / 60
    assert f"over {monitoring.DISK_SHARE:.0%} in use".replace("%", " %") in told
    assert f"over {monitoring.RATE_LIMITED_SHARE:.0%}".replace("%", " %") in told
    assert (
        f"the last {minutes:.0f} minutes' requests were 429s, and at least {monitoring.RATE_LIMITED_LEAST}"
        in told
    )
    assert f"over {monitoring.SLOW_QUERY.microseconds // 1000} ms |" in told
    assert "gone for an hour" in told
    assert monitoring.QUIET.total_seconds() == 3600
