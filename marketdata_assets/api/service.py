"""What the routes of one app share, and how a table becomes an answer."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from starlette.responses import Response

from marketdata_assets.api.access import KeyRing
from marketdata_assets.api.connections import ConnectionLimits, Connections, file_limit
from marketdata_assets.api.formats import ENCODINGS, MEDIA_TYPES, encode
from marketdata_assets.api.limits import RateLimiter, Turns, Unsent, retry_after
from marketdata_assets.api.metrics import Metrics
from marketdata_assets.api.negotiation import best_encoding, best_media_type
from marketdata_assets.api.problems import Problem
from marketdata_assets.api.readers import Readers
from marketdata_assets.api.refusals import RefusalLog
from marketdata_assets.api.shared import Shared
from marketdata_assets.storage.keys import list_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prometheus_client.registry import Collector
    from starlette.requests import Request

    from marketdata_assets.api.formats import Encoded, Table
    from marketdata_assets.storage.connection import Database

T = TypeVar("T")

_BURST_SECONDS: Final = 2
_HEALTH_SECONDS: Final = 1.0
_CHECK_TIMEOUT: Final = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How one app serves.

    Attributes:
        database_url: The market database.
        open_reads: Programs of this machine read without a key: the server listens on loopback only, and no proxy is
            in front of it.
        read_keys: Keys that read, beside those of ``api_keys``.
        requests_per_second: Tokens that flow into each client's bucket; two seconds of them fit in.
        threads: Questions that the database works on at once.
        waiting: Questions that wait for one of them at most.
        client_threads: Questions of one client that the database works on at once.
        client_waiting: Questions of one client that wait for them at most.
        statement_timeout: After which the database gives a question up.
        connections: How many connections there may be, and how slow.
    """

    database_url: str = field(repr=False)
    open_reads: bool = False
    read_keys: tuple[str, ...] = field(default=(), repr=False)
    requests_per_second: float = 100.0
    threads: int = 8
    waiting: int = 64
    client_threads: int = 4
    client_waiting: int = 16
    statement_timeout: timedelta = timedelta(seconds=10)
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)


class Service:
    """One app's threads, keys, limits and counts. ``clock`` counts seconds and never goes back."""

    def __init__(
        self,
        options: ServiceOptions,
        *,
        collectors: Sequence[Collector] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.metrics = Metrics(collectors)
        # Less than one request would never be saved up for.
        burst = max(1.0, options.requests_per_second * _BURST_SECONDS)
        self.limiter = RateLimiter(options.requests_per_second, burst, clock)
        self.unsent = Unsent()
        self.refusals = RefusalLog(clock)
        self.connections = Connections(options.connections.within(file_limit()), self.refusals)
        self._turns = Turns(options.client_threads, options.client_waiting)
        self.readers = Readers(
            options.database_url,
            size=options.threads,
            waiting=options.waiting,
            statement_timeout=options.statement_timeout,
        )
        # Beside the readers, whose being busy is no illness, and apart: /health, open to all, must keep nobody's key
        # waiting. Each is asked once at a time.
        self._watcher, self._key_reader = (
            Readers(options.database_url, size=1, waiting=1, statement_timeout=_CHECK_TIMEOUT)
            for _ in range(2)
        )
        self.keys = KeyRing(options.read_keys, lambda: self._key_reader.run(list_keys), clock)
        self._health = Shared(lambda: self._watcher.run(_touch), _HEALTH_SECONDS, clock)

    async def check(self) -> None:
        """Raise what is wrong with the database; it is asked once a second at the most."""
        await self._health.get()

    async def ask(self, request: Request, work: Callable[[Database], T]) -> T:
        """What ``work`` returns, in the turn of the client that sent ``request``."""
        return await self._turns.take(request.state.caller.label, lambda: self.readers.run(work))

    def reserve(self, request: Request, rows: int) -> None:
        """Let the client that sent ``request`` pay for ``rows`` until it is known how many it gets.

        Raises:
            Problem: 429, when it has not paid for earlier ones yet.
        """
        seconds = self.limiter.reserve(request.state.caller.label, rows)
        if seconds:
            raise self.too_many(seconds)
        request.state.reserved = rows

    def too_many(self, seconds: float) -> Problem:
        """The refusal of a client that may ask again in ``seconds``."""
        return Problem(
            429,
            "too-many-requests",
            f"this client asks for more than {self.options.requests_per_second:g} requests, or for more than their"
            " worth of rows, a second: wait a little",
            headers={"Retry-After": retry_after(seconds)},
        )

    async def start(self) -> None:
        """Open the connections."""
        await self.readers.warm_up()

    def close(self) -> None:
        """Close them."""
        for readers in (self.readers, self._watcher, self._key_reader):
            readers.close()


def _touch(database: Database) -> None:
    database.require_answer()


def service_of(request: Request) -> Service:
    """The service of the app that ``request`` reached."""
    service: Service = request.app.state.service
    return service


async def answer(request: Request, work: Callable[[Database], Table], *, most: int = 0) -> Response:
    """The table that ``work`` reads, in the format and compression that the client prefers.

    It has ``most`` rows at the most; 0 where nobody can know. 304 when the client has it already. ``Link`` names the next
    page in every format.
    """
    media_type = best_media_type(",".join(request.headers.getlist("accept")), MEDIA_TYPES)
    if media_type is None:
        raise Problem(406, "not-acceptable", f"answers come as {', '.join(MEDIA_TYPES)}: accept one of them")
    encoding = best_encoding(",".join(request.headers.getlist("accept-encoding")), ENCODINGS)
    known = frozenset(
        tag.strip().removeprefix("W/")
        for header in request.headers.getlist("if-none-match")
        for tag in header.split(",")
    )
    service = service_of(request)
    service.reserve(request, most)
    client = request.state.caller.label

    def make(database: Database) -> Encoded:
        service.unsent.require_room(client)
        # Encoded by the same thread: a year of minutes would hold up everybody else here.
        encoded = encode(work(database), media_type, encoding, known)
        service.unsent.add(client, encoded.size)
        return encoded

    encoded = await service.ask(request, make)
    request.state.unsent = encoded.size
    # An answer that the client has already took as long to read.
    request.state.rows = encoded.rows
    headers = {
        "ETag": encoded.etag,
        # Whoever answers for several clients must not hand on what a key opened.
        "Cache-Control": f"private, max-age={encoded.max_age}, must-revalidate",
        "Vary": "Accept, Accept-Encoding",
        **encoded.headers,
    }
    if encoded.following is not None:
        following = request.url.include_query_params(cursor=encoded.following)
        headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    if encoded.body is None:
        return Response(None, 304, headers)
    if encoded.encoding is not None:
        headers["Content-Encoding"] = encoded.encoding
    return Response(encoded.body, 200, headers, encoded.media_type)
