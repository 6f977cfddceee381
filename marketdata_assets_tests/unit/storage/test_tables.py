from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata_assets.domain.bars import BAR_SCHEMA, KEY
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.storage.tables import OHLCV, TABLES, FrameError
from marketdata_assets_tests.unit.frames import as_bars, at, minutes, vendor_bars, window

BARS = as_bars(
    vendor_bars(minutes(window("2024-07-02T14:00", "2024-07-02T14:10"))), Series("AAPL", Timeframe.M1)
)


def with_column(name: str, values: pl.Series) -> pl.DataFrame:
    return BARS.head(len(values)).with_columns(values.alias(name))


def test_a_frame_of_bars_is_sent_as_it_is() -> None:
    assert_frame_equal(OHLCV.conform(BARS), BARS)
    assert_frame_equal(OHLCV.conform(BARS.clear()), BARS.clear())


def test_columns_are_put_in_order_and_others_left_out() -> None:
    shuffled = BARS.select([*reversed(BARS.columns), pl.lit(1).alias("other")])
    assert_frame_equal(OHLCV.conform(shuffled), BARS)


def test_rows_are_sorted_by_key() -> None:
    others = [BARS.with_columns(symbol=pl.lit(name)) for name in ("MSFT", "AAPL")]
    hours = BARS.with_columns(timeframe=pl.lit("1h"))
    whole = pl.concat([*others, hours]).sample(fraction=1, shuffle=True, seed=1)
    conformed = OHLCV.conform(whole)
    assert conformed.height == whole.height
    assert conformed.select(KEY).rows() == sorted(whole.select(KEY).rows())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # Binary COPY would store the bits of an integer as a price.
        ("open", pl.Series([1, 2], dtype=pl.Int64)),
        ("volume", pl.Series([1, None], dtype=pl.Int32)),
        ("vwap", pl.Series([1.5, None], dtype=pl.Float32)),
        ("vwap", pl.Series([None, None])),
        ("base_bars", pl.Series([1, 390], dtype=pl.Int64)),
        ("transactions", pl.Series([1, 2], dtype=pl.UInt32)),
    ],
)
def test_numbers_of_another_width_are_cast(name: str, values: pl.Series) -> None:
    conformed = OHLCV.conform(with_column(name, values))
    assert conformed.schema == BAR_SCHEMA
    assert conformed[name].to_list() == values.to_list()


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([at("2024-07-02T14:00")], dtype=pl.Datetime("ms", "UTC")),
        pl.Series([at("2024-07-02T14:00")], dtype=pl.Datetime("ns", "UTC")),
        pl.Series([datetime(2024, 7, 2, 10, tzinfo=ZoneInfo("America/New_York"))]),
    ],
    ids=["milliseconds", "nanoseconds", "New York"],
)
def test_an_aware_time_keeps_its_moment(times: pl.Series) -> None:
    conformed = OHLCV.conform(with_column("time", times))
    assert conformed.schema == BAR_SCHEMA
    assert conformed["time"].to_list() == [datetime(2024, 7, 2, 14, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("open", pl.Series(["cheap"])),
        ("open", pl.Series(["1.5"])),
        ("open", pl.Series([True])),
        ("transactions", pl.Series([1.5])),
        ("transactions", pl.Series([2**63], dtype=pl.UInt64)),
        ("base_bars", pl.Series([2**31], dtype=pl.Int64)),
        ("symbol", pl.Series([7])),
        ("time", pl.Series([1_719_928_800_000])),  # milliseconds would become a day of 1970
        ("time", pl.Series([date(2024, 7, 2)])),
        ("time", pl.Series([datetime(2024, 7, 2, 14)])),  # noqa: DTZ001 - a naive time is what is refused
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.dtype),
)
def test_what_does_not_cast_without_loss_is_refused_by_column(name: str, values: pl.Series) -> None:
    with pytest.raises(FrameError, match=name) as caught:
        OHLCV.conform(with_column(name, values))
    assert "ohlcv" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert issubclass(FrameError, MarketDataError)


@pytest.mark.parametrize("name", KEY)
def test_a_null_in_the_key_is_refused(name: str) -> None:
    frame = BARS.with_columns(
        pl.when(pl.col("time") == BARS["time"][4]).then(None).otherwise(pl.col(name)).alias(name)
    )
    with pytest.raises(FrameError, match="null in its key"):
        OHLCV.conform(frame)


def test_two_rows_for_one_key_are_refused_wherever_they_stand() -> None:
    with pytest.raises(FrameError, match="two rows for one"):
        OHLCV.conform(pl.concat([BARS, BARS.head(1).with_columns(close=pl.lit(1.0))]))
    others = [BARS.with_columns(symbol=pl.lit("MSFT")), BARS.with_columns(timeframe=pl.lit("5m"))]
    assert OHLCV.conform(pl.concat([BARS, *others])).height == 3 * BARS.height
    of_one_time = pl.concat([one.head(1) for one in (BARS, *others)])
    assert OHLCV.conform(of_one_time).height == 3


def test_missing_columns_are_named() -> None:
    with pytest.raises(FrameError, match="lacks vwap, base_bars"):
        OHLCV.conform(BARS.drop("vwap", "base_bars"))


def test_columns_are_selected_by_name() -> None:
    assert OHLCV.selection(None) == OHLCV.columns == BAR_SCHEMA.names()
    assert OHLCV.selection(["close", "time"]) == ["close", "time"]
    with pytest.raises(FrameError, match="no column 'price'"):
        OHLCV.selection(["close", "price"])


def test_each_column_has_its_postgres_type() -> None:
    assert dict(OHLCV.column_types()) == {
        "symbol": "text",
        "timeframe": "text",
        "time": "timestamptz",
        **dict.fromkeys(("open", "high", "low", "close", "volume", "vwap"), "double precision"),
        "transactions": "bigint",
        "base_bars": "integer",
    }
    assert [*KEY, *OHLCV.values] == OHLCV.columns
    assert TABLES["ohlcv"] is OHLCV
