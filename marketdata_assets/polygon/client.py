"""The vendor's bars and lists over HTTP: paging, retries, and typed errors, under a shared rate limit.

What is relied on is in docs/vendor.md: ``adjusted=false`` and ``sort=asc`` on every page, both ends of a
range inclusive, ``limit`` counted in base bars, pages as long as there is a ``next_url``, and a body whose
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
"""The most base bars that the vendor reads for one page."""

PAGES_LIMIT: Final = 1_000
"""The most pages of one request. All minutes of a crypto pair since 2009 are 180."""

_EVERY_PAGE: Final = {"adjusted": "false", "sort": "asc", "limit": str(PAGE_LIMIT)}
_KEY_PARAMETERS: Final = frozenset({"apikey", "api_key"})
_DELIVERED: Final = frozenset({"OK", "DELAYED"})
_LONG_KEY: Final = 12
_REASON_LENGTH: Final = 200
_NOT_THERE: Final = frozenset({codes.NOT_FOUND, codes.METHOD_NOT_ALLOWED, codes.GONE, codes.NOT_IMPLEMENTED})
# A longer one is a mistake of the vendor's, and would stop every process for as long.
_LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0


class _Facts(TypedDict):
    symbol: str
    window: Window | None
    status: int | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to ask again after a failure that may pass.

    Attributes:
        attempts: The most attempts for one page.
        budget_seconds: No further attempt once a page has taken this long, waits for the limit left out.
        first_wait_seconds: Upper bound of the first random wait; it doubles with each attempt.
        longest_wait_seconds: Upper bound of every wait.
        rate_window_seconds: How long a 429 without Retry-After keeps everybody back.
    """

    attempts: int = 6
    budget_seconds: float = 300.0
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 30.0
    rate_window_seconds: float = PERIOD_SECONDS


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for a connection, for the next bytes, and for a whole answer."""

    connect: float = 10.0
    read: float = 30.0
    total: float = 120.0


@dataclass(frozen=True, slots=True)
class HistoryNotice:
    """A hint that the plan cut the range: the first bar comes ``sessions`` sessions after the window's start.

    The vendor answers such a range with success. A symbol that listed later looks the same.
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
    """One page: rows in the vendor's order, and how they were got.

    Bars have the domain's ``VENDOR_SCHEMA``; the rows of a list the schema of its kind (``domain.actions``). ``rows``
    are those of ``frame`` as the vendor wrote them.
    """

    frame: pl.DataFrame
    record: FetchRecord
    is_last: bool
    rows: PageRows = field(default_factory=PageRows)


def history_cut(
    requested: Window,
    first_bar: datetime | None,
    calendar: TradingCalendar,
    *,
    symbol: str,
    tolerance: int = 5,
) -> HistoryNotice | None:
    """A notice when more than ``tolerance`` sessions lie between the requested start and the first bar.

    None when there is no bar at all: the vendor refuses a range that lies wholly before the plan's history.
    """
    if first_bar is None:
        return None
    last_missing = calendar.local_day(first_bar) - timedelta(days=1)
    missing = len(calendar.sessions(calendar.local_day(requested.start), last_missing))
    return HistoryNotice(symbol, requested, first_bar, missing) if missing > tolerance else None


def vendor_range(window: Window, calendar: TradingCalendar) -> tuple[str, str]:
    """``from`` and ``to`` of a window, both inclusive: dates for whole local days, else Unix milliseconds."""
    first = calendar.local_day(window.start)
    after = calendar.local_day(window.end)
    if calendar.day_start(first) == window.start and calendar.day_start(after) == window.end:
        return first.isoformat(), (after - timedelta(days=1)).isoformat()
    return str(milliseconds(window.start)), str(milliseconds(window.end) - 1)


class _PassingError(Exception):
    """An attempt failed in a way that may pass. Never leaves this module."""

    def __init__(self, reason: str, *, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


@dataclass(slots=True)
class _Ask:
    """One page being asked for, and what has happened so far."""

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
    """Asks the vendor for bars and lists. An async context manager that belongs to one event loop.

    Args:
        base_url: Scheme and host of the vendor or of a simulator.
        api_key: Sent as a bearer token, and struck out of every text that comes back.
        limiter: Grants each attempt. The caller opens and closes it.
        concurrency: Connections that are kept.
        timeouts: See :class:`Timeouts`.
        retry: See :class:`RetryPolicy`.
        request_log: Called with the record of every page, those that failed included.
        transport: Stands in for the network in tests.
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
            # A proxy that the environment names does not reach this machine's own ports.
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
        """The pages of ``ticker``'s bars whose open may lie in ``window``, in order.

        The vendor snaps a range outward to its unit, so bars outside ``window`` may come along. Raises a
        :class:`PolygonError` of the kind that fits.
        """
        span = f"{timeframe.multiplier}/{timeframe.timespan}/{'/'.join(vendor_range(window, calendar))}"
        path = f"/v2/aggs/ticker/{quote(ticker, safe=':')}/range/{span}"
        seen: set[httpx.URL] = set()

        def ask_for(url: httpx.URL) -> _Ask:
            contradiction = partial(_contradiction_of_bars, ticker)
            return _Ask(symbol, timeframe, window, len(seen), url, parse_page, contradiction, is_list=False)

        async with contextlib.aclosing(self._pages(path, "", _EVERY_PAGE, seen, ask_for)) as pages:
            async for page in pages:
                yield page

    async def market_day(self, request: DayRequest) -> AsyncGenerator[FetchedPage]:
        """The pages of a day of a market: every ticker that traded, in the column ``ticker``, stamped as the vendor does.

        The vendor is known to answer with one page. Raises a :class:`PolygonError` of the kind that fits.
        """
        seen: set[httpx.URL] = set()

        def ask_for(url: httpx.URL) -> _Ask:
            return _Ask(
                request.symbol,
                request.base,
                request.window,
                len(seen),
                url,
                parse_day,
                _contradiction_of_day,
            )

        path = request.market.path(request.day)
        async with contextlib.aclosing(self._pages(path, "", request.market.query, seen, ask_for)) as pages:
            async for page in pages:
                yield page

    async def actions(self, request: ListRequest) -> AsyncGenerator[FetchedPage]:
        """The pages of a list of corporate actions, in the vendor's order.

        Raises a :class:`PolygonError` of the kind that fits.
        """
        seen: set[httpx.URL] = set()

        def ask_for(url: httpx.URL) -> _Ask:
            parse = partial(parse_actions, request.kind)
            contradiction = partial(_contradiction_of_list, frozenset(request.symbols))
            return _Ask(str(request), None, None, len(seen), url, parse, contradiction)

        pages = self._pages(request.path, urlencode(request.query, safe=","), {}, seen, ask_for)
        async with contextlib.aclosing(pages):
            async for page in pages:
                yield page

    async def lists(self, ticker: str, *, symbol: str) -> bool:
        """Ask the vendor's directory whether it has ``ticker``, active or delisted.

        Raises a :class:`PolygonError` of the kind that fits.
        """
        for active in ("true", "false"):
            seen: set[httpx.URL] = set()

            def ask_for(url: httpx.URL, seen: set[httpx.URL] = seen) -> _Ask:
                contradiction = partial(_miscounted, exactly=False)
                subject = f"directory entry of {symbol}"
                return _Ask(subject, None, None, len(seen), url, directory.parse_directory, contradiction)

            query = urlencode({"ticker": ticker, "active": active, "limit": "10"})
            pages = self._pages(directory.PATH, query, {}, seen, ask_for)
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
        ask_for: Callable[[httpx.URL], _Ask],
    ) -> AsyncGenerator[FetchedPage]:
        """The page at ``path``, and those that follow it. ``seen`` gets the URL of each before it is asked for."""
        url: httpx.URL | None = self._url(path, query, every_page)
        while url is not None:
            seen.add(url)
            ask = ask_for(url)
            page = await self._logged(ask)
            url = self._next(ask, page.envelope, every_page, seen)
            record = ask.record(bars=page.frame.height)
            yield FetchedPage(page.frame, record, is_last=url is None, rows=page.rows)

    def _url(self, path: str, query: str, every_page: Mapping[str, str]) -> httpx.URL:
        """``path`` on the configured host, with what every page must say and without a key."""
        kept = [
            (name, value)
            for name, value in parse_qsl(query, keep_blank_values=True)
            if name.lower() not in _KEY_PARAMETERS and name not in every_page
        ]
        target = f"{path}?{urlencode([*kept, *every_page.items()], safe=',')}"
        return self._base_url.copy_with(raw_path=target.encode("ascii"))

    def _next(
        self, ask: _Ask, envelope: Envelope, every_page: Mapping[str, str], seen: set[httpx.URL]
    ) -> httpx.URL | None:
        if envelope.next_url is None:
            return None
        error: PolygonError
        try:
            parts = urlsplit(envelope.next_url)
        except ValueError:
            parts = urlsplit("")
        if not parts.path.startswith("/"):
            error = VendorFailureError(f"the next_url of page {ask.page} is no URL", **_facts(ask))
        else:
            url = self._url(quote(parts.path, safe="/:%"), parts.query, every_page)
            if self._key_pattern.search(str(url)):
                error = VendorFailureError(f"the next_url of page {ask.page} carries the key", **_facts(ask))
            elif url in seen:
                error = PagingLoopError(f"page {ask.page} leads back to a page already read", **_facts(ask))
            elif ask.page >= PAGES_LIMIT:
                error = PagingLoopError(f"page {ask.page:,} still has a next page", **_facts(ask))
            else:
                return url
        self._log_failure(ask, error)
        raise error

    async def _logged(self, ask: _Ask) -> Page:
        try:
            page = await self._asked(ask)
        except PolygonError as error:
            self._log_failure(ask, error)
            raise
        self._log(ask.record(bars=page.frame.height))
        return page

    def _log_failure(self, ask: _Ask, error: PolygonError) -> None:
        error.record = ask.record(error=error)
        self._log(error.record)

    def _log(self, record: FetchRecord) -> None:
        if self._request_log is not None:
            self._request_log(record)

    async def _asked(self, ask: _Ask) -> Page:
        """The page, after as many attempts as the policy allows."""
        started = time.monotonic()

        def wait_before_next(error: Exception) -> bool | float:
            spent = time.monotonic() - started - ask.waited
            if not isinstance(error, _PassingError) or spent > self._retry.budget_seconds:
                return False
            # Full jitter: anything between nothing and the bound, so that failures do not march in step.
            bound = self._retry.first_wait_seconds * 2 ** (ask.attempts - 1)
            wait = random.uniform(0, min(bound, self._retry.longest_wait_seconds))  # noqa: S311 - no secret
            if ask.attempts < self._retry.attempts:
                _LOGGER.warning(
                    "%s: %s; attempt %d of %d", ask, error.reason, ask.attempts, self._retry.attempts
                )
            return wait

        try:
            async for attempt in stamina.retry_context(
                on=wait_before_next, attempts=self._retry.attempts, timeout=None
            ):
                with attempt:
                    return await self._attempt(ask)
        except _PassingError as error:
            tries = counted(ask.attempts, "attempt")
            if error.retry_after is not None:
                what = f"still over the vendor's rate limit after {tries}"
                raise RateLimitedError(what, retry_after=error.retry_after, **_facts(ask)) from None
            what = f"no usable answer from {self._base_url.host} after {tries}, at last: {error.reason}"
            raise VendorFailureError(what, **_facts(ask)) from None
        message = "stamina ended without an outcome"
        raise AssertionError(message)

    async def _attempt(self, ask: _Ask) -> Page:
        ask.waited += await self._limiter.acquire()
        ask.attempts += 1
        ask.status = ask.vendor_status = ask.base_bars = ask.request_id = None
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeouts.total), self._http.stream("GET", ask.url) as response:
                self._check_clock(response.headers)
                ask.status = response.status_code
                ask.request_id = response.headers.get("x-request-id")
                body = await self._read_body(response)
        except (httpx.RequestError, TimeoutError) as error:
            reason = f"{type(error).__name__}, {self._clean(str(error)) or 'no answer in time'}"
            raise _PassingError(reason) from None
        finally:
            ask.duration += time.monotonic() - started
        if response.status_code != codes.OK:
            await self._refuse(ask, response, body)
        try:
            # In a thread: other requests' slots must not be missed while a large page is parsed.
            page = await asyncio.to_thread(ask.parse, body)
        except MalformedPageError as error:
            raise _PassingError(self._clean(str(error))) from None
        self._keep(ask, page.envelope)
        if page.envelope.status not in _DELIVERED:
            await self._refuse(ask, response, body)
        if (contradiction := ask.contradiction(page)) is not None:
            raise _PassingError(self._clean(contradiction))
        if page.envelope.is_adjusted and ask.timeframe is not None:
            what = "the page says that its bars are adjusted, although they were asked for as traded"
            raise AdjustedPageError(what, **_facts(ask))
        return page

    async def _read_body(self, response: httpx.Response) -> bytes:
        """The body of ``response``; nothing of one that cannot be read of a refusal, whose status says enough."""
        encoding = response.headers.get("content-encoding", "").strip().lower()
        try:
            return await read_body(response.aiter_raw(), encoding)
        except MalformedPageError as error:
            if response.status_code != codes.OK:
                return b""
            raise _PassingError(self._clean(str(error))) from None

    def _check_clock(self, headers: httpx.Headers) -> None:
        """Do nothing when the vendor's clock agrees with this machine's. Raises :class:`ClockError`."""
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            # A cache on the way tells how long ago the vendor answered.
            sent = parsedate_to_datetime(headers["date"]) if "date" in headers else None
            age = timedelta(seconds=int(headers.get("age", "0")))
            if sent is not None and sent.tzinfo is not None:
                require_same_time(datetime.now(UTC), sent + age, f"the vendor ({self._base_url.host})")

    def _keep(self, ask: _Ask, envelope: Envelope) -> None:
        ask.vendor_status = self._clean(envelope.status or "") or None
        ask.base_bars = envelope.base_bars
        ask.request_id = self._clean(envelope.request_id or ask.request_id or "") or None

    async def _refuse(self, ask: _Ask, response: httpx.Response, body: bytes) -> NoReturn:
        """Raise what ``response`` means; it is not a page."""
        status, said = response.status_code, ""
        # A 5xx may be HTML or empty: then its HTTP status says enough.
        with contextlib.suppress(MalformedPageError):
            envelope = parse_envelope(body)
            self._keep(ask, envelope)
            said = self._clean(envelope.problem or "")
        reason = said or response.reason_phrase or "no reason given"
        refusal = _refusal(status, ask.vendor_status, said, is_list=ask.is_list)
        if refusal is RateLimitedError:
            ask.rate_limited += 1
            retry_after = _retry_after(response.headers)
            if retry_after is None:
                retry_after = self._retry.rate_window_seconds
            await self._limiter.penalise(retry_after)
            passing = f"over the vendor's rate limit, everybody waits {retry_after:.0f} s"
            raise _PassingError(passing, retry_after=retry_after)
        if refusal is None:
            passing = f"HTTP {status} with the status {ask.vendor_status}, {reason}"
            raise _PassingError(passing)
        what = f"the vendor refused: {reason}"
        raise refusal(what, **_facts(ask))

    def _clean(self, text: str) -> str:
        """``text`` on one line, cut to a readable length, without the key."""
        return " ".join(self._key_pattern.sub("***", text).split())[:_REASON_LENGTH]


def _key_pattern(api_key: SecretStr) -> re.Pattern[str]:
    """Finds the key, each of its characters as it is or percent-encoded.

    A short one, as people give a simulator, is found by itself only: its letters are in every word.
    """
    key = api_key.get_secret_value()
    encoded = ("".join(f"%{byte:02X}" for byte in character.encode()) for character in key)
    alternatives = (f"(?:{re.escape(plain)}|(?i:{code}))" for plain, code in zip(key, encoded, strict=True))
    found = "".join(alternatives) or r"(?!)"
    return re.compile(found if len(key) >= _LONG_KEY else rf"(?<![A-Za-z0-9]){found}(?![A-Za-z0-9])")


def _contradiction_of_bars(ticker: str, page: Page) -> str | None:
    """What a page of bars says of itself that is not so; None when nothing is.

    The vendor repeats the ticker as it was asked for. Upper and lower case are different securities.
    """
    about = page.envelope.ticker
    if about is not None and about != ticker:
        return f"the page is about {about!r} and not about {ticker!r}"
    return _miscounted(page, exactly=True)


def _contradiction_of_day(page: Page) -> str | None:
    """As above, of a page of many tickers: a row without one may be any symbol's."""
    if page.frame["ticker"].null_count():
        return "the page has a row that names no ticker"
    return _miscounted(page, exactly=True)


def _contradiction_of_list(symbols: Collection[str], page: Page) -> str | None:
    """As above, of a page of a list: a row without a ticker may be any symbol's, and rows of others alone are an error."""
    listed = page.frame["symbol"]
    if listed.null_count():
        return "the page has a row that names no ticker"
    if listed.len() and not listed.is_in(list(symbols)).any():
        return f"the page is about {listed[0]!r}, which was not asked for"
    # Not every list says whether it counts a page or all of them.
    return _miscounted(page, exactly=False)


def _miscounted(page: Page, *, exactly: bool) -> str | None:
    """A count that promises more rows than there are: the body is cut short. Rows beyond it are screened like any."""
    rows = page.frame.height
    for said in page.envelope.rows:
        if said > rows if exactly else said > 0 and not rows and page.envelope.next_url is None:
            return f"the page says that it has {said:,} rows, and has {rows:,}"
    return None


def _refusal(  # noqa: PLR0911 - one line for each kind
    status: int, vendor_status: str | None, said: str, *, is_list: bool
) -> type[PolygonError] | None:
    """The error that an answer without a page stands for; None when it may pass."""
    if status == codes.UNAUTHORIZED or "unknown api key" in said.lower():
        return AuthenticationError
    if status == codes.TOO_MANY_REQUESTS or "exceeded the maximum requests" in said:
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
    """Seconds of a Retry-After header, be it a number or an HTTP date; None when absent or unreadable."""
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


def _facts(ask: _Ask) -> _Facts:
    return {"symbol": ask.symbol, "window": ask.window, "status": ask.status, "request_id": ask.request_id}
