from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import subprocess
import sys
import threading
import traceback
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from marketdata_assets.domain.actions import SCHEMAS, ActionKind
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.errors import ClockError
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.polygon import client as client_module
from marketdata_assets.polygon.actions import ENDPOINTS, plan_lists
from marketdata_assets.polygon.client import (
    PolygonClient,
    RetryPolicy,
    Timeouts,
    find_history_cut,
    format_range,
)
from marketdata_assets.polygon.errors import (
    AdjustedPageError,
    AuthenticationError,
    BadRequestError,
    EndpointNotFoundError,
    EntitlementError,
    NotFoundError,
    PagingLoopError,
    PolygonError,
    RateLimitedError,
    VendorFailureError,
)
from marketdata_assets.polygon.limiter import NoLimit

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from marketdata_assets.polygon.client import FetchedPage
    from marketdata_assets.polygon.request import FetchRecord

KEY = "s3cr3t/key+of=the.vendor"
XNYS = calendar_of(AssetClass.STOCK)
CRYPTO = calendar_of(AssetClass.CRYPTO)
DAY = XNYS.day_window(date(2023, 7, 31))
BAR = {"t": 1690790400000, "o": 1, "h": 2, "l": 1, "c": 1.5, "v": 10, "vw": 1.2, "n": 3}


class Patient(NoLimit):
    """Grants at once and remembers; penalties would only slow the tests down."""

    def __init__(self) -> None:
        super().__init__()
        self.grants = 0
        self.penalties: list[float] = []

    async def acquire(self) -> float:
        self.grants += 1
        return 0.25

    async def penalise(self, retry_after: float) -> None:
        self.penalties.append(retry_after)


@dataclass
class Asked:
    """A client over canned answers, one after the other (the last one repeats), and what came of it."""

    answers: list[httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]]
    attempts: int = 4
    budget: float = 60
    requests: list[httpx.Request] = field(default_factory=list)
    log: list[FetchRecord] = field(default_factory=list)
    limiter: Patient = field(default_factory=Patient)

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        answer = answer(request) if callable(answer) else answer
        if not answer.is_closed:
            return answer
        # A new one each time, whose body is still to be read: as from the network.
        return httpx.Response(
            answer.status_code, headers=answer.headers, stream=httpx.ByteStream(answer.content)
        )

    def pages(self, window: Window = DAY, ticker: str = "AAPL") -> list[FetchedPage]:
        return self._collect(
            lambda client: client.aggregates(ticker, Timeframe.M1, window, symbol="AAPL", calendar=XNYS)
        )

    def actions(self, *symbols: str, kind: ActionKind = ActionKind.SPLITS) -> list[FetchedPage]:
        (request,) = plan_lists(kind, ENDPOINTS[kind][0], symbols)
        return self._collect(lambda client: client.actions(request))

    def _collect(self, ask: Callable[[PolygonClient], AsyncGenerator[FetchedPage]]) -> list[FetchedPage]:
        async def collect() -> list[FetchedPage]:
            async with PolygonClient(
                base_url="https://vendor.test",
                api_key=SecretStr(KEY),
                limiter=self.limiter,
                timeouts=Timeouts(total=0.2),
                retry=RetryPolicy(self.attempts, self.budget, first_wait_seconds=0, rate_window_seconds=60),
                request_log=self.log.append,
                transport=httpx.MockTransport(self.handle),
            ) as client:
                return [page async for page in ask(client)]

        return asyncio.run(collect())


def ok(*rows: object, **envelope: object) -> httpx.Response:
    body = {"status": "OK", "request_id": "r1", "queryCount": 7, "results": rows, **envelope}
    return httpx.Response(200, json=body)


def test_the_first_request() -> None:
    asked = Asked([ok(BAR)])
    asked.pages()
    (request,) = asked.requests
    assert request.url.path == "/v2/aggs/ticker/AAPL/range/1/minute/2023-07-31/2023-07-31"
    assert dict(request.url.params) == {"adjusted": "false", "sort": "asc", "limit": "50000"}
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize("ticker", ["X:BTCUSD", "I:VIX", "BRK.B"])
def test_a_ticker_stands_in_the_path_as_it_is(ticker: str) -> None:
    asked = Asked([ok(BAR)])
    asked.pages(ticker=ticker)
    assert f"/ticker/{ticker}/range/" in str(asked.requests[0].url)


def test_pages_are_followed_on_the_configured_host_without_a_key_and_with_every_parameter() -> None:
    following = "https://elsewhere.test:8443/v2/aggs/ticker/AAPL/range/1/minute/169/2023-07-31"
    asked = Asked(
        [
            ok(BAR, next_url=f"{following}?cursor=YQ%3D%3D&apiKey={KEY}&adjusted=true&sort=desc&limit=10"),
            ok(BAR),
        ]
    )
    first, second = asked.pages()
    url = asked.requests[1].url
    assert (url.scheme, url.host, url.port) == ("https", "vendor.test", None)
    assert url.path == "/v2/aggs/ticker/AAPL/range/1/minute/169/2023-07-31"
    assert dict(url.params) == {"cursor": "YQ==", "adjusted": "false", "sort": "asc", "limit": "50000"}
    assert [first.is_last, second.is_last] == [False, True]
    assert [first.record.page, second.record.page] == [1, 2]


@pytest.mark.parametrize(
    "hostile",
    [
        "https://vendor.test@evil.test/v2/x?cursor=a",
        "//evil.test/v2/x?cursor=a",
        "https://evil.test//evil.test/x",
        "@evil.test/x",
        ".evil.test/x",
        "http://vendor.test.evil.test/x",
        "/ü?cursor=ü",
        "",
    ],
)
def test_no_next_url_leads_the_key_to_another_host(hostile: str) -> None:
    asked = Asked([ok(BAR, next_url=hostile), ok(BAR)])
    with contextlib.suppress(VendorFailureError):
        asked.pages()
    assert {request.url.host for request in asked.requests} == {"vendor.test"}
    assert {request.url.scheme for request in asked.requests} == {"https"}


def test_a_redirect_is_not_followed() -> None:
    asked = Asked([httpx.Response(302, headers={"location": "https://evil.test/"})])
    with pytest.raises(VendorFailureError, match="HTTP 302"):
        asked.pages()
    assert len(asked.requests) == 1


def test_paging_goes_on_as_long_as_there_is_a_next_url() -> None:
    def empty(number: int) -> httpx.Response:
        body = {"status": "OK", "resultsCount": 0, "next_url": f"https://vendor.test/v2/x?cursor={number}"}
        return httpx.Response(200, json=body)

    pages = Asked([empty(1), ok(BAR, next_url="/v2/x?cursor=2"), empty(3), ok(BAR)]).pages()
    assert [page.frame.height for page in pages] == [0, 1, 0, 1]


def test_a_loop_is_an_error_and_not_endless() -> None:
    asked = Asked([ok(BAR, next_url="/v2/x?cursor=1")])
    with pytest.raises(PagingLoopError, match="AAPL") as caught:
        asked.pages()
    assert caught.value.record is not None
    assert len(asked.requests) == 2


def test_the_record_of_a_page() -> None:
    asked = Asked([httpx.Response(503), ok(BAR, BAR | {"t": 1690790460000}, status="DELAYED")])
    (page,) = asked.pages()
    assert asked.log == [page.record]
    record = page.record
    assert (record.symbol, record.base, record.window, record.page) == ("AAPL", Timeframe.M1, DAY, 1)
    assert (record.status, record.vendor_status, record.request_id) == (200, "DELAYED", "r1")
    assert (record.bars, record.base_bars, record.retries, record.error) == (2, 7, 1, None)
    assert record.waited_seconds == 0.5
    assert record.duration_seconds > 0
    assert record.requested_at.tzinfo is UTC


PASSING = [
    httpx.Response(500),
    httpx.Response(502, html="<html>Bad Gateway</html>"),
    httpx.Response(503, json={"status": "ERROR", "error": "down"}),
    httpx.Response(408),
    httpx.ConnectError("refused"),
    httpx.ConnectTimeout("slow"),
    httpx.ReadTimeout("slow"),
    httpx.ReadError("reset by peer"),
    httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
    httpx.DecodingError("incomplete gzip"),
    httpx.Response(200, content=ok(BAR).content[:-20]),
    httpx.Response(200, html="<html>maintenance</html>"),
    httpx.Response(200, content=b""),
    httpx.Response(200, json={}),
    httpx.Response(200, content=b"[" * 100_000),
    httpx.Response(200, content=b'{"status":"\xe9"}'),
    httpx.Response(200, content=b"\xef\xbb\xbf" + json.dumps({"status": "OK"}).encode()),
    httpx.Response(200, json={"status": "OK", "count": 3, "resultsCount": 3}),
    httpx.Response(200, content=ok(BAR).content, headers={"content-encoding": "br"}),
    httpx.Response(429),
    httpx.Response(200, json={"status": "ERROR", "error": "You've exceeded the maximum requests per minute"}),
]


@pytest.mark.parametrize("failure", PASSING, ids=str)
def test_what_may_pass_is_asked_again_through_the_limiter(failure: httpx.Response | Exception) -> None:
    asked = Asked([failure, failure, ok(BAR)])
    (page,) = asked.pages()
    assert page.frame.height == 1
    assert page.record.retries == 2
    assert asked.limiter.grants == len(asked.requests) == 3


@pytest.mark.parametrize("failure", PASSING, ids=str)
def test_attempts_come_to_an_end(failure: httpx.Response | Exception) -> None:
    asked = Asked([failure])
    with pytest.raises((VendorFailureError, RateLimitedError), match="after 4 attempts") as caught:
        asked.pages()
    assert len(asked.requests) == 4
    assert asked.log == [caught.value.record]
    assert asked.log[0].retries == 3
    assert asked.log[0].error == str(caught.value)


def test_an_answer_that_never_ends_is_given_up() -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        return ok()

    async def ask() -> None:
        async with PolygonClient(
            base_url="https://vendor.test",
            api_key=SecretStr(KEY),
            limiter=NoLimit(),
            timeouts=Timeouts(total=0.01),
            retry=RetryPolicy(attempts=2, first_wait_seconds=0),
            transport=httpx.MockTransport(never),
        ) as client:
            async for _ in client.aggregates("AAPL", Timeframe.M1, DAY, symbol="AAPL", calendar=XNYS):
                pass

    with pytest.raises(VendorFailureError, match="no answer in time"):
        asyncio.run(ask())


def test_no_attempt_follows_once_the_budget_is_spent() -> None:
    asked = Asked([httpx.Response(500)], budget=-1)
    with pytest.raises(VendorFailureError, match="after 1 attempt"):
        asked.pages()
    assert len(asked.requests) == 1


FINAL = [
    (httpx.Response(401, json={"status": "ERROR", "error": "Unknown API Key"}), AuthenticationError),
    (httpx.Response(401), AuthenticationError),
    (httpx.Response(200, json={"status": "ERROR", "error": "Unknown API Key"}), AuthenticationError),
    (httpx.Response(403, json={"status": "NOT_AUTHORIZED", "message": "upgrade"}), EntitlementError),
    (httpx.Response(403), EntitlementError),
    (httpx.Response(200, json={"status": "NOT_AUTHORIZED", "message": "upgrade"}), EntitlementError),
    (httpx.Response(404, json={"status": "NOT_FOUND", "message": "Ticker not found."}), NotFoundError),
    (httpx.Response(400, json={"status": "ERROR", "error": "'to' before 'from'"}), BadRequestError),
    (httpx.Response(422), BadRequestError),
    (httpx.Response(200, json={"status": "ERROR", "error": "broken", "results": [BAR]}), BadRequestError),
]


@pytest.mark.parametrize(("answer", "kind"), FINAL, ids=str)
def test_what_cannot_pass_is_asked_once(answer: httpx.Response, kind: type[PolygonError]) -> None:
    asked = Asked([answer])
    with pytest.raises(kind) as caught:
        asked.pages()
    assert type(caught.value) is kind
    assert len(asked.requests) == 1
    assert (caught.value.symbol, caught.value.window) == ("AAPL", DAY)
    assert caught.value.status == answer.status_code
    assert "AAPL 2023-07-31T04:00Z..2023-08-01T04:00Z" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert asked.log == [caught.value.record]


def test_recorded_errors_have_their_kinds(vendor_fixtures: Path) -> None:
    kinds: dict[int, type[PolygonError]] = {
        400: BadRequestError,
        401: AuthenticationError,
        403: EntitlementError,
        404: NotFoundError,
        429: RateLimitedError,
    }
    recorded: list[dict[str, Any]] = json.loads((vendor_fixtures / "errors.json").read_text())
    assert {case["http_status"] for case in recorded} == set(kinds)
    for case in recorded:
        with pytest.raises(kinds[case["http_status"]]) as caught:
            Asked([httpx.Response(case["http_status"], json=case["body"])]).pages()
        assert caught.value.request_id == case["body"]["request_id"]
        assert case["body"]["request_id"] in str(caught.value)


def test_a_wrong_key_is_a_configuration_error() -> None:
    with pytest.raises(AuthenticationError, match="POLYGON_API_KEY") as caught:
        Asked([httpx.Response(401)]).pages()
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 60),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "soon"}, 60),
        ({"retry-after": "nan"}, 60),
        ({"retry-after": "1e99"}, 3600),
        ({"retry-after": "Mon, 31 Jul 2023 10:00:30 GMT"}, 0),
        ({"retry-after": "Mon, 31 Jul 2023 10:00:30 GMT", "date": "never"}, 60),
    ],
    ids=str,
)
def test_a_429_pushes_everybody_back(headers: dict[str, str], seconds: float) -> None:
    asked = Asked([httpx.Response(429, headers=headers), ok(BAR)])
    (page,) = asked.pages()
    assert asked.limiter.penalties == [seconds]
    assert (page.record.rate_limited, page.record.retries) == (1, 1)


def test_a_429_waits_until_a_moment_on_the_vendors_clock() -> None:
    now = datetime.now(UTC)
    headers = {"retry-after": format_datetime(now + timedelta(seconds=30)), "date": format_datetime(now)}
    asked = Asked([httpx.Response(429, headers=headers), ok(BAR)])
    asked.pages()
    assert asked.limiter.penalties == [30]


def test_a_429_to_the_end_says_how_long_it_asked_to_wait() -> None:
    asked = Asked([httpx.Response(500), httpx.Response(429, headers={"retry-after": "7"})])
    with pytest.raises(RateLimitedError) as caught:
        asked.pages()
    assert caught.value.retry_after == 7
    assert asked.log[0].rate_limited == asked.log[0].retries > 1


@pytest.mark.parametrize("echo", [KEY, KEY.replace("/", "%2F"), httpx.QueryParams({"k": KEY})["k"]])
def test_the_key_is_in_no_text(echo: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said = f"the key\n{echo} is bad"
    answers: list[httpx.Response | Exception] = [
        httpx.Response(401, json={"status": echo, "error": said, "request_id": echo}),
        httpx.Response(
            403, json={"status": "NOT_AUTHORIZED", "message": said}, headers={"x-request-id": echo}
        ),
        httpx.Response(500, json={"status": "ERROR", "error": said}),
        httpx.Response(429, json={"status": "ERROR", "error": said}),
        httpx.ConnectError(said),
        ok(BAR, next_url=f"https://elsewhere.test/v2/{echo}?apiKey={echo}&cursor=x"),
    ]
    for answer in answers:
        asked = Asked([answer], attempts=2)
        with pytest.raises(PolygonError) as caught:
            asked.pages()
        texts = [
            str(caught.value),
            repr(caught.value),
            "".join(traceback.format_exception(caught.value)),
            repr(caught.value.__dict__),
            repr(asked.log),
            caplog.text,
        ]
        for text in texts:
            assert KEY not in text
            assert echo not in text


@pytest.mark.parametrize("key", ["k", "1", "v2"])
def test_a_short_key_is_not_found_in_every_word(key: str) -> None:
    pattern = client_module._key_pattern(SecretStr(key))
    assert pattern.search("https://host.test/aggs/ticker/range?cursor=abkc21v22x") is None
    assert pattern.search(f"https://host.test/aggs?apiKey={key}&cursor=x") is not None


def test_the_client_does_not_show_its_key() -> None:
    client = PolygonClient(base_url="https://vendor.test", api_key=SecretStr(KEY), limiter=NoLimit())
    assert KEY not in repr(client)
    assert KEY not in repr(vars(client))
    assert KEY not in repr(client._http.headers)
    asyncio.run(client.__aexit__(None, None, None))


@pytest.mark.parametrize(
    ("calendar", "start", "end", "expected"),
    [
        (XNYS, "2023-07-31T04:00", "2023-08-01T04:00", ("2023-07-31", "2023-07-31")),
        # the clock changes on 5 November: 25 hours
        (XNYS, "2023-11-05T04:00", "2023-11-06T05:00", ("2023-11-05", "2023-11-05")),
        (XNYS, "2023-11-03T04:00", "2023-11-07T05:00", ("2023-11-03", "2023-11-06")),
        (CRYPTO, "2023-07-31T00:00", "2023-08-02T00:00", ("2023-07-31", "2023-08-01")),
        (CRYPTO, "2023-07-31T00:00", "2023-07-31T12:00", ("1690761600000", "1690804799999")),
        (XNYS, "2023-07-31T00:00", "2023-08-01T00:00", ("1690761600000", "1690847999999")),
    ],
)
def test_vendor_range(calendar: Any, start: str, end: str, expected: tuple[str, str]) -> None:  # noqa: ANN401 - XNYS or CRYPTO
    window = Window(*(datetime.fromisoformat(edge).replace(tzinfo=UTC) for edge in (start, end)))
    assert format_range(window, calendar) == expected


@given(
    start=st.integers(0, 4_000_000_000_000),
    length=st.integers(1, 10**12),
    asset_class=st.sampled_from([AssetClass.STOCK, AssetClass.CRYPTO]),
)
def test_an_inclusive_range_holds_exactly_the_windows_milliseconds(
    start: int, length: int, asset_class: AssetClass
) -> None:
    calendar = calendar_of(asset_class)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    window = Window(*(epoch + timedelta(milliseconds=edge) for edge in (start, start + length)))
    first, last = format_range(window, calendar)
    if "-" in first:
        assert calendar.day_start(date.fromisoformat(first)) == window.start
        assert calendar.day_start(date.fromisoformat(last) + timedelta(days=1)) == window.end
    else:
        assert (int(first), int(last)) == (start, start + length - 1)


def test_a_first_bar_long_after_the_start_is_noticed() -> None:
    window = Window(XNYS.day_start(date(2023, 1, 1)), XNYS.day_start(date(2023, 12, 31)))
    late = datetime(2023, 7, 31, 13, 30, tzinfo=UTC)
    notice = find_history_cut(window, late, XNYS, symbol="AAPL")
    assert notice is not None
    # 251 sessions of 2023 minus 1 January to 28 July: XNYS had 143 sessions by then
    assert notice.sessions == len(XNYS.sessions(date(2023, 1, 1), date(2023, 7, 30))) == 143
    assert "AAPL" in str(notice)
    assert "2023-07-31" in str(notice)


@pytest.mark.parametrize(
    "first_bar", [None, datetime(2023, 1, 3, 9, tzinfo=UTC), datetime(2023, 1, 10, 9, tzinfo=UTC)]
)
def test_a_first_bar_near_the_start_is_not(first_bar: datetime | None) -> None:
    window = Window(XNYS.day_start(date(2022, 12, 30)), XNYS.day_start(date(2023, 12, 31)))
    assert find_history_cut(window, first_bar, XNYS, symbol="AAPL", tolerance=6) is None


SPLIT = {"ticker": "AAPL", "execution_date": "2020-08-31", "split_from": 1, "split_to": 4, "id": "E1"}


def test_a_list_is_asked_for_as_planned_with_the_key_in_the_header() -> None:
    asked = Asked([ok(SPLIT)])
    (page,) = asked.actions("AAPL", "BRK.B")
    (request,) = asked.requests
    assert request.url.path == "/stocks/v1/splits"
    assert "ticker.any_of=AAPL,BRK.B&" in str(request.url)
    assert dict(request.url.params) == {
        "ticker.any_of": "AAPL,BRK.B",
        "sort": "execution_date.asc",
        "limit": "5000",
    }
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert page.frame.schema == SCHEMAS[ActionKind.SPLITS]
    assert (page.is_last, page.record.bars, page.record.base, page.record.window) == (True, 1, None, None)
    assert asked.log == [page.record]
    assert asked.limiter.grants == 1


def test_pages_of_a_list_are_followed_by_path_and_query_alone() -> None:
    following = "https://elsewhere.test/stocks/v1/splits"
    asked = Asked([ok(SPLIT, next_url=f"{following}?cursor=YQ%3D%3D&apiKey={KEY}"), ok(SPLIT)])
    first, second = asked.actions("AAPL")
    url = asked.requests[1].url
    assert (url.scheme, url.host, url.path) == ("https", "vendor.test", "/stocks/v1/splits")
    # The cursor repeats the whole query by itself.
    assert dict(url.params) == {"cursor": "YQ=="}
    assert [first.is_last, second.is_last] == [False, True]
    assert [first.record.page, second.record.page] == [1, 2]


def test_a_list_that_leads_back_to_itself_is_given_up() -> None:
    asked = Asked([ok(SPLIT, next_url="https://vendor.test/stocks/v1/splits?cursor=a")])
    with pytest.raises(PagingLoopError, match="splits of AAPL: page 2 leads back"):
        asked.actions("AAPL")
    assert len(asked.requests) == 2


@pytest.mark.parametrize("failure", PASSING, ids=str)
def test_a_list_is_asked_for_again_after_what_may_pass(
    failure: httpx.Response | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    asked = Asked([failure, ok(SPLIT)])
    (page,) = asked.actions("AAPL", "KO")
    assert (page.frame.height, page.record.retries) == (1, 1)
    assert "splits of 2 symbols, page 1: " in caplog.text


@pytest.mark.parametrize(("answer", "kind"), FINAL, ids=str)
def test_a_list_that_is_refused_is_asked_for_once(answer: httpx.Response, kind: type[PolygonError]) -> None:
    asked = Asked([answer])
    kind = EndpointNotFoundError if kind is NotFoundError else kind
    with pytest.raises(kind, match="earnings of AAPL") as caught:
        asked.actions("AAPL", kind=ActionKind.EARNINGS)
    assert type(caught.value) is kind
    assert len(asked.requests) == 1
    assert KEY not in str(caught.value)


PAGE = {"adjusted": False, "count": 1, "resultsCount": 1, "ticker": "AAPL"}


@pytest.mark.parametrize(
    "claims",
    [{}, PAGE, dict.fromkeys(PAGE), PAGE | {"resultsCount": "1", "count": True}, {"resultsCount": 0}],
)
def test_a_page_that_says_what_it_is_or_nothing_is_taken(claims: dict[str, object]) -> None:
    (page,) = Asked([ok(BAR, **claims)]).pages()
    assert (page.frame.height, page.record.retries) == (1, 0)


CONTRADICTIONS = [
    ({"ticker": "OTHER"}, "AAPL", "is about 'OTHER' and not about 'AAPL'"),
    # Two securities: a preferred share and a symbol of five capitals.
    ({"ticker": "BACPL"}, "BACpL", "is about 'BACPL' and not about 'BACpL'"),
    ({"ticker": "BTCUSD"}, "X:BTCUSD", "is about 'BTCUSD'"),
    ({"resultsCount": 2}, "AAPL", "reports 2 rows, and has 1"),
    ({"resultsCount": 1, "count": 1_000_000}, "AAPL", "reports 1,000,000 rows, and has 1"),
]


@pytest.mark.parametrize(("claims", "ticker", "why"), CONTRADICTIONS, ids=str)
def test_a_page_that_contradicts_itself_or_the_request_is_asked_for_again_and_refused(
    claims: dict[str, object], ticker: str, why: str
) -> None:
    wrong, right = ok(BAR, **claims), ok(BAR, ticker=ticker)
    (page,) = Asked([wrong, right]).pages(ticker=ticker)
    assert (page.frame.height, page.record.retries) == (1, 1)
    asked = Asked([wrong])
    with pytest.raises(VendorFailureError, match=why) as caught:
        asked.pages(ticker=ticker)
    assert asked.log == [caught.value.record]


@pytest.mark.parametrize("adjusted", [True, "true"])
def test_a_page_of_adjusted_bars_is_refused_at_once(adjusted: object) -> None:
    asked = Asked([ok(BAR, adjusted=adjusted)])
    with pytest.raises(AdjustedPageError, match="unadjusted bars were requested"):
        asked.pages()
    assert len(asked.requests) == len(asked.log) == 1
    # A list has no scale.
    assert len(Asked([ok(SPLIT, adjusted=adjusted)]).actions("AAPL")) == 1


@pytest.mark.parametrize(
    "answer",
    [
        ok({"ticker": "OTHER", "execution_date": "2020-08-31", "split_from": 1, "split_to": 4}),
        ok(SPLIT, {"execution_date": "2020-08-31", "split_from": 1, "split_to": 4}),
        ok(SPLIT, SPLIT | {"ticker": ["AAPL"]}),
        ok(SPLIT, "no row"),
        ok(count=3),
    ],
)
def test_a_list_of_others_of_nobody_or_without_the_rows_it_counts_is_refused(answer: httpx.Response) -> None:
    with pytest.raises(VendorFailureError, match="after 4 attempts"):
        Asked([answer]).actions("AAPL")


def test_a_list_may_count_all_of_its_pages() -> None:
    assert len(Asked([ok(SPLIT, count=900)]).actions("AAPL", "KO")) == 1


@pytest.mark.parametrize("status", [402, 403, 404, 405, 410, 501])
def test_a_list_that_the_vendor_does_not_offer_blames_no_symbol(status: int) -> None:
    with pytest.raises((EntitlementError, EndpointNotFoundError)) as caught:
        Asked([httpx.Response(status)]).actions("AAPL", kind=ActionKind.EARNINGS)
    assert "symbol" not in str(caught.value)


BOMB = 300_000_000
_ASK = """
import asyncio, resource, sys
from datetime import UTC, datetime
from pydantic import SecretStr
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.polygon.client import PolygonClient, RetryPolicy
from marketdata_assets.polygon.errors import VendorFailureError
from marketdata_assets.polygon.limiter import NoLimit

async def ask():
    async with PolygonClient(base_url=sys.argv[1], api_key=SecretStr("x"), limiter=NoLimit(),
                             retry=RetryPolicy(attempts=2, first_wait_seconds=0)) as client:
        window = Window(datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 3, tzinfo=UTC))
        calendar = calendar_of(AssetClass.STOCK)
        async for _ in client.aggregates("AAPL", Timeframe.M1, window, symbol="AAPL", calendar=calendar):
            pass

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    asyncio.run(ask())
except VendorFailureError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_body_that_unpacks_to_300_megabytes_costs_little_memory() -> None:
    sent = gzip.compress(b'{"status":"OK"' + b" " * BOMB + b"}", compresslevel=1)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(sent)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        # In a process of its own: peak memory never goes down again.
        done = subprocess.run([sys.executable, "-c", _ASK, url], check=True, capture_output=True, text=True)
        server.shutdown()
    error, grown = done.stdout.splitlines()[-2:]
    assert "the body is larger than 33,554,432 bytes" in error
    assert int(grown) < 150


def test_pages_without_an_end_come_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAGES_LIMIT", 5)
    asked = Asked(
        [lambda request: ok(next_url=f"/v2/x?cursor={len(request.url.params.get('cursor', '')) * 'a'}a")]
    )
    with pytest.raises(PagingLoopError, match="page 5 still has a next page"):
        asked.pages()
    assert len(asked.requests) == 5


def packed(body: bytes, *, status: int = 200) -> httpx.Response:
    return httpx.Response(status, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(body))


def test_compressed_bodies_are_unpacked_whatever_their_members() -> None:
    body = ok(BAR).content
    for sent in (gzip.compress(body), gzip.compress(body[:30]) + gzip.compress(body[30:])):
        (page,) = Asked([lambda _, sent=sent: packed(sent)]).pages()  # type: ignore[misc]
        assert page.frame.height == 1


@pytest.mark.parametrize(
    "sent", [gzip.compress(ok(BAR).content)[:-9], b"no gzip", gzip.compress(b" " * 40_000_000)]
)
def test_a_compressed_body_that_is_cut_short_broken_or_endless_is_asked_for_again(sent: bytes) -> None:
    asked = Asked([lambda _: packed(sent), ok(BAR)])
    (page,) = asked.pages()
    assert page.record.retries == 1
    # What a refusal says beyond its status is not needed.
    with pytest.raises(AuthenticationError):
        Asked([lambda _: packed(sent, status=401)]).pages()


@pytest.mark.parametrize(
    "away", [timedelta(days=365), timedelta(days=-2), timedelta(hours=1), timedelta(minutes=-20)]
)
def test_a_clock_that_is_not_the_vendors_stops_everything(away: timedelta) -> None:
    date = format_datetime(datetime.now(UTC) + away)
    asked = Asked([httpx.Response(200, content=ok(BAR).content, headers={"date": date})])
    with pytest.raises(ClockError, match="nothing was written") as caught:
        asked.pages()
    assert caught.value.exit_code == 2
    assert len(asked.requests) == 1
    assert asked.log == []


@pytest.mark.parametrize(
    ("date", "age"),
    [
        (timedelta(minutes=-5), None),
        ("yesterday", None),
        ("Mon, 99 Jul 2023 10:00:30 GMT", None),
        # From a cache, which kept it for a day.
        (timedelta(days=-1), "86400"),
    ],
)
def test_a_clock_that_agrees_or_cannot_be_read_stops_nothing(date: timedelta | str, age: str | None) -> None:
    headers = {"date": date if isinstance(date, str) else format_datetime(datetime.now(UTC) + date)}
    if age is not None:
        headers["age"] = age
    asked = Asked([httpx.Response(200, content=ok(BAR).content, headers=headers)])
    assert len(asked.pages()) == 1
