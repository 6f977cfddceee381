from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .client import Vendor


def rows(client: Vendor, path: str, **params: str) -> list[dict[str, Any]]:
    answer = client.get(path, params=params).json()
    found: list[dict[str, Any]] = list(answer["results"])
    while "next_url" in answer:
        answer = client.get(answer["next_url"]).json()
        found += answer["results"]
    return found


@pytest.mark.parametrize(
    ("path", "fixture"),
    [
        ("/stocks/v1/splits", "doc_stocks_v1_splits.json"),
        ("/v3/reference/splits", "v3_reference_splits_client_mock.json"),
        ("/v3/reference/dividends", "v3_reference_dividends_client_mock.json"),
        ("/stocks/v1/dividends", "doc_stocks_v1_dividends.json"),
    ],
)
def test_rows_have_the_recorded_fields(plain: Vendor, fixtures: Path, path: str, fixture: str) -> None:
    recorded = json.loads((fixtures / fixture).read_text())["results"][0]
    ours = plain.get(path, params={"ticker": "AAPL"}).json()["results"][0]
    # The vendor's cumulative dividend factor needs prices; a client computes its own.
    assert set(recorded) - {"historical_adjustment_factor"} <= set(ours)
    for name in set(recorded) & set(ours):
        kinds = (int, float) if isinstance(recorded[name], int | float) else type(recorded[name])
        assert isinstance(ours[name], kinds)


def test_apple_split_as_the_vendor_documents_it(plain: Vendor) -> None:
    [split] = rows(plain, "/stocks/v1/splits", ticker="AAPL", **{"execution_date.lt": "2014-01-01"})
    assert (split["execution_date"], split["split_from"], split["split_to"]) == ("2005-02-28", 1, 2)
    assert split["historical_adjustment_factor"] == 0.017857
    assert split["adjustment_type"] == "forward_split"


def test_pages_together_are_the_one_big_page_in_the_order_asked_for(plain: Vendor) -> None:
    whole = rows(plain, "/v3/reference/splits", limit="1000", sort="execution_date", order="asc")
    assert len(whole) > 10
    assert rows(plain, "/v3/reference/splits", limit="3", sort="execution_date", order="asc") == whole
    days = [row["execution_date"] for row in whole]
    assert days == sorted(days)
    newest = rows(plain, "/stocks/v1/splits", limit="4", sort="execution_date.desc")
    assert [row["execution_date"] for row in newest] == sorted(days, reverse=True)


def test_filters(plain: Vendor) -> None:
    reverse = rows(plain, "/v3/reference/splits", reverse_split="true")
    assert {row["ticker"] for row in reverse} == {"GE", "USO"}
    some = rows(
        plain, "/stocks/v1/splits", **{"ticker.any_of": "TSLA,NVDA", "execution_date.gte": "2022-01-01"}
    )
    assert {row["ticker"] for row in some} == {"TSLA", "NVDA"}
    assert rows(plain, "/v3/reference/splits", ticker="NOTHING") == []


def test_dividends_are_quarterly_and_end_today(plain: Vendor) -> None:
    paid = rows(
        plain, "/v3/reference/dividends", ticker="KO", limit="7", **{"ex_dividend_date.gte": "2024-01-01"}
    )
    days = [row["ex_dividend_date"] for row in paid]
    assert len(days) == 6  # four of 2024, two of 2025 up to its 30th of June
    assert all(row["cash_amount"] > 0 for row in paid)
    assert rows(plain, "/v3/reference/dividends", ticker="TSLA") == []


def test_duplicated_splits_can_be_asked_for(vendor: Callable[..., Vendor]) -> None:
    found = rows(vendor(duplicate_splits=True), "/v3/reference/splits", ticker="WMT")
    assert [row["execution_date"] for row in found] == ["2024-02-26"] * 2
    assert found[0]["id"] != found[1]["id"]


def test_earnings_are_refused_unless_the_plan_has_them(
    plain: Vendor, vendor: Callable[..., Vendor], fixtures: Path
) -> None:
    assert plain.get("/benzinga/v1/earnings").status_code == 403
    [recorded] = json.loads((fixtures / "doc_benzinga_v1_earnings.json").read_text())["results"]
    found = rows(vendor(earnings=True), "/benzinga/v1/earnings", **{"ticker.any_of": "AAPL,SPY"}, limit="7")
    assert {row["ticker"] for row in found} == {"AAPL"}  # funds report nothing
    assert len({row["benzinga_id"] for row in found}) == len(found) > 7
    reported = [row for row in found if row["date"] <= "2025-06-30"]
    assert all(set(recorded) <= set(row) for row in reported)
    assert not any("actual_eps" in row for row in found if row not in reported)
    assert 0 < len(reported) < len(found)


@pytest.mark.parametrize(("status", "said"), [(403, "NOT_AUTHORIZED"), (404, "NOT_FOUND")])
def test_a_path_can_be_refused_and_the_others_answer(
    vendor: Callable[..., Vendor], status: int, said: str
) -> None:
    client = vendor(refused={"/stocks/v1/splits": status})
    answer = client.get("/stocks/v1/splits")
    assert (answer.status_code, answer.json()["status"]) == (status, said)
    assert client.get("/v3/reference/splits").status_code == 200


@pytest.mark.parametrize(
    ("moment", "market", "early", "after"),
    [
        (datetime(2024, 3, 7, 10, tzinfo=UTC), "extended-hours", True, False),
        (datetime(2024, 3, 7, 15, tzinfo=UTC), "open", False, False),
        (datetime(2024, 3, 7, 22, tzinfo=UTC), "extended-hours", False, True),
        (datetime(2024, 3, 9, 15, tzinfo=UTC), "closed", False, False),
    ],
)
def test_market_status(
    vendor: Callable[..., Vendor],
    moment: datetime,
    market: str,
    early: bool,  # noqa: FBT001  # a column of the table above
    after: bool,  # noqa: FBT001  # as above
) -> None:
    status = vendor(now=lambda: moment).get("/v1/marketstatus/now").json()
    assert (status["market"], status["earlyHours"], status["afterHours"]) == (market, early, after)


def test_upcoming_holidays_and_half_days(vendor: Callable[..., Vendor], fixtures: Path) -> None:
    ours = vendor(now=lambda: datetime(2022, 4, 28, tzinfo=UTC)).get("/v1/marketstatus/upcoming").json()
    recorded = json.loads((fixtures / "v1_marketstatus_upcoming_client_mock.json").read_text())
    by_day = {(row["exchange"], row["date"]): row for row in ours}
    for row in recorded:
        assert by_day[row["exchange"], row["date"]] == row


@pytest.mark.parametrize("ticker", ["AAPL", "BACpL", "X:ETHBTC", "I:VIX", "ZZZZ"])
def test_the_directory_knows_every_ticker_that_is_traded(plain: Vendor, ticker: str) -> None:
    assert [row["ticker"] for row in rows(plain, "/v3/reference/tickers", ticker=ticker)] == [ticker]


@pytest.mark.parametrize("ticker", ["UNKNOWN", "BRK-B", "X:UNKNOWNUSD", "bacpl"])
def test_the_directory_has_no_row_of_a_ticker_that_is_not_traded(plain: Vendor, ticker: str) -> None:
    assert rows(plain, "/v3/reference/tickers", ticker=ticker) == []
