from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.bars import BAR_SCHEMA, UTC_TIME
from marketdata_assets.domain.outliers import LOOKBACK, MIN_JUMP, Outlier, flag_outliers
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets_tests.examples import examples
from marketdata_assets_tests.unit.frames import at

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

START = at("2024-01-01T00:00")
AGO = 80


def bars(
    closes: Sequence[float],
    timeframe: Timeframe = Timeframe.D1,
    *,
    volumes: Sequence[float | None] | None = None,
    symbol: str = "X",
) -> pl.DataFrame:
    """Bars that open where they close, one after the other."""
    count = len(closes)
    return pl.DataFrame(
        {
            "symbol": [symbol] * count,
            "timeframe": [timeframe.value] * count,
            "time": [START + index * timeframe.duration for index in range(count)],
            **{name: list(closes) for name in ("open", "high", "low", "close", "vwap")},
            "volume": list(volumes) if volumes is not None else [1000.0] * count,
            "transactions": [1] * count,
            "base_bars": [1] * count,
        },
        schema_overrides=BAR_SCHEMA,
    )


def quiet(count: int = AGO) -> list[float]:
    """Prices that move by half a percent, up and down."""
    return [100.0 * (1.005 if index % 2 else 1.0) for index in range(count)]


def flags(frame: pl.DataFrame, timeframe: Timeframe = Timeframe.D1, *, may_split: bool = True) -> list[str]:
    found = flag_outliers(frame, timeframe, may_split=pl.lit(may_split))
    return found.sort("time", "outlier")["outlier"].to_list()


def test_quiet_prices_raise_no_flag() -> None:
    assert flags(bars(quiet())) == []


@pytest.mark.parametrize("timeframe", Timeframe)
def test_a_jump_is_judged_by_the_timeframe(timeframe: Timeframe) -> None:
    for factor, expected in ((0.98, []), (1.02, ["jump"])):
        move = float(np.exp(MIN_JUMP[timeframe] * factor))
        closes = [*[100.0] * AGO, 100 * move]
        assert flags(bars(closes, timeframe), timeframe, may_split=False) == expected


def test_a_jump_is_judged_by_the_habits_of_its_series() -> None:
    calm = [*quiet(), 131.0]
    wild = [100.0 * (1.05 if index % 2 else 1.0) for index in range(AGO)] + [131.0]
    assert flags(bars(calm)) == ["jump"]
    assert flags(bars(wild)) == []


def test_without_habits_nothing_is_a_jump() -> None:
    assert flags(bars([100.0] * 5 + [1000.0])) == []


@pytest.mark.parametrize("ratio", [2, 3, 7, 4, 10, 0.1, 1.5, 20])
def test_a_split_is_listed_as_one_where_shares_can_be_split(ratio: float) -> None:
    closes = [*quiet(), 100.0 / ratio]
    assert flags(bars(closes)) == ["split_like"]
    assert flags(bars(closes), may_split=False) == ["jump"]


def test_a_jump_by_no_ratio_of_a_split_is_none() -> None:
    assert flags(bars([*quiet(), 100.0 / 1.9])) == ["jump"]
    # The open tells a split from a fall during the day.
    fell = bars([*quiet(), 50.0]).with_columns(
        open=pl.when(pl.col("close") == 50).then(95.0).otherwise("open"),
    )
    assert flags(fell.with_columns(high=pl.max_horizontal("open", "close"))) == ["jump"]


def test_a_range_of_more_than_500_percent() -> None:
    frame = bars(quiet())
    last = pl.col("time") == frame["time"][-1]
    assert flags(frame.with_columns(high=pl.when(last).then(pl.col("low") * 5.9).otherwise("high"))) == []
    wide = frame.with_columns(high=pl.when(last).then(pl.col("low") * 6.1).otherwise("high"))
    assert flags(wide) == ["range"]
    [found] = flag_outliers(wide, Timeframe.D1, may_split=pl.lit(value=True)).to_dicts()
    assert found["size"] == pytest.approx(5.1)


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        (9_900, []),
        (10_100, ["volume_high"]),
        (101, []),
        (99, ["volume_low"]),
        (0, ["volume_low"]),
        (None, []),
    ],
)
def test_volume_is_judged_by_days_and_weeks(volume: float | None, expected: list[str]) -> None:
    volumes = [*[1000.0] * (AGO - 1), volume]
    for timeframe in Timeframe:
        wanted = expected if timeframe in (Timeframe.D1, Timeframe.W1) else []
        assert flags(bars(quiet(), timeframe, volumes=volumes), timeframe) == wanted


def test_an_index_has_no_volume_to_judge() -> None:
    assert flags(bars(quiet(), volumes=[None] * AGO)) == []


def test_one_symbol_is_no_measure_for_another() -> None:
    assert flags(pl.concat([bars(quiet()), bars([price * 50 for price in quiet()], symbol="Y")])) == []


moves = st.lists(
    st.one_of(st.floats(-0.03, 0.03), st.sampled_from([0.5, -0.7, 1.9])), min_size=LOOKBACK + 1, max_size=150
)


@examples(40)
@given(moves=moves, factor=st.sampled_from([0.001, 7.0, 1e6]))
def test_flags_follow_the_moves_and_not_the_price(moves: list[float], factor: float) -> None:
    closes = 100 * np.exp(np.cumsum(moves))
    found = [
        flag_outliers(bars(list(prices)), Timeframe.D1, may_split=pl.lit(value=False)).drop("size", "score")
        for prices in (closes, closes * factor)
    ]
    assert found[0].equals(found[1])


def test_the_oldest_move_of_the_look_back_still_counts() -> None:
    # Half of the moves are large, so that the median lies between: without one of them it is 0.
    moves = [0.0, *([0.1, -0.1] * 15), *([0.0] * 30), 0.45]
    frame = bars(list(100 * np.exp(np.cumsum(moves))))
    assert frame.height == LOOKBACK + 1
    assert flags(frame, may_split=False) == []
    assert flags(frame.tail(LOOKBACK - 1), may_split=False) == ["jump"]


@examples(40)
@given(moves=moves)
def test_the_look_back_is_all_that_judging_needs(moves: list[float]) -> None:
    frame = bars(list(100 * np.exp(np.cumsum(moves))), volumes=[1000 + 5000 * abs(move) for move in moves])
    last = frame["time"][-1]
    whole, cut = (
        flag_outliers(part, Timeframe.D1, may_split=pl.lit(value=True)).filter(time=last)
        for part in (frame, frame.tail(LOOKBACK + 1))
    )
    assert whole.drop("score").equals(cut.drop("score"))


def test_the_real_splits_of_aapl_and_a_real_fall(realdata: Path) -> None:
    expected = json.loads((realdata / "expected" / "A05_aapl_splits.json").read_text())
    splits = [split["execution_date"] for split in expected["replay"]["splits"]]
    real = pl.read_parquet(realdata / "data" / "lean_aapl_1d.parquet").rename({"ts": "time"})
    frame = real.with_columns(pl.col("time").cast(UTC_TIME), symbol=pl.lit("AAPL")).sort("time")
    found = flag_outliers(frame, Timeframe.D1, may_split=pl.lit(value=True))
    local = pl.col("time").dt.convert_time_zone("America/New_York").dt.date().cast(pl.String)
    by_kind = {
        kind: found.filter(outlier=kind).select(local)["time"].to_list()
        for kind in (Outlier.SPLIT_LIKE, Outlier.JUMP, Outlier.RANGE)
    }
    assert by_kind == {
        Outlier.SPLIT_LIKE: splits,
        Outlier.JUMP: ["2000-09-29"],
        # one print far below the market in each
        Outlier.RANGE: ["2009-09-21", "2010-08-31", "2011-01-03"],
    }
    volume = found.filter(pl.col("outlier").str.starts_with("volume"))
    assert volume.height < frame.height / 250


def test_a_move_over_a_hole_in_history_says_nothing() -> None:
    frame = bars([*quiet(), 300.0, 301.0], Timeframe.H1)
    assert flags(frame, Timeframe.H1, may_split=False) == ["jump"]
    late = pl.col("close") >= 300
    apart = frame.with_columns(time=pl.when(late).then(pl.col("time") + timedelta(days=15)).otherwise("time"))
    assert flags(apart, Timeframe.H1, may_split=False) == []


def test_minutes_of_a_split_begin_at_the_old_price() -> None:
    first = bars([*quiet(), 100 / 7], Timeframe.M1)
    first = first.with_columns(open=pl.when(pl.col("close") < 20).then(100.0).otherwise("open"))
    first = first.with_columns(high=pl.max_horizontal("open", "close"))
    assert flags(first, Timeframe.M1) == ["range", "split_like"]
