"""Terminals and pipes: colour for people, plain lines for everything else."""

from __future__ import annotations

import logging

from rich.console import Console

out = Console()
err = Console(stderr=True)


class ConsoleHandler(logging.Handler):
    """Log messages as lines on standard error, above the progress bars when there are any."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message of ``record``."""
        err.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)


def counted(number: int, noun: str) -> str:
    """``1 symbol``, ``2,000 symbols``, ``3 series``: a number with a noun that takes an s, or has one."""
    return f"{number:,} {noun}{'' if number == 1 or noun.endswith('s') else 's'}"
