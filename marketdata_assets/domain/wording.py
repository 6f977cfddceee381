"""The parts of sentences: counts with a noun, the first few of many names, texts on one line, times."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return ``1 symbol``, ``2,000 symbols``, ``3 series``: a noun takes an s unless it ends in s or has a ``plural``."""
    several = plural or (noun if noun.endswith("s") else f"{noun}s")
    return f"{number:,} {noun if number == 1 else several}"


def name_first(names: Sequence[str], limit: int, *, total: int | None = None) -> str:
    """Return the first ``limit`` of ``names``, and how many more there are of ``total`` (default: of all names)."""
    more = (len(names) if total is None else total) - limit
    return ", ".join(names[:limit]) + (f" and {more:,} more" if more > 0 else "")


def join_first(sentences: Sequence[str], limit: int, *, total: int | None = None) -> str:
    """Return the first ``limit`` of ``sentences``, and how many more there are of ``total`` (default: of all sentences)."""
    more = (len(sentences) if total is None else total) - limit
    return "; ".join(sentences[:limit]) + (f"; and {more:,} more" if more > 0 else "")


def one_line(text: str) -> str:
    """Return ``text`` with each sequence of blanks and line breaks as one blank."""
    return " ".join(text.split())


def minute_of(time: datetime | None) -> str:
    """Return ``time`` to the minute; an empty text for None."""
    return "" if time is None else f"{time:%Y-%m-%d %H:%M}"
