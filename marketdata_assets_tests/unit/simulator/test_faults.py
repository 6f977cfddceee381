from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.simulator import Fault, FaultKind, Variant, parse_fault

from .bars import bars, page

if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import Vendor

WINDOW = "SPY/range/1/minute/2024-03-07/2024-03-07"
PATH = f"/v2/aggs/ticker/{WINDOW}"
LOST = (datetime(2024, 3, 7, 15, tzinfo=UTC), datetime(2024, 3, 7, 17, tzinfo=UTC))


def one(vendor: Callable[..., Vendor], kind: FaultKind, **options: Any) -> Vendor:  # noqa: ANN401  # of Fault
    return vendor(faults=(Fault(kind=kind, **options),))


def test_every_request_fault_looks_as_it_should(vendor: Callable[..., Vendor]) -> None:
    limited = one(vendor, FaultKind.RATE_LIMIT, retry_after=3).get(PATH)
    assert (limited.status_code, limited.headers["Retry-After"]) == (429, "3")
    empty = one(vendor, FaultKind.RATE_LIMIT, body="").get(PATH)
    assert (empty.status_code, empty.text, "Retry-After" in empty.headers) == (429, "", False)
    failed = one(vendor, FaultKind.SERVER_ERROR, status=502).get(PATH)
    assert (failed.status_code, failed.text[:6]) == (502, "<html>")
    assert one(vendor, FaultKind.SERVER_ERROR, body="").get(PATH).text == ""
    page_of_html = one(vendor, FaultKind.NON_JSON).get(PATH)
    assert (page_of_html.status_code, page_of_html.text[:6]) == (200, "<html>")
    refused = one(vendor, FaultKind.NOT_AUTHORIZED).get(PATH)
    assert (refused.status_code, refused.json()["status"]) == (200, "NOT_AUTHORIZED")
    truncated = one(vendor, FaultKind.TRUNCATED_JSON).get(PATH)
    assert truncated.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        truncated.json()
    with pytest.raises(ConnectionResetError):
        one(vendor, FaultKind.RESET).get(PATH)


def test_a_rate_hits_its_share_and_a_retry_can_succeed(vendor: Callable[..., Vendor]) -> None:
    client = one(vendor, FaultKind.SERVER_ERROR, rate=0.3)
    statuses = [client.get("/v3/reference/splits").status_code for _ in range(300)]
    assert 0.2 < statuses.count(500) / 300 < 0.4
    assert statuses.count(200) + statuses.count(500) == 300
    again = one(vendor, FaultKind.SERVER_ERROR, rate=0.3)
    assert statuses == [again.get("/v3/reference/splits").status_code for _ in range(300)]


def test_skip_and_count_bound_a_fault(vendor: Callable[..., Vendor]) -> None:
    client = one(vendor, FaultKind.SERVER_ERROR, skip=1, count=2)
    assert [client.get(PATH).status_code for _ in range(5)] == [200, 500, 500, 200, 200]


def test_a_fault_can_be_bound_to_a_ticker_to_data_and_to_time(vendor: Callable[..., Vendor]) -> None:
    seconds = [0.0]
    fault = Fault(
        kind=FaultKind.SERVER_ERROR, ticker="SPY", start=LOST[0], end=LOST[1], active_from=10, active_until=20
    )
    client = vendor(faults=(fault,), monotonic=lambda: seconds[0])
    assert client.get(PATH).status_code == 200
    seconds[0] = 15.0
    assert client.get(PATH).status_code == 500
    assert client.get(PATH.replace("SPY", "QQQ")).status_code == 200
    assert client.get("/v2/aggs/ticker/SPY/range/1/minute/2024-03-08/2024-03-08").status_code == 200
    seconds[0] = 20.0
    assert client.get(PATH).status_code == 200


@pytest.mark.parametrize("returns_after", [2, None])
def test_lost_hours_come_back_or_do_not(vendor: Callable[..., Vendor], returns_after: int | None) -> None:
    start, end = LOST
    whole = bars(vendor(), WINDOW)
    client = one(
        vendor, FaultKind.LOST_HOURS, ticker="SPY", start=start, end=end, returns_after=returns_after
    )
    rest = [row for row in whole if not start.timestamp() <= row["t"] / 1000 < end.timestamp()]
    assert len(whole) - len(rest) == 120
    assert bars(client, "SPY/range/1/day/2024-03-07/2024-03-07") == bars(
        vendor(), "SPY/range/1/day/2024-03-07/2024-03-07"
    )
    assert bars(client, WINDOW) == rest
    assert page(client, WINDOW)["queryCount"] == len(rest)
    assert bars(client, WINDOW) == (rest if returns_after is None else whole)


def test_duplicated_bars_repeat_and_out_of_order_bars_swap(vendor: Callable[..., Vendor]) -> None:
    whole = bars(vendor(), WINDOW)
    twice = bars(one(vendor, FaultKind.DUPLICATED_BARS, rate=0.1), WINDOW)
    assert len(twice) > len(whole)
    assert [row for row, before in zip(twice[1:], twice, strict=False) if row != before] == whole[1:]
    swapped = bars(one(vendor, FaultKind.OUT_OF_ORDER_BARS, rate=0.1), WINDOW)
    assert swapped != whole
    assert sorted(swapped, key=lambda row: row["t"]) == whole


@pytest.mark.parametrize("variant", list(Variant))
def test_invalid_bars_break_the_rule_that_they_name(vendor: Callable[..., Vendor], variant: Variant) -> None:
    broken: Callable[[dict[str, Any]], bool] = {
        Variant.HIGH_BELOW_LOW: lambda row: row["h"] < row["l"],
        Variant.NEGATIVE_VOLUME: lambda row: row["v"] < 0,
        Variant.ZERO_PRICE: lambda row: row["l"] == 0,
        Variant.NULL_PRICE: lambda row: row["c"] is None,
        Variant.ABSENT_FIELD: lambda row: "c" not in row,
        Variant.OFF_GRID: lambda row: row["t"] % 60_000 != 0,
    }[variant]
    rows = bars(one(vendor, FaultKind.INVALID_BARS, rate=0.1, variant=variant), WINDOW)
    whole = bars(vendor(), WINDOW)
    changed = [row for row, good in zip(rows, whole, strict=True) if row != good]
    assert 0.05 < len(changed) / len(rows) < 0.15
    assert all(broken(row) for row in changed)


def test_invalid_bars_stay_within_their_window(vendor: Callable[..., Vendor]) -> None:
    rows = bars(one(vendor, FaultKind.INVALID_BARS, start=LOST[0], end=LOST[1]), WINDOW)
    changed = [row for row, good in zip(rows, bars(vendor(), WINDOW), strict=True) if row != good]
    assert len(changed) == 120


def test_a_history_cut_is_silent(vendor: Callable[..., Vendor]) -> None:
    rows = bars(one(vendor, FaultKind.HISTORY_CUT, start=LOST[0]), WINDOW)
    assert rows == [row for row in bars(vendor(), WINDOW) if row["t"] >= LOST[0].timestamp() * 1000]


def test_the_plan_can_be_replaced_over_http(vendor: Callable[..., Vendor]) -> None:
    client = vendor()
    plan = [{"kind": "server_error", "status": 503, "count": 1}]
    assert client.post("/_simulator/faults", json=plan).json() == {"faults": 1}
    assert [client.get(PATH).status_code for _ in range(2)] == [503, 200]
    log = client.get("/_simulator/requests").json()["requests"]
    assert [entry["faults"] for entry in log] == [["server_error"], []]
    refused = client.post("/_simulator/faults", json=[{"kind": "gremlin"}])
    assert refused.status_code == 400
    assert "gremlin" in refused.json()["error"]


def test_faults_are_read_from_text() -> None:
    assert parse_fault("server_error:rate=0.1,status=503") == Fault(
        kind=FaultKind.SERVER_ERROR, rate=0.1, status=503
    )
    text = "lost_hours:ticker=SPY,start=2024-03-07T15:00:00Z,end=2024-03-07T17:00:00Z,returns_after=2"
    assert parse_fault(text) == Fault(
        kind=FaultKind.LOST_HOURS, ticker="SPY", start=LOST[0], end=LOST[1], returns_after=2
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("gremlin", "gremlin"),
        ("server_error:speed=3", "speed"),
        ("server_error:rate=often", "rate"),
        ("server_error:rate=3", "between 0 and 1"),
        ("server_error:rate", "name=value"),
        ("lost_hours", "start and end"),
    ],
)
def test_a_wrong_fault_is_one_line_that_names_what_is_wrong(text: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        parse_fault(text)
    assert "\n" not in str(caught.value)
