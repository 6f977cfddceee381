"""The app: routes, the gate before them, and what becomes of everything that goes wrong."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from marketdata_assets.api import docs, quality, series, symbols
from marketdata_assets.api.access import identify, require_one_host
from marketdata_assets.api.connections import state_of
from marketdata_assets.api.guard import READ, SECURITY_SCHEMES, GuardedRoute
from marketdata_assets.api.metrics import CONTENT_TYPE
from marketdata_assets.api.parameters import Health
from marketdata_assets.api.problems import SCHEMA, Problem, problem_of, responses
from marketdata_assets.api.service import Service, ServiceOptions, service_of
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.series import AssetClass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from prometheus_client.registry import Collector
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MOST_BODY_BYTES: Final = 65_536
_PIECE_BYTES: Final = 65_536
"""Of an answer: the server waits after each until the client takes them, and a copy of the rest is never made."""
_HEALTH: Final = "/health"
_DOCUMENT: Final = "/openapi.json"
_UNREADABLE: Final = 400
_NOT_FOUND: Final = 404
_METHOD_NOT_ALLOWED: Final = 405
_TOO_LARGE: Final = 413
_ABOUT: Final = (
    "Bars, features, gaps and completeness of the series that this platform collects. Tables come as JSON, CSV, Arrow or"
    " Parquet, whatever `Accept` prefers; errors are problem documents (RFC 9457)."
)

router = APIRouter(route_class=GuardedRoute)
_open_router = APIRouter()


@_open_router.get(
    _HEALTH,
    summary="Whether the server and its database answer",
    response_model=Health,
    responses={one: said for one, said in responses().items() if one in (500, 503)},
)
async def health(request: Request) -> Health:
    """200 while the database answers, 503 while it does not. Open to all, and not counted against any limit."""
    await service_of(request).check()
    return Health(status="ok")


@router.get(
    "/metrics",
    summary="What Prometheus reads",
    response_model=None,
    responses={
        200: {"description": "Metrics", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **responses(),
    },
    openapi_extra=READ,
)
async def metrics(request: Request) -> Response:
    """Requests, their durations and rows, in Prometheus' text format."""
    page = await asyncio.to_thread(service_of(request).metrics.page)
    return Response(page, media_type=CONTENT_TYPE)


# FastAPI's own would be open to all.
@router.get(_DOCUMENT, include_in_schema=False)
async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return JSONResponse(request.app.openapi())


_ROUTERS: Final = (
    series.router,
    quality.router,
    symbols.router,
    router,
    docs.router,
    docs.open_router,
    _open_router,
)
_REFUSED: Final = frozenset({400, 401, 403, 413, 429, 503})
"""Statuses of requests that are logged as refused: what is wrong with others is their client's own business."""
_FAILED: Final = frozenset({"database-away", "locked", "too-slow"})
"""Codes of answers with such a status that refuse nothing."""


def create_app(options: ServiceOptions, *, collectors: Sequence[Collector] = ()) -> FastAPI:
    """An app over the database of ``options``; it connects when it is started.

    ``collectors`` are asked for more metrics whenever ``/metrics`` is read.
    """
    service = Service(options, collectors=collectors)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        # Reading the calendar takes a second that nobody's first answer should wait for.
        await asyncio.to_thread(calendar_of, AssetClass.STOCK)
        await service.start()
        try:
            yield state_of(service.connections)
        finally:
            await asyncio.to_thread(service.close)

    app = FastAPI(
        title="marketdata",
        description=_ABOUT,
        version=version("marketdata_assets"),
        lifespan=lifespan,
        openapi_url=None,
        # A redirect would name this server's own scheme: behind a proxy with TLS, the key would follow it in the clear.
        redirect_slashes=False,
        exception_handlers={
            HTTPException: _http_problem,
            RequestValidationError: _argument_problem,
        },
    )
    app.state.service = service
    for one in _ROUTERS:
        app.include_router(one)
    app.add_middleware(_Gate, service=service)
    _describe(app)
    return app


class _Gate:
    """Before and around every request: who asks, how often, what went wrong, what it took."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        state = scope.setdefault("state", {})
        state["rows"] = state["reserved"] = state["unsent"] = 0
        # The app answers HEAD as it does GET; the body is left out here.
        requested = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_defaults(message["headers"])
                await send(message)
            elif requested is scope:
                await _send_in_pieces(message, send)
            elif not message.get("more_body"):
                await send({"type": "http.response.body", "body": b""})

        try:
            await self._admit(scope, state)
            await self._app(requested, _bounded(receive), sending)
        except Exception as error:
            problem = problem_of(error)
            if status == 0:
                state["code"] = problem.code
                await problem.response()(requested, receive, sending)
            else:
                raise
        finally:
            if caller := state.get("caller"):
                self._service.limiter.settle(caller.label, state["reserved"], state["rows"])
                self._service.unsent.release(caller.label, state["unsent"])
            if status in _REFUSED and state.get("code") not in _FAILED:
                self._log_refusal(requested, state, scope["method"], status)
            self._service.metrics.count(
                scope["method"] if scope["method"] in _METHODS else "other",
                _route_of(requested),
                status,
                time.perf_counter() - started,
                state["rows"],
            )

    def _log_refusal(self, scope: Scope, state: Mapping[str, Any], method: str, status: int) -> None:
        client = scope.get("client")
        # Without its query, where a client may have put what is secret.
        what = f"{method} {scope['path']}"
        kind = state.get("code", HTTPStatus(status).phrase.lower().replace(" ", "-"))
        self._service.refusals.write(kind, client[0] if client else "unknown", what)

    async def _admit(self, scope: Scope, state: dict[str, Any]) -> None:
        require_one_host(scope)
        if scope["path"] == _HEALTH:
            return
        caller = await identify(scope, self._service.keys, open_reads=self._service.options.open_reads)
        seconds = self._service.limiter.admit(caller.label)
        if seconds:
            raise self._service.too_many(seconds)
        state["caller"] = caller


async def _send_in_pieces(message: Message, send: Send) -> None:
    body = memoryview(message.get("body", b""))
    more = message.get("more_body", False)
    for start in range(0, max(len(body), 1), _PIECE_BYTES):
        end = start + _PIECE_BYTES
        piece = bytes(body[start:end])
        await send({"type": "http.response.body", "body": piece, "more_body": more or end < len(body)})


def _with_defaults(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    named = {name.lower() for name, _ in headers}
    said = [] if b"cache-control" in named else [(b"cache-control", b"no-store")]
    return [*headers, *said, (b"x-content-type-options", b"nosniff")]


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


def _route_of(scope: Scope) -> str:
    # What the gate refuses has not been routed yet.
    return getattr(scope.get("route") or _route_to(scope), "path", "none")


def _route_to(scope: Scope) -> APIRoute | None:
    return next((route for route, match in _routes_at(scope) if match is Match.FULL), None)


def _routes_at(scope: Scope) -> Iterator[tuple[APIRoute, Match]]:
    """The routes of the path of ``scope``, with whether the method is theirs, too."""
    for one in _ROUTERS:
        for route in one.routes:
            if isinstance(route, APIRoute) and (match := route.matches(scope)[0]) is not Match.NONE:
                yield route, match


def _bounded(receive: Receive) -> Receive:
    """``receive`` that gives up on a body which is larger than any that makes sense here."""
    received = 0

    async def receiving() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > _MOST_BODY_BYTES:
            # FastAPI takes any other error for a body that is no JSON.
            raise HTTPException(_TOO_LARGE)
        return message

    return receiving


_REFUSALS: Final = {
    _UNREADABLE: ("unreadable-body", "the body is no JSON: send what /docs describes"),
    _NOT_FOUND: ("no-such-path", "there is nothing at this path: see /docs"),
    _METHOD_NOT_ALLOWED: ("method-not-allowed", ""),
    _TOO_LARGE: ("body-too-large", f"a body has {_MOST_BODY_BYTES:,} bytes at the most: send less"),
}


async def _http_problem(request: Request, error: Exception) -> Response:
    """What routing itself refuses."""
    if not isinstance(error, HTTPException):
        raise TypeError from error
    headers = dict(error.headers or {})
    code, detail = _REFUSALS.get(error.status_code, ("refused", str(error.detail)))
    if error.status_code == _METHOD_NOT_ALLOWED:
        allowed = _allowed(request)
        headers["Allow"] = ", ".join(allowed)
        detail = f"here is only {', '.join(allowed)}"
    return Problem(error.status_code, code, detail, headers=headers).response()


def _allowed(request: Request) -> list[str]:
    """The methods of the path, whichever of its routes they are: Starlette names those of the first alone."""
    methods = {method for route, _ in _routes_at(request.scope) for method in route.methods or ()}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


async def _argument_problem(_: Request, error: Exception) -> Response:
    """Arguments that are not what the OpenAPI document says."""
    if not isinstance(error, RequestValidationError):
        raise TypeError from error
    if any(one["type"] == "json_invalid" for one in error.errors()):
        return Problem(_UNREADABLE, *_REFUSALS[_UNREADABLE]).response()
    # That an argument may also be left out helps nobody who has given one.
    found = [one for one in error.errors() if one["type"] != "none_required"]
    if any(one["loc"] == ("body",) and one["type"] == "model_attributes_type" for one in found):
        detail = "the body is no JSON object: send one, with Content-Type: application/json"
        return Problem(422, "invalid-argument", detail, errors=[{"in": "body", "detail": detail}]).response()
    errors = [{"in": ".".join(map(str, one["loc"][:2])), "detail": _said(one)} for one in found]
    detail = "; ".join(f"{one['in']}: {one['detail']}" for one in errors[:3])
    return Problem(422, "invalid-argument", detail, errors=errors[:20]).response()


def _said(error: Mapping[str, Any]) -> str:
    """What is wrong, for somebody who knows the argument and not its pattern."""
    if error["type"] == "string_pattern_mismatch" and error["loc"][1:2] in (("start",), ("end",)):
        return "write YYYY-MM-DD, or YYYY-MM-DDTHH:MM:SSZ; the + of an offset is %2B in a URL"
    return str(error["msg"]).removeprefix("Value error, ")


def _describe(app: FastAPI) -> None:
    """Let the OpenAPI document have the problem documents, the key, and nothing that is never answered."""
    document = app.openapi()
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = SCHEMA
    components["securitySchemes"] = SECURITY_SCHEMES
    app.openapi_schema = document
