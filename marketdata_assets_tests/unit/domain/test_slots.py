from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marketdata_assets.domain.bars import UTC_TIME, bucket_open, keep_closed
from marketdata_assets.domain.calendar import calendar_of, microseconds
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.slots import (
    base_slots_before,
    expected_by_series,
    expected_slots,
    stored_by_series,
)
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets_tests.unit.frames import as_bars, at, days_window, vendor_bars, window

if TYPE_CHECKING:
    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.slots import Slots

XNYS = calendar_of(AssetClass.STOCK)
CRYPTO = calendar_of(AssetClass.CRYPTO)
LATER = at("2039-01-01T00:00")
calendars = st.sampled_from([XNYS, CRYPTO])
timeframes = st.sampled_from(Timeframe)


def times(slots: Slots) -> list[datetime]:
    return pl.Series(slots.opens).cast(UTC_TIME).to_list()


def of_day(timeframe: str, day: date, calendar: TradingCalendar = XNYS) -> list[datetime]:
    return times(expected_slots(Timeframe(timeframe), calendar.day_window(day), calendar, LATER))


@pytest.mark.parametrize(
    ("day", "counts"),
    [
        (date(2024, 7, 2), {"1m": 390, "5m": 78, "15m": 26, "30m": 13, "1h": 7, "4h": 2, "1d": 1}),
        (date(2024, 7, 3), {"1m": 210, "5m": 42, "15m": 14, "30m": 7, "1h": 4, "4h": 2, "1d": 1}),
        (date(2013, 11, 29), {"1m": 210, "5m": 42, "15m": 14, "30m": 7, "1h": 4, "4h": 2, "1d": 1}),
        (date(2025, 11, 28), {"1m": 210, "5m": 42, "15m": 14, "30m": 7, "1h": 4, "4h": 2, "1d": 1}),
        (date(2002, 9, 11), {"1m": 240, "5m": 48, "15m": 16, "30m": 8, "1h": 4, "4h": 1, "1d": 1}),
        (date(2012, 10, 29), {}),
        (date(2012, 10, 30), {}),
        (date(2025, 1, 9), {}),
        (date(2024, 7, 4), {}),
        (date(2024, 7, 6), {}),
    ],
)
def test_slots_of_a_day_in_new_york(day: date, counts: dict[str, int]) -> None:
    found = {
        str(timeframe): len(of_day(timeframe, day))
        for timeframe in Timeframe
        if timeframe is not Timeframe.W1
    }
    assert {name: count for name, count in found.items() if count} == counts


@pytest.mark.parametrize(
    ("timeframe", "day", "opens"),
    [
        ("1h", date(2024, 7, 2), [f"2024-07-02T{hour}:00" for hour in range(13, 20)]),
        ("1h", date(2024, 1, 2), [f"2024-01-02T{hour}:00" for hour in range(14, 21)]),
        ("1h", date(2024, 7, 3), [f"2024-07-03T{hour}:00" for hour in range(13, 17)]),
        ("4h", date(2024, 7, 2), ["2024-07-02T12:00", "2024-07-02T16:00"]),
        ("4h", date(2024, 1, 2), ["2024-01-02T13:00", "2024-01-02T17:00"]),
        ("1d", date(2024, 7, 2), ["2024-07-02T04:00"]),
        ("1d", date(2024, 1, 2), ["2024-01-02T05:00"]),
        ("1w", date(2024, 6, 30), ["2024-06-30T04:00"]),
        ("1w", date(2024, 7, 1), []),
    ],
)
def test_slots_are_aligned_to_local_midnight(timeframe: str, day: date, opens: list[str]) -> None:
    assert of_day(timeframe, day) == [at(text) for text in opens]


@pytest.mark.parametrize(
    ("day", "first", "last"),
    [
        (date(2024, 3, 8), "2024-03-08T14:30", "2024-03-08T20:59"),
        (date(2024, 3, 11), "2024-03-11T13:30", "2024-03-11T19:59"),
        (date(2024, 11, 1), "2024-11-01T13:30", "2024-11-01T19:59"),
        (date(2024, 11, 4), "2024-11-04T14:30", "2024-11-04T20:59"),
        (date(2002, 9, 11), "2002-09-11T16:00", "2002-09-11T19:59"),
    ],
)
def test_minutes_follow_the_clock_and_the_session(day: date, first: str, last: str) -> None:
    minutes = of_day("1m", day)
    assert (minutes[0], minutes[-1]) == (at(first), at(last))


def test_a_week_slot_is_the_sunday_of_a_week_with_a_session() -> None:
    january = days_window(XNYS, date(2024, 1, 1), date(2024, 1, 31))
    sundays = expected_slots(Timeframe.W1, january, XNYS, LATER).days().to_list()
    assert sundays == [date(2024, 1, day) for day in (7, 14, 21, 28)]
    closed = days_window(XNYS, date(2001, 9, 9), date(2001, 9, 22))
    assert len(expected_slots(Timeframe.W1, closed, XNYS, LATER)) == 2


@pytest.mark.parametrize(
    ("timeframe", "now", "last"),
    [
        ("1m", "2024-07-02T13:30:59", None),
        ("1m", "2024-07-02T13:31", "2024-07-02T13:30"),
        ("1h", "2024-07-02T14:59", "2024-07-02T13:00"),
        ("1h", "2024-07-02T15:00", "2024-07-02T14:00"),
        ("4h", "2024-07-02T16:00", "2024-07-02T12:00"),
        ("4h", "2024-07-02T20:00", "2024-07-02T16:00"),
        ("1d", "2024-07-02T23:59", None),
        ("1d", "2024-07-03T00:00", "2024-07-02T04:00"),
    ],
)
def test_only_closed_bars_are_expected(timeframe: str, now: str, last: str | None) -> None:
    slots = expected_slots(Timeframe(timeframe), XNYS.day_window(date(2024, 7, 2)), XNYS, at(now))
    assert next(reversed(times(slots)), None) == (at(last) if last else None)


@pytest.mark.parametrize(("now", "count"), [("2024-07-07T03:59", 0), ("2024-07-07T04:00", 1)])
def test_a_week_is_due_when_all_of_it_has_closed(now: str, count: int) -> None:
    week = days_window(XNYS, date(2024, 6, 30), date(2024, 7, 6))
    assert len(expected_slots(Timeframe.W1, week, XNYS, at(now))) == count


@pytest.mark.parametrize(
    ("first_bar", "first"),
    [
        (None, "2024-07-02T13:30"),
        ("2024-07-02T08:00", "2024-07-02T13:30"),
        ("2024-07-02T15:07", "2024-07-02T15:07"),
        ("2024-07-02T22:00", None),
        ("2024-07-05T13:30", None),
    ],
)
def test_nothing_is_expected_before_the_first_bar(first_bar: str | None, first: str | None) -> None:
    day = XNYS.day_window(date(2024, 7, 2))
    since = at(first_bar) if first_bar else None
    slots = expected_slots(Timeframe.M1, day, XNYS, LATER, since)
    assert next(iter(times(slots)), None) == (at(first) if first else None)
    aapl = Series("AAPL", Timeframe.M1)
    known = {aapl: since} if since else {}
    shared = expected_by_series({aapl: AssetClass.STOCK}, day, LATER, known)[aapl]
    assert np.array_equal(shared.opens, slots.opens)


def test_series_of_one_calendar_and_timeframe_share_their_slots() -> None:
    asset_classes = {
        Series("AAPL", Timeframe.M1): AssetClass.STOCK,
        Series("SPY", Timeframe.M1): AssetClass.ETF,
        Series("BTC-USD", Timeframe.M1): AssetClass.CRYPTO,
    }
    day = XNYS.day_window(date(2024, 7, 2))
    aapl, spy, bitcoin = expected_by_series(asset_classes, day, LATER).values()
    assert np.shares_memory(aapl.opens, spy.opens)
    assert (len(aapl), len(bitcoin)) == (390, 1440)


@pytest.mark.parametrize("timeframe", Timeframe)
def test_crypto_expects_every_slot(timeframe: Timeframe) -> None:
    fortnight = window("2024-03-03T00:00", "2024-03-17T00:00")
    slots = times(expected_slots(timeframe, fortnight, CRYPTO, LATER))
    count = int(fortnight.duration / timeframe.duration)
    assert slots == [fortnight.start + n * timeframe.duration for n in range(count)]


some_days = st.dates(date(2001, 1, 1), date(2030, 12, 31))


@given(some_days, st.integers(1, 12), timeframes, calendars)
def test_slots_by_partition_are_the_slots_of_the_whole(
    first: date, length: int, timeframe: Timeframe, calendar: TradingCalendar
) -> None:
    days = [first + timedelta(days=n) for n in range(length)]
    whole = expected_slots(timeframe, days_window(calendar, days[0], days[-1]), calendar, LATER)
    parts = [expected_slots(timeframe, calendar.day_window(day), calendar, LATER) for day in days]
    assert np.concatenate([part.opens for part in parts]).tolist() == whole.opens.tolist()
    assert [day for day, part in zip(days, parts, strict=True) for _ in part.opens] == whole.days().to_list()


@given(some_days, timeframes, calendars)
def test_slots_are_the_buckets_that_touch_regular_hours(
    day: date, timeframe: Timeframe, calendar: TradingCalendar
) -> None:
    first = day - timedelta(days=(day.weekday() + 1) % 7)
    week = days_window(calendar, first, first + timedelta(days=6))
    touching = [
        session.regular.start + timedelta(minutes=minute)
        for day in calendar.sessions(first, first + timedelta(days=6))
        if (session := calendar.session(day)) is not None
        for minute in range(int(session.regular.duration / timedelta(minutes=1)))
    ]
    buckets = pl.DataFrame({"time": touching}, schema={"time": UTC_TIME}).select(
        bucket_open(pl.col("time"), timeframe, calendar).unique().sort()
    )
    assert times(expected_slots(timeframe, week, calendar, LATER)) == buckets["time"].to_list()


@given(some_days, st.integers(0, 40), timeframes, calendars)
@example(date(2001, 1, 1), 17, Timeframe.D1, XNYS)  # after 20:00 in New York, where the day is over
def test_a_slot_is_due_when_its_bar_is_complete(
    day: date, hours: int, timeframe: Timeframe, calendar: TradingCalendar
) -> None:
    span = days_window(calendar, day, day + timedelta(days=6))
    now = span.start + timedelta(hours=4 * hours, minutes=7)
    every = pl.DataFrame({"time": expected_slots(timeframe, span, calendar, LATER).opens}).cast(UTC_TIME)
    due = keep_closed(every, timeframe, calendar, now)
    assert times(expected_slots(timeframe, span, calendar, now)) == due["time"].to_list()


@given(st.sets(st.integers(-5, 400)))
def test_held_marks_the_slots_that_have_a_bar(minutes: set[int]) -> None:
    session = XNYS.session(date(2024, 7, 2))
    assert session is not None
    slots = expected_slots(Timeframe.M1, XNYS.day_window(session.day), XNYS, LATER)
    step = 60_000_000
    bars = np.array(sorted(minutes), dtype=np.int64) * step + microseconds(session.regular.start)
    assert np.flatnonzero(slots.stored(bars)).tolist() == sorted(minutes & set(range(390)))


def test_no_slot_holds_a_bar_when_none_is_expected() -> None:
    sunday = expected_slots(Timeframe.M1, XNYS.day_window(date(2024, 7, 7)), XNYS, LATER)
    assert sunday.stored(np.array([microseconds(at("2024-07-07T15:00"))])).tolist() == []
    assert sunday.days().dtype == pl.Date()


@pytest.mark.parametrize(
    ("timeframe", "start", "end", "count"),
    [
        ("1m", "2024-07-02T13:30", "2024-07-02T13:31", 1),
        ("1h", "2024-07-02T13:00", "2024-07-02T14:00", 30),
        ("4h", "2024-07-02T12:00", "2024-07-02T16:00", 150),
        ("1h", "2024-07-02T19:00", "2024-07-03T14:00", 90),  # over the night
        ("1m", "2024-07-03T16:00", "2024-07-05T14:30", 120),  # over a half day and a holiday
        ("1d", "2024-07-02T04:00", "2024-07-06T04:00", 3),
        ("1w", "2024-06-30T04:00", "2024-07-07T04:00", 4),
    ],
)
def test_base_slots_of_a_stretch_of_time(timeframe: str, start: str, end: str, count: int) -> None:
    edges = np.array([microseconds(at(start)), microseconds(at(end))])
    before, after = base_slots_before(edges, Timeframe(timeframe), XNYS)
    assert after - before == count


@pytest.mark.parametrize("day", [date(2024, 7, 2), date(2024, 7, 3), date(2002, 9, 11)])
@pytest.mark.parametrize("timeframe", [timeframe for timeframe in Timeframe if timeframe.is_intraday])
def test_the_slots_of_a_session_hold_its_minutes_once(timeframe: Timeframe, day: date) -> None:
    session = XNYS.session(day)
    assert session is not None
    slots = expected_slots(timeframe, XNYS.day_window(day), XNYS, LATER)
    edges = np.append(slots.opens, microseconds(session.extended.end))
    stored = np.diff(base_slots_before(edges, timeframe, XNYS))
    assert (stored > 0).all()
    assert stored.sum() == session.regular.duration / timedelta(minutes=1)


def test_bars_are_held_by_series_in_order_of_time() -> None:
    aapl, bitcoin = Series("AAPL", Timeframe.M1), Series("BTC-USD", Timeframe.H1)
    moments = [datetime(2024, 7, 2, hour, tzinfo=UTC) for hour in (15, 14, 16)]
    bars = pl.concat([as_bars(vendor_bars(moments), series) for series in (bitcoin, aapl)])
    stored = stored_by_series(bars)
    assert set(stored) == {aapl, bitcoin}
    assert stored[aapl].times.tolist() == [microseconds(moment) for moment in sorted(moments)]
    assert stored[aapl].base_bars is not None
    assert stored_by_series(bars.select("symbol", "timeframe", "time"))[aapl].base_bars is None
    assert stored_by_series(bars.clear()) == {}


def test_only_slots_of_days_that_were_asked_for_remain() -> None:
    week = expected_slots(Timeframe.D1, days_window(XNYS, date(2024, 6, 24), date(2024, 7, 5)), XNYS, LATER)
    requested = [XNYS.day_window(date(2024, 6, day)) for day in (24, 26, 27, 28)]
    elsewhere = week.days().is_in([date(2024, 7, 1)]).to_numpy()
    found = week.requested_in(requested, elsewhere)
    assert [time.astimezone(XNYS.timezone).day for time in times(found)] == [24, 26, 27, 28, 1]
    # Tuesday was never requested; a weekend need not be.
    assert found.ends_before_a_hole(np.arange(4)).tolist() == [True, False, False, False]


@given(st.lists(st.booleans(), min_size=10, max_size=10), st.sets(st.integers(0, 9)), timeframes, calendars)
def test_slots_asked_for_are_whole_days_and_know_where_days_were_left_out(
    known: list[bool], requested: set[int], timeframe: Timeframe, calendar: TradingCalendar
) -> None:
    first = date(2024, 7, 1)
    slots = expected_slots(
        timeframe, days_window(calendar, first, first + timedelta(days=9)), calendar, LATER
    )
    days = [first + timedelta(days=index) for index in range(10)]
    flags = slots.days().is_in([day for day, flag in zip(days, known, strict=True) if flag]).to_numpy()
    found = slots.requested_in([calendar.day_window(days[index]) for index in requested], flags)
    chosen = {day for index, day in enumerate(days) if known[index] or index in requested}
    assert times(found) == [
        time for time, day in zip(times(slots), slots.days(), strict=True) if day in chosen
    ]
    if len(found) > 1:
        steps = np.diff(np.searchsorted(slots.opens, found.opens))
        ends = found.ends_before_a_hole(np.arange(len(found) - 1))
        assert ends.tolist() == (steps > 1).tolist()


def test_the_days_on_which_a_bar_opens() -> None:
    hours = expected_slots(Timeframe.H1, days_window(XNYS, date(2024, 7, 1), date(2024, 7, 2)), XNYS, LATER)
    late = np.array([microseconds(at("2024-07-01T23:00"))])  # after hours, still Monday in New York
    assert hours.on_days_of(late).tolist() == [True] * 7 + [False] * 7
    assert not hours.on_days_of(late[:0]).any()


def test_positions_are_those_of_the_first_slot_of_a_gap_and_of_the_first_after_it() -> None:
    slots = expected_slots(Timeframe.H1, XNYS.day_window(date(2024, 7, 2)), XNYS, LATER)
    hours = times(slots)
    gaps = pl.DataFrame({"gap_start": [hours[1], hours[6]], "gap_end": [hours[3], LATER]})
    first, last = slots.positions(gaps)
    assert (first.tolist(), last.tolist()) == ([1, 6], [3, 7])
