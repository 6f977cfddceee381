from __future__ import annotations

import json
from datetime import date
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.adjust import (
    FACTOR_SCHEMA,
    SPLIT_SCHEMA,
    SplitError,
    adjust_for_splits,
    multiply,
    split_factors,
)
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.features.compute import compute_features
from marketdata_assets.domain.rollup import roll_up
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.slots import local_day
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets_tests.unit.frames import as_bars, at, vendor_bars

if TYPE_CHECKING:
    from decimal import Decimal
    from pathlib import Path

XNYS = calendar_of(AssetClass.STOCK)
LATER = date(2030, 1, 1)
AAPL, MSFT = Series("AAPL", Timeframe.M1), Series("MSFT", Timeframe.M1)


def splits(*rows: tuple[str, date | None, float | None, float | None]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SPLIT_SCHEMA, orient="row")


SEVEN = ("AAPL", date(2014, 6, 9), 1.0, 7.0)
FOUR = ("AAPL", date(2020, 8, 31), 1.0, 4.0)


def bars_at(*times: str, series: Series = AAPL) -> pl.DataFrame:
    return as_bars(vendor_bars([at(time) for time in times]), series)


def factors_of(bars: pl.DataFrame, known: pl.DataFrame, as_of: date = LATER) -> list[float]:
    adjusted = adjust_for_splits(bars, known, as_of, XNYS)
    return (adjusted["close"] / bars["close"]).round(12).to_list()


def test_a_split_applies_to_the_local_days_before_it() -> None:
    # The night of New York, not of Greenwich: 20:00 on Sunday, 00:00 on Monday, Eastern daylight time.
    bars = bars_at("2014-06-06T19:59", "2014-06-09T00:00", "2014-06-09T03:59", "2014-06-09T04:00")
    assert factors_of(bars, splits(SEVEN)) == pytest.approx([1 / 7, 1 / 7, 1 / 7, 1])


def test_only_splits_up_to_the_day_in_question_apply() -> None:
    bars = bars_at("2014-06-06T15:00", "2018-01-19T15:00", "2020-08-31T15:00")
    known = splits(SEVEN, FOUR)
    assert factors_of(bars, known, date(2020, 8, 30)) == pytest.approx([1 / 7, 1, 1])
    assert factors_of(bars, known, date(2020, 8, 31)) == pytest.approx([1 / 28, 1 / 4, 1])
    assert factors_of(bars, known, date(2014, 6, 8)) == [1, 1, 1]


def test_prices_shrink_volume_grows_and_the_rest_stays() -> None:
    bars = bars_at("2014-06-06T15:00")
    (before,), (after,) = (
        bars.to_dicts(),
        adjust_for_splits(bars, splits(SEVEN, FOUR), LATER, XNYS).to_dicts(),
    )
    for name in ("open", "high", "low", "close", "vwap"):
        assert after.pop(name) == pytest.approx(before.pop(name) / 28, rel=1e-15)
    assert after.pop("volume") == before.pop("volume") * 28
    assert after == before


def test_rows_columns_and_order_stay_whatever_the_order() -> None:
    bars = pl.concat(
        [
            bars_at("2021-01-04T15:00", "2014-06-06T15:00"),
            bars_at("2014-06-06T15:00", series=MSFT),
            bars_at("2014-06-05T15:00", series=Series("AAPL", Timeframe.M5)),
        ]
    )
    adjusted = adjust_for_splits(bars, splits(SEVEN), LATER, XNYS)
    assert adjusted.schema == bars.schema
    assert adjusted.select("symbol", "timeframe", "time").equals(bars.select("symbol", "timeframe", "time"))
    assert factors_of(bars, splits(SEVEN)) == pytest.approx([1, 1 / 7, 1, 1 / 7])


def test_an_index_has_no_volume_to_adjust() -> None:
    bars = bars_at("2014-06-06T15:00").with_columns(
        volume=pl.lit(None, pl.Float64), vwap=pl.lit(None, pl.Float64)
    )
    adjusted = adjust_for_splits(bars, splits(SEVEN), LATER, XNYS)
    assert (adjusted["volume"].item(), adjusted["vwap"].item()) == (None, None)


def test_a_split_that_the_vendor_repeats_counts_once() -> None:
    twice = splits(SEVEN, ("AAPL", date(2014, 6, 9), 2.0, 14.0), SEVEN)
    assert factors_of(bars_at("2014-06-06T15:00"), twice) == pytest.approx([1 / 7])


def test_two_ratios_on_one_day_are_refused() -> None:
    contradiction = splits(SEVEN, ("AAPL", date(2014, 6, 9), 1.0, 4.0))
    with pytest.raises(SplitError, match=r"AAPL has two splits on 2014-06-09, 1/7 and 1/4"):
        split_factors(contradiction, LATER, XNYS)


@pytest.mark.parametrize(
    "parts", [(0.0, 7.0), (1.0, 0.0), (-1.0, 7.0), (None, 7.0), (1.0, float("nan")), (1.0, float("inf"))]
)
def test_a_ratio_that_makes_no_sense_is_refused(parts: tuple[float | None, float | None]) -> None:
    # Even when it lies after the day in question: a table with such a row is not to be trusted.
    with pytest.raises(SplitError, match=r"AAPL on 2014-06-09 .* must be above 0"):
        split_factors(splits(("AAPL", date(2014, 6, 9), *parts)), date(2000, 1, 1), XNYS)


def test_a_split_without_a_date_is_refused() -> None:
    with pytest.raises(SplitError, match="no execution date"):
        split_factors(splits(("AAPL", None, 1.0, 7.0)), LATER, XNYS)


def test_week_bars_are_adjusted_by_way_of_their_days() -> None:
    # The split follows the Sunday on which the week opens, and comes before all of its sessions.
    days = as_bars(
        vendor_bars([at("2014-06-06T04:00"), at("2014-06-09T04:00"), at("2014-06-10T04:00")]),
        Series("AAPL", Timeframe.D1),
    )
    weeks = roll_up(days, Timeframe.W1, XNYS)
    with pytest.raises(ValueError, match="adjust the 1d bars and roll them up"):
        adjust_for_splits(weeks, splits(SEVEN), LATER, XNYS)
    adjusted = roll_up(adjust_for_splits(days, splits(SEVEN), LATER, XNYS), Timeframe.W1, XNYS)
    assert (adjusted["close"] / weeks["close"]).to_list() == pytest.approx([1 / 7, 1])


def test_no_splits_change_nothing() -> None:
    bars = bars_at("2014-06-06T15:00")
    assert adjust_for_splits(bars, splits(), LATER, XNYS).equals(bars)
    assert split_factors(splits(), LATER, XNYS).schema == FACTOR_SCHEMA


@given(
    st.lists(
        st.tuples(st.dates(date(2000, 1, 1), date(2020, 1, 1)), st.integers(1, 50), st.integers(1, 50)),
        max_size=8,
        unique_by=lambda row: row[0],
    ),
    st.dates(date(2000, 1, 1), date(2020, 1, 1)),
    st.dates(date(2000, 1, 1), date(2020, 1, 1)),
)
def test_the_factor_is_the_exact_product(rows: list[tuple[date, int, int]], day: date, as_of: date) -> None:
    known = splits(*(("AAPL", executed, float(before), float(after)) for executed, before, after in rows))
    exact = Fraction(1)
    for executed, before, after in rows:
        if day < executed <= as_of:
            exact *= Fraction(before, after)
    bar = pl.DataFrame({"symbol": ["AAPL"], "timeframe": ["1m"], "time": [XNYS.day_start(day)]}).with_columns(
        pl.lit(1.0).alias(name) for name in ("open", "high", "low", "close", "vwap", "volume")
    )
    (adjusted,) = adjust_for_splits(bar, known, as_of, XNYS).to_dicts()
    assert (adjusted["close"], adjusted["volume"]) == (float(exact), float(1 / exact))


def test_a_decimal_ratio_is_what_its_digits_say() -> None:
    rows = [("T", date(2022, month, 11), 1.0, 1.1) for month in (4, 5, 6)]
    spin_off = splits(*rows, ("T", date(2023, 4, 11), 1.331, 1.0))
    first = split_factors(spin_off, LATER, XNYS).row(0, named=True)
    assert (first["price_factor"], first["volume_factor"]) == (1.0, 1.0)


@pytest.fixture(scope="module")
def apple(realdata: Path) -> tuple[dict[str, Any], pl.DataFrame, pl.DataFrame]:
    """What is expected, the raw days and the splits of Apple."""
    known = json.loads((realdata / "expected" / "A05_aapl_splits.json").read_text("utf-8"))
    raw = pl.read_parquet(realdata / "data" / "lean_aapl_1d.parquet").rename({"ts": "time"})
    raw = raw.with_columns(
        pl.col("volume").cast(pl.Float64), timeframe=pl.lit("1d"), vwap=pl.lit(None, pl.Float64)
    )
    rows = [
        (
            "AAPL",
            date.fromisoformat(split["execution_date"]),
            float(split["split_from"]),
            float(split["split_to"]),
        )
        for split in known["replay"]["splits"]
    ]
    return known["expected"], raw, splits(*rows)


def on(frame: pl.DataFrame, day: str) -> dict[str, Any]:
    return frame.row(by_predicate=local_day(pl.col("time"), XNYS) == date.fromisoformat(day), named=True)


def test_apple_across_its_four_splits(apple: tuple[dict[str, Any], pl.DataFrame, pl.DataFrame]) -> None:
    expected, raw, known = apple
    adjusted = adjust_for_splits(raw, known, date(2021, 3, 31), XNYS)
    assert adjusted.height == expected["rows"]
    for day, values in expected["split_adjusted"].items():
        row = on(adjusted, day)
        assert row["volume"] == values["volume"]
        # Expected prices are printed with eight decimals.
        assert {name: row[name] for name in values} == pytest.approx(values, rel=1e-9, abs=5e-9)
    assert on(adjusted, "2014-06-06")["close"] == pytest.approx(23.05607143, abs=5e-9)

    in_2018 = adjust_for_splits(raw, known, date(2018, 1, 19), XNYS)
    for day, close in expected["split_adjusted_as_of_2018_01_19"].items():
        assert on(in_2018, day)["close"] == pytest.approx(close, abs=5e-9)


def test_features_of_apple_do_not_see_its_splits(
    apple: tuple[dict[str, Any], pl.DataFrame, pl.DataFrame],
) -> None:
    expected, raw, known = apple
    features = compute_features(adjust_for_splits(raw, known, date(2021, 3, 31), XNYS), XNYS)
    for day, value in expected["log_return_adjusted"].items():
        assert on(features, day)["log_return"] == pytest.approx(value, rel=1e-9)
    # A real fall by half, without a split: it stays.
    assert on(features, "2000-09-29")["simple_return"] == pytest.approx(-0.516, abs=5e-4)
    for day, values in expected["features_on_adjusted"].items():
        row = on(features, day)
        found = {"ATR14": row["atr_14"], "EMA20": row["ema_20"], "RSI14": row["rsi_14"]}
        assert found == pytest.approx(values, rel=1e-9)

    wrong = compute_features(raw, XNYS)
    for day, value in expected["log_return_raw_wrong"].items():
        assert on(wrong, day)["log_return"] == pytest.approx(value, rel=1e-9)


@given(
    st.lists(
        st.sampled_from(["2014-06-06", "2014-06-09", "2020-08-28", "2020-08-31", "2021-03-01"]),
        min_size=1,
        unique=True,
    ),
    st.sampled_from([date(2010, 1, 1), date(2014, 6, 9), date(2020, 8, 30), LATER]),
)
def test_a_series_alone_is_adjusted_as_it_is_among_others(days: list[str], as_of: date) -> None:
    """Alone, bars between two splits are multiplied by one factor; among others, each by its own."""
    alone = bars_at(*(f"{day}T15:00" for day in sorted(days)))
    others = bars_at("2013-01-02T15:00", "2022-01-03T15:00", series=MSFT)
    known = splits(SEVEN, FOUR, ("MSFT", date(2018, 1, 2), 3.0, 2.0))
    among = adjust_for_splits(pl.concat([alone, others]), known, as_of, XNYS).filter(symbol="AAPL")
    assert adjust_for_splits(alone, known, as_of, XNYS).equals(among)


@given(
    st.lists(st.decimals(0, 1_000_000, places=4), min_size=1, max_size=20),
    st.integers(1, 50),
    st.integers(1, 50),
)
def test_adjusted_prices_are_the_floats_nearest_to_the_quotient(
    prices: list[Decimal], before: int, after: int
) -> None:
    """So 1190.4 after a 5-for-1 split prints as 238.08, wherever it is printed."""
    ratio = Fraction(before, after)
    found = multiply(np.array([float(price) for price in prices]), ratio, 6)
    assert found.tolist() == [float(Fraction(price) * ratio) for price in prices]


def test_numbers_that_are_no_short_decimals_are_multiplied_as_they_are() -> None:
    odd = np.array([1 / 3, 1e300, 123.456789012, np.nan, 3e15])
    np.testing.assert_array_equal(multiply(odd, Fraction(1, 5), 6), odd * 0.2)


@pytest.mark.parametrize("days", [["2014-06-06"], ["2014-06-06", "2018-01-19", "2020-08-31"]])
def test_one_factor_or_several_give_the_same_short_prices(days: list[str]) -> None:
    bars = bars_at(*(f"{day}T15:00" for day in days)).with_columns(
        close=pl.lit(1190.4), volume=pl.lit(1234.0), vwap=pl.lit(None, pl.Float64)
    )
    adjusted = adjust_for_splits(bars, splits(("AAPL", date(2014, 6, 9), 1.0, 5.0), FOUR), LATER, XNYS)
    by_day = {"2014-06-06": (59.52, 24680.0), "2018-01-19": (297.6, 4936.0), "2020-08-31": (1190.4, 1234.0)}
    assert adjusted.select("close", "volume").rows() == [by_day[day] for day in days]
    assert adjusted["vwap"].null_count() == len(days)
    reverse = adjust_for_splits(bars, splits(("AAPL", date(2030, 1, 1), 10.0, 1.0)), LATER, XNYS)
    assert reverse["volume"].to_list() == [123.4] * len(days)
