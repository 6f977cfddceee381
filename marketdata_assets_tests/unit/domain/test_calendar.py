from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.calendar import (
    WEEK,
    TradingCalendar,
    calendar_of,
    microseconds,
    milliseconds,
    moment_of,
    sunday_of,
)
from marketdata_assets.domain.series import AssetClass
from marketdata_assets_tests.unit.frames import at, window

if TYPE_CHECKING:
    from marketdata_assets.domain.windows import Window

XNYS = calendar_of(AssetClass.STOCK)
CRYPTO = calendar_of(AssetClass.CRYPTO)
calendars = pytest.mark.parametrize("calendar", [XNYS, CRYPTO], ids=lambda calendar: calendar.name)
some_days = st.dates(date(2000, 1, 3), date(2030, 12, 31))


def test_each_asset_class_has_its_calendar() -> None:
    assert {asset_class: calendar_of(asset_class).name for asset_class in AssetClass} == {
        AssetClass.STOCK: "XNYS",
        AssetClass.ETF: "XNYS",
        AssetClass.INDEX: "XNYS",
        AssetClass.CRYPTO: "24/7",
    }
    assert not XNYS.is_always_open
    assert CRYPTO.is_always_open


# https://www.nyse.com/markets/hours-calendars and its archive: an early close is at 13:00 Eastern.
@pytest.mark.parametrize(
    ("day", "regular", "extended"),
    [
        (
            date(2013, 11, 29),
            window("2013-11-29T14:30", "2013-11-29T18:00"),
            window("2013-11-29T09:00", "2013-11-30T01:00"),
        ),
        (
            date(2024, 7, 3),
            window("2024-07-03T13:30", "2024-07-03T17:00"),
            window("2024-07-03T08:00", "2024-07-04T00:00"),
        ),
        (
            date(2025, 11, 28),
            window("2025-11-28T14:30", "2025-11-28T18:00"),
            window("2025-11-28T09:00", "2025-11-29T01:00"),
        ),
        (
            date(2024, 7, 2),
            window("2024-07-02T13:30", "2024-07-02T20:00"),
            window("2024-07-02T08:00", "2024-07-03T00:00"),
        ),
    ],
)
def test_half_days_and_an_ordinary_day(day: date, regular: Window, extended: Window) -> None:
    session = XNYS.session(day)
    assert session is not None
    assert (session.day, session.regular, session.extended) == (day, regular, extended)


@pytest.mark.parametrize(
    "day",
    [
        date(2012, 10, 29),  # Hurricane Sandy
        date(2012, 10, 30),
        date(2025, 1, 9),  # mourning for President Carter
        date(2024, 12, 25),
        date(2024, 7, 4),
        date(2024, 7, 6),  # a Saturday
        date(2024, 7, 7),
    ],
)
def test_days_on_which_new_york_stays_closed(day: date) -> None:
    assert not XNYS.is_session(day)
    assert XNYS.session(day) is None
    assert XNYS.sessions(day, day) == []
    assert CRYPTO.is_session(day)


def test_the_sessions_around_an_unscheduled_closure() -> None:
    assert XNYS.sessions(date(2012, 10, 26), date(2012, 11, 1)) == [
        date(2012, 10, 26),
        date(2012, 10, 31),
        date(2012, 11, 1),
    ]
    assert XNYS.sessions(date(2025, 1, 8), date(2025, 1, 10)) == [date(2025, 1, 8), date(2025, 1, 10)]


@pytest.mark.parametrize(("year", "count"), [(2012, 250), (2013, 252), (2024, 252), (2025, 250)])
def test_sessions_of_a_year(year: int, count: int) -> None:
    assert len(XNYS.sessions(date(year, 1, 1), date(year, 12, 31))) == count
    assert len(CRYPTO.sessions(date(year, 1, 1), date(year, 12, 31))) == 366 - bool(year % 4)


def test_the_open_moves_by_an_hour_in_utc_when_the_clock_changes() -> None:
    opens = [
        session.regular.start.hour
        for day in (date(2024, 3, 8), date(2024, 3, 11), date(2024, 11, 1), date(2024, 11, 4))
        if (session := XNYS.session(day)) is not None
    ]
    assert opens == [14, 13, 13, 14]


@pytest.mark.parametrize(
    ("day", "hours", "start"),
    [
        (date(2024, 3, 9), 24, "2024-03-09T05:00"),
        (date(2024, 3, 10), 23, "2024-03-10T05:00"),
        (date(2024, 3, 11), 24, "2024-03-11T04:00"),
        (date(2024, 11, 3), 25, "2024-11-03T04:00"),
        (date(2024, 11, 4), 24, "2024-11-04T05:00"),
    ],
)
def test_a_local_day_has_23_24_or_25_hours(day: date, hours: int, start: str) -> None:
    assert XNYS.day_window(day).start == at(start)
    assert XNYS.day_window(day).duration == timedelta(hours=hours)
    assert CRYPTO.day_window(day).duration == timedelta(hours=24)


@calendars
@given(day=some_days)
def test_days_tile_time(calendar: TradingCalendar, day: date) -> None:
    today, tomorrow = calendar.day_window(day), calendar.day_window(day + timedelta(days=1))
    assert today.end == tomorrow.start
    assert calendar.local_day(today.start) == calendar.local_day(today.end - timedelta(microseconds=1)) == day


@calendars
@given(day=some_days)
def test_a_session_lies_within_its_day(calendar: TradingCalendar, day: date) -> None:
    session = calendar.session(day)
    assert (session is not None) == calendar.is_session(day) == bool(calendar.sessions(day, day))
    if session is not None:
        assert calendar.day_window(day).covers(session.extended)
        assert session.extended.covers(session.regular)


@calendars
@given(first=some_days, length=st.integers(0, 30))
def test_sessions_are_the_days_that_are_one(calendar: TradingCalendar, first: date, length: int) -> None:
    days = [first + timedelta(days=n) for n in range(length + 1)]
    assert calendar.sessions(first, days[-1]) == [day for day in days if calendar.is_session(day)]


def test_last_sessions_end_on_or_before_today() -> None:
    friday, monday = date(2024, 7, 5), date(2024, 7, 8)
    assert XNYS.last_sessions(monday, 4) == [date(2024, 7, 2), date(2024, 7, 3), friday, monday]
    assert XNYS.last_sessions(date(2024, 7, 7), 3) == [date(2024, 7, 2), date(2024, 7, 3), friday]
    assert CRYPTO.last_sessions(date(2024, 3, 1), 3) == [
        date(2024, 2, 28),
        date(2024, 2, 29),
        date(2024, 3, 1),
    ]


@calendars
@given(today=some_days, count=st.integers(1, 20))
def test_last_sessions_leave_none_out(calendar: TradingCalendar, today: date, count: int) -> None:
    last = calendar.last_sessions(today, count)
    assert len(last) == count
    assert calendar.sessions(last[0], today) == last
    assert all(earlier < later for earlier, later in pairwise(last))


def test_the_local_day_of_a_moment() -> None:
    moment = datetime(2024, 7, 4, 3, 59, tzinfo=UTC)
    assert XNYS.local_day(moment) == date(2024, 7, 3)
    assert XNYS.local_day(moment + timedelta(minutes=1)) == date(2024, 7, 4)
    assert CRYPTO.local_day(moment) == date(2024, 7, 4)


def test_real_sessions_agree_with_recorded_bars() -> None:
    assert XNYS.sessions(date(2015, 12, 23), date(2015, 12, 28)) == [
        date(2015, 12, 23),
        date(2015, 12, 24),
        date(2015, 12, 28),
    ]


@given(st.dates(date(1990, 1, 1), date(2040, 12, 31)))
def test_a_week_begins_on_the_sunday_on_or_before_a_day(day: date) -> None:
    sunday = sunday_of(day)
    assert sunday.strftime("%A") == "Sunday"
    assert sunday <= day < sunday + WEEK


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - bounds
def test_moments_come_back_from_their_microseconds(moment: datetime) -> None:
    assert moment_of(microseconds(moment)) == moment
    assert milliseconds(moment) == microseconds(moment) // 1000
