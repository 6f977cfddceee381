"""Terminals and pipes: colour and progress for people, plain lines for everything else."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from marketdata_assets.polygon.resource import FetchEvent

out = Console()
err = Console(stderr=True)


class ConsoleHandler(logging.Handler):
    """Log messages as lines on standard error, above the progress bars when there are any."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message of ``record``."""
        err.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)


def progress() -> Progress:
    """Progress bars with count, elapsed time and ETA; they vanish when done, and in a pipe nothing is drawn."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


class FetchProgress:
    """Follows the requests of runs on a progress bar."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("requests", total=0, note="")
        self._bars_fetched = 0

    def expect(self, requests: int) -> None:
        """``requests`` more are going to be made."""
        self._bars.update(self._task, total=(self._bars.tasks[self._task].total or 0) + requests)

    def saw(self, event: FetchEvent) -> None:
        """A page arrived, or a request failed."""
        self._bars_fetched += event.record.bars
        done = getattr(event, "is_last", True)
        waited = (
            f", waited {event.record.waited_seconds:.0f} s for the limit"
            if event.record.waited_seconds > 1
            else ""
        )
        self._bars.update(
            self._task,
            advance=1 if done else 0,
            note=f"{event.request.symbol}:{event.request.base}  {self._bars_fetched:,} bars{waited}",
        )
