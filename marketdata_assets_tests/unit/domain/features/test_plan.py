from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.features.plan import Evidence, FeaturePlan, stale_windows
from marketdata_assets.domain.partitions import key_of
from marketdata_assets.domain.series import AssetClass, Series, by_market
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

CLASSES = {"AAPL": AssetClass.STOCK, "MSFT": AssetClass.STOCK, "BTC-USD": AssetClass.CRYPTO}
AAPL, MSFT, BTC = (Series(symbol, Timeframe.H1) for symbol in CLASSES)
DAYS = [date(2024, 3, 7) + timedelta(days=number) for number in range(6)]
"""The clocks in New York change on the fourth of them."""
KEYS = [key_of(day, series) for series in (AAPL, MSFT, BTC) for day in DAYS]
NOW = datetime(2024, 6, 1, tzinfo=UTC)
moments = st.datetimes(datetime(2024, 3, 5), datetime(2024, 3, 15), timezones=st.just(UTC))  # noqa: DTZ001 - naive by contract


def window_of(series: Series) -> Window:
    calendar = calendar_of(CLASSES[series.symbol])
    return Window(calendar.day_start(DAYS[0]), calendar.day_window(DAYS[-1]).end)


WINDOWS = {series: window_of(series) for series in (AAPL, MSFT, BTC)}


def decide(
    stale: Mapping[Series, datetime] | None,
    *,
    without_splits: Collection[str] = (),
    without_bars: Collection[Series] = (),
    failing: Collection[tuple[str, str, date, str]] = (),
) -> FeaturePlan:
    schema = {"symbol": pl.String(), "timeframe": pl.String(), "day": pl.Date(), "check": pl.String()}
    evidence = Evidence(
        CLASSES,
        dict.fromkeys(WINDOWS, 7),
        list(without_splits),
        without_bars,
        pl.DataFrame(list(failing), schema=schema, orient="row"),
    )
    return FeaturePlan.decide(KEYS, WINDOWS, stale, evidence, now=NOW, earliest=DAYS[0])


@given(stale=st.dictionaries(st.sampled_from(list(WINDOWS)), moments))
def test_what_is_stale_is_computed_by_whole_local_days(stale: dict[Series, datetime]) -> None:
    due = decide(stale).due
    for series, window in WINDOWS.items():
        if series not in stale or stale[series] >= window.end:
            assert series not in due
            continue
        calendar, start = calendar_of(CLASSES[series.symbol]), due[series].start
        assert start == calendar.day_start(calendar.local_day(start))
        assert start <= max(stale[series], window.start)
        # Nothing that is up to date is computed but the rest of a day.
        assert start == window.start or stale[series] - start < timedelta(hours=25)
        assert due[series].end == window.end
    assert due == stale_windows(WINDOWS, stale, CLASSES)


@given(
    stale=st.none() | st.dictionaries(st.sampled_from(list(WINDOWS)), moments),
    without_splits=st.sets(st.sampled_from(["AAPL", "MSFT"])),
    without_bars=st.sets(st.sampled_from(list(WINDOWS))),
)
def test_every_series_with_adjusted_bars_is_computed_or_up_to_date(
    stale: dict[Series, datetime] | None, without_splits: set[str], without_bars: set[Series]
) -> None:
    plan = decide(stale, without_splits=without_splits, without_bars=without_bars)
    known = {one for one in WINDOWS if one.symbol not in without_splits and one not in without_bars}
    assert plan.computed <= known
    assert len(plan.computed) + plan.up_to_date == len(known)
    assert not {one.symbol for one in plan.due} & without_splits
    assert bool(plan.notices) == bool(without_splits)
    # Of a series without a bar what is stored goes, so it is computed as well; it gets no features.
    assert {key for key in KEYS if any(key.endswith(one.key) for one in without_bars)} <= set(plan.blocked)


@pytest.mark.parametrize("force", [True, False])
def test_a_partition_that_fails_a_check_is_held_back_whether_it_is_computed_or_not(*, force: bool) -> None:
    failing = [("AAPL", "1h", DAYS[1], check) for check in ("ohlcv_valid", "no_gaps", "no_gaps")]
    plan = decide(None if force else {}, failing=failing)
    [(key, reason)] = plan.blocked.items()
    assert key == key_of(DAYS[1], AAPL)
    assert reason.startswith("held back by no_gaps and ohlcv_valid: mend the bars")
    assert plan.failing.rows() == [("AAPL", "1h", DAYS[1])]
    assert set(plan.due) == (set(WINDOWS) if force else set())


def test_a_week_that_cannot_be_adjusted_blocks_its_partition_and_those_of_no_other_series() -> None:
    opened = calendar_of(AssetClass.STOCK).day_start(DAYS[2])
    weeks = pl.DataFrame(
        [("AAPL", "1h", opened), ("AAPL", "1h", opened + timedelta(weeks=4))],
        schema={"symbol": pl.String(), "timeframe": pl.String(), "time": pl.Datetime("us", "UTC")},
        orient="row",
    )
    refusals = decide(None).refuse(weeks, calendar_of(AssetClass.STOCK))
    assert list(refusals.blocked) == [key_of(DAYS[2], AAPL)]
    assert refusals.first[AAPL][0] == opened
    assert len(refusals.notices) == 1


def test_series_of_one_group_share_timeframe_and_asset_class() -> None:
    groups = by_market(WINDOWS, CLASSES)
    assert {key: set(members) for key, members in groups.items()} == {
        (Timeframe.H1, AssetClass.STOCK): {AAPL, MSFT},
        (Timeframe.H1, AssetClass.CRYPTO): {BTC},
    }
