"""How far a backfill is: stage headings for everybody, progress bars with rate and ETA on a terminal."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from marketdata_assets.automation.backfill import BackfillProgress, Stage
from marketdata_assets.cli.console import err

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import TaskID

    from marketdata_assets.automation.ranges import RangeRun
    from marketdata_assets.domain.series import Series
    from marketdata_assets.domain.timeframe import Timeframe
    from marketdata_assets.polygon.request import FetchRequest
    from marketdata_assets.polygon.resource import FetchEvent


@contextmanager
def console_progress() -> Iterator[ConsoleProgress]:
    """Progress on standard error; the bars vanish when done, and in a pipe none are drawn."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        yield ConsoleProgress(bars)


class ConsoleProgress(BackfillProgress):
    """Counts the series of each stage, and the requests to the vendor."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._series: TaskID | None = None
        self._requests: TaskID | None = None
        self._left: set[Series] = set()
        self._pending: Counter[tuple[str, Timeframe]] = Counter()
        self._bars_fetched = 0

    def stage(self, stage: Stage, place: int, of: int, runs: Sequence[RangeRun], *, is_idle: bool) -> None:
        """Print the heading of ``stage`` and begin its bar."""
        self.begin(f"{place}/{of} {stage}", runs, is_empty=is_idle)

    def begin(self, title: str, runs: Sequence[RangeRun], *, is_empty: bool = False) -> None:
        """Print ``title`` with what ``runs`` are about, and begin their bar."""
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        self._series = self._requests = None
        self._left.clear()
        self._bars_fetched = 0
        series = sum(len(run.series) for run in runs)
        scope = ": nothing to do" if is_empty else ""
        if runs:
            first, last = min(run.first_day for run in runs), max(run.last_day for run in runs)
            scope = f": {series:,} series, {first} to {last}"
        err.print(f"[bold]{title}[/bold]{scope}", highlight=False)
        if runs:
            self._series = self._bars.add_task("series", total=series, note="")

    def run(self, run: RangeRun) -> None:
        """The series of the run before are done."""
        self._done(set(self._left))
        self._left = set(run.series)
        first, last = run.series[0], run.series[-1]
        label = f"{first}" if first == last else f"{first} … {last}"
        if err.is_terminal:
            self._note(label)
        else:
            err.print(f"run: {label}, {run.first_day} to {run.last_day}", highlight=False)

    def expect(self, requests: Sequence[FetchRequest]) -> None:
        """``requests`` are going to be made."""
        self._pending = Counter((one.symbol, one.base) for one in requests)
        if self._requests is None:
            self._requests = self._bars.add_task("requests", total=0, note="")
        total = self._bars.tasks[self._bars.task_ids.index(self._requests)].total or 0
        self._bars.update(self._requests, total=total + len(requests))

    def saw(self, event: FetchEvent) -> None:
        """A page arrived, or a request failed."""
        self._bars_fetched += event.record.bars
        key = (event.request.symbol, event.request.base)
        is_done = getattr(event, "is_last", True)
        if self._requests is not None:
            self._bars.update(
                self._requests,
                advance=int(is_done),
                note=self._pace(self._requests, event.record.waited_seconds),
            )
        self._pending[key] -= int(is_done)
        if self._pending[key] <= 0:
            done = {one for one in self._left if (one.symbol, one.timeframe.base) == key}
            self._note(f"{key[0]}:{key[1]}")
            self._done(done)

    def _pace(self, task: TaskID, waited: float) -> str:
        elapsed = self._bars.tasks[self._bars.task_ids.index(task)].elapsed or 0
        rate = f", {self._bars_fetched / elapsed:,.0f} bars/s" if elapsed >= 1 else ""
        slow = f", waited {waited:.0f} s for the limit" if waited > 1 else ""
        return f"{self._bars_fetched:,} bars{rate}{slow}"

    def _done(self, series: set[Series]) -> None:
        self._left -= series
        if self._series is not None:
            self._bars.update(self._series, advance=len(series))

    def _note(self, text: str) -> None:
        if self._series is not None:
            self._bars.update(self._series, note=text)
