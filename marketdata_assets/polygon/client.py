"""The client of the vendor's bars and lists over HTTP: paging, retries and typed errors under a shared rate limit.

docs/vendor.md describes the behaviour that it relies on: ``adjusted=false`` and ``sort=asc`` on every page, both ends
of a range inclusive, ``limit`` counted in base bars, another page as long as there is a ``next_url``, and a body whose
``status`` may contradict its HTTP status.

The key travels in the ``Authorization`` header and nowhere else. ``next_url`` contributes its path and query;
the host is always the configured one, and redirects are not followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn, Self, TypedDict
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import httpx
import stamina
from httpx import codes

from marketdata_assets.config import is_loopback
from marketdata_assets.domain.calendar import milliseconds
from marketdata_assets.domain.clock import require_same_time
from marketdata_assets.domain.wording import counted
from marketdata_assets.polygon import directory
from marketdata_assets.polygon.action_pages import parse_actions
from marketdata_assets.polygon.bodies import read_body
from marketdata_assets.polygon.errors import (
    AdjustedPageError,
    AuthenticationError,
    BadRequestError,
    EndpointNotFoundError,
    EntitlementError,
    MalformedPageError,
    NotFoundError,
    PagingLoopError,
    PolygonError,
    RateLimitedError,
    VendorFailureError,
)
from marketdata_assets.polygon.limiter import PERIOD_SECONDS
from marketdata_assets.polygon.parser import PageRows, parse_day, parse_envelope, parse_page
from marketdata_assets.polygon.request import FetchRecord

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Mapping
    from types import TracebackType

    import polars as pl
    from pydantic import SecretStr

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.timeframe import Timeframe
    from marketdata_assets.domain.windows import Window
    from marketdata_assets.polygon.actions import ListRequest
    from marketdata_assets.polygon.grouped import DayRequest
    from marketdata_assets.polygon.limiter import Limiter
    from marketdata_assets.polygon.parser import Envelope, Page

_LOGGER = logging.getLogger(__name__)

PAGE_LIMIT: Final = 50_000
"""The maximum number of base bars that the vendor reads for one page."""

PAGES_LIMIT: Final = 1_000
"""The maximum number of pages of one request. All minutes of a crypto pair since 2009 fill 180 pages."""

_EVERY_PAGE: Final = {"adjusted": "false", "sort": "asc", "limit": str(PAGE_LIMIT)}
_KEY_PARAMETERS: Final = frozenset({"apikey", "api_key"})
_DELIVERED: Final = frozenset({"OK", "DELAYED"})
_LONG_KEY: Final = 12
_REASON_LENGTH: Final = 200
_NOT_THERE: Final = frozenset({codes.NOT_FOUND, codes.METHOD_NOT_ALLOWED, codes.GONE, codes.NOT_IMPLEMENTED})
# A longer pause is a mistake of the vendor, and would stop every process for that time.
_LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0


class _Facts(TypedDict):
    symbol: str
    window: Window | None
    status: int | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to retry after a failure that may be temporary.

    Attributes:
        attempts: The maximum number of attempts for one page.
        budget_seconds: The time after which a page is not retried, without waits for the limit.
        first_wait_seconds: The upper bound of the first random wait; it doubles with each attempt.
        longest_wait_seconds: The upper bound of every wait.
        rate_window_seconds: The time that every process waits after a 429 without Retry-After.
    """

    attempts: int = 6
    budget_seconds: float = 300.0
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 30.0
    rate_window_seconds: float = PERIOD_SECONDS


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The seconds to wait for a connection, for the next bytes, and for a complete answer."""

    connect: float = 10.0
    read: float = 30.0
    total: float = 120.0


@dataclass(frozen=True, slots=True)
class HistoryNotice:
    """A hint that the plan cut the range: the first bar comes ``sessions`` sessions after the window's start.

    The vendor answers such a range with success. The answer for a symbol that was listed later looks the same.
    """

    symbol: str
    window: Window
    first_bar: datetime
    sessions: int

    def __str__(self) -> str:
        return (
            f"{self.symbol} {self.window}: the first bar is of {self.first_bar:%Y-%m-%d}, {self.sessions} "
            "sessions after the start; either it was not traded before, or the plan's history begins there"
        )


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """One page: rows in the vendor's order, and the record of the request.

    ``frame`` has the domain's ``VENDOR_SCHEMA`` for bars, and the schema of its kind (``domain.actions``) for a list.
    ``rows`` are the rows of ``frame`` as the vendor wrote them.
    """

    frame: pl.DataFrame
    record: FetchRecord
    is_last: bool
    rows: PageRows = field(default_factory=PageRows)


def find_history_cut(
    requested: Window,
    first_bar: datetime | None,
    calendar: TradingCalendar,
    *,
    symbol: str,
    tolerance: int = 5,
) -> HistoryNotice | None:
    """Return a notice when more than ``tolerance`` sessions lie between the requested start and the first bar, else None.

    Without any bar the result is None: the vendor rejects a range that ends before the plan's history.
    """
    if first_bar is None:
        return None
    last_missing = calendar.local_day(first_bar) - timedelta(days=1)
    missing = len(calendar.sessions(calendar.local_day(requested.start), last_missing))
    return HistoryNotice(symbol, requested, first_bar, missing) if missing > tolerance else None


def format_range(window: Window, calendar: TradingCalendar) -> tuple[str, str]:
    """Return the inclusive ``from`` and ``to`` of ``window``: dates for whole local days, else Unix milliseconds."""
    first = calendar.local_day(window.start)
    after = calendar.local_day(window.end)
    if calendar.day_start(first) == window.start and calendar.day_start(after) == window.end:
        return first.isoformat(), (after - timedelta(days=1)).isoformat()
    return str(milliseconds(window.start)), str(milliseconds(window.end) - 1)


class _PassingError(Exception):
    """An attempt failed in a way that may be temporary. Raised and caught in this module only."""

    def __init__(self, reason: str, *, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


@dataclass(slots=True)
class _PageRequest:
    """The request of one page, and its progress."""

    symbol: str
    timeframe: Timeframe | None
    window: Window | None
    page: int
    url: httpx.URL
    parse: Callable[[bytes], Page]
    contradiction: Callable[[Page], str | None]
    is_list: bool = True
    requested_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    attempts: int = 0
    rate_limited: int = 0
    status: int | None = None
    vendor_status: str | None = None
    base_bars: int | None = None
    request_id: str | None = None
    duration: float = 0.0
    waited: float = 0.0

    def __str__(self) -> str:
        series = self.symbol if self.timeframe is None else f"{self.symbol}:{self.timeframe} {self.window}"
        return f"{series}, page {self.page}"

    def record(self, *, bars: int = 0, error: PolygonError | None = None) -> FetchRecord:
        return FetchRecord(
            symbol=self.symbol,
            base=self.timeframe,
            window=self.window,
            page=self.page,
            path=self.url.path,
            requested_at=self.requested_at,
            status=self.status,
            vendor_status=self.vendor_status,
            request_id=self.request_id,
            bars=bars,
            base_bars=self.base_bars,
            retries=max(0, self.attempts - 1),
            duration_seconds=self.duration,
            waited_seconds=self.waited,
            error=None if error is None else str(error),
            rate_limited=self.rate_limited,
        )


class PolygonClient:
    """A client that fetches bars and lists. An async context manager that belongs to one event loop.

    Args:
        base_url: The scheme and host of the vendor or of a simulator.
        api_key: The key that is sent as a bearer token, and removed from every text of the vendor.
        limiter: The limiter that grants each attempt. The caller opens and closes it.
        concurrency: The maximum number of connections.
        timeouts: See :class:`Timeouts`.
        retry: See :class:`RetryPolicy`.
        request_log: A function that is called with the record of every page, failed ones included.
        transport: A replacement of the network in tests.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: SecretStr,
        limiter: Limiter,
        concurrency: int = 8,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        request_log: Callable[[FetchRecord], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._base_url = httpx.URL(base_url)
        self._key_pattern = _key_pattern(api_key)
        self._limiter = limiter
        self._timeouts = timeouts or Timeouts()
        self._retry = retry or RetryPolicy()
        self._request_log = request_log
        self._http = httpx.AsyncClient(
            headers={
                "Authorization": f"Bearer {api_key.get_secret_value()}",
                "Accept-Encoding": "gzip",
                "User-Agent": "marketdata-assets",
            },
            timeout=httpx.Timeout(self._timeouts.read, connect=self._timeouts.connect),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            follow_redirects=False,
            # A proxy from the environment does not reach this machine's own ports.
            trust_env=not is_loopback(base_url),
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def aggregates(
        self, ticker: str, timeframe: Timeframe, window: Window, *, symbol: str, calendar: TradingCalendar
    ) -> AsyncGenerator[FetchedPage]:
        """Yield the pages of ``ticker``'s bars whose open may lie in ``window``, in order.

        The vendor extends a range to multiples of its unit, so there may be bars outside ``window``. Raises the
        matching subclass of :class:`PolygonError`.
        """
        span = f"{timeframe.multiplier}/{timeframe.timespan}/{'/'.join(format_range(window, calendar))}"
        path = f"/v2/aggs/ticker/{quote(ticker, safe=':')}/range/{span}"
        seen: set[httpx.URL] = set()

        def make_request(url: httpx.URL) -> _PageRequest:
            contradiction = partial(_find_contradiction_in_bars, ticker)
            return _PageRequest(
                symbol, timeframe, window, len(seen), url, parse_page, contradiction, is_list=False
            )

        async with contextlib.aclosing(self._pages(path, "", _EVERY_PAGE, seen, make_request)) as pages:
            async for page in pages:
                yield page

    async def market_day(self, request: DayRequest) -> AsyncGenerator[FetchedPage]:
        """Yield the pages of a day of a market: bars of every ticker that traded, with the vendor's stamps.

        The frames have the column ``ticker``. In practice there is one page. Raises the matching subclass of
        :class:`PolygonError`.
        """
        seen: set[httpx.URL] = set()

        def make_request(url: httpx.URL) -> _PageRequest:
            return _PageRequest(
                request.symbol,
                request.base,
                request.window,
                len(seen),
                url,
                parse_day,
                _find_contradiction_in_day,
            )

        path = request.market.path(request.day)
        async with contextlib.aclosing(
            self._pages(path, "", request.market.query, seen, make_request)
        ) as pages:
            async for page in pages:
                yield page

    async def actions(self, request: ListRequest) -> AsyncGenerator[FetchedPage]:
        """Yield the pages of a list of corporate actions, in the vendor's order.

        Raises the matching subclass of :class:`PolygonError`.
        """
        seen: set[httpx.URL] = set()

        def make_request(url: httpx.URL) -> _PageRequest:
            parse = partial(parse_actions, request.kind)
            contradiction = partial(_find_contradiction_in_list, frozenset(request.symbols))
            return _PageRequest(str(request), None, None, len(seen), url, parse, contradiction)

        pages = self._pages(request.path, urlencode(request.query, safe=","), {}, seen, make_request)
        async with contextlib.aclosing(pages):
            async for page in pages:
                yield page

    async def is_listed(self, ticker: str, *, symbol: str) -> bool:
        """Return whether the vendor's directory has ``ticker``, active or delisted.

        Raises the matching subclass of :class:`PolygonError`.
        """
        for active in ("true", "false"):
            seen: set[httpx.URL] = set()

            def make_request(url: httpx.URL, seen: set[httpx.URL] = seen) -> _PageRequest:
                contradiction = partial(_find_miscount, exactly=False)
                subject = f"directory entry of {symbol}"
                return _PageRequest(
                    subject, None, None, len(seen), url, directory.parse_directory, contradiction
                )

            query = urlencode({"ticker": ticker, "active": active, "limit": "10"})
            pages = self._pages(directory.PATH, query, {}, seen, make_request)
            async with contextlib.aclosing(pages):
                async for page in pages:
                    if ticker in page.frame["ticker"]:
                        return True
        return False

    async def _pages(
        self,
        path: str,
        query: str,
        every_page: Mapping[str, str],
        seen: set[httpx.URL],
        make_request: Callable[[httpx.URL], _PageRequest],
    ) -> AsyncGenerator[FetchedPage]:
        """Yield the page at ``path`` and the pages after it. The URL of each is added to ``seen`` before its request."""
        url: httpx.URL | None = self._url(path, query, every_page)
        while url is not None:
            seen.add(url)
            request = make_request(url)
            page = await self._request_logged(request)
            url = self._next_url(request, page.envelope, every_page, seen)
            record = request.record(bars=page.frame.height)
            yield FetchedPage(page.frame, record, is_last=url is None, rows=page.rows)

    def _url(self, path: str, query: str, every_page: Mapping[str, str]) -> httpx.URL:
        """Return the URL of ``path`` on the configured host, with the query of every page and without a key."""
        kept = [
            (name, value)
            for name, value in parse_qsl(query, keep_blank_values=True)
            if name.lower() not in _KEY_PARAMETERS and name not in every_page
        ]
        target = f"{path}?{urlencode([*kept, *every_page.items()], safe=',')}"
        return self._base_url.copy_with(raw_path=target.encode("ascii"))

    def _next_url(
        self,
        request: _PageRequest,
        envelope: Envelope,
        every_page: Mapping[str, str],
        seen: set[httpx.URL],
    ) -> httpx.URL | None:
        if envelope.next_url is None:
            return None
        error: PolygonError
        try:
            parts = urlsplit(envelope.next_url)
        except ValueError:
            parts = urlsplit("")
        if not parts.path.startswith("/"):
            error = VendorFailureError(f"the next_url of page {request.page} is not a URL", **_facts(request))
        else:
            url = self._url(quote(parts.path, safe="/:%"), parts.query, every_page)
            if self._key_pattern.search(str(url)):
                error = VendorFailureError(
                    f"the next_url of page {request.page} carries the key", **_facts(request)
                )
            elif url in seen:
                error = PagingLoopError(
                    f"page {request.page} leads back to a page that was already read",
                    **_facts(request),
                )
            elif request.page >= PAGES_LIMIT:
                error = PagingLoopError(f"page {request.page:,} still has a next page", **_facts(request))
            else:
                return url
        self._log_failure(request, error)
        raise error

    async def _request_logged(self, request: _PageRequest) -> Page:
        try:
            page = await self._request_page(request)
        except PolygonError as error:
            self._log_failure(request, error)
            raise
        self._log(request.record(bars=page.frame.height))
        return page

    def _log_failure(self, request: _PageRequest, error: PolygonError) -> None:
        error.record = request.record(error=error)
        self._log(error.record)

    def _log(self, record: FetchRecord) -> None:
        if self._request_log is not None:
            self._request_log(record)

    async def _request_page(self, request: _PageRequest) -> Page:
        """Request a page, with as many attempts as the policy allows, and return it."""
        started = time.monotonic()

        def wait_before_next(error: Exception) -> bool | float:
            spent = time.monotonic() - started - request.waited
            if not isinstance(error, _PassingError) or spent > self._retry.budget_seconds:
                return False
            # Full jitter: a wait between zero and the bound, so that failed requests are not retried all at once.
            bound = self._retry.first_wait_seconds * 2 ** (request.attempts - 1)
            wait = random.uniform(0, min(bound, self._retry.longest_wait_seconds))  # noqa: S311 - no secret
            if request.attempts < self._retry.attempts:
                _LOGGER.warning(
                    "%s: %s; attempt %d of %d",
                    request,
                    error.reason,
                    request.attempts,
                    self._retry.attempts,
                )
            return wait

        try:
            async for attempt in stamina.retry_context(
                on=wait_before_next, attempts=self._retry.attempts, timeout=None
            ):
                with attempt:
                    return await self._attempt(request)
        except _PassingError as error:
            tries = counted(request.attempts, "attempt")
            if error.retry_after is not None:
                what = f"still over the vendor's rate limit after {tries}"
                raise RateLimitedError(what, retry_after=error.retry_after, **_facts(request)) from None
            what = f"no usable answer from {self._base_url.host} after {tries}; last error: {error.reason}"
            raise VendorFailureError(what, **_facts(request)) from None
        message = "stamina ended without an outcome"
        raise AssertionError(message)

    async def _attempt(self, request: _PageRequest) -> Page:
        request.waited += await self._limiter.acquire()
        request.attempts += 1
        request.status = request.vendor_status = request.base_bars = request.request_id = None
        started = time.monotonic()
        try:
            async with (
                asyncio.timeout(self._timeouts.total),
                self._http.stream("GET", request.url) as response,
            ):
                self._check_clock(response.headers)
                request.status = response.status_code
                request.request_id = response.headers.get("x-request-id")
                body = await self._read_body(response)
        except (httpx.RequestError, TimeoutError) as error:
            reason = f"{type(error).__name__}, {self._clean(str(error)) or 'no answer in time'}"
            raise _PassingError(reason) from None
        finally:
            request.duration += time.monotonic() - started
        if response.status_code != codes.OK:
            await self._refuse(request, response, body)
        try:
            # In a thread: other requests' slots must not be missed while a large page is parsed.
            page = await asyncio.to_thread(request.parse, body)
        except MalformedPageError as error:
            raise _PassingError(self._clean(str(error))) from None
        self._note_envelope(request, page.envelope)
        if page.envelope.status not in _DELIVERED:
            await self._refuse(request, response, body)
        if (contradiction := request.contradiction(page)) is not None:
            raise _PassingError(self._clean(contradiction))
        if page.envelope.is_adjusted and request.timeframe is not None:
            what = "the page reports adjusted bars, although unadjusted bars were requested"
            raise AdjustedPageError(what, **_facts(request))
        return page

    async def _read_body(self, response: httpx.Response) -> bytes:
        """Read the body of ``response``; the body of an error is empty when unreadable, as its status is enough."""
        encoding = response.headers.get("content-encoding", "").strip().lower()
        try:
            return await read_body(response.aiter_raw(), encoding)
        except MalformedPageError as error:
            if response.status_code != codes.OK:
                return b""
            raise _PassingError(self._clean(str(error))) from None

    def _check_clock(self, headers: httpx.Headers) -> None:
        """Raise :class:`ClockError` when the vendor's clock and this machine's disagree."""
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            # A cache between the two states the age of the vendor's answer.
            sent = parsedate_to_datetime(headers["date"]) if "date" in headers else None
            age = timedelta(seconds=int(headers.get("age", "0")))
            if sent is not None and sent.tzinfo is not None:
                require_same_time(datetime.now(UTC), sent + age, f"the vendor ({self._base_url.host})")

    def _note_envelope(self, request: _PageRequest, envelope: Envelope) -> None:
        request.vendor_status = self._clean(envelope.status or "") or None
        request.base_bars = envelope.base_bars
        request.request_id = self._clean(envelope.request_id or request.request_id or "") or None

    async def _refuse(self, request: _PageRequest, response: httpx.Response, body: bytes) -> NoReturn:
        """Raise the error that ``response``, which is not a page, stands for."""
        status, problem = response.status_code, ""
        # The body of a 5xx may be HTML or empty: then its HTTP status is enough.
        with contextlib.suppress(MalformedPageError):
            envelope = parse_envelope(body)
            self._note_envelope(request, envelope)
            problem = self._clean(envelope.problem or "")
        reason = problem or response.reason_phrase or "no reason given"
        refusal = _refusal(status, request.vendor_status, problem, is_list=request.is_list)
        if refusal is RateLimitedError:
            request.rate_limited += 1
            retry_after = _retry_after(response.headers)
            if retry_after is None:
                retry_after = self._retry.rate_window_seconds
            await self._limiter.penalise(retry_after)
            passing = f"over the vendor's rate limit, every process waits {retry_after:.0f} s"
            raise _PassingError(passing, retry_after=retry_after)
        if refusal is None:
            passing = f"HTTP {status} with the status {request.vendor_status}, {reason}"
            raise _PassingError(passing)
        what = f"the vendor rejected: {reason}"
        raise refusal(what, **_facts(request))

    def _clean(self, text: str) -> str:
        """Return ``text`` on one line, cut to a readable length, without the key."""
        return " ".join(self._key_pattern.sub("***", text).split())[:_REASON_LENGTH]


def _key_pattern(api_key: SecretStr) -> re.Pattern[str]:
    """Return a pattern that finds the key, each of its characters plain or percent-encoded.

    A short key, as given to a simulator, is found only as a separate word: its letters occur in other words.
    """
    key = api_key.get_secret_value()
    encoded = ("".join(f"%{byte:02X}" for byte in character.encode()) for character in key)
    alternatives = (f"(?:{re.escape(plain)}|(?i:{code}))" for plain, code in zip(key, encoded, strict=True))
    found = "".join(alternatives) or r"(?!)"
    return re.compile(found if len(key) >= _LONG_KEY else rf"(?<![A-Za-z0-9]){found}(?![A-Za-z0-9])")


def _find_contradiction_in_bars(ticker: str, page: Page) -> str | None:
    """Return the contradiction between a page of bars and its request or itself; None without one.

    The vendor repeats the ticker as it was requested. Upper and lower case are different securities.
    """
    about = page.envelope.ticker
    if about is not None and about != ticker:
        return f"the page is about {about!r} and not about {ticker!r}"
    return _find_miscount(page, exactly=True)


def _find_contradiction_in_day(page: Page) -> str | None:
    """Return the contradiction in a page of many tickers: a row without a ticker may belong to any symbol."""
    if page.frame["ticker"].null_count():
        return "the page has a row without a ticker"
    return _find_miscount(page, exactly=True)


def _find_contradiction_in_list(symbols: Collection[str], page: Page) -> str | None:
    """Return the contradiction in a page of a list: a row without a ticker, or only rows of other tickers."""
    listed = page.frame["symbol"]
    if listed.null_count():
        return "the page has a row without a ticker"
    if listed.len() and not listed.is_in(list(symbols)).any():
        return f"the page is about {listed[0]!r}, which was not requested"
    # Not every list states whether its count is of a page or of all pages.
    return _find_miscount(page, exactly=False)


def _find_miscount(page: Page, *, exactly: bool) -> str | None:
    """Return a count that is larger than the number of rows, so that the body is truncated; None without one."""
    rows = page.frame.height
    for reported in page.envelope.rows:
        if reported > rows if exactly else reported > 0 and not rows and page.envelope.next_url is None:
            return f"the page reports {reported:,} rows, and has {rows:,}"
    return None


def _refusal(  # noqa: PLR0911 - one line for each kind
    status: int, vendor_status: str | None, problem: str, *, is_list: bool
) -> type[PolygonError] | None:
    """Return the class of error that an answer without a page stands for; None when it may be temporary."""
    if status == codes.UNAUTHORIZED or "unknown api key" in problem.lower():
        return AuthenticationError
    if status == codes.TOO_MANY_REQUESTS or "exceeded the maximum requests" in problem:
        return RateLimitedError
    if status in (codes.FORBIDDEN, codes.PAYMENT_REQUIRED) or vendor_status == "NOT_AUTHORIZED":
        return EntitlementError
    if is_list and status in _NOT_THERE:
        return EndpointNotFoundError
    if status == codes.NOT_FOUND or vendor_status == "NOT_FOUND":
        return EndpointNotFoundError if is_list else NotFoundError
    refused = codes.is_client_error(status) and status != codes.REQUEST_TIMEOUT
    if refused or (status == codes.OK and vendor_status == "ERROR"):
        return BadRequestError
    return VendorFailureError if codes.is_redirect(status) else None


def _retry_after(headers: httpx.Headers) -> float | None:
    """Return the seconds of a Retry-After header, a number or an HTTP date; None when absent or unreadable."""
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
            seconds = (parsedate_to_datetime(text) - now).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER_SECONDS) if math.isfinite(seconds) else None


def _facts(request: _PageRequest) -> _Facts:
    return {
        "symbol": request.symbol,
        "window": request.window,
        "status": request.status,
        "request_id": request.request_id,
    }
