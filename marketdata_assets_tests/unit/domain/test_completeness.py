from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.completeness import (
    COMPLETENESS_SCHEMA,
    DAILY_COMPLETENESS_SCHEMA,
    Status,
    completeness,
    daily_completeness,
)
from marketdata_assets.domain.gaps import GAP_SCHEMA, find_gaps
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.slots import Held, expected_by_series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets_tests.unit.frames import at, window

AAPL, SPY, BITCOIN = (Series(symbol, Timeframe.H1) for symbol in ("AAPL", "SPY", "BTC-USD"))
CLASSES = {AAPL: AssetClass.STOCK, SPY: AssetClass.ETF, BITCOIN: AssetClass.CRYPTO}
# Tuesday, a half day, a holiday, a Friday and a weekend in New York.
SPAN = window("2024-07-02T00:00", "2024-07-08T00:00")
EXPECTED = expected_by_series(CLASSES, SPAN, at("2039-01-01T00:00"))
COUNTS = ("expected_bars", "present_bars", "no_trade_bars", "missing_bars", "completeness", "status")
NO_GAPS = GAP_SCHEMA.to_frame().with_columns(state=pl.lit("open"))


def bars(series: Series, *removed: int) -> dict[Series, Held]:
    return {series: Held(np.delete(EXPECTED[series].opens, removed), None)}


def gaps(held: dict[Series, Held], *states: str) -> pl.DataFrame:
    return find_gaps(held, {one: EXPECTED[one] for one in held}).with_columns(state=pl.Series(states))


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
    held = bars(AAPL, *removed)
    table = completeness(held, {AAPL: EXPECTED[AAPL]}, gaps(held, *states))
    assert table.schema == COMPLETENESS_SCHEMA
    assert table.select(COUNTS).row(0) == counts


def test_a_series_of_which_nothing_is_expected_has_no_completeness() -> None:
    unborn = EXPECTED[AAPL].within(at("2030-01-01T00:00"))
    [row] = completeness({}, {AAPL: unborn}, NO_GAPS).rows(named=True)
    assert (row["expected_bars"], row["completeness"], row["status"]) == (0, None, Status.NOTHING_EXPECTED)
    assert (row["first_bar"], row["last_bar"]) == (None, None)
    assert daily_completeness({}, {AAPL: unborn}, NO_GAPS).is_empty()


def test_the_first_and_last_bar_may_lie_outside_regular_hours() -> None:
    extended = pl.Series([at("2024-07-02T08:00"), at("2024-07-02T14:00"), at("2024-07-05T23:00")])
    held = {AAPL: Held(extended.to_physical().to_numpy(), None)}
    [row] = completeness(held, {AAPL: EXPECTED[AAPL]}, NO_GAPS).rows(named=True)
    assert (row["first_bar"], row["last_bar"]) == (extended[0], extended[2])
    assert row["present_bars"] == 1


def test_a_bar_that_is_there_is_present_whatever_a_gap_says() -> None:
    known = gaps(bars(AAPL, 3), "no_trades")
    assert completeness(bars(AAPL), {AAPL: EXPECTED[AAPL]}, known).select(COUNTS).row(0) == (
        18, 18, 0, 0, 1.0, "whole",
    )  # fmt: skip


def test_every_expected_series_has_a_row_in_their_order() -> None:
    table = completeness(bars(SPY), EXPECTED, NO_GAPS)
    assert table.select("symbol", "status").rows() == [
        ("AAPL", "empty"),
        ("SPY", "whole"),
        ("BTC-USD", "empty"),
    ]


def test_the_heatmap_has_a_row_a_day_with_a_slot() -> None:
    held = bars(AAPL, 7, 8, 17) | bars(BITCOIN)
    known = gaps(bars(AAPL, 7, 8, 17), "no_trades", "open")
    table = daily_completeness(held, {one: EXPECTED[one] for one in held}, known)
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
    held = bars(AAPL, *removed)
    found = find_gaps(held, {AAPL: EXPECTED[AAPL]})
    known = found.with_columns(state=pl.Series(states[: found.height], dtype=pl.String))
    whole = completeness(held, {AAPL: EXPECTED[AAPL]}, known)
    days = daily_completeness(held, {AAPL: EXPECTED[AAPL]}, known)
    assert days.select(pl.col(COUNTS[:4]).sum()).rows() == whole.select(COUNTS[:4]).rows()
    explained = found.filter(known["state"] == "no_trades")["missing_bars"].sum()
    assert whole["no_trade_bars"].item() == explained
