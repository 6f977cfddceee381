"""Whole days of a market: what is requested, and what becomes of the rows."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import httpx
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from marketdata_assets.domain.bars import VENDOR_SCHEMA, screen, screen_day
from marketdata_assets.domain.calendar import milliseconds
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.polygon.client import PolygonClient, RetryPolicy
from marketdata_assets.polygon.errors import AdjustedPageError, EndpointNotFoundError, VendorFailureError
from marketdata_assets.polygon.grouped import DAY_SCHEMA, DayRequest, Market, bars_of_day, stretches_of_days
from marketdata_assets.polygon.limiter import NoLimit
from marketdata_assets.polygon.parser import parse_day, parse_page
from marketdata_assets_tests.unit.frames import at

if TYPE_CHECKING:
    from marketdata_assets.polygon.client import FetchedPage

DAY = date(2020, 10, 14)
STAMP = 1602705600000  # 16:00 in New York on that day
ROW = {"T": "KIMpL", "c": 25.9, "h": 26.25, "l": 25.8, "n": 74, "o": 26, "t": STAMP, "v": 4369, "vw": 26.04}


def stocks(*symbols: str, day: date = DAY) -> DayRequest:
    return DayRequest(Market.STOCKS, day, symbols)


def page(*rows: object, **envelope: object) -> bytes:
    body = {"status": "OK", "queryCount": len(rows), "resultsCount": len(rows), "adjusted": False}
    return json.dumps({**body, "results": rows, **envelope}).encode()


def ask(request: DayRequest, *answers: httpx.Response) -> tuple[list[FetchedPage], list[httpx.Request]]:
    """The pages that a client gets when ``answers`` come, the last again and again, and what it requested."""
    waiting, requests = list(answers), []

    def handle(asked: httpx.Request) -> httpx.Response:
        requests.append(asked)
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return httpx.Response(answer.status_code, stream=httpx.ByteStream(answer.content))

    async def collect() -> list[FetchedPage]:
        async with PolygonClient(
            base_url="https://vendor.test",
            api_key=SecretStr("a-key"),
            limiter=NoLimit(),
            retry=RetryPolicy(2, first_wait_seconds=0),
            transport=httpx.MockTransport(handle),
        ) as client:
            return [one async for one in client.market_day(request)]

    return asyncio.run(collect()), requests


@pytest.mark.parametrize(
    ("market", "path", "query"),
    [
        (
            Market.STOCKS,
            "/v2/aggs/grouped/locale/us/market/stocks/2020-10-14",
            {"adjusted": "false", "include_otc": "true"},
        ),
        (
            Market.CRYPTO,
            "/v2/aggs/grouped/locale/global/market/crypto/2020-10-14",
            {"adjusted": "false"},
        ),
    ],
)
def test_a_day_is_requested_as_traded_and_with_otc(market: Market, path: str, query: dict[str, str]) -> None:
    [answer], [request] = ask(DayRequest(market, DAY, ("AAPL",)), httpx.Response(200, content=page(ROW)))
    assert request.url.path == path
    assert dict(request.url.params) == query
    assert (answer.record.symbol, answer.record.base, answer.record.bars) == (market, Timeframe.D1, 1)
    assert answer.is_last


def test_indices_have_no_days_of_a_market() -> None:
    assert [Market.of(one) for one in AssetClass] == [Market.STOCKS, Market.STOCKS, Market.CRYPTO, None]


@pytest.mark.parametrize(
    "bad",
    [
        page({**ROW, "T": None}),
        page({name: value for name, value in ROW.items() if name != "T"}),
        page(ROW, resultsCount=2),
        page(ROW)[:-20],
    ],
)
def test_a_page_that_contradicts_itself_is_requested_again(bad: bytes) -> None:
    good = httpx.Response(200, content=page(ROW))
    [answer], requests = ask(stocks("KIMpL"), httpx.Response(200, content=bad), good)
    assert (answer.frame["ticker"].to_list(), len(requests)) == (["KIMpL"], 2)
    with pytest.raises(
        VendorFailureError, match=r"^stocks 2020-10-14T04:00Z\.\.2020-10-15T04:00Z: no usable"
    ):
        ask(stocks("KIMpL"), httpx.Response(200, content=bad))


def test_an_adjusted_day_is_refused() -> None:
    with pytest.raises(AdjustedPageError):
        ask(stocks("KIMpL"), httpx.Response(200, content=page(ROW, adjusted=True)))


def test_a_vendor_without_the_endpoint_is_not_asked_again() -> None:
    with pytest.raises(EndpointNotFoundError, match="does not offer it there"):
        ask(stocks("KIMpL"), httpx.Response(404, content=b""))


def test_rows_of_the_symbols_alone_are_kept_with_their_places() -> None:
    rows = [
        {**ROW, "T": "KIMPL"},
        {**ROW, "T": "\x00HTLP^"},
        ROW,
        {**ROW, "T": "NSRGY", "otc": True},
        {name: value for name, value in ROW.items() if name not in ("vw", "n")} | {"T": "THIN"},
    ]
    bars = bars_of_day(parse_day(page(*rows)).frame, stocks("THIN", "NSRGY", "KIMpL", "ABSENT"))
    assert bars.schema == DAY_SCHEMA
    assert bars.select("symbol", "row", "vwap", "transactions").rows() == [
        ("KIMpL", 2, 26.04, 74),
        ("NSRGY", 3, 26.04, 74),
        ("THIN", 4, None, None),
    ]


def test_a_pair_is_found_by_its_ticker() -> None:
    day = DayRequest(Market.CRYPTO, date(2020, 2, 2), ("BTC-USD", "ARDR-USD"))
    row = {**ROW, "T": "X:ARDRUSD", "t": 1580676480000}  # documented: 20:48 of the day
    bars = bars_of_day(parse_day(page(row)).frame, day)
    assert bars.select("symbol", "time").rows() == [("ARDR-USD", datetime(2020, 2, 2, tzinfo=UTC))]


def test_recorded_bars_of_both_endpoints_are_stamped_alike() -> None:
    """TTMI on 2023-01-09: 16:00 in New York by the grouped endpoint, midnight by the range endpoint."""
    row = {
        "T": "TTMI",
        "v": 394280,
        "vw": 16.1078,
        "o": 15.96,
        "c": 16.08,
        "h": 16.335,
        "l": 15.96,
        "n": 5416,
    }
    page_of_day = page({**row, "t": 1673298000000})
    [opened] = bars_of_day(parse_day(page_of_day).frame, stocks("TTMI", day=date(2023, 1, 9)))["time"]
    assert milliseconds(opened) == 1673240400000


@given(
    market=st.sampled_from(Market),
    day=st.dates(date(2003, 9, 10), date(2026, 11, 27)),
    share=st.floats(0, 1),
)
def test_any_time_of_the_day_becomes_its_open(market: Market, day: date, share: float) -> None:
    request = DayRequest(market, day, ("BTC-USD" if market is Market.CRYPTO else "AAPL",))
    window = request.window
    ticker = "X:BTCUSD" if market is Market.CRYPTO else "AAPL"

    def opened(moment: datetime) -> datetime:
        row = {**ROW, "T": ticker, "t": milliseconds(moment)}
        [time] = bars_of_day(parse_day(page(row)).frame, request)["time"].to_list()
        return time  # type: ignore[no-any-return]

    assert opened(window.start + share * window.duration) == window.start
    for outside in (window.start - timedelta(milliseconds=1), window.end + timedelta(milliseconds=1)):
        assert opened(outside) == outside


def test_a_bar_of_another_day_breaks_a_rule() -> None:
    row = {**ROW, "t": STAMP + 86_400_000}
    bars = bars_of_day(parse_day(page(row, {**ROW, "T": "AAPL"})).frame, stocks("KIMpL", "AAPL"))
    screened = screen_day(bars, stocks().window, Market.STOCKS.calendar)
    assert screened.quarantined.select("symbol", "rule").rows() == [("KIMpL", "outside_window")]
    assert screened.bars["symbol"].to_list() == ["AAPL"]


@given(
    st.lists(
        st.builds(
            lambda symbol, close, volume: {**ROW, "T": symbol, "c": close, "v": volume},
            st.sampled_from(["AAPL", "MSFT", "SPY"]),
            st.sampled_from([25.9, 26.0, 0, None, 99]),
            st.sampled_from([10, None, -1]),
        ),
        max_size=8,
    )
)
def test_a_day_is_screened_as_a_range_of_each_symbol(rows: list[dict[str, object]]) -> None:
    symbols = ("AAPL", "MSFT", "SPY")
    request = stocks(*symbols)
    day = screen_day(
        bars_of_day(parse_day(page(*rows)).frame, request), request.window, Market.STOCKS.calendar
    )
    for symbol in symbols:
        own = [{**row, "t": milliseconds(request.window.start)} for row in rows if row["T"] == symbol]
        alone = screen(
            parse_page(page(*own)).frame,
            Series(symbol, Timeframe.D1),
            request.window,
            Market.STOCKS.calendar,
            asset_class=AssetClass.STOCK,
        )
        assert day.bars.filter(symbol=symbol).equals(alone.bars)
        assert day.quarantined.filter(symbol=symbol).equals(alone.quarantined)


def test_a_value_of_a_wrong_type_costs_its_row_alone() -> None:
    read = parse_day(page({**ROW, "o": "x"}, {**ROW, "T": "AAPL", "n": 1e300}, {**ROW, "T": "SPY"}))
    assert read.frame["ticker"].to_list() == ["KIMpL", "AAPL", "SPY"]
    assert read.rows.faults == {0: "wrong_type", 1: "transactions_too_large"}
    assert parse_day(page()).frame.schema == {"ticker": pl.String, **VENDOR_SCHEMA}


def test_neighbouring_sessions_are_one_run() -> None:
    days = [date(2024, 7, day) for day in (3, 5, 8, 10)]  # the fourth and a weekend lie between
    assert stretches_of_days(Market.STOCKS.calendar, days) == [(days[0], days[2]), (days[3], days[3])]
    assert stretches_of_days(Market.CRYPTO.calendar, days) == [(one, one) for one in days]
    assert stretches_of_days(Market.STOCKS.calendar, []) == []
    assert stocks().window.start == at("2020-10-14T04:00")
