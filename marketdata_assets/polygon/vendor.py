"""The vendor as callers see it: a synchronous face over the async client."""

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
from marketdata_assets.polygon.client import HistoryNotice, PolygonClient, RetryPolicy, Timeouts, history_cut
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
    """A page arrived. ``frame`` has the domain's ``VENDOR_SCHEMA``; ``is_last`` closes the request.

    ``notice`` hints, on the first page with bars, that the plan cut the range. ``rows`` are those of ``frame`` as the
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
    """A page of a market's day arrived. ``frame`` has ``grouped.DAY_SCHEMA``: the bars of the request's symbols alone.

    ``record.bars`` counts every row of the page. ``rows`` are those of the page as the vendor wrote them.
    """

    request: DayRequest
    frame: pl.DataFrame
    record: FetchRecord
    is_last: bool
    rows: PageRows = field(default_factory=PageRows)


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A request ended without its remaining pages; the others go on."""

    request: FetchRequest | DayRequest
    error: PolygonError
    record: FetchRecord


FetchEvent = PageFetched | DayFetched | RequestFailed
BarRequest = FetchRequest | DayRequest


@dataclass(frozen=True, slots=True)
class ListedActions:
    """The vendor's whole list of some symbols' corporate actions, and what it cost.

    ``rows`` has the schema of ``kind`` (``domain.actions``), unscreened; ``endpoint`` is the path that answered.
    ``problems`` says in one line, by symbol, what could not be read of its rows: the list of it is not whole.
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
    """Everything that a fetch needs, settled before it starts."""

    base_url: str
    api_key: SecretStr
    requests_per_minute: int
    database_url: SecretStr | None
    concurrency: int
    timeouts: Timeouts
    retry: RetryPolicy


class Vendor(Protocol):
    """What the use-cases ask of the vendor. ``defs.resources.polygon`` has it as a resource of Dagster."""

    @property
    def is_simulated(self) -> bool:
        """Whether the vendor is on this machine, which only a simulator is."""

    def stream(
        self, requests: Sequence[BarRequest], *, database_url: str | None = None
    ) -> Generator[FetchEvent]:
        """Fetch ``requests``, as :func:`stream`."""

    def actions(
        self, kind: ActionKind, symbols: Sequence[str], *, database_url: str | None = None
    ) -> ListedActions:
        """Everything of ``kind`` that the vendor lists of ``symbols``, as :func:`list_actions`."""

    def unlisted(
        self, instruments: Sequence[Instrument], *, database_url: str | None = None
    ) -> frozenset[Instrument]:
        """Find those of ``instruments`` that the vendor's directory does not have, as :func:`unlisted`."""


def stream(plan: FetchPlan, requests: Sequence[BarRequest]) -> Generator[FetchEvent]:
    """Fetch ``requests``, up to ``concurrency`` at once; the pages of one request come in order.

    Only a few pages are held, however long the caller takes. Closing the generator stops everything.

    Raises:
        AuthenticationError: When the vendor refuses the key; everything else is dropped.
        RateLimiterUnavailableError: When the database is away.
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
    """The vendor's own bars of any timeframe, with ``VENDOR_SCHEMA``, sorted, one row per time.

    Args:
        plan: How to fetch.
        symbol: As this project writes it.
        timeframe: Any of the eight; the vendor's 4-hour and weekly bars keep the vendor's own anchors.
        start: A local date, or an aware moment; bars that open from there on.
        end: The last local date, inclusive; or an aware moment, exclusive.
        asset_class: Default: crypto for BASE-QUOTE, else stock.

    Raises:
        ConfigurationError: When an argument or a setting is wrong.
        PolygonError: Of the kind that fits.
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
    """Everything of ``kind`` that the vendor lists of ``symbols``, stocks and ETFs.

    The former endpoint is asked when the vendor does not know the current one, or the plan does not include
    it; a failure is not answered by asking elsewhere. Without ``symbols`` nothing is asked.

    Raises:
        EntitlementError: The plan includes no endpoint of this kind.
        EndpointNotFoundError: The vendor has none.
        PolygonError: Of the kind that fits, otherwise.
        RateLimiterUnavailableError: When the database is away.
    """
    *preferred, last = ENDPOINTS[kind]
    for endpoint in preferred:
        try:
            return _listed(plan, kind, endpoint, symbols)
        except (EntitlementError, NotFoundError) as error:
            _LOGGER.warning("%s cannot be asked and the former endpoint is: %s", endpoint.path, error)
    return _listed(plan, kind, last, symbols)


def unlisted(plan: FetchPlan, instruments: Sequence[Instrument]) -> frozenset[Instrument]:
    """Find those of ``instruments`` that the vendor's directory has neither as active nor as delisted.

    An instrument counts as listed when the directory cannot be asked: the plan may not include it. Each costs one or
    two requests.

    Raises:
        AuthenticationError: When the vendor refuses the key.
        RateLimiterUnavailableError: When the database is away.
    """
    channel: _Channel[tuple[Instrument, bool]] = _Channel()
    with channel.running(lambda: _fetch_all(plan, instruments, partial(_look_up, channel))):
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


def _listed(plan: FetchPlan, kind: ActionKind, endpoint: Endpoint, symbols: Sequence[str]) -> ListedActions:
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
    """Runs a coroutine on an event loop in a thread, and hands its events to the thread that iterates.

    At most ``_QUEUED_EVENTS`` wait in between; :meth:`put` holds the coroutine back until there is room.
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
        """Run ``main()`` in a thread; on leaving, cancel what is left of it and wait for its end."""
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
        # The loop may have ended already: then there is nobody left to tell.
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)

    def _run(self, main: Callable[[], Coroutine[None, None, None]]) -> None:
        async def started() -> None:
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.current_task()
            self._started.set()
            await main()

        outcome: BaseException | None = None
        try:
            # psycopg does not work on Windows' default loop.
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(started())
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


async def _look_up(
    channel: _Channel[tuple[Instrument, bool]], client: PolygonClient, instrument: Instrument
) -> None:
    ticker = vendor_ticker(instrument.symbol, instrument.asset_class)
    try:
        is_listed = await client.lists(ticker, symbol=instrument.symbol)
    except AuthenticationError:
        raise
    except PolygonError as error:
        _LOGGER.warning("whether the vendor has %s cannot be found out: %s", ticker, error)
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
                notice = history_cut(request.window, first, calendar, symbol=request.symbol)
            await channel.put(PageFetched(request, page.frame, page.record, page.is_last, notice, page.rows))


async def _fetch_day(channel: _Channel[FetchEvent], client: PolygonClient, request: DayRequest) -> None:
    async with contextlib.aclosing(client.market_day(request)) as pages:
        async for page in pages:
            # Of a page of ten thousand tickers, only what was asked for goes on.
            bars = bars_of_day(page.frame, request)
            await channel.put(DayFetched(request, bars, page.record, page.is_last, page.rows))
