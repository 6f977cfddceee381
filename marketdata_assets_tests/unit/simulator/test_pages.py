from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from .bars import bars, page, rolled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .client import Vendor

MINUTE = 60_000
HOUR = 60 * MINUTE


@pytest.mark.parametrize(
    ("multiplier", "timespan", "step"),
    [(5, "minute", 5 * MINUTE), (15, "minute", 15 * MINUTE), (1, "hour", HOUR), (4, "hour", 4 * HOUR)],
)
@pytest.mark.parametrize("ticker", ["SPY", "THIN", "X:ETHUSD"])
def test_intraday_bars_are_made_of_the_minutes_on_the_wire(
    plain: Vendor, ticker: str, multiplier: int, timespan: str, step: int
) -> None:
    # Two whole UTC days, so that no 4-hour bucket is cut by the window.
    window = "1709769600000/1709942399999"
    minutes = bars(plain, f"{ticker}/range/1/minute/{window}")
    vendor = bars(plain, f"{ticker}/range/{multiplier}/{timespan}/{window}")
    seen = [{**{name: row[name] for name in "tohlcn"}, "v": round(row["v"], 5)} for row in vendor]
    assert seen == rolled(minutes, step)


def test_vendor_four_hour_bars_keep_a_utc_phase(plain: Vendor) -> None:
    rows = bars(plain, "SPY/range/4/hour/2024-01-08/2024-01-12")
    assert {row["t"] // HOUR % 24 for row in rows} == {8, 12, 16, 20, 0}


def test_weeks_open_on_sunday_midnight_local_and_snap_outward(plain: Vendor) -> None:
    [week] = bars(plain, "SPY/range/1/week/2024-03-06/2024-03-06")
    days = bars(plain, "SPY/range/1/day/2024-03-03/2024-03-09")
    assert week["t"] == 1_709_442_000_000  # 2024-03-03 00:00 Eastern
    assert len(days) == 5
    assert (week["o"], week["c"]) == (days[0]["o"], days[-1]["c"])
    assert week["v"] == sum(day["v"] for day in days)
    [crypto] = bars(plain, "X:BTCUSD/range/1/week/2024-03-06/2024-03-06")
    assert crypto["t"] == 1_709_424_000_000  # 2024-03-03 00:00 UTC


@pytest.mark.parametrize(
    "path", ["SPY/range/1/minute", "SPY/range/1/hour", "SPY/range/4/hour", "X:BTCUSD/range/30/minute"]
)
@pytest.mark.parametrize("sort", ["asc", "desc"])
def test_pages_together_are_the_one_big_page(plain: Vendor, path: str, sort: str) -> None:
    whole = bars(plain, f"{path}/2024-03-07/2024-03-12", sort=sort)
    assert bars(plain, f"{path}/2024-03-07/2024-03-12", sort=sort, limit=777) == whole
    assert [row["t"] for row in whole] == sorted((row["t"] for row in whole), reverse=sort == "desc")


def test_a_limit_below_one_bar_still_comes_to_an_end(plain: Vendor) -> None:
    path = "SPY/range/1/hour/2024-03-07/2024-03-07"
    assert bars(plain, path, limit=7) == bars(plain, path)


def test_the_limit_counts_base_bars(plain: Vendor) -> None:
    window = "2024-03-04/2024-03-08"
    total = len(bars(plain, f"SPY/range/1/minute/{window}"))
    hours = page(plain, f"SPY/range/1/hour/{window}")
    assert (hours["queryCount"], hours["resultsCount"]) == (total, len(hours["results"]))
    assert hours["count"] == hours["resultsCount"] < total / 10
    assert "next_url" not in hours
    first = page(plain, f"SPY/range/1/hour/{window}", limit=1000)
    assert first["queryCount"] == 1000
    # The last hour is cut by the limit: it is left to the next page.
    assert first["results"] == hours["results"][: len(first["results"])]
    assert f"/{first['results'][-1]['t'] + HOUR}/" in first["next_url"]


def test_default_limit_is_5000_base_bars_and_more_than_50000_are_never_read(plain: Vendor) -> None:
    path = "/v2/aggs/ticker/SPY/range/1/minute/2024-01-02/2024-12-31"
    assert plain.get(path).json()["queryCount"] == 5000
    assert plain.get(path, params={"limit": "999999"}).json()["queryCount"] == 50_000


def test_next_url_carries_limit_and_sort_and_drops_adjusted(vendor: Callable[..., Vendor]) -> None:
    path = "AAPL/range/1/day/2020-08-03/2020-09-30"
    first = page(vendor(), path, limit=10)
    url, cursor = first["next_url"].split("?cursor=")
    assert base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)) == b"limit=10&sort=asc"
    assert url.endswith("/2020-09-30")
    # A client that forgets adjusted=false gets adjusted bars from page two on.
    assert vendor().get(first["next_url"]).json()["adjusted"] is True
    kept = page(vendor(next_url_keeps_adjusted=True), path, limit=10)
    assert vendor().get(kept["next_url"]).json()["adjusted"] is False
    foreign = page(vendor(foreign_next_url=True), path, limit=10)
    assert foreign["next_url"].startswith("https://api.polygon.io/v2/aggs/")
    assert "any" not in foreign["next_url"].split("?")[1]


def test_bars_are_adjusted_unless_told_otherwise(plain: Vendor) -> None:
    path = "/v2/aggs/ticker/AAPL/range/1/day/2020-08-28/2020-08-28"
    assert plain.get(path).json()["adjusted"] is True
    assert (
        plain.get(path).json()["results"] != plain.get(path, params={"adjusted": "false"}).json()["results"]
    )


def test_moments_are_inclusive_and_snap_to_the_unit(plain: Vendor) -> None:
    minute = 1_709_823_600_000  # 2024-03-07 15:00Z
    rows = bars(plain, f"SPY/range/1/minute/{minute + 30_000}/{minute + MINUTE}")
    assert [row["t"] for row in rows] == [minute, minute + MINUTE]


def test_dates_are_eastern_for_stocks_and_utc_for_crypto(plain: Vendor) -> None:
    [stock] = bars(plain, "SPY/range/1/day/2024-03-07/2024-03-07")
    [crypto] = bars(plain, "X:BTCUSD/range/1/day/2024-03-07/2024-03-07")
    assert stock["t"] - crypto["t"] == 5 * HOUR


def test_the_envelope_has_the_recorded_keys(plain: Vendor, fixtures: Path) -> None:
    recorded = json.loads((fixtures / "aggs_minute_AAPL_2023-07-31_limit10_next_url.json").read_text())
    ours = page(plain, "AAPL/range/1/minute/2023-07-31/2023-07-31", limit=10)
    assert list(ours) == list(recorded)
    assert list(ours["results"][0]) == list(recorded["results"][0])
    assert ours["next_url"].split("?")[1] == recorded["next_url"].split("?")[1]
    index = json.loads((fixtures / "doc_aggs_day_I-NDX.json").read_text())
    answer = page(plain, "I:NDX/range/1/day/2024-03-07/2024-03-08")
    assert set(answer) == set(index)
    assert set(answer["results"][0]) == set(index["results"][0])


@pytest.mark.parametrize(
    ("path", "status", "name"),
    [
        ("/v2/aggs/ticker/SPY/range/1/minute/2024-01-03/2024-01-02", 400, "before 'from'"),
        ("/v2/aggs/ticker/SPY/range/1/minute/2024-13-03/2024-01-02", 400, "'from'. Use YYYY-MM-DD"),
        ("/v2/aggs/ticker/SPY/range/1/minute/2024-01-03/soon", 400, "'to'. Use YYYY-MM-DD"),
        ("/v2/aggs/ticker/SPY/range/0/minute/2024-01-03/2024-01-03", 400, "multiplier"),
        ("/v2/aggs/ticker/SPY/range/1/fortnight/2024-01-03/2024-01-03", 400, "timespan"),
        ("/v2/aggs/ticker/SPY/range/1/day/2024-01-03/2024-01-03?limit=-1", 400, "limit"),
        ("/v2/aggs/ticker/SPY/range/1/day/2024-01-03/2024-01-03?cursor=%%%", 400, "cursor"),
        ("/v3/reference/splits?limit=1001", 400, "limit"),
        ("/v3/reference/splits?execution_date.gte=soon", 400, "execution_date"),
        ("/v3/reference/tickers/UNKNOWN", 404, "Ticker not found."),
        ("/benzinga/v1/earnings", 403, "not entitled"),
    ],
)
def test_refusals_are_worded_as_the_vendors(plain: Vendor, path: str, status: int, name: str) -> None:
    answer = plain.get(path)
    body = answer.json()
    assert answer.status_code == status
    assert name in body.get("error", body.get("message"))
    assert body["request_id"]


def test_known_refusals_match_the_recorded_bodies(vendor: Callable[..., Vendor], fixtures: Path) -> None:
    recorded = {
        entry["http_status"]: entry["body"] for entry in json.loads((fixtures / "errors.json").read_text())
    }
    client = vendor(requests_per_minute=1)
    path = "/v2/aggs/ticker/SPY/range/1/day/2024-01-03/2024-01-03"
    client.get(path)
    for answer in (
        client.get(path),
        client.get(path, headers={"Authorization": ""}),
        vendor().get("/v3/reference/tickers/UNKNOWN"),
    ):
        expected = recorded[answer.status_code]
        assert {**answer.json(), "request_id": ""} == {**expected, "request_id": ""}


@pytest.mark.parametrize("style", ["absent", "list"])
def test_no_data_comes_in_both_shapes(vendor: Callable[..., Vendor], style: str) -> None:
    answer = page(vendor(empty_results=style), "SPY/range/1/day/2024-01-06/2024-01-07")
    assert answer["resultsCount"] == answer["queryCount"] == 0
    assert answer.get("results") == (None if style == "absent" else [])


def test_every_timeframe_of_one_base_costs_the_same_pages(plain: Vendor) -> None:
    pages = {}
    for grid in ("1/minute", "5/minute", "1/hour", "4/hour"):
        current: dict[str, Any] = page(plain, f"SPY/range/{grid}/2024-03-01/2024-03-28", limit=5000)
        pages[grid] = 1
        while "next_url" in current:
            current = plain.get(current["next_url"] + "&adjusted=false").json()
            pages[grid] += 1
    assert len(set(pages.values())) == 1
    assert pages["1/minute"] == 4
