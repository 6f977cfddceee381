"""The vendor's endpoints as an ASGI application, and the simulator's own endpoints under ``/_simulator``.

``GET /_simulator/requests`` returns the log, ``POST /_simulator/faults`` replaces the fault plan (a JSON
array of :class:`Fault` objects), ``POST /_simulator/reset`` clears the log, the rate limit and the counts
of faults. These need no key: the simulator is for loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from marketdata_assets.domain.calendar import milliseconds
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.windows import Window
from marketdata_assets.simulator import reference
from marketdata_assets.simulator.aggregates import (
    DELAY_MS,
    AggregatesQuery,
    Page,
    cursor_of,
    read_page,
    read_query,
)
from marketdata_assets.simulator.answers import (
    Refusal,
    not_entitled,
    outside_plan,
    refusal_of,
    too_many_requests,
    unknown_key,
)
from marketdata_assets.simulator.bars import Bars, encode
from marketdata_assets.simulator.config import SimulatorConfig
from marketdata_assets.simulator.faults import (
    BAR_FAULTS,
    Fault,
    FaultKind,
    FaultPlan,
    RequestedWindow,
    fault_of,
)
from marketdata_assets.simulator.grouped import MarketDays, day_rows, read_day_query
from marketdata_assets.simulator.instruments import hash_of
from marketdata_assets.simulator.limiter import SlidingWindow
from marketdata_assets.simulator.log import RequestRecord, key_id_of
from marketdata_assets.simulator.market import Market
from marketdata_assets.simulator.replay import Replay

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from marketdata_assets.simulator.source import BarSource

VENDOR_URL = "https://api.polygon.io"
_JSON = "application/json"
_TRANSPORT = "marketdata.transport"
_HTML = "<html><head><title>{0}</title></head><body><center><h1>{0}</h1></center><hr>nginx</body></html>"

_Answer = Callable[["Simulator", Request, RequestRecord], Response]


class Simulator:
    """One simulated vendor: its source of bars, limiter, fault plan and log."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.source: BarSource = Replay(config.replay) if config.replay else Market(config)
        self.requests: list[RequestRecord] = []
        self._days = MarketDays(self.source, config)
        self._limiter = SlidingWindow(config.requests_per_minute, config.monotonic)
        self._started = config.monotonic()
        self.faults = FaultPlan(config.faults, config.seed, self._started)

    def set_faults(self, faults: Sequence[Fault]) -> None:
        """Replace the fault plan, and start its counts and times again."""
        self.faults = FaultPlan(faults, self.config.seed, self.config.monotonic())

    def reset(self) -> None:
        """Clear the log, the rate limit and the counts of faults."""
        self.requests.clear()
        self._limiter.clear()
        self.set_faults(self.faults.faults)

    async def serve(self, request: Request, answer: _Answer) -> Response:
        """Log a request, admit it, apply the fault plan, and answer it."""
        key, in_url = _key_of(request)
        record = RequestRecord(
            arrived=self.config.now().timestamp(),
            elapsed=self.config.monotonic() - self._started,
            path=request.url.path,
            params={name: value for name, value in request.query_params.items() if name != "apiKey"},
            key_id=key_id_of(key),
            key_in_url=in_url,
            ticker=request.path_params.get("ticker", request.query_params.get("ticker")),
            request_id=f"{hash_of(self.config.seed, len(self.requests)):016x}" * 2,
        )
        self.requests.append(record)
        if self.config.latency:
            await asyncio.sleep(self.config.latency)
        try:
            response = await self._admit(request, record, key, answer)
        except Refusal as refusal:
            body = msgspec.json.encode({**refusal.body, "request_id": record.request_id})
            response = Response(body, refusal.status, refusal.headers, _JSON)
        response.headers["X-Request-Id"] = record.request_id
        record.status = response.status_code
        return response

    async def _admit(
        self, request: Request, record: RequestRecord, key: str | None, answer: _Answer
    ) -> Response:
        if not key or (self.config.api_keys is not None and key not in self.config.api_keys):
            raise unknown_key()
        if not self._limiter.admit(key):
            raise too_many_requests(self.config.retry_after)
        if record.path in self.config.refused:
            raise refusal_of(self.config.refused[record.path])
        faults = self.faults.hit_request(
            f"{record.path}?{sorted(record.params.items())}",
            record.ticker,
            self._requested_window(request),
            self.config.monotonic(),
        )
        record.faults = [fault.kind.value for fault in faults]
        # A fault of one ticker does not fail a day of all tickers.
        is_market = "market" in request.path_params
        for fault in faults:
            if is_market and fault.ticker is not None:
                continue
            failure = await self._apply_fault(request, fault)
            if failure is not None:
                return failure
        request.state.faults = faults
        named = request.query_params.get("ticker.any_of", "").split(",")
        self._days.remember({*named, record.ticker or ""} - {""})
        response = answer(self, request, record)
        if any(
            fault.kind is FaultKind.TRUNCATED_JSON and not (is_market and fault.ticker is not None)
            for fault in faults
        ):
            return Response(bytes(response.body)[: len(response.body) // 2], media_type=_JSON)
        return response

    def _requested_window(self, request: Request) -> RequestedWindow | None:
        """Return the window of a request for bars; None for any other or unreadable request."""
        try:
            if "market" in request.path_params:
                day = read_day_query(request.path_params, request.query_params)
                return RequestedWindow(*day.edges_ms, "day", is_market=True)
            if "timespan" not in request.path_params:
                return None
            query = self.query_of(request)
        except Refusal:
            return None
        return RequestedWindow(query.start_ms, query.end_ms, query.grid.base)

    def query_of(self, request: Request) -> AggregatesQuery:
        """Parse the aggregates query of a request. Raises a 400 refusal."""
        asset_class = self.source.asset_class(request.path_params["ticker"])
        return read_query(request.path_params, request.query_params, asset_class)

    async def _apply_fault(self, request: Request, fault: Fault) -> Response | None:
        match fault.kind:
            case FaultKind.RATE_LIMIT:
                refusal = too_many_requests(fault.retry_after)
                if fault.body is None:
                    raise refusal
                return Response(fault.body, refusal.status, refusal.headers)
            case FaultKind.SERVER_ERROR:
                status = HTTPStatus(fault.status or HTTPStatus.INTERNAL_SERVER_ERROR)
                page = _HTML.format(f"{status.value} {status.phrase}")
                return Response(page if fault.body is None else fault.body, status, media_type="text/html")
            case FaultKind.NON_JSON:
                page = _HTML.format("Just a moment...") if fault.body is None else fault.body
                return Response(page, media_type="text/html")
            case FaultKind.NOT_AUTHORIZED:
                raise not_entitled(fault.status or HTTPStatus.OK)
            case FaultKind.TIMEOUT:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(_wait_for_disconnect(request), fault.seconds)
                return await _cut(request)
            case FaultKind.RESET:
                return await _cut(request)
            case _:
                return None

    def aggregates(self, request: Request, record: RequestRecord) -> Response:
        """Serve ``/v2/aggs/ticker/{ticker}/range/...``."""
        query = self.query_of(request)
        faults: list[Fault] = request.state.faults
        asset_class = self.source.asset_class(query.ticker)
        self._check_entitled(asset_class)
        now = self.config.now()
        since_ms: int | None = None
        if self.config.plan_history is not None:
            since_ms = milliseconds(now - self.config.plan_history)
            if query.end_ms <= since_ms:
                raise outside_plan()
        for fault in faults:
            if fault.kind is FaultKind.HISTORY_CUT and fault.start is not None:
                since_ms = max(milliseconds(fault.start), since_ms or 0)
        page = read_page(
            self.source,
            query,
            now_ms=milliseconds(now) - (DELAY_MS if self.config.delayed else 0),
            since_ms=since_ms,
            lost=[
                Window(fault.start, fault.end)
                for fault in faults
                if fault.kind is FaultKind.LOST_HOURS and fault.start and fault.end
            ],
        )
        record.base_bars = page.base_bars
        return Response(self._page_body(request, record, query, page, asset_class), media_type=_JSON)

    def market_day(self, request: Request, record: RequestRecord) -> Response:
        """Serve ``/v2/aggs/grouped/locale/{locale}/market/{market}/{date}``."""
        query = read_day_query(request.path_params, request.query_params)
        self._check_entitled(query.asset_class)
        now = self.config.now()
        start, end = query.edges_ms
        if self.config.plan_history is not None and end <= milliseconds(now - self.config.plan_history):
            raise outside_plan()
        now_ms = milliseconds(now) - (DELAY_MS if self.config.delayed else 0)
        faults: list[Fault] = request.state.faults
        found = {
            ticker: bars
            for ticker, bars in self._days.bars(query, now_ms).items()
            if not any(_loses(fault, ticker, start) for fault in faults)
        }

        def damage(bars: Bars, ticker: str) -> list[dict[str, Any]] | None:
            return self.faults.damage(
                [fault for fault in faults if fault.ticker in (None, ticker)], bars, ticker
            )

        rows = day_rows(found, query, damage)
        record.bars = record.base_bars = len(rows)
        body: dict[str, Any] = {
            "queryCount": len(rows),
            "resultsCount": len(rows),
            "adjusted": query.adjusted,
        }
        if rows or self.config.empty_results == "list":
            body["results"] = rows
        status = "DELAYED" if self.config.delayed else "OK"
        return _json(body | {"status": status, "request_id": record.request_id, "count": len(rows)})

    def _page_body(
        self,
        request: Request,
        record: RequestRecord,
        query: AggregatesQuery,
        page: Page,
        asset_class: AssetClass | None,
    ) -> bytes:
        rows = self.faults.damage(request.state.faults, page.bars, query.ticker)
        if rows is not None:
            results = msgspec.json.encode(rows if query.ascending else rows[::-1])
            count = len(rows)
        else:
            results = encode(page.bars, newest_first=not query.ascending)
            count = len(page.bars)
        record.bars = count
        # Documented index pages carry neither resultsCount nor adjusted (docs/vendor.md, "Bars").
        index = asset_class is AssetClass.INDEX and count > 0
        head: dict[str, Any] = {"ticker": query.ticker, "queryCount": page.base_bars}
        if not index:
            head |= {"resultsCount": count, "adjusted": query.adjusted}
        tail: dict[str, Any] = {
            "status": "DELAYED" if self.config.delayed else "OK",
            "request_id": record.request_id,
        }
        if count or self.config.empty_results == "list":
            tail["count"] = count
        if page.next_range is not None:
            start, end = page.next_range
            grid = f"{query.grid.multiplier}/{query.grid.timespan}"
            path = f"/v2/aggs/ticker/{query.ticker}/range/{grid}/{start}/{end}"
            kept = "&adjusted=false" if self.config.next_url_keeps_adjusted and not query.adjusted else ""
            tail["next_url"] = f"{self._origin(request)}{path}?cursor={cursor_of(query)}{kept}"
        parts = [msgspec.json.encode(head)[:-1]]
        if count or self.config.empty_results == "list":
            parts += [b',"results":', results]
        parts += [b",", msgspec.json.encode(tail)[1:]]
        return b"".join(parts)

    def splits_v3(self, request: Request, record: RequestRecord) -> Response:
        """Serve ``/v3/reference/splits``."""
        rows = reference.split_rows_v3(self.source, duplicated=self.config.duplicate_splits)
        return self._listing(request, record, rows, reference.SPLITS_V3)

    def splits_v1(self, request: Request, record: RequestRecord) -> Response:
        """Serve ``/stocks/v1/splits``."""
        rows = reference.split_rows_v1(self.source, duplicated=self.config.duplicate_splits)
        return self._listing(request, record, rows, reference.SPLITS_V1, numbered=True)

    def dividends_v3(self, request: Request, record: RequestRecord) -> Response:
        """Serve ``/v3/reference/dividends``."""
        rows = reference.dividend_rows_v3(self.source, request.query_params.get("ticker"))
        return self._listing(request, record, rows, reference.DIVIDENDS_V3)

    def dividends_v1(self, request: Request, record: RequestRecord) -> Response:
        """Serve ``/stocks/v1/dividends``."""
        rows = reference.dividend_rows_v1(self.source, request.query_params.get("ticker"))
        return self._listing(request, record, rows, reference.DIVIDENDS_V1, numbered=True)

    def tickers(self, request: Request, record: RequestRecord) -> Response:
        """Serve ``/v3/reference/tickers``."""
        rows = reference.ticker_rows(self.source, request.query_params.get("ticker"))
        return self._listing(request, record, rows, reference.TICKERS_V3)

    def ticker(self, request: Request, record: RequestRecord) -> Response:
        """Serve ``/v3/reference/tickers/{ticker}``."""
        row = reference.ticker_row(self.source, request.path_params["ticker"])
        return _json({"results": row, "status": "OK", "request_id": record.request_id})

    def market_now(self, request: Request, record: RequestRecord) -> Response:  # noqa: ARG002  # one signature for all answers
        """Serve ``/v1/marketstatus/now``."""
        return _json(reference.market_now(self.config.now()))

    def market_upcoming(self, request: Request, record: RequestRecord) -> Response:  # noqa: ARG002  # as above
        """Serve ``/v1/marketstatus/upcoming``."""
        return _json(reference.market_upcoming(self.config.now()))

    def earnings(self, request: Request, record: RequestRecord) -> Response:
        """Serve ``/benzinga/v1/earnings``, a paid add-on that is refused unless the plan includes it."""
        if not self.config.earnings:
            raise not_entitled()
        rows = reference.earnings_rows(self.source, self.config.now().date())
        return self._listing(request, record, rows, reference.EARNINGS_V1, numbered=True)

    def _listing(
        self,
        request: Request,
        record: RequestRecord,
        rows: Sequence[reference.Row],
        listing: reference.Listing,
        *,
        numbered: bool = False,
    ) -> Response:
        page = reference.page_of(rows, listing, request.query_params)
        record.bars = len(page.rows)
        # The /stocks/v1 endpoints number their requests (docs/vendor.md, "Corporate actions").
        body: dict[str, Any] = {
            "results": page.rows,
            "status": "OK",
            "request_id": len(self.requests) if numbered else record.request_id,
        }
        if page.cursor is not None:
            body["next_url"] = f"{self._origin(request)}{request.url.path}?cursor={page.cursor}"
        return _json(body)

    def _check_entitled(self, asset_class: AssetClass | None) -> None:
        entitled = self.config.entitled
        wanted = AssetClass.STOCK if asset_class is AssetClass.ETF else asset_class
        if entitled is not None and wanted is not None and wanted not in entitled:
            raise not_entitled()

    def _origin(self, request: Request) -> str:
        return VENDOR_URL if self.config.foreign_next_url else str(request.base_url).rstrip("/")


class _Application(Starlette):
    """A Starlette application that keeps the connection, so that a fault can cut it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # uvicorn's `send` is a method of the request cycle, which owns the transport; in-process there is none.
        scope[_TRANSPORT] = getattr(getattr(send, "__self__", None), "transport", None)
        await super().__call__(scope, receive, send)


def create_app(config: SimulatorConfig | None = None) -> Starlette:
    """Create the application of one simulator, which is ``app.state.simulator``.

    Raises :class:`ConfigurationError` when the folder to replay is absent or empty.
    """
    simulator = Simulator(config or SimulatorConfig())

    def route(path: str, answer: _Answer) -> Route:
        async def endpoint(request: Request) -> Response:
            return await simulator.serve(request, answer)

        return Route(path, endpoint, methods=["GET"])

    async def requests(_: Request) -> Response:
        return _json({"requests": [asdict(record) for record in simulator.requests]})

    async def faults(request: Request) -> Response:
        try:
            options = msgspec.json.decode(await request.body(), type=list[dict[str, Any]])
            simulator.set_faults([fault_of(option) for option in options])
        except (msgspec.MsgspecError, ConfigurationError) as error:
            return Response(
                msgspec.json.encode({"error": str(error)}), HTTPStatus.BAD_REQUEST, media_type=_JSON
            )
        return _json({"faults": len(simulator.faults.faults)})

    async def reset(_: Request) -> Response:
        simulator.reset()
        return _json({"requests": 0})

    app = _Application(
        routes=[
            route(
                "/v2/aggs/ticker/{ticker}/range/{multiplier}/{timespan}/{from}/{to}",
                Simulator.aggregates,
            ),
            route("/v2/aggs/grouped/locale/{locale}/market/{market}/{date}", Simulator.market_day),
            route("/v3/reference/splits", Simulator.splits_v3),
            route("/v3/reference/dividends", Simulator.dividends_v3),
            route("/v3/reference/tickers", Simulator.tickers),
            route("/v3/reference/tickers/{ticker}", Simulator.ticker),
            route("/stocks/v1/splits", Simulator.splits_v1),
            route("/stocks/v1/dividends", Simulator.dividends_v1),
            route("/v1/marketstatus/now", Simulator.market_now),
            route("/v1/marketstatus/upcoming", Simulator.market_upcoming),
            route("/benzinga/v1/earnings", Simulator.earnings),
            Route("/_simulator/requests", requests, methods=["GET"]),
            Route("/_simulator/faults", faults, methods=["POST"]),
            Route("/_simulator/reset", reset, methods=["POST"]),
        ]
    )
    app.state.simulator = simulator
    return app


def _key_of(request: Request) -> tuple[str | None, bool]:
    """Return the key, from the header or else from the URL, and whether the URL had a key."""
    in_url = request.query_params.get("apiKey")
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return (token if scheme.lower() == "bearer" and token else in_url), in_url is not None


def _loses(fault: Fault, ticker: str, start_ms: int) -> bool:
    """Whether ``fault`` removes the day bar of ``ticker`` that opens at ``start_ms``."""
    if fault.ticker not in (None, ticker):
        return False
    begins = milliseconds(fault.start) if fault.start else start_ms
    if fault.kind is FaultKind.HISTORY_CUT:
        return start_ms < begins
    if fault.kind is FaultKind.LOST_HOURS:
        return fault.end is not None and begins <= start_ms < milliseconds(fault.end)
    # A fault that fails the requests for a ticker leaves its bar out.
    return fault.ticker is not None and fault.kind not in BAR_FAULTS


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type=_JSON)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _cut(request: Request) -> Response:
    """Abort the connection. In-process, where there is none, raises :class:`ConnectionResetError`."""
    transport = request.scope.get(_TRANSPORT)
    if transport is None:
        message = "connection reset by the simulator's fault plan"
        raise ConnectionResetError(message)
    transport.abort()
    await _wait_for_disconnect(request)
    return Response(status_code=499)
