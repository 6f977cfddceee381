"""Keys, limits and what the plan includes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.series import AssetClass
from marketdata_assets.simulator.limiter import SlidingWindow

from .bars import bars, page

if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import Vendor

PATH = "/v2/aggs/ticker/SPY/range/1/day/2024-01-03/2024-01-05"


def test_only_issued_keys_are_let_in_by_header_or_url(vendor: Callable[..., Vendor]) -> None:
    client = vendor(api_keys=frozenset({"good"}))
    assert client.get(PATH, headers={"Authorization": "Bearer good"}).status_code == 200
    assert client.get(PATH, params={"apiKey": "good"}, headers={"Authorization": ""}).status_code == 200
    for headers in ({"Authorization": "Bearer bad"}, {"Authorization": ""}, {"Authorization": "Basic good"}):
        answer = client.get(PATH, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (401, "Unknown API Key")


def test_the_log_tells_keys_apart_without_holding_them(vendor: Callable[..., Vendor]) -> None:
    client = vendor()
    client.get(PATH, headers={"Authorization": "Bearer secret-one"})
    client.get(PATH, params={"apiKey": "secret-two", "limit": "7"}, headers={"Authorization": ""})
    answer = client.get("/_simulator/requests")
    assert "secret" not in answer.text
    first, second = answer.json()["requests"]
    assert first["key_id"] != second["key_id"]
    assert (first["key_in_url"], second["key_in_url"]) == (False, True)
    assert (first["path"], first["status"], first["base_bars"], first["bars"]) == (PATH, 200, 3, 3)
    assert second["params"] == {"limit": "7"}
    assert first["ticker"] == "SPY"
    client.post("/_simulator/reset")
    assert client.get("/_simulator/requests").json()["requests"] == []


@given(
    limit=st.integers(1, 5),
    arrivals=st.lists(st.floats(0, 200, allow_nan=False), min_size=1, max_size=60).map(sorted),
)
def test_no_sixty_seconds_hold_more_than_the_limit_and_none_is_refused_below_it(
    limit: int, arrivals: list[float]
) -> None:
    moment = 0.0
    window = SlidingWindow(limit, lambda: moment)
    admitted: list[float] = []
    for moment in arrivals:  # the limiter's clock reads it
        recent = sum(moment - 60 < earlier for earlier in admitted)
        assert window.admit("key") == (recent < limit)
        if recent < limit:
            admitted.append(moment)


def test_each_key_has_its_own_limit(vendor: Callable[..., Vendor]) -> None:
    seconds = [0.0]
    client = vendor(requests_per_minute=2, monotonic=lambda: seconds[0])

    def status(key: str) -> int:
        return client.get(PATH, headers={"Authorization": f"Bearer {key}"}).status_code

    assert [status("a"), status("a"), status("a"), status("b")] == [200, 200, 429, 200]
    seconds[0] = 59.9
    assert status("a") == 429
    seconds[0] = 60.0
    assert status("a") == 200


@pytest.mark.parametrize("retry_after", [None, 12])
def test_retry_after_is_sent_only_when_asked_for(
    vendor: Callable[..., Vendor], retry_after: int | None
) -> None:
    client = vendor(requests_per_minute=1, retry_after=retry_after)
    client.get(PATH)
    answer = client.get(PATH)
    assert answer.headers.get("Retry-After") == (None if retry_after is None else "12")
    assert not [name for name in client.get(PATH).headers if "ratelimit" in name]


def test_history_beyond_the_plan_is_cut_silently_or_refused(vendor: Callable[..., Vendor]) -> None:
    now = datetime(2024, 3, 8, 22, tzinfo=UTC)
    client = vendor(now=lambda: now, plan_history=timedelta(days=3))
    straddling = bars(client, "SPY/range/1/day/2024-02-01/2024-03-08")
    assert [datetime.fromtimestamp(row["t"] / 1000, UTC).day for row in straddling] == [6, 7, 8]
    refused = client.get("/v2/aggs/ticker/SPY/range/1/day/2024-02-01/2024-02-08")
    assert (refused.status_code, refused.json()["status"]) == (403, "NOT_AUTHORIZED")


def test_asset_classes_outside_the_plan_are_refused(vendor: Callable[..., Vendor]) -> None:
    client = vendor(entitled=frozenset({AssetClass.STOCK}))
    assert client.get(PATH).status_code == 200
    refused = client.get("/v2/aggs/ticker/X:BTCUSD/range/1/day/2024-01-03/2024-01-05")
    assert (refused.status_code, refused.json()["status"]) == (403, "NOT_AUTHORIZED")


def test_a_delayed_plan_says_so_and_hides_a_quarter_of_an_hour(vendor: Callable[..., Vendor]) -> None:
    now = datetime(2024, 3, 7, 15, 30, tzinfo=UTC)
    answer = page(vendor(now=lambda: now, delayed=True), "SPY/range/1/minute/2024-03-07/2024-03-07")
    assert answer["status"] == "DELAYED"
    assert answer["results"][-1]["t"] == (int(now.timestamp()) - 900) * 1000
