"""The app: its routes, the gate in front of them, and the responses to everything that goes wrong."""

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
from marketdata_assets.api.problems import SCHEMA, Problem, invalid_arguments, problem_of, responses
from marketdata_assets.api.service import Service, ServiceOptions, service_of
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.series import AssetClass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from prometheus_client.registry import Collector
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MAX_BODY_BYTES: Final = 65_536
_PIECE_BYTES: Final = 65_536
"""The size of a piece of a response: the server waits after each piece for the client, and never copies the rest."""
_HEALTH: Final = "/health"
_DOCUMENT: Final = "/openapi.json"
_UNREADABLE: Final = 400
_NOT_FOUND: Final = 404
_METHOD_NOT_ALLOWED: Final = 405
_TOO_LARGE: Final = 413
_ABOUT: Final = (
    "Bars, features, gaps and completeness of the series that this platform collects. Tables come as JSON, CSV, Arrow or"
    " Parquet, as `Accept` prefers; errors are problem documents (RFC 9457)."
)

router = APIRouter(route_class=GuardedRoute)
_open_router = APIRouter()


@_open_router.get(
    _HEALTH,
    summary="Whether the server and its database answer",
    response_model=Health,
    responses={status: response for status, response in responses().items() if status in (500, 503)},
)
async def health(request: Request) -> Health:
    """200 while the database answers, 503 while it does not. Needs no key, and counts towards no limit."""
    await service_of(request).check()
    return Health(status="ok")


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_model=None,
    responses={
        200: {"description": "Metrics", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **responses(),
    },
    openapi_extra=READ,
)
async def metrics(request: Request) -> Response:
    """Return the counts of requests, their durations and rows, in the text format of Prometheus."""
    page = await asyncio.to_thread(service_of(request).metrics.page)
    return Response(page, media_type=CONTENT_TYPE)


# FastAPI's own route would be open to all.
@router.get(_DOCUMENT, include_in_schema=False)
async def openapi(request: Request) -> Response:
    """Return the OpenAPI document."""
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
"""Statuses of requests that are logged as refused; other errors concern their client alone."""
_FAILED: Final = frozenset({"database-away", "locked", "too-slow"})
"""Codes of responses with such a status that are failures of the server, not refusals."""


def create_app(options: ServiceOptions, *, collectors: Sequence[Collector] = ()) -> FastAPI:
    """Return an app over the database of ``options``; the app connects when it is started.

    ``collectors`` provide more metrics whenever ``/metrics`` is read.
    """
    service = Service(options, collectors=collectors)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        # Reading the calendar takes a second, for which no first response should wait.
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
        # A redirect would name this server's own scheme: behind a proxy with TLS, the key would follow it in clear text.
        redirect_slashes=False,
        exception_handlers={
            HTTPException: _http_problem,
            RequestValidationError: _argument_problem,
        },
    )
    app.state.service = service
    for part in _ROUTERS:
        app.include_router(part)
    app.add_middleware(_Gate, service=service)
    _complete_document(app)
    return app


class _Gate:
    """The middleware around every request: it admits the caller, turns errors into responses, logs and counts."""

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
        # The app answers HEAD as it does GET; the gate leaves the body out.
        requested = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        status = 0

        async def forward(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _add_default_headers(message["headers"])
                await send(message)
            elif requested is scope:
                await _send_in_pieces(message, send)
            elif not message.get("more_body"):
                await send({"type": "http.response.body", "body": b""})

        try:
            await self._admit(scope, state)
            await self._app(requested, _limit_body(receive), forward)
        except Exception as error:
            problem = problem_of(error)
            if status == 0:
                state["code"] = problem.code
                await problem.response()(requested, receive, forward)
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
        # Without the query, which may hold a secret.
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
            raise self._service.too_many_requests(seconds)
        state["caller"] = caller


async def _send_in_pieces(message: Message, send: Send) -> None:
    body = memoryview(message.get("body", b""))
    more = message.get("more_body", False)
    for start in range(0, max(len(body), 1), _PIECE_BYTES):
        end = start + _PIECE_BYTES
        piece = bytes(body[start:end])
        await send({"type": "http.response.body", "body": piece, "more_body": more or end < len(body)})


def _add_default_headers(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    named = {name.lower() for name, _ in headers}
    caching = [] if b"cache-control" in named else [(b"cache-control", b"no-store")]
    return [*headers, *caching, (b"x-content-type-options", b"nosniff")]


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


def _route_of(scope: Scope) -> str:
    # A request that the gate refuses has not been routed yet.
    return getattr(scope.get("route") or _route_to(scope), "path", "none")


def _route_to(scope: Scope) -> APIRoute | None:
    return next((route for route, match in _routes_at(scope) if match is Match.FULL), None)


def _routes_at(scope: Scope) -> Iterator[tuple[APIRoute, Match]]:
    """Yield the routes of the path of ``scope``, each with how well it matches: the path alone or the method, too."""
    for part in _ROUTERS:
        for route in part.routes:
            if isinstance(route, APIRoute) and (match := route.matches(scope)[0]) is not Match.NONE:
                yield route, match


def _limit_body(receive: Receive) -> Receive:
    """Return ``receive`` with an error for a body that is larger than :data:`_MAX_BODY_BYTES`."""
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > _MAX_BODY_BYTES:
            # FastAPI takes any other error for a body that is not JSON.
            raise HTTPException(_TOO_LARGE)
        return message

    return receive_limited


_REFUSALS: Final = {
    _UNREADABLE: ("unreadable-body", "the body is not JSON: send what /docs describes"),
    _NOT_FOUND: ("no-such-path", "this path does not exist: see /docs"),
    _METHOD_NOT_ALLOWED: ("method-not-allowed", ""),
    _TOO_LARGE: ("body-too-large", f"a body may have {_MAX_BODY_BYTES:,} bytes at most: send less"),
}


async def _http_problem(request: Request, error: Exception) -> Response:
    """Return the response to a request that routing itself refuses."""
    if not isinstance(error, HTTPException):
        raise TypeError from error
    headers = dict(error.headers or {})
    code, detail = _REFUSALS.get(error.status_code, ("refused", str(error.detail)))
    if error.status_code == _METHOD_NOT_ALLOWED:
        allowed = _allowed_methods(request)
        headers["Allow"] = ", ".join(allowed)
        detail = f"this path takes only {', '.join(allowed)}"
    return Problem(error.status_code, code, detail, headers=headers).response()


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes of the path: Starlette names only those of the first route."""
    methods = {method for route, _ in _routes_at(request.scope) for method in route.methods or ()}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


async def _argument_problem(_: Request, error: Exception) -> Response:
    """Return the response to arguments that contradict the OpenAPI document."""
    if not isinstance(error, RequestValidationError):
        raise TypeError from error
    if any(fault["type"] == "json_invalid" for fault in error.errors()):
        return Problem(_UNREADABLE, *_REFUSALS[_UNREADABLE]).response()
    # That an argument may be left out does not help a client that has sent it.
    found = [fault for fault in error.errors() if fault["type"] != "none_required"]
    if any(fault["loc"] == ("body",) and fault["type"] == "model_attributes_type" for fault in found):
        detail = "the body is not a JSON object: send one, with Content-Type: application/json"
        return Problem(422, "invalid-argument", detail, errors=[{"in": "body", "detail": detail}]).response()
    errors = [
        {"in": ".".join(map(str, fault["loc"][:2])), "detail": _describe_error(fault)} for fault in found
    ]
    return invalid_arguments(errors).response()


def _describe_error(error: Mapping[str, Any]) -> str:
    """Return what is wrong, for a person who knows the argument but not its pattern."""
    if error["type"] == "string_pattern_mismatch" and error["loc"][1:2] in (("start",), ("end",)):
        return "write YYYY-MM-DD, or YYYY-MM-DDTHH:MM:SSZ; the + of an offset is %2B in a URL"
    return str(error["msg"]).removeprefix("Value error, ")


def _complete_document(app: FastAPI) -> None:
    """Add the problem documents and the key to the OpenAPI document, and remove schemas that no response has."""
    document = app.openapi()
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = SCHEMA
    components["securitySchemes"] = SECURITY_SCHEMES
    app.openapi_schema = document
