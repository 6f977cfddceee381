"""Conformance: the vendor's official clients read the simulator as they read the vendor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import massive
import polygon
import pytest

from marketdata_assets_tests.simulator import KEY, SimulatorHandle, running_simulator

Client = Callable[[SimulatorHandle], Any]


@pytest.fixture(scope="module", params=[False, True], ids=["own_next_url", "foreign_next_url"])
def vendor(request: pytest.FixtureRequest) -> Iterator[SimulatorHandle]:
    with running_simulator(foreign_next_url=request.param) as simulator:
        yield simulator


@pytest.fixture(params=[massive, polygon], ids=["massive", "polygon-api-client"])
def client(request: pytest.FixtureRequest, vendor: SimulatorHandle) -> Any:  # noqa: ANN401  # untyped libraries
    vendor.reset()
    return request.param.RESTClient(api_key=KEY, base=vendor.url, retries=0)


def test_aggregates_over_several_pages(client: Any, vendor: SimulatorHandle) -> None:  # noqa: ANN401  # as above
    window = ("SPY", 1, "minute", "2024-03-04", "2024-03-08")
    paged = list(client.list_aggs(*window, sort="asc", limit=1000))
    assert len(vendor.requests) == -(-len(paged) // 1000) > 3
    assert all(record.status == 200 and not record.key_in_url for record in vendor.requests)
    assert paged == client.get_aggs(*window, sort="asc", limit=50_000)
    times = [bar.timestamp for bar in paged]
    assert times == sorted(set(times))
    assert all(bar.low <= bar.open <= bar.high and bar.volume > 0 and bar.transactions > 0 for bar in paged)


def test_hours_over_several_pages(client: Any, vendor: SimulatorHandle) -> None:  # noqa: ANN401  # as above
    paged = list(client.list_aggs("X:BTCUSD", 1, "hour", "2024-03-04", "2024-03-08", limit=1000))
    assert len(paged) == 5 * 24
    assert len(vendor.requests) > 5


def test_a_client_that_forgets_adjusted_gets_adjusted_bars_from_page_two(
    client: Any,  # noqa: ANN401  # as above
    vendor: SimulatorHandle,
) -> None:
    paged = list(client.list_aggs("AAPL", 1, "day", "2020-08-03", "2020-08-28", adjusted=False, limit=10))
    assert len(vendor.requests) == 2
    assert paged[9].close / paged[10].close == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize(
    ("where", "ticker", "moved"),
    [
        ({}, "SPY", 16 * 3_600_000),
        ({"locale": "global", "market_type": "crypto"}, "X:BTCUSD", 24 * 3_600_000 - 1),
    ],
)
def test_whole_days_of_a_market(client: Any, where: dict[str, str], ticker: str, moved: int) -> None:  # noqa: ANN401  # as above
    bars = {bar.ticker: bar for bar in client.get_grouped_daily_aggs("2024-03-06", adjusted=False, **where)}
    [alone] = client.get_aggs(ticker, 1, "day", "2024-03-06", "2024-03-06", adjusted=False)
    assert bars[ticker].timestamp == alone.timestamp + moved
    assert (bars[ticker].close, bars[ticker].volume) == (alone.close, alone.volume)


def test_splits_over_several_pages(client: Any, vendor: SimulatorHandle) -> None:  # noqa: ANN401  # as above
    splits = list(client.list_splits(execution_date_gte="2014-01-01", sort="execution_date", order="asc"))
    assert len(vendor.requests) == 2
    apple = [
        (split.execution_date, split.split_from, split.split_to) for split in splits if split.ticker == "AAPL"
    ]
    assert apple == [("2014-06-09", 1, 7), ("2020-08-31", 1, 4)]


def test_dividends_over_several_pages(client: Any, vendor: SimulatorHandle) -> None:  # noqa: ANN401  # as above
    dividends = list(
        client.list_dividends("KO", ex_dividend_date_gte="2020-01-01", ex_dividend_date_lt="2024-01-01")
    )
    assert len(dividends) == 16
    assert len(vendor.requests) == 2
    assert {dividend.dividend_type for dividend in dividends} == {"CD"}


def test_the_current_endpoints_over_several_pages(vendor: SimulatorHandle) -> None:
    client = massive.RESTClient(api_key=KEY, base=vendor.url, retries=0)
    vendor.reset()
    splits = list(client.list_stocks_splits(ticker="AAPL", sort="execution_date.desc", limit=2))
    assert [split.execution_date for split in splits] == ["2020-08-31", "2014-06-09", "2005-02-28"]
    assert splits[-1].historical_adjustment_factor == 0.017857
    dividends = list(client.list_stocks_dividends(ticker="KO", ex_dividend_date_gte="2024-01-01", limit=2))
    assert dividends[0].split_adjusted_cash_amount == dividends[0].cash_amount
    assert len(vendor.requests) > 4


def test_reference_tickers_and_market_status(client: Any) -> None:  # noqa: ANN401  # as above
    names = [ticker.ticker for ticker in client.list_tickers(market="stocks", limit=10)]
    assert names == sorted(names)
    assert "AAPL" in names
    assert client.get_ticker_details("AAPL").ticker == "AAPL"
    assert client.get_market_status().market in ("open", "closed", "extended-hours")
    assert client.get_market_holidays()


@pytest.mark.parametrize("library", [massive, polygon], ids=["massive", "polygon-api-client"])
def test_refusals_reach_the_client(library: Any, vendor: SimulatorHandle) -> None:  # noqa: ANN401  # as above
    stranger = library.RESTClient(api_key="wrong", base=vendor.url, retries=0)
    with pytest.raises(library.exceptions.BadResponse, match="Unknown API Key"):
        stranger.get_aggs("SPY", 1, "day", "2024-03-04", "2024-03-08")
    client = library.RESTClient(api_key=KEY, base=vendor.url, retries=0)
    with pytest.raises(library.exceptions.BadResponse, match="NOT_FOUND"):
        client.get_ticker_details("UNKNOWN")
