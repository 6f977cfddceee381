"""The commands of README.md and docs/, as a reader would paste them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marketdata_assets_tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"^```(?:console|bash|sh)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of ``page`` and its commands in order, continued lines joined."""

    page: Path
    line: int
    commands: tuple[str, ...]


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of commands in ``page``; what a command prints is left out."""
    text = page.read_text("utf-8")
    return [
        Block(page, text[: found.start()].count("\n") + 1, _commands(found[1]))
        for found in _BLOCK.finditer(text)
    ]


def _commands(block: str) -> tuple[str, ...]:
    commands: list[str] = []
    is_continued = False
    for line in block.splitlines():
        if is_continued:
            commands[-1] += f"\n{line}"
        elif line.startswith("$ "):
            commands.append(line.removeprefix("$ "))
        else:
            continue
        is_continued = line.endswith("\\")
    return tuple(commands)


def inline_commands(page: Path) -> list[str]:
    """Every ``marketdata`` command in a code span of ``page`` that is written out, without placeholders."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    spans = [span.replace("\\|", "|") for span in re.findall(r"`([^`\n]+)`", text)]
    return [
        span
        for span in spans
        if span.startswith("marketdata ") and not re.search(r"[\[\]…⇥|]|\b[A-Z]\b", span)
    ]
