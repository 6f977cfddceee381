"""The vendor for callers: a synchronous interface to the async client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

import polars as pl

from marketdata_assets.domain.actions import SCHEMAS, ActionKind
from marketdata_assets.domain.bars import VENDOR_SCHEMA
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.series import AssetClass, Instrument, parse_symbol
from marketdata_assets.domain.spelling import capitalise
from marketdata_assets.domain.tickers import infer_asset_class, vendor_ticker
from marketdata_assets.domain.windows import Window
from marketdata_assets.polygon.actions import ENDPOINTS, Endpoint, ListRequest, plan_lists
from marketdata_assets.polygon.client import (
    HistoryNotice,
    PolygonClient,
    RetryPolicy,
    Timeouts,
    find_history_cut,
)
from marketdata_assets.polygon.errors import (
    AuthenticationError,
    EntitlementError,
    NotFoundError,
    PolygonError,
)
from marketdata_assets.polygon.grouped import DayRequest, bars_of_day
from marketdata_assets.polygon.limiter import NoLimit, RateLimiter, bucket_of
from marketdata_assets.polygon.parser import PageRows
from marketdata_assets.polygon.request import FetchRecord, FetchRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence

    from pydantic import SecretStr

    from marketdata_assets.domain.timeframe import Timeframe
    from marketdata_assets.polygon.client import FetchedPage
    from marketdata_assets.polygon.limiter import Limiter

Event = TypeVar("Event")
Request = TypeVar("Request")

_LOGGER = logging.getLogger(__name__)

_QUEUED_EVENTS: Final = 2


@dataclass(frozen=True, slots=True)
class PageFetched:
    """The arrival of a page. ``frame`` has the domain's ``VENDOR_SCHEMA``; ``is_last`` ends the request.

    ``notice`` hints, on the first page with bars, that the plan cut the range. ``rows`` are the rows of ``frame`` as the
    vendor wrote them.
    """

    request: FetchRequest
    frame: pl.DataFrame
    record: FetchRecord
    is_last: bool
    notice: HistoryNotice | None = None
    rows: PageRows = field(default_factory=PageRows)


@dataclass(frozen=True, slots=True)
class DayFetched:
    """The arrival of a page of a market's day. ``frame`` has ``grouped.DAY_SCHEMA`` and the request's symbols only.

    ``record.bars`` counts every row of the page. ``rows`` are the rows of the page as the vendor wrote them.
    """

    request: DayRequest
    frame: pl.DataFrame
    record: FetchRecord
    is_last: bool
    rows: PageRows = field(default_factory=PageRows)


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """The failure of a request, whose remaining pages do not arrive; other requests continue."""

    request: FetchRequest | DayRequest
    error: PolygonError
    record: FetchRecord

    @property
    def is_last(self) -> bool:
        """True: no more events of the request follow."""
        return True


FetchEvent = PageFetched | DayFetched | RequestFailed
BarRequest = FetchRequest | DayRequest


@dataclass(frozen=True, slots=True)
class ListedActions:
    """The vendor's complete list of some symbols' corporate actions, and its cost.

    ``rows`` has the schema of ``kind`` (``domain.actions``), unscreened; ``endpoint`` is the path of the list.
    ``problems`` describes, in one line per symbol, values that could not be read: the list of that symbol is incomplete.
    """

    kind: ActionKind
    rows: pl.DataFrame
    endpoint: str
    problems: Mapping[str, str] = field(default_factory=dict)
    requests: int = 0
    retries: int = 0
    waited_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """The configuration of a fetch."""

    base_url: str
    api_key: SecretStr
    requests_per_minute: int
    database_url: SecretStr | None
    concurrency: int
    timeouts: Timeouts
    retry: RetryPolicy


class Vendor(Protocol):
    """The interface of the vendor for use-cases. ``defs.resources.polygon`` implements it as a Dagster resource."""

    @property
    def is_simulated(self) -> bool:
        """Whether the vendor is on this machine, and so is a simulator."""

    def stream(
        self, requests: Sequence[BarRequest], *, database_url: str | None = None
    ) -> Generator[FetchEvent]:
        """Fetch ``requests``, as :func:`stream` does."""

    def actions(
        self, kind: ActionKind, symbols: Sequence[str], *, database_url: str | None = None
    ) -> ListedActions:
        """List all corporate actions of ``kind`` of ``symbols``, as :func:`list_actions`."""

    def unlisted(
        self, instruments: Sequence[Instrument], *, database_url: str | None = None
    ) -> frozenset[Instrument]:
        """Find those of ``instruments`` that the vendor's directory does not have, as :func:`unlisted`."""


def stream(plan: FetchPlan, requests: Sequence[BarRequest]) -> Generator[FetchEvent]:
    """Fetch ``requests``, up to ``concurrency`` at once; the pages of one request come in order.

    Only a few pages are in memory, however long the caller takes. Closing the generator stops all requests.

    Raises:
        AuthenticationError: When the vendor rejects the key; all other requests are dropped.
        RateLimiterUnavailableError: When the database is unavailable.
    """
    channel: _Channel[FetchEvent] = _Channel()
    with channel.running(lambda: _fetch_all(plan, requests, partial(_fetch, channel))):
        yield from channel


def fetch_range(
    plan: FetchPlan,
    symbol: str,
    timeframe: Timeframe,
    start: date | datetime,
    end: date | datetime,
    *,
    asset_class: AssetClass | None = None,
) -> pl.DataFrame:
    """Fetch the vendor's own bars of any timeframe as ``VENDOR_SCHEMA``, sorted, one row per time.

    Args:
        plan: The configuration of the fetch.
        symbol: The symbol, as this project writes it.
        timeframe: Any of the eight; the vendor's 4-hour and weekly bars keep the vendor's own anchors.
        start: The first local date, or an aware time, both inclusive.
        end: The last local date, inclusive; or an aware time, exclusive.
        asset_class: The asset class; by default crypto for BASE-QUOTE, else stock.

    Raises:
        ConfigurationError: When an argument or a setting is wrong.
        PolygonError: The matching subclass.
    """
    symbol = capitalise(parse_symbol(symbol))
    asset_class = asset_class or infer_asset_class(symbol)
    request = FetchRequest(symbol, asset_class, timeframe, _window(start, end, asset_class))
    frames = [VENDOR_SCHEMA.to_frame()]
    with contextlib.closing(stream(plan, [request])) as events:
        for event in events:
            if isinstance(event, RequestFailed):
                raise event.error
            frames.append(event.frame.select(VENDOR_SCHEMA.names()))
    opens = pl.col("time")
    return (
        pl.concat(frames)
        .filter(opens >= request.window.start, opens < request.window.end)
        .unique("time", keep="last")
        .sort("time")
    )


def list_actions(plan: FetchPlan, kind: ActionKind, symbols: Sequence[str]) -> ListedActions:
    """List all corporate actions of ``kind`` of ``symbols``, which are stocks and ETFs.

    The former endpoint is used when the vendor does not have the current one, or the plan does not include it; after
    other failures it is not. Without ``symbols`` no request is made.

    Raises:
        EntitlementError: The plan includes no endpoint of this kind.
        EndpointNotFoundError: The vendor has no such endpoint.
        PolygonError: The matching subclass, for any other failure.
        RateLimiterUnavailableError: When the database is unavailable.
    """
    *preferred, last = ENDPOINTS[kind]
    for endpoint in preferred:
        try:
            return _fetch_lists(plan, kind, endpoint, symbols)
        except (EntitlementError, NotFoundError) as error:
            _LOGGER.warning("%s is not available, using the former endpoint: %s", endpoint.path, error)
    return _fetch_lists(plan, kind, last, symbols)


def unlisted(plan: FetchPlan, instruments: Sequence[Instrument]) -> frozenset[Instrument]:
    """Find those of ``instruments`` that the vendor's directory has neither as active nor as delisted.

    An instrument counts as listed when the directory cannot be read: the plan may not include it. Each instrument costs
    one or two requests.

    Raises:
        AuthenticationError: When the vendor rejects the key.
        RateLimiterUnavailableError: When the database is unavailable.
    """
    channel: _Channel[tuple[Instrument, bool]] = _Channel()
    with channel.running(lambda: _fetch_all(plan, instruments, partial(_find_in_directory, channel))):
        return frozenset(instrument for instrument, is_listed in channel if not is_listed)


def _window(start: date | datetime, end: date | datetime, asset_class: AssetClass) -> Window:
    calendar = calendar_of(asset_class)
    edges = [
        moment.astimezone(UTC)
        if isinstance(moment, datetime)
        else calendar.day_start(moment + timedelta(days=extra))
        for moment, extra in ((start, 0), (end, 1))
    ]
    if edges[0] >= edges[1]:
        message = f"the range {start}..{end} is empty or reversed: give an end after the start"
        raise ConfigurationError(message)
    return Window(edges[0], edges[1])


def _fetch_lists(
    plan: FetchPlan, kind: ActionKind, endpoint: Endpoint, symbols: Sequence[str]
) -> ListedActions:
    requests = plan_lists(kind, endpoint, symbols)
    channel: _Channel[FetchedPage] = _Channel()
    with channel.running(lambda: _fetch_all(plan, requests, partial(_fetch_list, channel))):
        pages = list(channel)
    problems: dict[str, str] = {}
    for page in pages:
        for at, fault in page.rows.faults.items():
            symbol = page.frame["symbol"][at]
            problems.setdefault(symbol, f"{symbol} has one of its {kind} listed with {fault}")
    return ListedActions(
        kind,
        pl.concat([SCHEMAS[kind].to_frame(), *(page.frame for page in pages)]),
        endpoint.path,
        problems,
        requests=len(pages),
        retries=sum(page.record.retries for page in pages),
        waited_seconds=sum(page.record.waited_seconds for page in pages),
    )


class _Channel(Generic[Event]):
    """A channel that runs a coroutine on an event loop in a thread, and passes its events to the iterating thread.

    At most ``_QUEUED_EVENTS`` wait in between; :meth:`put` delays the coroutine until there is room.
    """

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(_QUEUED_EVENTS)
        # A queue without a bound of its own: putting must never block the loop.
        self._events: SimpleQueue[Event | BaseException | None] = SimpleQueue()
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    async def put(self, event: Event) -> None:
        """Queue ``event`` as soon as there is room."""
        await self._room.acquire()
        self._events.put(event)

    def __iter__(self) -> Iterator[Event]:
        while (event := self._events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            self._call(self._room.release)
            yield event

    @contextlib.contextmanager
    def running(self, main: Callable[[], Coroutine[None, None, None]]) -> Iterator[None]:
        """Run ``main()`` in a thread; on leaving, cancel it if it still runs, and wait for its end."""
        # A daemon: a generator that is never closed must not keep the process alive.
        thread = threading.Thread(target=self._run, args=(main,), name="polygon", daemon=True)
        thread.start()
        self._started.wait()
        try:
            yield
        finally:
            if self._task is not None:
                self._call(self._task.cancel)
            thread.join()

    def _call(self, function: Callable[[], object]) -> None:
        # The loop may have ended already; then there is nothing to call.
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)

    def _run(self, main: Callable[[], Coroutine[None, None, None]]) -> None:
        async def start() -> None:
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.current_task()
            self._started.set()
            await main()

        outcome: BaseException | None = None
        try:
            # psycopg does not work on Windows' default loop.
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(start())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer's thread
            outcome = error
        finally:
            self._events.put(outcome)
            self._started.set()


async def _fetch_all(
    plan: FetchPlan,
    requests: Sequence[Request],
    fetch: Callable[[PolygonClient, Request], Coroutine[None, None, None]],
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        limiter: Limiter = NoLimit()
        if plan.requests_per_minute and plan.database_url is not None:
            bucket = bucket_of(plan.api_key)
            limiter = await stack.enter_async_context(
                RateLimiter(plan.database_url.get_secret_value(), bucket, plan.requests_per_minute)
            )
        client = await stack.enter_async_context(
            PolygonClient(
                base_url=plan.base_url,
                api_key=plan.api_key,
                limiter=limiter,
                concurrency=plan.concurrency,
                timeouts=plan.timeouts,
                retry=plan.retry,
            )
        )
        waiting = iter(requests)

        async def work() -> None:
            for request in waiting:
                await fetch(client, request)

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(plan.concurrency, len(requests))):
                    workers.create_task(work())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None


async def _fetch_list(channel: _Channel[FetchedPage], client: PolygonClient, request: ListRequest) -> None:
    async with contextlib.aclosing(client.actions(request)) as pages:
        async for page in pages:
            await channel.put(page)


async def _find_in_directory(
    channel: _Channel[tuple[Instrument, bool]], client: PolygonClient, instrument: Instrument
) -> None:
    ticker = vendor_ticker(instrument.symbol, instrument.asset_class)
    try:
        is_listed = await client.is_listed(ticker, symbol=instrument.symbol)
    except AuthenticationError:
        raise
    except PolygonError as error:
        _LOGGER.warning("cannot determine whether the vendor has %s: %s", ticker, error)
        is_listed = True
    await channel.put((instrument, is_listed))


async def _fetch(channel: _Channel[FetchEvent], client: PolygonClient, request: BarRequest) -> None:
    fetch = (
        _fetch_day(channel, client, request)
        if isinstance(request, DayRequest)
        else _fetch_range(channel, client, request)
    )
    try:
        await fetch
    except PolygonError as error:
        if error.record is not None:
            await channel.put(RequestFailed(request, error, error.record))
        if error.record is None or isinstance(error, AuthenticationError):
            raise


async def _fetch_range(channel: _Channel[FetchEvent], client: PolygonClient, request: FetchRequest) -> None:
    calendar = calendar_of(request.asset_class)
    ticker = vendor_ticker(request.symbol, request.asset_class)
    pages = client.aggregates(ticker, request.base, request.window, symbol=request.symbol, calendar=calendar)
    begun = False
    async with contextlib.aclosing(pages):
        async for page in pages:
            notice = None
            first = page.frame["time"].min()
            if not begun and isinstance(first, datetime):
                begun = True
                notice = find_history_cut(request.window, first, calendar, symbol=request.symbol)
            await channel.put(PageFetched(request, page.frame, page.record, page.is_last, notice, page.rows))


async def _fetch_day(channel: _Channel[FetchEvent], client: PolygonClient, request: DayRequest) -> None:
    async with contextlib.aclosing(client.market_day(request)) as pages:
        async for page in pages:
            # Of a page of ten thousand tickers, only the requested ones are passed on.
            bars = bars_of_day(page.frame, request)
            await channel.put(DayFetched(request, bars, page.record, page.is_last, page.rows))
