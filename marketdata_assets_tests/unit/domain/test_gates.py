from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.bars import BAR_SCHEMA, UTC_TIME, broken_value_rule, screen
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.gap_scan import KNOWN_GAP_SCHEMA
from marketdata_assets.domain.gaps import find_gaps
from marketdata_assets.domain.gates import (
    FAULT_SCHEMA,
    LOST_TO_QUARANTINE,
    find_gappy,
    find_invalid,
    find_off_grid,
    find_outlying,
    select_buckets_within,
    select_within,
    stops_run,
)
from marketdata_assets.domain.rollup import roll_up
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.slots import StoredBars, expected_slots
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets_tests.unit.frames import as_bars, at, days_window, minutes, vendor_bars, window

if TYPE_CHECKING:
    from marketdata_assets.domain.slots import Slots

XNYS = calendar_of(AssetClass.STOCK)
AAPL = Series("AAPL", Timeframe.M1)
MORNING = window("2024-07-02T14:00", "2024-07-02T15:00")
FIRST, LAST = date(2024, 3, 4), date(2024, 3, 15)  # the clock changes in between
CLASSES = {"AAPL": AssetClass.STOCK, "BTC-USD": AssetClass.CRYPTO}
LATER = at("2039-01-01T00:00")
NOTHING_QUARANTINED = pl.DataFrame(schema={"symbol": pl.String(), "time": UTC_TIME, "rule": pl.String()})


def bars_of(times: list[Any], **values: Any) -> pl.DataFrame:  # noqa: ANN401 - values of any column
    changed = {name: pl.lit(value, BAR_SCHEMA[name]) for name, value in values.items()}
    return as_bars(vendor_bars(times), AAPL).with_columns(**changed)


def quarantined(times: list[Any], rule: str = "volume_negative", symbol: str = "AAPL") -> pl.DataFrame:
    return NOTHING_QUARANTINED.clear(len(times)).with_columns(
        symbol=pl.lit(symbol), time=pl.Series(times, dtype=UTC_TIME), rule=pl.lit(rule)
    )


@given(st.integers(0, 50), st.integers(0, 50))
def test_a_run_stops_when_no_partition_of_it_is_sound(failing: int, sound: int) -> None:
    assert stops_run(failing, failing + sound) == (failing > 0 and sound == 0)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"close": 0.0}, "price_not_positive"),
        ({"open": float("nan")}, "price_not_positive"),
        ({"high": float("inf")}, "price_not_positive"),
        ({"high": 1.0}, "high_below_body"),
        ({"low": 1e6, "high": 1e7}, "low_above_body"),
        ({"volume": -1.0}, "volume_negative"),
        ({"vwap": 1e9}, None),
        ({"volume": None}, "volume_missing"),
        ({"vwap": -5.0}, "vwap_not_positive"),
        ({"vwap": None}, None),
    ],
)
def test_a_stored_bar_is_judged_by_the_rules_of_screening(
    values: dict[str, float | None], rule: str | None
) -> None:
    times = minutes(MORNING)
    sound, broken = bars_of(times[1:]), bars_of(times[:1], **values)
    faults = find_invalid(pl.concat([broken, sound]), NOTHING_QUARANTINED, Timeframe.M1, AssetClass.STOCK)
    kept_out = screen(broken, AAPL, MORNING, XNYS, asset_class=AssetClass.STOCK).quarantined["rule"].to_list()
    assert faults["what"].to_list() == ([rule] if rule else []) == kept_out
    for fault in faults.iter_rows(named=True):
        assert (fault["day"], fault["rows"], fault["time"]) == (date(2024, 7, 2), 1, times[0])
        assert fault["example"].startswith("open ")


@pytest.mark.parametrize(
    "timeframe", [timeframe for timeframe in Timeframe if timeframe is not timeframe.base]
)
@pytest.mark.parametrize("name", ["volume", "transactions"])
def test_a_rolled_up_bar_may_count_as_much_as_its_base_bars_may(name: str, timeframe: Timeframe) -> None:
    base = bars_of(minutes(MORNING)[:1], **{name: 5e14})
    week = base.with_columns(
        pl.col(name) * 7, timeframe=pl.lit(timeframe.value), base_bars=pl.lit(7, pl.Int32)
    )
    assert find_invalid(base, NOTHING_QUARANTINED, timeframe.base, AssetClass.STOCK).is_empty()
    assert find_invalid(week, NOTHING_QUARANTINED, timeframe, AssetClass.STOCK).is_empty()
    beyond = week.with_columns((pl.col(name) * 3).cast(BAR_SCHEMA[name]))
    faults = find_invalid(beyond, NOTHING_QUARANTINED, timeframe, AssetClass.STOCK)
    assert faults["what"].to_list() == [f"{name}_too_large"]


@given(factor=st.floats(1e-10, 1e10))
def test_adjusting_breaks_no_rule_of_a_sound_bar(factor: float) -> None:
    prices = dict.fromkeys(("open", "high", "low", "close", "vwap"), 1e6 * factor)
    bars = bars_of(minutes(MORNING)[:1], **prices, volume=1e14 / factor)
    assert bars.select(broken_value_rule(has_volume=True, is_adjusted=True)).to_series().to_list() == [None]


@pytest.mark.parametrize("name", ["high", "vwap", "volume"])
@pytest.mark.parametrize("base_bars", [1, 10_080])
@pytest.mark.parametrize("is_adjusted", [False, True])
def test_no_bar_is_as_large_as_a_number_may_be(name: str, base_bars: int, *, is_adjusted: bool) -> None:
    bars = bars_of(minutes(MORNING)[:1], **{name: 1e300}, base_bars=base_bars)
    rule = bars.select(broken_value_rule(is_adjusted=is_adjusted)).item()
    assert rule == f"{'price' if name == 'high' else name}_too_large"


def test_faults_are_one_row_for_each_day_and_kind() -> None:
    monday, tuple_of_days = at("2024-07-01T14:30"), timedelta(days=1)
    times = [
        monday + day * tuple_of_days + timedelta(minutes=minute) for day in (0, 1) for minute in range(5)
    ]
    bars = bars_of(times, close=0.0).with_columns(
        close=pl.when(pl.col("time") == times[0]).then(pl.col("open")).otherwise("close"),
        volume=pl.when(pl.col("time") == times[0]).then(-1.0).otherwise("volume"),
    )
    faults = find_invalid(bars, NOTHING_QUARANTINED, Timeframe.M1, AssetClass.STOCK).sort("day", "what")
    assert faults.schema == FAULT_SCHEMA
    assert faults.select("day", "what", "rows", "time").rows() == [
        (date(2024, 7, 1), "price_not_positive", 4, times[1]),
        (date(2024, 7, 1), "volume_negative", 1, times[0]),
        (date(2024, 7, 2), "price_not_positive", 5, times[5]),
    ]


def test_an_index_has_no_volume() -> None:
    times = minutes(MORNING)[:1]
    without = {"volume": None, "vwap": None, "transactions": None}
    for values, expected in ((without, []), ({**without, "volume": 0.0}, ["index_has_volume"])):
        faults = find_invalid(bars_of(times, **values), NOTHING_QUARANTINED, Timeframe.M1, AssetClass.INDEX)
        assert faults["what"].to_list() == expected


@given(
    broken=st.sets(st.integers(0, 59)),
    arrived=st.sets(st.integers(0, 59)),
    repeated=st.integers(1, 3),
    timeframe=st.sampled_from([Timeframe.M1, Timeframe.M15, Timeframe.H1, Timeframe.H4]),
)
def test_a_partition_is_lost_when_more_base_bars_broke_a_rule_than_are_left(
    broken: set[int], arrived: set[int], repeated: int, timeframe: Timeframe
) -> None:
    times = minutes(MORNING)
    base = bars_of([times[minute] for minute in sorted(arrived)])
    seconds = [timedelta(seconds=10 * time) for time in range(repeated)]
    rows = quarantined([times[minute] + late for minute in broken for late in seconds])
    faults = find_invalid(roll_up(base, timeframe, XNYS), rows, timeframe, AssetClass.STOCK)
    assert faults["what"].to_list() == ([LOST_TO_QUARANTINE] if len(broken) > len(arrived) else [])
    assert faults["rows"].to_list() == ([len(broken)] if len(broken) > len(arrived) else [])


def test_a_week_is_lost_on_its_sunday() -> None:
    days = [at(f"2024-07-0{day}T04:00") for day in (1, 2, 3)]
    faults = find_invalid(BAR_SCHEMA.to_frame(), quarantined(days), Timeframe.W1, AssetClass.STOCK)
    assert faults.select("day", "rows").rows() == [(date(2024, 6, 30), 3)]


@given(
    opened=st.sampled_from([Timeframe.M1, Timeframe.H4, Timeframe.D1, Timeframe.W1]),
    symbol=st.sampled_from(["AAPL", "BTC-USD"]),
    hours=st.sets(st.integers(-24 * 14, 24 * 21), min_size=1),
    first=st.integers(0, 11),
    length=st.integers(0, 11),
)
def test_a_base_row_belongs_to_the_partition_in_which_its_bar_opens(
    opened: Timeframe, symbol: str, hours: set[int], first: int, length: int
) -> None:
    calendar = calendar_of(CLASSES[symbol])
    span = days_window(calendar, FIRST + timedelta(days=first), FIRST + timedelta(days=first + length))
    rows = quarantined([span.start + timedelta(hours=hour) for hour in sorted(hours)], symbol=symbol)
    kept = select_buckets_within(rows, {Series(symbol, opened): span}, opened, calendar)
    days = [calendar.local_day(time) for time in rows["time"]]
    if opened is Timeframe.W1:
        days = [day - timedelta(days=day.isoweekday() % 7) for day in days]
    first_day, end = calendar.local_day(span.start), calendar.local_day(span.end)
    inside = [time for time, day in zip(rows["time"], days, strict=True) if first_day <= day < end]
    assert kept.equals(rows.filter(pl.col("time").is_in(inside)))


def test_bars_off_the_grid_are_faults_of_their_day() -> None:
    times = minutes(MORNING)
    bars = bars_of([*times, times[3] + timedelta(seconds=1)])
    [fault] = find_off_grid(bars, Timeframe.M1, XNYS).to_dicts()
    assert (fault["what"], fault["rows"], fault["day"]) == ("off_grid", 1, date(2024, 7, 2))
    assert find_off_grid(BAR_SCHEMA.to_frame(), Timeframe.M1, XNYS).is_empty()


def test_outliers_before_the_window_are_only_context_and_broken_bars_are_ignored() -> None:
    times = minutes(window("2024-07-02T12:00", "2024-07-02T15:00"))
    price = pl.when(pl.col("time") == times[90]).then(150.0).otherwise(100.0)
    prices = dict.fromkeys(("open", "high", "low", "close"), price)
    bars = bars_of(times).with_columns(**prices)
    everything = {AAPL: window("2024-07-02T12:00", "2024-07-02T15:00")}
    [fault] = find_outlying(bars, everything, Timeframe.M1, AssetClass.CRYPTO).to_dicts()
    assert (fault["what"], fault["rows"]) == ("jump", 2)  # there and back
    assert fault["time"] in times[90:92]
    assert " % from the close before" in fault["example"]
    shares = find_outlying(bars, everything, Timeframe.M1, AssetClass.STOCK)
    assert shares["what"].to_list() == ["split_like"]
    after = {AAPL: window("2024-07-02T13:32", "2024-07-02T15:00")}
    assert find_outlying(bars, after, Timeframe.M1, AssetClass.CRYPTO).is_empty()
    broken = bars.with_columns(low=pl.when(pl.col("time") == times[90]).then(0.0).otherwise("low"))
    assert find_outlying(broken, everything, Timeframe.M1, AssetClass.CRYPTO).is_empty()


def slots_of(series: Series, first: date = FIRST, last: date = LAST) -> Slots:
    calendar = calendar_of(CLASSES[series.symbol])
    return expected_slots(series.timeframe, days_window(calendar, first, last), calendar, LATER)


@st.composite
def holes(draw: st.DrawFn) -> tuple[Series, set[int]]:
    timeframe = draw(st.sampled_from([Timeframe.M15, Timeframe.H1, Timeframe.H4, Timeframe.D1, Timeframe.W1]))
    series = Series(draw(st.sampled_from(sorted(CLASSES))), timeframe)
    count = len(slots_of(series))
    runs = draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(1, count)), max_size=5))
    return series, {index for start, size in runs for index in range(start, min(start + size, count))}


@given(hole=holes(), ends=st.tuples(st.integers(0, 11), st.integers(0, 11)))
def test_a_gap_is_a_fault_of_each_day_by_the_bars_that_it_lacks(
    hole: tuple[Series, set[int]], ends: tuple[int, int]
) -> None:
    series, missing = hole
    slots = slots_of(series)
    kept = [index for index in range(len(slots)) if index not in missing]
    found = find_gaps({series: StoredBars(slots.opens[kept], None)}, {series: slots})
    gaps = found.with_columns(
        state=pl.lit("unfilled"), attempts=2, failure=None, reason=pl.lit("an outage"), detected_at=None
    ).select(KNOWN_GAP_SCHEMA.names())
    first, last = (FIRST + timedelta(days=days) for days in sorted(ends))
    days = slots.days().to_list()
    expected = Counter(day for index in missing if first <= (day := days[index]) <= last)
    calendar = calendar_of(CLASSES[series.symbol])
    faults = find_gappy(gaps.cast(KNOWN_GAP_SCHEMA), {series: days_window(calendar, first, last)}, CLASSES)
    assert dict(faults.select("day", "rows").iter_rows()) == expected
    assert set(faults["what"]) <= {"unfilled"}
    assert faults.schema == FAULT_SCHEMA


def test_gaps_of_many_series_are_told_apart() -> None:
    bitcoin, apple, without = (
        Series("BTC-USD", Timeframe.D1),
        Series("AAPL", Timeframe.D1),
        Series("AAPL", Timeframe.H1),
    )
    empty = {member: slots_of(member) for member in (apple, bitcoin)}
    gaps = find_gaps({}, empty).with_columns(
        state=pl.lit("open"), attempts=0, failure=None, reason=pl.lit("known"), detected_at=None
    )
    spans = {
        member: days_window(calendar_of(CLASSES[member.symbol]), first, LAST)
        for member, first in ((apple, LAST), (without, FIRST), (bitcoin, LAST - timedelta(days=2)))
    }
    faults = find_gappy(gaps.select(KNOWN_GAP_SCHEMA.names()).cast(KNOWN_GAP_SCHEMA), spans, CLASSES)
    assert faults.select("symbol", "timeframe", "day").sort("symbol", "day").rows() == [
        ("AAPL", "1d", LAST),
        *(("BTC-USD", "1d", LAST - timedelta(days=days)) for days in (2, 1, 0)),
    ]


def test_rows_are_kept_within_the_window_of_their_own_series() -> None:
    other = Series("MSFT", Timeframe.M1)
    rows = pl.concat([bars_of(minutes(MORNING)), bars_of(minutes(MORNING), symbol="MSFT")])
    windows = {
        AAPL: window("2024-07-02T14:10", "2024-07-02T14:12"),
        other: window("2024-07-02T14:00", "2024-07-02T14:01"),
    }
    inside = select_within(rows, windows)
    assert inside.columns == rows.columns
    assert list(inside.select("symbol", "time").iter_rows()) == [
        ("AAPL", at("2024-07-02T14:10")),
        ("AAPL", at("2024-07-02T14:11")),
        ("MSFT", at("2024-07-02T14:00")),
    ]
