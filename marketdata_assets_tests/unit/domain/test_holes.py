"""Which days of a window lack bars, and which of them were never fetched."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.calendar import calendar_of, microseconds
from marketdata_assets.domain.holes import (
    Holes,
    LostGaps,
    day_holes,
    empty_days,
    regular_windows,
    split_fetched,
)
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

XNYS = calendar_of(AssetClass.STOCK)
FIRST = date(2024, 1, 1)
days = st.integers(0, 400).map(lambda number: FIRST + timedelta(days=number))


def whole_days(first: date, last: date) -> Window:
    return Window(XNYS.day_start(first), XNYS.day_start(last + timedelta(days=1)))


@given(days, days, st.sets(days, max_size=40), st.sampled_from([Timeframe.M1, Timeframe.H1, Timeframe.D1]))
def test_empty_days_are_the_sessions_without_a_bar(
    day: date, other: date, stored: set[date], timeframe: Timeframe
) -> None:
    first, last = min(day, other), max(day, other)
    sessions = XNYS.sessions(first, last)
    with_bars = sorted(set(sessions) & stored)
    opens = [
        XNYS.day_start(day) if timeframe is Timeframe.D1 else XNYS.day_start(day) + timedelta(hours=10)
        for day in with_bars
    ]
    times = np.array([microseconds(time) for time in opens], dtype=np.int64)
    empty = empty_days(times, timeframe, whole_days(first, last), XNYS)
    assert [XNYS.local_day(day.start) for day in empty] == [day for day in sessions if day not in stored]


def test_an_hour_outside_of_the_session_expects_nothing() -> None:
    early = Window(datetime(2024, 1, 3, 10, tzinfo=UTC), datetime(2024, 1, 3, 12, tzinfo=UTC))
    assert empty_days(np.array([], dtype=np.int64), Timeframe.M1, early, XNYS) == []


def test_weeks_are_known_by_a_part_of_them() -> None:
    weeks = empty_days(
        np.array([], dtype=np.int64), Timeframe.W1, whole_days(date(2024, 1, 7), date(2024, 1, 20)), XNYS
    )
    assert len(weeks) == 2
    monday = [whole_days(date(2024, 1, 8), date(2024, 1, 9))]
    known, never = split_fetched(weeks, monday, Timeframe.W1)
    assert (known, never) == (weeks[:1], weeks[1:])
    known, never = split_fetched(weeks, monday, Timeframe.D1)
    assert known == []


def test_the_sentence_has_commands_to_paste() -> None:
    series = Series("BRK.B", Timeframe.D1)
    never = day_holes([whole_days(date(2024, 1, 3), date(2024, 1, 3))], XNYS)
    holes = Holes(series, never, None, LostGaps(1, 2, date(2024, 1, 4), date(2024, 1, 5)))
    assert holes.sentence() == (
        "BRK.B:1d: 1 session on 2024-01-03 was never fetched: `marketdata backfill --symbols BRK.B --timeframes 1d"
        " --start 2024-01-03 --end 2024-01-03`; 2 bars from 2024-01-04 to 2024-01-05 are lost in 1 gap: `marketdata gaps"
        " --symbols BRK.B --timeframes 1d --start 2024-01-04 --end 2024-01-05 --repair`"
    )
    assert not Holes(series)


def test_regular_hours_end_early_on_half_days() -> None:
    (thursday_after,) = regular_windows(
        Timeframe.M1, whole_days(date(2024, 11, 28), date(2024, 11, 29)), XNYS
    )
    assert thursday_after == Window(
        datetime(2024, 11, 29, 14, 30, tzinfo=UTC), datetime(2024, 11, 29, 18, tzinfo=UTC)
    )
    (longer,) = regular_windows(Timeframe.H4, whole_days(date(2024, 11, 27), date(2024, 11, 27)), XNYS)
    assert longer.start == datetime(2024, 11, 27, 13, tzinfo=UTC)
