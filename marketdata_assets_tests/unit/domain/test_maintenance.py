from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.maintenance import (
    CATCH_UP,
    HISTORY_PAUSE,
    LONGEST_PAUSE,
    MAX_HISTORY_RUNS,
    MAX_REPAIRS,
    SHORT_ABSENCE,
    Days,
    DueHistory,
    History,
    HistoryPlan,
    RepairState,
    RequestState,
    daily_run_days,
    days_to_repair,
    due_repairs,
    initial_days,
    is_covered,
    may_request_again,
    merge_days,
    plan_histories,
    traded_day,
)
from marketdata_assets.domain.partitions import Rectangle
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe

START = date(2020, 1, 1)
STOCK, CRYPTO = AssetClass.STOCK, AssetClass.CRYPTO
MINUTES = {Timeframe.M1}


def at(day: str, hour: int = 2, minute: int = 0) -> datetime:
    return datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC) + timedelta(
        hours=hour, minutes=minute
    )


def test_a_daily_run_takes_yesterday_and_the_sessions_that_are_still_revised() -> None:
    # At 02:00 UTC on Friday it is Thursday evening in New York: Tuesday, Wednesday and Thursday are corrected.
    assert daily_run_days({STOCK: MINUTES}, at("2024-06-14"), earliest=START) == Days(
        date(2024, 6, 11), date(2024, 6, 13)
    )
    # Monday morning: the last sessions are Wednesday to Friday, and yesterday is Sunday.
    assert daily_run_days({STOCK: MINUTES}, at("2024-06-17"), earliest=START) == Days(
        date(2024, 6, 12), date(2024, 6, 16)
    )
    # Juneteenth is no session.
    assert daily_run_days({STOCK: MINUTES}, at("2024-06-21"), earliest=START) == Days(
        date(2024, 6, 17), date(2024, 6, 20)
    )


@pytest.mark.parametrize(
    ("asset_class", "started", "first"),
    [
        (STOCK, "2024-06-16", "2024-06-12"),  # Saturday evening in New York: the week has not closed
        (STOCK, "2024-06-17", "2024-06-09"),
        (STOCK, "2024-06-19", "2024-06-09"),  # its Friday is still corrected
        (STOCK, "2024-06-21", "2024-06-17"),
        (CRYPTO, "2024-06-15", "2024-06-13"),
        (CRYPTO, "2024-06-16", "2024-06-09"),  # Sunday, UTC: the week closed two hours ago
    ],
)
def test_a_week_bar_is_requested_by_its_sunday(asset_class: AssetClass, started: str, first: str) -> None:
    days = daily_run_days({asset_class: {Timeframe.W1}}, at(started), earliest=START)
    assert days is not None
    assert days.first == date.fromisoformat(first)


def test_days_that_were_missed_are_made_up_for_as_far_as_a_month() -> None:
    started = at("2024-06-14")
    for requested, first in (
        ("2024-06-13", date(2024, 6, 11)),
        ("2024-06-03", date(2024, 6, 3)),
        ("2021-01-01", date(2024, 6, 13) - CATCH_UP),
    ):
        days = daily_run_days({STOCK: MINUTES}, started, earliest=START, requested_until=at(requested))
        assert days == Days(first, date(2024, 6, 13))


def test_a_daily_run_begins_with_the_first_partition_and_may_have_nothing() -> None:
    collected = {STOCK: MINUTES, CRYPTO: MINUTES}
    assert daily_run_days(collected, at("2024-06-14"), earliest=date(2024, 6, 13)) == Days(
        date(2024, 6, 13), date(2024, 6, 13)
    )
    assert daily_run_days(collected, at("2024-06-14"), earliest=date(2024, 6, 14)) is None
    assert daily_run_days({}, at("2024-06-14"), earliest=START) is None


@given(
    st.dictionaries(st.sampled_from([STOCK, CRYPTO]), st.sets(st.sampled_from(list(Timeframe)), min_size=1)),
    st.integers(0, 60_000).map(lambda hours: at("2020-03-01") + timedelta(hours=hours)),
    st.none() | st.integers(0, 60_000).map(lambda hours: at("2020-03-01") + timedelta(hours=hours)),
)
def test_a_daily_run_holds_the_correction_window_and_ends_yesterday(
    collected: dict[AssetClass, set[Timeframe]], now: datetime, requested: datetime | None
) -> None:
    days = daily_run_days(collected, now, earliest=START, requested_until=requested)
    if not collected:
        assert days is None
        return
    assert days is not None
    assert days.first <= days.last == now.date() - timedelta(days=1)
    for asset_class in collected:
        calendar = calendar_of(asset_class)
        assert days.first <= calendar.local_day(calendar.final_before(now, 3))


def test_a_market_is_looked_at_while_it_is_open_and_until_its_last_bars_have_come() -> None:
    stocks = calendar_of(STOCK)
    friday = date(2024, 6, 14)
    assert traded_day(stocks, at("2024-06-14", 13, 15)) is None
    assert traded_day(stocks, at("2024-06-14", 13, 30)) == friday
    assert traded_day(stocks, at("2024-06-14", 20, 30)) == friday
    assert traded_day(stocks, at("2024-06-14", 20, 45)) is None
    assert traded_day(stocks, at("2024-06-15", 15)) is None
    # A half day, and the hour of winter time.
    assert traded_day(stocks, at("2024-11-29", 18, 15)) == date(2024, 11, 29)
    assert traded_day(stocks, at("2024-11-29", 19)) is None
    assert traded_day(calendar_of(CRYPTO), at("2024-06-15", 3)) == date(2024, 6, 15)


def test_a_new_series_gets_a_year_and_of_minutes_two_weeks() -> None:
    series = [Series.parse(key) for key in ("AAPL:1d", "AAPL:1m", "MSFT:1m", "MSFT:1h")]
    today = date(2024, 6, 14)
    days = initial_days(series, today, days=365, minute_days=14, earliest=START)
    year, two_weeks = Days(date(2023, 6, 16), today), Days(date(2024, 6, 1), today)
    # The minutes of MSFT are fetched for its hours anyway.
    assert [days[member] for member in series] == [year, two_weeks, year, year]
    clipped = initial_days(series, today, days=365, minute_days=14, earliest=date(2024, 6, 10))
    assert set(clipped.values()) == {Days(date(2024, 6, 10), today)}


def test_pauses_double_up_to_a_day_and_end() -> None:
    requested = at("2024-06-14")

    def waits(attempts: int) -> timedelta | None:
        for hours in range(100):
            later = timedelta(hours=hours)
            if may_request_again(attempts, requested, requested + later, pause=timedelta(hours=1), limit=8):
                return later
        return None

    assert [waits(attempts) for attempts in (0, 1, 2, 3)] == [timedelta(hours=n) for n in (0, 1, 2, 4)]
    assert waits(7) == LONGEST_PAUSE
    assert waits(8) is None
    assert may_request_again(3, None, requested, pause=timedelta(hours=1), limit=8)


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 20)), max_size=12),
    st.integers(0, 10),
)
def test_stretches_hold_every_day_and_lie_apart(spans: list[tuple[int, int]], bridge: int) -> None:
    days = [Days(START + timedelta(days=n), START + timedelta(days=n + length)) for n, length in spans]
    merged = merge_days(days, timedelta(days=bridge))
    for first, last in days:
        assert sum(stretch.first <= first and last <= stretch.last for stretch in merged) == 1
    for stretch, other in pairwise(merged):
        assert other.first - stretch.last > timedelta(days=bridge)
    assert {stretch.first for stretch in merged} <= {stretch.first for stretch in days}
    assert {stretch.last for stretch in merged} <= {stretch.last for stretch in days}


AAPL, MSFT = Series.parse("AAPL:1d"), Series.parse("MSFT:1d")
NOW = at("2024-06-14", 12)
TODAY = NOW.date()
FETCHED = RequestState(ended_at=NOW, fetched=frozenset({"AAPL"}))


def history(**changes: Any) -> History:  # noqa: ANN401 - values of any field
    """A history whose first request is two hours old."""
    facts = {"request": "one", "first_day": TODAY - timedelta(days=20), "attempts": 1}
    return History(**{**facts, "requested_at": NOW - timedelta(hours=2), **changes})


def plan(
    known: dict[Series, History], states: dict[str, RequestState] | None = None, earliest: date = START
) -> HistoryPlan:
    tracked = list(known) or [AAPL]
    return plan_histories(tracked, known, states or {}, NOW, days=30, minute_days=3, earliest=earliest)


def test_a_series_without_a_history_is_due_and_not_before_the_first_partition() -> None:
    assert plan({}).due == {AAPL: DueHistory(Days(TODAY - timedelta(days=29), TODAY), 1)}
    assert plan({}, earliest=TODAY).due == {AAPL: DueHistory(Days(TODAY, TODAY), 1)}
    assert plan({}, earliest=TODAY + timedelta(days=1)) == HistoryPlan()


def test_a_history_arrives_when_a_run_fetched_its_symbol_and_the_others_are_due_again() -> None:
    planned = plan({AAPL: history(), MSFT: history()}, {"one": FETCHED}, earliest=TODAY - timedelta(days=9))
    assert planned.arrived == [AAPL]
    assert planned.due == {}  # the pause begins when the run ended
    ended = RequestState(ended_at=NOW - HISTORY_PAUSE, fetched=frozenset({"AAPL"}))
    planned = plan({AAPL: history(), MSFT: history()}, {"one": ended}, earliest=TODAY - timedelta(days=9))
    assert planned.due == {MSFT: DueHistory(Days(TODAY - timedelta(days=9), TODAY), 2)}


def test_a_history_waits_for_its_run_and_is_not_given_up_before() -> None:
    exhausted = history(attempts=MAX_HISTORY_RUNS)
    planned = plan({AAPL: exhausted, MSFT: history()}, {"one": RequestState(unfinished_run="run")})
    assert planned == HistoryPlan(
        waiting={"run": [AAPL, MSFT]}, arrived=[], returned=[], due={}, given_up=[], unreported=[]
    )
    planned = plan({AAPL: exhausted, MSFT: history(attempts=MAX_HISTORY_RUNS, is_reported=True)})
    assert (planned.given_up, planned.unreported, planned.due) == ([AAPL, MSFT], [AAPL], {})


@pytest.mark.parametrize("days", [0, 3, 4, 100])
def test_daily_runs_make_up_for_a_short_absence_and_a_long_one_is_requested(days: int) -> None:
    left = TODAY - timedelta(days=days)
    planned = plan({AAPL: history(is_fetched=True, untracked_since=left, attempts=3)})
    if timedelta(days=days) <= SHORT_ABSENCE:
        assert (planned.returned, planned.due) == ([AAPL], {})
    else:
        assert planned.returned == []
        assert planned.due == {AAPL: DueHistory(Days(left - SHORT_ABSENCE, TODAY), 1)}
    assert plan({AAPL: history(is_fetched=True)}).due == {}


@given(
    st.dictionaries(
        st.sampled_from([AAPL, MSFT, Series.parse("AAPL:1m"), Series.parse("SPY:1h")]),
        st.builds(
            history,
            request=st.sampled_from("ab"),
            attempts=st.integers(1, MAX_HISTORY_RUNS),
            is_fetched=st.booleans(),
            untracked_since=st.none() | st.integers(0, 9).map(lambda days: TODAY - timedelta(days=days)),
        ),
    ),
    st.dictionaries(
        st.sampled_from("ab"),
        st.builds(
            RequestState,
            st.none() | st.just("run"),
            st.none() | st.integers(0, 90).map(lambda minutes: NOW - timedelta(minutes=minutes)),
            st.frozensets(st.sampled_from(["AAPL", "SPY"])),
        ),
    ),
)
def test_a_history_is_in_one_state(known: dict[Series, History], states: dict[str, RequestState]) -> None:
    planned = plan(known, states)
    waiting = [series for group in planned.waiting.values() for series in group]
    states_of = [*planned.arrived, *planned.due, *planned.given_up, *waiting]
    assert len(states_of) == len(set(states_of))
    assert set(planned.unreported) <= set(planned.given_up)
    for series, row in known.items():
        assert not (row.is_fetched and series in {*planned.arrived, *planned.given_up, *waiting})


def gap(series: Series = AAPL, day: date = TODAY, **changes: Any) -> RepairState:  # noqa: ANN401 - values of any field
    facts = {"series": series, "days": Days(day, day), "repairs": 1, "requested_at": NOW - timedelta(hours=1)}
    return RepairState(**{**facts, **changes})


def test_a_repair_is_due_after_its_pause_in_a_partition_that_no_run_covers() -> None:
    hour = timedelta(hours=1)
    busy = [Rectangle(TODAY, TODAY, (MSFT,))]
    gaps = {
        "new": gap(repairs=0, requested_at=None),
        "due": gap(),
        "paused": gap(requested_at=NOW - hour + timedelta(seconds=1)),
        "doubled": gap(repairs=2),
        "given up": gap(repairs=MAX_REPAIRS, requested_at=at("2020-01-01")),
        "under way": gap(MSFT),
        "another day": gap(MSFT, TODAY - timedelta(days=1)),
        "before the first partition": gap(day=START - timedelta(days=1)),
    }
    due = due_repairs(gaps, NOW, pause=hour, earliest=START, busy=busy)
    assert due == ["new", "due", "another day"]
    assert not is_covered(gaps["another day"], busy)
    assert is_covered(gap(MSFT, days=Days(START, TODAY)), busy)


def test_near_gaps_are_repaired_together_from_the_first_partition_on() -> None:
    days = [START - timedelta(days=1), START + timedelta(days=7), START + timedelta(days=15)]
    gaps = [gap(day=days[1]), gap(days=Days(days[0], START)), gap(day=days[2]), gap(MSFT, days[2])]
    assert days_to_repair(gaps, START) == [
        (AAPL, START, days[1]),
        (AAPL, days[2], days[2]),
        (MSFT, days[2], days[2]),
    ]
