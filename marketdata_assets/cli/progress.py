"""The progress of a backfill: headings of its stages, and on a terminal progress bars with rate and ETA."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from marketdata_assets.cli.console import err
from marketdata_assets.pipeline.backfill import BackfillProgress, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import Task, TaskID

    from marketdata_assets.domain.partitions import Rectangle
    from marketdata_assets.domain.series import Series
    from marketdata_assets.domain.timeframe import Timeframe
    from marketdata_assets.polygon.vendor import BarRequest, FetchEvent


_SLOTS_A_SECOND: Final = 50_000
"""Bars a second that a stage processes on two cores: the basis of its first estimate, before its own pace is known."""
_LONGER: Final = 1.1
"""A stage that takes longer than estimated is assumed to need another tenth of its time so far."""


def seconds_left(elapsed: float, share: float, slots: float) -> float:
    """Return the seconds that a stage over ``slots`` bars still takes, when ``share`` (0 to 1) took ``elapsed`` seconds."""
    guess = max(1 + slots / _SLOTS_A_SECOND, elapsed * _LONGER)
    # Over the first tenth of the stage, its own pace gains weight over the guess.
    trust = min(1.0, 10 * share)
    total = (elapsed * (trust / share) if share else 0.0) + (1 - trust) * guess
    return max(0.0, total - elapsed) if share < 1 else 0.0


class RemainingColumn(ProgressColumn):
    """The column of the time that the stage still takes: it shows a number from the first second on."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Return the time that is left, as h:mm:ss."""
        share = task.fields["share"]()
        left = round(seconds_left(task.elapsed or 0, share, task.fields["slots"]))
        return Text(str(timedelta(seconds=left)), style="progress.remaining")


@contextmanager
def console_progress() -> Iterator[ConsoleProgress]:
    """Yield progress on standard error; bars vanish when they are done, and in a pipe there are no bars."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        RemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        yield ConsoleProgress(bars)


class ConsoleProgress(BackfillProgress):
    """A progress that shows the series of each stage and the requests to the vendor."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._series: TaskID | None = None
        self._requests: TaskID | None = None
        self._left: set[Series] = set()
        self._slots: dict[Series, float] = {}
        self._part_done: dict[Series, float] = {}
        self._slots_done = 0.0
        self._total_slots = 0.0
        self._pending: Counter[tuple[str, Timeframe]] = Counter()
        self._bars_fetched = 0

    def stage(
        self, stage: Stage, position: int, of: int, runs: Sequence[Rectangle], *, is_idle: bool
    ) -> None:
        """Print the heading of ``stage`` and begin its bar."""
        self.begin(f"{position}/{of} {stage}", runs, is_empty=is_idle)

    def begin(self, title: str, runs: Sequence[Rectangle], *, is_empty: bool = False) -> None:
        """Print ``title`` with the series and days of ``runs``, and begin their bar."""
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        self._series = self._requests = None
        self._left.clear()
        self._bars_fetched = 0
        self._slots_done = 0.0
        self._total_slots = sum(sum(_slots_of(run).values()) for run in runs)
        series = sum(len(run.series) for run in runs)
        scope = ": nothing to do" if is_empty else ""
        if runs:
            first, last = min(run.first for run in runs), max(run.last for run in runs)
            scope = f": {series:,} series, {first} to {last}"
        err.print(f"[bold]{title}[/bold]{scope}", highlight=False)
        if runs:
            self._series = self._add("series", series)

    def run(self, run: Rectangle) -> None:
        """Note that ``run`` begins, and so that the series of the run before are done."""
        self._finish(set(self._left))
        self._left = set(run.series)
        self._slots = _slots_of(run)
        self._part_done = {}
        first, last = run.series[0], run.series[-1]
        label = f"{first}" if first == last else f"{first} … {last}"
        if err.is_terminal:
            self._note(label)
        else:
            err.print(f"run: {label}, {run.first} to {run.last}", highlight=False)

    def expect(self, requests: Sequence[BarRequest]) -> None:
        """Note that ``requests`` are going to be made."""
        self._pending = Counter((request.symbol, request.base) for request in requests)
        if self._requests is None:
            self._requests = self._add("requests", 0)
        total = self._bars.tasks[self._bars.task_ids.index(self._requests)].total or 0
        self._bars.update(self._requests, total=total + len(requests))

    def note_event(self, event: FetchEvent) -> None:
        """Note that a page arrived, or that a request failed."""
        self._bars_fetched += event.record.bars
        key = (event.request.symbol, event.request.base)
        is_done = event.is_last
        # A request for a day of a market counts for each of its symbols.
        symbols = set(event.request.symbols)
        series = {left for left in self._left if left.timeframe.base is key[1] and left.symbol in symbols}
        if key[0] in symbols:
            self._part_done |= dict.fromkeys(series, _share_of(event))
        if self._requests is not None:
            self._bars.update(
                self._requests,
                advance=int(is_done),
                note=self._pace(self._requests, event.record.waited_seconds),
            )
        self._pending[key] -= int(is_done)
        if self._pending[key] <= 0:
            self._note(f"{key[0]}:{key[1]}")
            self._finish(series)

    def _pace(self, task: TaskID, waited: float) -> str:
        elapsed = self._bars.tasks[self._bars.task_ids.index(task)].elapsed or 0
        rate = f", {self._bars_fetched / elapsed:,.0f} bars/s" if elapsed >= 1 else ""
        slow = f", waited {waited:.0f} s for the limit" if waited > 1 else ""
        return f"{self._bars_fetched:,} bars{rate}{slow}"

    def _add(self, description: str, total: float) -> TaskID:
        return self._bars.add_task(
            description, total=total, note="", share=self._share, slots=self._total_slots
        )

    def _share(self) -> float:
        """Return how much of the stage is done, from 0 to 1, weighted by the bars that its series expect."""
        begun = sum(
            self._slots[series] * share for series, share in self._part_done.items() if series in self._left
        )
        return min(1.0, (self._slots_done + begun) / self._total_slots) if self._total_slots else 0.0

    def _finish(self, series: set[Series]) -> None:
        self._slots_done += sum(self._slots[done] for done in series & self._left)
        self._left -= series
        if self._series is not None:
            self._bars.update(self._series, advance=len(series))

    def _note(self, text: str) -> None:
        if self._series is not None:
            self._bars.update(self._series, note=text)


def _slots_of(run: Rectangle) -> dict[Series, float]:
    """Return about how many bars each series of ``run`` expects."""
    length = timedelta(days=(run.last - run.first).days + 1)
    return {series: length / series.timeframe.duration for series in run.series}


def _share_of(event: FetchEvent) -> float:
    """Return how much of its request has arrived with ``event``, from 0 to 1, judged by the time of its last bar."""
    if event.is_last:
        return 1.0
    frame = getattr(event, "frame", None)
    latest = frame["time"].max() if frame is not None and "time" in frame.columns else None
    window = event.request.window
    if not isinstance(latest, datetime):
        return 0.0
    return min(1.0, max(0.0, (latest - window.start) / window.duration))
