from __future__ import annotations

from datetime import date, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from marketdata_assets.domain.adjust import SPLIT_SCHEMA, adjust_for_splits
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.rollup import roll_up
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.weeks import adjust_weeks, divided_weeks, refusal
from marketdata_assets_tests.unit.frames import as_bars, vendor_bars

XNYS = calendar_of(AssetClass.STOCK)
TODAY = date(2024, 12, 31)
# Both changes of the clocks, half days, and Memorial Day: a Monday without a session.
FIRST, LAST = date(2024, 3, 3), date(2024, 12, 28)


def splits(*rows: tuple[date, int, int]) -> pl.DataFrame:
    listed = [("AAPL", day, float(before), float(after)) for day, before, after in rows]
    return pl.DataFrame(listed, schema=SPLIT_SCHEMA, orient="row")


def days_of(first: date, last: date) -> pl.DataFrame:
    opens = [XNYS.day_start(day) for day in XNYS.sessions(first, last)]
    return as_bars(vendor_bars(opens), Series("AAPL", Timeframe.D1))


DAYS = days_of(FIRST, LAST)
WEEKS = roll_up(DAYS, Timeframe.W1, XNYS)


def test_a_split_of_the_weeks_first_session_divides_nothing() -> None:
    monday, tuesday = date(2024, 6, 10), date(2024, 5, 28)
    assert divided_weeks(splits((monday, 1, 10), (tuesday, 1, 2)), TODAY, XNYS) == []


def test_a_split_after_a_session_divides_its_week_once_it_is_executed() -> None:
    wednesday = splits((date(2024, 6, 12), 1, 10))
    (week,) = divided_weeks(wednesday, TODAY, XNYS)
    assert (XNYS.local_day(week.start), XNYS.local_day(week.end)) == (date(2024, 6, 9), date(2024, 6, 16))
    assert divided_weeks(wednesday, date(2024, 6, 11), XNYS) == []


def test_a_monday_split_leaves_its_own_week_and_scales_those_before() -> None:
    adjusted, refused = adjust_weeks(WEEKS, DAYS.clear(), splits((date(2024, 6, 10), 1, 10)), TODAY, XNYS)
    assert refused == []
    ratio = (adjusted["close"] / WEEKS["close"]).round(9).to_list()
    before = sum(opened < XNYS.day_start(date(2024, 6, 9)) for opened in WEEKS["time"])
    assert ratio == [0.1] * before + [1.0] * (WEEKS.height - before)
    assert adjusted.select("time", "timeframe", "base_bars").equals(
        WEEKS.select("time", "timeframe", "base_bars")
    )


def test_a_divided_week_without_its_days_is_named_and_left_out_alone() -> None:
    wednesday = splits((date(2024, 6, 12), 1, 10))
    one_short = DAYS.filter(pl.col("time") != XNYS.day_start(date(2024, 6, 13)))
    whole, _ = adjust_weeks(WEEKS, DAYS, wednesday, TODAY, XNYS)
    known, refused = adjust_weeks(WEEKS, one_short, wednesday, TODAY, XNYS)
    assert refused == [XNYS.day_start(date(2024, 6, 9))]
    assert_frame_equal(known, whole.filter(~pl.col("time").is_in(refused)))
    assert "AAPL split within the week of 2024-06-09" in (line := refusal("AAPL", refused, XNYS))
    assert "collect AAPL in 1d" in line


@given(executed=st.dates(FIRST, LAST), shares=st.sampled_from([1.0, 2.0, 1.1, 1000.0]))
def test_a_split_into_as_many_shares_divides_and_changes_nothing(executed: date, shares: float) -> None:
    unchanged = pl.DataFrame([("AAPL", executed, shares, shares)], schema=SPLIT_SCHEMA, orient="row")
    assert divided_weeks(unchanged, TODAY, XNYS) == []
    adjusted, refused = adjust_weeks(WEEKS, DAYS.clear(), unchanged, TODAY, XNYS)
    assert refused == []
    assert adjusted.equals(WEEKS)
    assert adjust_for_splits(DAYS, unchanged, TODAY, XNYS) is DAYS
    beside = pl.concat([unchanged, splits((executed, 1, 2))])
    assert divided_weeks(beside, TODAY, XNYS) == divided_weeks(splits((executed, 1, 2)), TODAY, XNYS)
    assert adjust_for_splits(DAYS, beside, TODAY, XNYS).equals(
        adjust_for_splits(DAYS, splits((executed, 1, 2)), TODAY, XNYS)
    )


ratios = st.sampled_from([(1, 2), (1, 7), (3, 2), (10, 1), (1000, 1998)])
executions = st.dates(FIRST, LAST + timedelta(days=10))


@given(known=st.dictionaries(executions, ratios, max_size=4), as_of=executions)
def test_weeks_are_what_their_adjusted_days_roll_up_to(
    known: dict[date, tuple[int, int]], as_of: date
) -> None:
    of_symbol = splits(*((day, *ratio) for day, ratio in known.items()))
    needed = divided_weeks(of_symbol, as_of, XNYS)
    days = pl.concat(
        [DAYS.clear(), *(DAYS.filter(pl.col("time").is_between(week.start, week.end)) for week in needed)]
    )
    adjusted, refused = adjust_weeks(WEEKS, days, of_symbol, as_of, XNYS)
    assert refused == []
    rolled = roll_up(adjust_for_splits(DAYS, of_symbol, as_of, XNYS), Timeframe.W1, XNYS)
    assert_frame_equal(adjusted, rolled, rel_tol=1e-12, abs_tol=0)
