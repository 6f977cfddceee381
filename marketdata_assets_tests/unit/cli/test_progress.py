"""What the progress of a backfill says while it runs."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress

from marketdata_assets.cli.progress import ConsoleProgress, RemainingColumn, seconds_left
from marketdata_assets.domain.partitions import Rectangle
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.polygon.request import FetchRecord, FetchRequest
from marketdata_assets.polygon.vendor import PageFetched

DAY = datetime(2024, 7, 1, tzinfo=UTC)
REQUEST = FetchRequest("AAPL", AssetClass.STOCK, Timeframe.M1, Window(DAY, DAY + timedelta(days=1)))
RECORD = FetchRecord(
    symbol="AAPL",
    base=Timeframe.M1,
    window=REQUEST.window,
    page=1,
    path="/v2/aggs",
    requested_at=DAY,
    status=200,
    vendor_status="OK",
    request_id=None,
    bars=50_000,
    base_bars=None,
    retries=0,
    duration_seconds=0.1,
    waited_seconds=0,
    error=None,
)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bars(clock: Clock) -> Progress:
    return Progress(console=Console(file=io.StringIO()), get_time=clock, auto_refresh=False)


@pytest.fixture
def progress(bars: Progress) -> ConsoleProgress:
    shown = ConsoleProgress(bars)
    day = date(2024, 7, 1)
    run = Rectangle(day, day, (Series("AAPL", Timeframe.M1), Series("AAPL", Timeframe.H1)))
    shown.begin("1/1 bars", [run])
    shown.run(run)
    shown.expect([REQUEST])
    return shown


def page(*, is_last: bool = False, waited: float = 0) -> PageFetched:
    return PageFetched(REQUEST, pl.DataFrame(), replace(RECORD, waited_seconds=waited), is_last)


def test_the_rate_is_that_of_the_bars_since_the_first_request(
    bars: Progress, progress: ConsoleProgress, clock: Clock
) -> None:
    progress.note_event(page())
    assert bars.tasks[1].fields["note"] == "50,000 bars"
    clock.seconds = 4
    progress.note_event(page())
    assert bars.tasks[1].fields["note"] == "100,000 bars, 25,000 bars/s"
    clock.seconds = 10
    progress.note_event(page(waited=6, is_last=True))
    assert bars.tasks[1].fields["note"] == "150,000 bars, 15,000 bars/s, waited 6 s for the limit"


def test_a_request_ends_with_its_last_page_and_all_of_its_timeframes_with_it(
    bars: Progress, progress: ConsoleProgress
) -> None:
    progress.note_event(page())
    assert [(task.completed, task.total) for task in bars.tasks] == [(0, 2), (0, 1)]
    progress.note_event(page(is_last=True))
    assert [(task.completed, task.total) for task in bars.tasks] == [(2, 2), (1, 1)]


def test_the_time_left_is_a_number_from_the_first_moment_of_a_stage_to_its_last(
    bars: Progress, progress: ConsoleProgress, clock: Clock
) -> None:
    shown = []
    for second, event in (
        (0, None),
        (2, None),
        (60, None),
        (61, at(6)),
        (70, at(12)),
        (80, at(23)),
        (81, page(is_last=True)),
    ):
        clock.seconds = second
        if event is not None:
            progress.note_event(event)
        shown.append([RemainingColumn().render(task).plain for task in bars.tasks])
    assert all(re.fullmatch(r"\d:\d\d:\d\d", text) for texts in shown for text in texts)
    assert shown[-1] == ["0:00:00"] * 2


def at(hour: int) -> PageFetched:
    """A page whose last bar opens at ``hour``."""
    frame = pl.DataFrame({"time": [DAY + timedelta(hours=hour)]})
    return PageFetched(REQUEST, frame, RECORD, is_last=False)


@given(st.floats(0, 1e5), st.floats(0, 1), st.floats(0, 1e9))
def test_an_estimate_is_never_negative_and_nothing_is_left_of_what_is_done(
    elapsed: float, share: float, slots: float
) -> None:
    assert 0 <= seconds_left(elapsed, share, slots) < 2e6
    assert seconds_left(elapsed, 1, slots) == 0


def test_a_stage_that_is_half_done_takes_as_long_again() -> None:
    assert seconds_left(60, 0.5, 10) == pytest.approx(60)
