from __future__ import annotations

import itertools
import math
import statistics
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.storage.symbols import packaged_universe
from marketdata_assets_tests.examples import examples

from .bars import bars, page

if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import Vendor

NEW_YORK = ZoneInfo("America/New_York")
MINUTE = 60_000
TICKERS = ("SPY", "AAPL", "THIN", "QWERT", "BRK.B", "X:BTCUSD", "X:SHIBUSD", "X:XTZUSD", "I:VIX")


def local(row: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(row["t"] / 1000, UTC).astimezone(NEW_YORK)


def regular(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if (9, 30) <= (local(row).hour, local(row).minute) < (16, 0)]


@examples(25)
@given(
    ticker=st.sampled_from(TICKERS),
    start=st.integers(0, 7 * 1440),
    length=st.integers(0, 3 * 1440),
    limit=st.integers(1, 3000),
)
def test_any_window_and_page_size_gives_the_same_bars(
    plain: Vendor, ticker: str, start: int, length: int, limit: int
) -> None:
    week = bars(plain, f"{ticker}/range/1/minute/2024-03-07/2024-03-18")
    first = 1_709_856_000_000 + start * MINUTE  # 2024-03-08 00:00Z; the clocks change on the 10th
    last = first + length * MINUTE
    expected = [row for row in week if first <= row["t"] <= last]
    # A small page over a long window would cost thousands of requests.
    size = max(limit, len(expected) // 8, 1)
    assert bars(plain, f"{ticker}/range/1/minute/{first}/{last}", limit=size) == expected


def test_the_same_seed_gives_the_same_bars_in_another_process_and_another_seed_does_not(
    vendor: Callable[..., Vendor],
) -> None:
    path = "AAPL/range/1/minute/2024-03-07/2024-03-07"
    first = bars(vendor(seed=7), path)
    assert first == bars(vendor(seed=7), path)
    assert first != bars(vendor(seed=8), path)


@pytest.mark.parametrize("ticker", TICKERS)
def test_bars_keep_the_rules_and_stand_on_the_grid(plain: Vendor, ticker: str) -> None:
    minutes = bars(plain, f"{ticker}/range/1/minute/2024-03-07/2024-03-12")
    days = bars(plain, f"{ticker}/range/1/day/2015-01-01/2025-06-27")
    assert minutes
    assert days
    for row in (*minutes, *days):
        assert 0 < row["l"] <= min(row["o"], row["c"])
        assert row["h"] >= max(row["o"], row["c"])
        assert row["t"] % MINUTE == 0
        assert row.get("v", 1) > 0
        assert row.get("n", 1) >= 1
    for rows in (minutes, days):
        times = [row["t"] for row in rows]
        assert times == sorted(set(times))


def test_an_index_has_no_volume_vwap_or_trades(plain: Vendor) -> None:
    row = bars(plain, "I:SPX/range/1/minute/2024-03-07/2024-03-07")[0]
    assert set(row) == {"o", "h", "l", "c", "t"}


def test_a_liquid_etf_trades_every_regular_minute_and_a_thin_one_a_fifth(plain: Vendor) -> None:
    window = "range/1/minute/2024-03-04/2024-03-15"
    minutes = 10 * 390
    assert len(regular(bars(plain, f"SPY/{window}"))) == minutes
    assert 0.15 < len(regular(bars(plain, f"THIN/{window}"))) / minutes < 0.25
    assert 0.9 < len(regular(bars(plain, f"QWERT/{window}"))) / minutes < 0.999


def test_extended_hours_are_sparse_and_end_at_20_00_eastern(plain: Vendor) -> None:
    rows = bars(plain, "SPY/range/1/minute/2024-03-04/2024-03-15")
    inside = {row["t"] for row in regular(rows)}
    outside = [row for row in rows if row["t"] not in inside]
    assert 0.3 < len(outside) / (10 * 570) < 0.95
    assert min(local(row).hour for row in outside) == 4
    assert max(local(row).hour for row in outside) == 19


def test_holidays_have_no_bars_and_half_days_end_at_one(plain: Vendor) -> None:
    rows = bars(plain, "SPY/range/1/minute/2024-11-27/2024-12-02")
    assert {local(row).date().isoformat() for row in rows} == {"2024-11-27", "2024-11-29", "2024-12-02"}
    half = [row for row in rows if local(row).day == 29]
    morning = [row for row in half if (9, 30) <= (local(row).hour, local(row).minute) < (13, 0)]
    assert len(morning) == 210
    assert all(local(row).hour < 17 for row in half)
    assert page(plain, "SPY/range/1/day/2024-11-28/2024-11-28")["resultsCount"] == 0


def test_crypto_trades_around_the_clock_on_utc_days_with_fractional_volume(plain: Vendor) -> None:
    minutes = bars(plain, "X:BTCUSD/range/1/minute/2024-03-09/2024-03-10")
    assert len(minutes) > 0.99 * 2880
    assert any(row["v"] % 1 for row in minutes)
    days = bars(plain, "X:BTCUSD/range/1/day/2024-03-09/2024-03-10")
    assert [row["t"] % 86_400_000 for row in days] == [0, 0]
    thin = bars(plain, "X:XTZUSD/range/1/minute/2024-03-09/2024-03-10")
    assert 0.1 < len(thin) / 2880 < 0.3


def test_stock_volume_is_whole_until_2025_and_fractional_in_2026(vendor: Callable[..., Vendor]) -> None:
    later = vendor(now=lambda: datetime(2026, 6, 1, tzinfo=UTC))
    before = bars(later, "AAPL/range/1/minute/2025-12-31/2025-12-31")
    after = bars(later, "AAPL/range/1/minute/2026-01-02/2026-01-02")
    assert all(isinstance(row["v"], int) for row in before)
    assert any(row["v"] % 1 for row in after)


@pytest.mark.parametrize("ticker", ["SPY", "X:BTCUSD"])
def test_a_day_bar_is_not_the_sum_of_its_minutes_but_agrees_with_their_prices(
    plain: Vendor, ticker: str
) -> None:
    for day in ("2024-03-07", "2024-03-08"):
        minutes = bars(plain, f"{ticker}/range/1/minute/{day}/{day}")
        [whole] = bars(plain, f"{ticker}/range/1/day/{day}/{day}")
        if ticker == "SPY":
            minutes = regular(minutes)
        assert sum(row["v"] for row in minutes) < 0.95 * whole["v"]
        assert max(row["h"] for row in minutes) == pytest.approx(whole["h"], rel=0.01)
        assert min(row["l"] for row in minutes) == pytest.approx(whole["l"], rel=0.01)
        assert minutes[-1]["c"] == pytest.approx(whole["c"], rel=0.002)


def test_prices_look_like_a_market(plain: Vendor) -> None:
    days = bars(plain, "SPY/range/1/day/2004-01-01/2024-12-31")
    returns = [math.log(b["c"] / a["c"]) for a, b in itertools.pairwise(days)]
    overnight = [math.log(b["o"] / a["c"]) for a, b in itertools.pairwise(days)]
    yearly = statistics.stdev(returns) * math.sqrt(252)
    assert 0.08 < yearly < 0.4
    assert statistics.stdev(overnight) > 0.001
    # Volatility clusters: the size of a move says something about the next one's, its sign does not.
    sizes = [abs(value) for value in returns]
    assert statistics.correlation(sizes[:-1], sizes[1:]) > 0.05
    assert abs(statistics.correlation(returns[:-1], returns[1:])) < 0.05
    # Fat tails: more than a normal distribution's 0.27 % beyond three deviations.
    far = 3 * statistics.stdev(returns)
    assert sum(size > far for size in sizes) / len(sizes) > 0.004


def test_volume_is_u_shaped(plain: Vendor) -> None:
    rows = regular(bars(plain, "SPY/range/1/minute/2024-03-04/2024-03-15"))

    def mean(first: tuple[int, int], last: tuple[int, int]) -> float:
        volumes = [row["v"] for row in rows if first <= (local(row).hour, local(row).minute) < last]
        return float(statistics.mean(volumes))

    assert mean((9, 30), (10, 0)) > 1.5 * mean((12, 0), (13, 0)) < mean((15, 30), (16, 0))


def test_vwap_is_sometimes_outside_the_bar(plain: Vendor) -> None:
    rows = bars(plain, "SPY/range/1/minute/2024-03-04/2024-03-28")
    outside = [row for row in rows if not row["l"] <= row["vw"] <= row["h"]]
    assert 0 < len(outside) < 0.01 * len(rows)


def test_a_split_jumps_in_raw_prices_and_vanishes_in_adjusted_ones(plain: Vendor) -> None:
    path = "AAPL/range/1/day/2020-08-28/2020-08-31"
    before, after = bars(plain, path)
    assert before["c"] / after["o"] == pytest.approx(4, rel=0.15)
    adjusted, same = bars(plain, path, adjusted="true")
    assert same == after
    assert adjusted["c"] == pytest.approx(before["c"] / 4, abs=1e-4)
    assert adjusted["v"] == pytest.approx(before["v"] * 4, rel=1e-9)


def test_a_split_that_has_not_happened_yet_adjusts_nothing(vendor: Callable[..., Vendor]) -> None:
    early = vendor(now=lambda: datetime(2020, 8, 20, tzinfo=UTC))
    path = "AAPL/range/1/day/2020-08-03/2020-08-14"
    assert bars(early, path, adjusted="true") == bars(early, path, adjusted="false")


def test_a_symbol_has_no_bars_before_it_was_listed(vendor: Callable[..., Vendor]) -> None:
    first = bars(vendor(), "COIN/range/1/day/2021-01-01/2021-05-01")[0]
    assert local(first).date().isoformat() == "2021-04-14"
    client = vendor(
        listed={"ABC": datetime(2024, 3, 5, tzinfo=UTC).date()},
        delisted={"ABC": datetime(2024, 3, 7, tzinfo=UTC).date()},
    )
    days = [local(row).day for row in bars(client, "ABC/range/1/day/2024-03-01/2024-03-31")]
    assert days == [5, 6, 7]


@pytest.mark.parametrize(
    "ticker",
    ["UNKNOWN", "UNKNOWNX", "spy", "C:EURUSD", "X:btcusd", "X:UNKNOWNUSD", "BTCUSD", "NOBODY", "A-B"],
)
def test_an_unknown_ticker_has_no_bars(vendor: Callable[..., Vendor], ticker: str) -> None:
    answer = page(vendor(unknown=frozenset({"NOBODY"})), f"{ticker}/range/1/minute/2024-03-07/2024-03-07")
    assert "results" not in answer
    assert answer["resultsCount"] == 0


def test_the_whole_packaged_universe_is_traded(vendor: Callable[..., Vendor]) -> None:
    client = vendor()
    for symbol in packaged_universe():
        answer = page(client, f"{symbol.vendor_ticker}/range/1/day/2024-03-07/2024-03-08")
        assert answer["resultsCount"] == 2, symbol


@pytest.mark.parametrize(
    ("cross", "coin", "dollars"),
    [("X:ETHBTC", "X:ETHUSD", 44_000), ("X:BTCEUR", "X:BTCUSD", 1.1), ("X:BTCBRL", "X:BTCUSD", 0.2)],
)
def test_a_pair_is_priced_in_its_quote(
    vendor: Callable[..., Vendor], cross: str, coin: str, dollars: float
) -> None:
    [anchor], [in_dollars] = (
        bars(vendor(), f"{ticker}/range/1/day/2024-01-02/2024-01-02") for ticker in (cross, coin)
    )
    assert anchor["c"] * dollars == pytest.approx(in_dollars["c"], rel=0.25)


def test_preferred_shares_are_other_instruments_than_their_capitals(vendor: Callable[..., Vendor]) -> None:
    preferred, other = (
        bars(vendor(), f"{ticker}/range/1/day/2024-03-04/2024-03-08") for ticker in ("BACpL", "BACPL")
    )
    assert [row["c"] for row in preferred] != [row["c"] for row in other]


def test_the_bar_in_progress_is_served_and_nothing_after_it(vendor: Callable[..., Vendor]) -> None:
    now = datetime(2024, 3, 7, 15, 30, 20, tzinfo=UTC)
    during, after = vendor(now=lambda: now), vendor()
    path = "SPY/range/1/minute/2024-03-07/2024-03-08"
    rows = bars(during, path)
    final = {row["t"]: row for row in bars(after, path)}
    assert rows[-1]["t"] == int(now.timestamp()) // 60 * MINUTE
    assert 0 < rows[-1]["v"] < final[rows[-1]["t"]]["v"]
    assert 0 < rows[-1]["n"] < final[rows[-1]["t"]]["n"]
    coin = bars(during, "X:XRPUSD/range/1/minute/2024-03-07/2024-03-07")[-1]
    assert coin["l"] <= coin["vw"] <= coin["h"]
    assert rows[:-1] == [final[row["t"]] for row in rows[:-1]]
    day = "SPY/range/1/day/2024-03-07/2024-03-08"
    [today] = bars(during, day)
    assert today["v"] < bars(after, day)[0]["v"]
