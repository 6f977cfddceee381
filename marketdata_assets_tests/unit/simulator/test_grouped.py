"""Days of whole markets, as the vendor answers them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from marketdata_assets.domain.series import AssetClass
from marketdata_assets.simulator import Fault, FaultKind
from marketdata_assets.simulator.faults import Variant

if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import Vendor

STOCKS, CRYPTO = "us/market/stocks", "global/market/crypto"
DAY = date(2024, 7, 3)  # closes at 13:00


def days(vendor: Vendor, market: str = STOCKS, day: date = DAY, **params: str) -> dict[str, Any]:
    answer = vendor.get(f"/v2/aggs/grouped/locale/{market}/{day}", params)
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


def rows(vendor: Vendor, market: str = STOCKS, day: date = DAY, **params: str) -> dict[str, dict[str, Any]]:
    return {row["T"]: row for row in days(vendor, market, day, **params).get("results", [])}


def of_range(vendor: Vendor, ticker: str, day: date = DAY, **params: str) -> dict[str, Any]:
    body = vendor.get(f"/v2/aggs/ticker/{ticker}/range/1/day/{day}/{day}", params).json()
    [row] = body["results"]
    assert isinstance(row, dict)
    return row


def test_a_day_has_what_the_ranges_have_and_another_stamp(plain: Vendor) -> None:
    body = days(plain, adjusted="false")
    assert (body["adjusted"], body["status"]) == (False, "OK")
    assert body["queryCount"] == body["resultsCount"] == body["count"] == len(body["results"])
    assert "ticker" not in body
    found = rows(plain, adjusted="false")
    assert {"AAPL", "SPY", "BRK.B"} <= found.keys()
    assert not any(ticker.startswith(("X:", "I:")) for ticker in found)
    for ticker in ("AAPL", "SPY", "BRK.B"):
        alone = of_range(plain, ticker, adjusted="false")
        assert found[ticker] == {**alone, "T": ticker, "t": found[ticker]["t"]}
        # Stamped at 16:00 in New York, where the range has midnight.
        assert found[ticker]["t"] - alone["t"] == 16 * 3_600_000


def test_a_day_of_crypto_is_stamped_at_its_end(plain: Vendor) -> None:
    found = rows(plain, CRYPTO, adjusted="false")
    assert found.keys() > {"X:BTCUSD", "X:ETHUSD"}
    assert all(ticker.startswith("X:") for ticker in found)
    assert datetime.fromtimestamp(found["X:BTCUSD"]["t"] / 1000, UTC) == datetime(
        2024, 7, 3, 23, 59, 59, 999_000, tzinfo=UTC
    )


def test_prices_are_adjusted_unless_asked_otherwise(plain: Vendor) -> None:
    day = date(2024, 6, 6)  # before NVDA gave ten shares for one
    raw, adjusted = rows(plain, day=day, adjusted="false")["NVDA"], rows(plain, day=day)["NVDA"]
    assert days(plain, day=day)["adjusted"] is True
    assert adjusted["c"] == pytest.approx(raw["c"] / 10, abs=1e-4)
    assert adjusted["c"] == of_range(plain, "NVDA", day)["c"]


def test_otc_is_left_out_unless_asked_for(vendor: Callable[..., Vendor]) -> None:
    market = vendor(tickers=frozenset({"NSRGY", "ABCDE"}))
    assert "ABCDE" in rows(market)
    assert "NSRGY" not in rows(market)
    found = rows(market, include_otc="true")
    assert found["NSRGY"]["otc"] is True
    assert "otc" not in found["ABCDE"]


def test_thin_names_lack_fields_now_and_then(plain: Vendor) -> None:
    fields = [frozenset(rows(plain, day=DAY + timedelta(days=n)).get("DBB", {"none": 0})) for n in range(30)]
    traded = [own for own in fields if "none" not in own]
    assert {"T", "o", "h", "l", "c", "v", "t"} in traded
    assert any({"vw", "n"} <= own for own in traded)


@pytest.mark.parametrize("day", [date(2024, 7, 4), date(2024, 7, 6), date(2030, 1, 2)])
def test_a_day_without_trading_is_empty(plain: Vendor, day: date) -> None:
    body = days(plain, day=day)
    assert (body["resultsCount"], "results" in body, body["status"]) == (0, False, "OK")


def test_a_day_under_way_has_what_was_traded_so_far(vendor: Callable[..., Vendor]) -> None:
    clock = [datetime(2024, 7, 2, 15, tzinfo=UTC)]
    market = vendor(now=lambda: clock[0])
    morning = rows(market, day=date(2024, 7, 2))["AAPL"]
    clock[0] = datetime(2024, 7, 3, 2, tzinfo=UTC)
    evening = rows(market, day=date(2024, 7, 2))["AAPL"]
    assert morning["v"] < evening["v"]
    clock[0] = datetime(2024, 8, 1, tzinfo=UTC)
    assert rows(market, day=date(2024, 7, 2))["AAPL"] == evening


def test_any_ticker_trades_once_a_request_has_named_it(vendor: Callable[..., Vendor]) -> None:
    market = vendor(unknown=frozenset({"NOPE"}))
    assert "QQZX" not in rows(market)
    market.get("/v2/aggs/ticker/QQZX/range/1/day/2024-07-01/2024-07-01")
    market.get("/stocks/v1/splits", {"ticker.any_of": "QQZY,NOPE,x"})
    assert {"QQZX", "QQZY"} <= rows(market).keys()
    assert not {"NOPE", "x"} & rows(market).keys()


def test_faults_of_a_ticker_hit_its_bar_alone(vendor: Callable[..., Vendor]) -> None:
    start = datetime(2024, 7, 3, 4, tzinfo=UTC)
    lost = Fault(kind=FaultKind.LOST_HOURS, ticker="MSFT", start=start, end=start + timedelta(days=1))
    broken = Fault(kind=FaultKind.INVALID_BARS, ticker="AAPL", variant=Variant.ZERO_PRICE)
    absent = Fault(kind=FaultKind.SERVER_ERROR, ticker="SPY")
    found, whole = rows(vendor(faults=(lost, broken, absent))), rows(vendor())
    assert whole.keys() - found.keys() == {"MSFT", "SPY"}
    assert [ticker for ticker, row in found.items() if row != whole[ticker]] == ["AAPL"]
    assert found["AAPL"]["l"] == 0


def test_refusals(vendor: Callable[..., Vendor]) -> None:
    def status(market: Vendor, path: str) -> int:
        return market.get(f"/v2/aggs/grouped/locale/{path}").status_code

    assert status(vendor(), f"{STOCKS}/yesterday") == 400
    assert status(vendor(), f"us/market/bonds/{DAY}") == 400
    assert status(vendor(plan_history=timedelta(days=30)), f"{STOCKS}/{DAY}") == 403
    assert status(vendor(entitled=frozenset({AssetClass.CRYPTO})), f"{STOCKS}/{DAY}") == 403
