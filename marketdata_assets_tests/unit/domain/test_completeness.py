from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.calendar import calendar_of, moment_of
from marketdata_assets.domain.completeness import (
    DAILY_COMPLETENESS_SCHEMA,
    Status,
    below_threshold,
    cell,
    counted_days,
    daily_completeness,
    due_days,
    ended_series,
    grid,
    sum_days,
    unchecked_days,
)
from marketdata_assets.domain.gaps import GAP_SCHEMA, find_gaps
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.slots import StoredBars, expected_by_series, expected_slots
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets_tests.unit.frames import at, days_window, window

AAPL, SPY, BITCOIN = (Series(symbol, Timeframe.H1) for symbol in ("AAPL", "SPY", "BTC-USD"))
CLASSES = {AAPL: AssetClass.STOCK, SPY: AssetClass.ETF, BITCOIN: AssetClass.CRYPTO}
# Tuesday, a half day, a holiday, a Friday and a weekend in New York.
SPAN = window("2024-07-02T00:00", "2024-07-08T00:00")
EXPECTED = expected_by_series(CLASSES, SPAN, at("2039-01-01T00:00"))
COUNTS = ("expected_bars", "present_bars", "no_trade_bars", "missing_bars", "completeness", "status")
NO_GAPS = GAP_SCHEMA.to_frame().with_columns(state=pl.lit("open"))


def bars(series: Series, *removed: int) -> dict[Series, StoredBars]:
    return {series: StoredBars(np.delete(EXPECTED[series].opens, removed), None)}


def gaps(stored: dict[Series, StoredBars], *states: str) -> pl.DataFrame:
    return find_gaps(stored, {series: EXPECTED[series] for series in stored}).with_columns(
        state=pl.Series(states)
    )


def of_apple(stored: dict[Series, StoredBars], known: pl.DataFrame) -> tuple[object, ...]:
    """The counts of AAPL, summed over the days of the span."""
    return sum_days(daily_completeness(stored, {AAPL: EXPECTED[AAPL]}, known), [AAPL]).select(COUNTS).row(0)


@pytest.mark.parametrize(
    ("removed", "states", "counts"),
    [
        ((), (), (18, 18, 0, 0, 1.0, "whole")),
        ((3,), ("open",), (18, 17, 0, 1, 17 / 18, "gaps")),
        ((3,), ("unfilled",), (18, 17, 0, 1, 17 / 18, "gaps")),
        ((3,), ("no_trades",), (18, 17, 1, 0, 1.0, "whole")),
        ((3, 4, 9), ("no_trades", "unfilled"), (18, 15, 2, 1, 17 / 18, "gaps")),
        (tuple(range(18)), ("unfilled",), (18, 0, 0, 18, 0.0, "empty")),
        (tuple(range(18)), ("no_trades",), (18, 0, 18, 0, 1.0, "whole")),
    ],
)
def test_present_explained_and_missing_bars_add_up(
    removed: tuple[int, ...], states: tuple[str, ...], counts: tuple[object, ...]
) -> None:
    stored = bars(AAPL, *removed)
    assert of_apple(stored, gaps(stored, *states)) == counts


def test_a_series_of_which_nothing_is_expected_has_no_day() -> None:
    unborn = EXPECTED[AAPL].within(at("2030-01-01T00:00"))
    assert daily_completeness({}, {AAPL: unborn}, NO_GAPS).is_empty()


def test_a_bar_that_is_there_is_present_whatever_a_gap_says() -> None:
    known = gaps(bars(AAPL, 3), "no_trades")
    assert of_apple(bars(AAPL), known) == (18, 18, 0, 0, 1.0, "whole")


def test_the_heatmap_has_a_row_a_day_with_a_slot() -> None:
    stored = bars(AAPL, 7, 8, 17) | bars(BITCOIN)
    known = gaps(bars(AAPL, 7, 8, 17), "no_trades", "open")
    table = daily_completeness(stored, {series: EXPECTED[series] for series in stored}, known)
    assert table.schema == DAILY_COMPLETENESS_SCHEMA
    assert table.filter(symbol="AAPL").select("day", *COUNTS).rows() == [
        (date(2024, 7, 2), 7, 7, 0, 0, 1.0, "whole"),
        (date(2024, 7, 3), 4, 2, 2, 0, 1.0, "whole"),
        (date(2024, 7, 5), 7, 6, 0, 1, 6 / 7, "gaps"),
    ]
    assert table.filter(symbol="BTC-USD")["expected_bars"].to_list() == [24] * 6


@given(
    st.sets(st.integers(0, 17)), st.lists(st.sampled_from(["open", "no_trades"]), min_size=18, max_size=18)
)
def test_days_add_up_to_the_series(removed: set[int], states: list[str]) -> None:
    stored = bars(AAPL, *removed)
    found = find_gaps(stored, {AAPL: EXPECTED[AAPL]})
    known = found.with_columns(state=pl.Series(states[: found.height], dtype=pl.String))
    explained = found.filter(known["state"] == "no_trades")["missing_bars"].sum()
    counts = (18, 18 - len(removed), explained, len(removed) - explained)
    assert of_apple(stored, known)[:4] == counts


SERIES = (AAPL, SPY, BITCOIN)
LOOKED = daily_completeness(bars(AAPL, 3) | bars(SPY), EXPECTED, NO_GAPS)
"""All of the span, of all the series: 3 days of AAPL and SPY, 6 of BTC-USD."""
SPAN_DAYS = [date(2024, 7, day) for day in range(2, 8)]


@given(
    st.sets(st.integers(0, LOOKED.height - 1)),
    st.lists(st.tuples(*[st.sampled_from(SPAN_DAYS)] * 2), min_size=3, max_size=3),
)
def test_what_was_not_scanned_is_what_is_expected_and_not_there(
    skipped: set[int], edges: list[tuple[date, date]]
) -> None:
    checked = LOOKED.with_row_index().filter(~pl.col("index").is_in(list(skipped))).drop("index")
    spans = dict(zip(SERIES, edges, strict=True))
    holes = unchecked_days(checked, spans, CLASSES)
    assert holes.schema == DAILY_COMPLETENESS_SCHEMA
    due = [
        row
        for row in LOOKED.with_row_index().select("index", "symbol", "day", "expected_bars").rows()
        if row[0] in skipped
        for first, last in [spans[next(series for series in SERIES if series.symbol == row[1])]]
        if first <= row[2] < last
    ]
    assert sorted(holes.select("symbol", "day", "expected_bars").rows()) == sorted(row[1:] for row in due)
    assert holes.equals(holes.sort("symbol", "timeframe", "day"))
    assert (holes["missing_bars"] == holes["expected_bars"]).all()
    assert set(holes["status"]) <= {Status.UNCHECKED}


def test_a_week_that_is_not_over_when_the_span_ends_is_not_due() -> None:
    weeks = Series("BTC-USD", Timeframe.W1)
    classes = {weeks: AssetClass.CRYPTO}
    spans = {weeks: (date(2024, 6, 30), date(2024, 7, 13))}
    holes = unchecked_days(DAILY_COMPLETENESS_SCHEMA.to_frame(), spans, classes)
    assert holes["day"].to_list() == [date(2024, 6, 30)]


@given(
    st.sampled_from(Timeframe),
    st.sampled_from([AssetClass.STOCK, AssetClass.CRYPTO]),
    st.tuples(*[st.integers(0, 60)] * 2).map(sorted),
    st.tuples(*[st.integers(0, 60)] * 2).map(sorted),
)
def test_a_series_with_a_bar_outside_its_scanned_days_is_not_whole(
    timeframe: Timeframe, asset_class: AssetClass, scanned: list[int], stored: list[int]
) -> None:
    series, calendar = Series("ANY", timeframe), calendar_of(asset_class)
    origin = date(2024, 5, 5)
    slots = expected_slots(
        timeframe,
        days_window(calendar, origin, origin + timedelta(days=69)),
        calendar,
        at("2039-01-01T00:00"),
    )
    days = slots.days()
    # Whole where it was scanned; bars from another stretch of days.
    first, last = (days[share * (len(days) - 1) // 60] for share in scanned)
    bars = [moment_of(int(slots.opens[share * (len(slots) - 1) // 60])) for share in stored]
    own = slots.within(calendar.day_start(first), calendar.day_window(last).end)
    daily = daily_completeness({series: StoredBars(own.opens, None)}, {series: own}, NO_GAPS)
    long_after = calendar.day_start(origin + timedelta(days=100))
    span = counted_days(timeframe, (first, last), (bars[0], bars[1]), calendar, long_after)
    holes = unchecked_days(daily, {series: span}, {series: asset_class})
    status = sum_days(pl.concat([daily, holes]), [series])["status"].item()
    bar_days = [calendar.local_day(bar) for bar in bars]
    assert (status == "whole") == (first <= bar_days[0] and bar_days[1] <= last)
    # Bars of today are not due yet, up to the last moment of the local day.
    on_last = calendar.day_window(last).end - timedelta(microseconds=1)
    assert counted_days(timeframe, (first, last), (bars[0], bars[1]), calendar, on_last)[1] == last
    assert counted_days(timeframe, (first, last), None, calendar, long_after) == (first, last)


def test_a_series_that_was_scanned_to_an_earlier_day_than_is_due_has_ended() -> None:
    minutes, days, weeks = (Series("AAPL", Timeframe(name)) for name in ("1m", "1d", "1w"))
    classes = dict.fromkeys((minutes, days, weeks), AssetClass.STOCK)
    # A Monday morning, after the daily run: Friday is due, and the week before.
    due = due_days(classes, at("2024-07-08T09:00"))
    assert due == {minutes: date(2024, 7, 5), days: date(2024, 7, 5), weeks: date(2024, 6, 30)}
    matrix = pl.DataFrame(
        {
            "symbol": ["AAPL", "AAPL", "AAPL", "SPY"],
            "timeframe": ["1m", "1d", "1w", "1m"],
            "last_scanned": [date(2024, 7, 3), date(2024, 7, 5), None, date(2020, 1, 2)],
        }
    )
    assert ended_series(matrix, due).rows() == [("AAPL", "1m", date(2024, 7, 3), date(2024, 7, 5))]
    assert cell(Status.WHOLE, 1.0, ended=True) == "✓…"


@given(st.sets(st.integers(0, LOOKED.height - 1)), st.permutations(SERIES))
def test_days_are_summed_by_series_in_their_order(skipped: set[int], wanted: list[Series]) -> None:
    daily = LOOKED.with_row_index().filter(~pl.col("index").is_in(list(skipped))).drop("index")
    table = sum_days(daily, wanted)
    assert table["symbol"].to_list() == [member.symbol for member in wanted]
    for row in table.rows(named=True):
        own = daily.filter(symbol=row["symbol"])
        assert row["expected_bars"] == own["expected_bars"].sum()
        assert row["missing_bars"] == own["missing_bars"].sum()
        if own.is_empty():
            assert (row["status"], row["completeness"]) == (Status.UNCHECKED, None)
        else:
            assert row["completeness"] == (row["present_bars"] + row["no_trade_bars"]) / row["expected_bars"]
            words = {0: Status.WHOLE, row["expected_bars"]: Status.EMPTY}
            assert row["status"] == words.get(row["missing_bars"], Status.GAPS)


@pytest.mark.parametrize(
    ("status", "share", "text"),
    [
        (Status.WHOLE, 1.0, "✓"),
        (Status.GAPS, 0.999999, "99.9%"),
        (Status.GAPS, 0.57, "57.0%"),
        (Status.GAPS, 0.05, "5.0%"),
        (Status.GAPS, 0.0009, "<0.1%"),
        (Status.EMPTY, 0.0, "✗"),
        (Status.NOTHING_EXPECTED, None, "\N{EN DASH}"),
        (Status.UNCHECKED, None, "?"),
        (Status.UNCHECKED, 0.0, "?"),
    ],
)
def test_a_status_in_a_few_characters(status: Status, share: float | None, text: str) -> None:
    assert cell(status, share) == text


@given(st.integers(2, 10**9), st.data())
def test_a_percentage_is_never_more_than_is_there(expected: int, data: st.DataObject) -> None:
    present = data.draw(st.integers(1, expected - 1))
    text = cell(Status.GAPS, present / expected)
    if text != "<0.1%":
        tenths = int(text.replace(".", "").removesuffix("%"))
        assert tenths * expected <= present * 1000 < (tenths + 1) * expected
        assert 0 < tenths < 1000
    else:
        assert present * 1000 < expected


def test_series_are_laid_out_by_symbol_and_timeframe() -> None:
    rows = [
        ("SPY", "1d", "whole", 1.0),
        ("SPY", "5m", "gaps", 0.5),
        ("BTC-USD", "1d", "unchecked", None),
    ]
    laid = grid(pl.DataFrame(rows, schema=["symbol", "timeframe", "status", "completeness"], orient="row"))
    assert laid.symbols == ("SPY", "BTC-USD")
    assert laid.timeframes == (Timeframe.M5, Timeframe.D1)
    assert laid.cells["SPY", Timeframe.M5] == (Status.GAPS, 0.5)
    assert laid.cells["BTC-USD", Timeframe.D1] == (Status.UNCHECKED, None)
    assert ("BTC-USD", Timeframe.M5) not in laid.cells


def test_below_the_threshold_comes_the_least_complete_first_and_what_was_never_scanned_does_not() -> None:
    shares = {"WHOLE": 1.0, "AT": 0.995, "NEARLY": 0.9949, "HALF": 0.5, "MORE": 0.5, "UNSEEN": None}
    matrix = pl.DataFrame(
        {
            "symbol": list(shares),
            "timeframe": ["1h"] * len(shares),
            "completeness": list(shares.values()),
            "missing_bars": [0, 5, 6, 10, 20, 0],
        }
    )
    assert below_threshold(matrix, 0.995)["symbol"].to_list() == ["MORE", "HALF", "NEARLY"]


def test_an_evening_in_new_york_is_still_the_local_day() -> None:
    calendar = calendar_of(AssetClass.STOCK)
    friday = date(2026, 11, 27)
    bar = calendar.day_start(friday)
    # 20:30 on Friday in New York: Saturday in UTC.
    span = counted_days(Timeframe.M1, (friday, friday), (bar, bar), calendar, at("2026-11-28T01:30"))
    assert span == (friday, friday)
