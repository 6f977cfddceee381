"""The state that the routes of one app share, and the response made from a table."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from starlette.responses import Response

from marketdata_assets.api.access import KeyRing
from marketdata_assets.api.connections import ConnectionLimits, Connections, file_limit
from marketdata_assets.api.formats import ENCODINGS, MEDIA_TYPES, encode
from marketdata_assets.api.limits import ClientQueue, RateLimiter, Unsent, retry_after
from marketdata_assets.api.metrics import Metrics
from marketdata_assets.api.negotiation import best_encoding, best_media_type
from marketdata_assets.api.problems import Problem
from marketdata_assets.api.readers import ReaderPool
from marketdata_assets.api.refusals import RefusalLog
from marketdata_assets.api.single_flight import SingleFlight
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
    """The options of one app.

    Attributes:
        database_url: The market database.
        open_reads: Whether programs on this machine read without a key: the server listens on loopback only, and no
            proxy is in front of it.
        read_keys: The keys that read, beside those of the table ``api_keys``.
        requests_per_second: The tokens that flow into each client's bucket, which holds two seconds of them.
        threads: The requests that use the database at the same time.
        waiting: The most requests that wait for a thread.
        client_threads: The requests of one client that use the database at the same time.
        client_waiting: The most requests of one client that wait.
        statement_timeout: The time after which the database cancels a statement.
        connections: The limits of connections.
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
    """The threads, keys, limits and counts of one app. ``clock`` counts seconds and never goes back."""

    def __init__(
        self,
        options: ServiceOptions,
        *,
        collectors: Sequence[Collector] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.metrics = Metrics(collectors)
        # A bucket that holds less than one token would admit no request.
        burst = max(1.0, options.requests_per_second * _BURST_SECONDS)
        self.limiter = RateLimiter(options.requests_per_second, burst, clock)
        self.unsent = Unsent()
        self.refusals = RefusalLog(clock)
        self.connections = Connections(options.connections.within(file_limit()), self.refusals)
        self._client_queue = ClientQueue(options.client_threads, options.client_waiting)
        self.readers = ReaderPool(
            options.database_url,
            size=options.threads,
            waiting=options.waiting,
            statement_timeout=options.statement_timeout,
        )
        # Not the pool of reads, whose being busy is not a failure, and one pool each: /health, which is open to all, must
        # not delay the check of a key. SingleFlight makes each of them run one call at a time.
        self._watcher, self._key_reader = (
            ReaderPool(options.database_url, size=1, waiting=1, statement_timeout=_CHECK_TIMEOUT)
            for _ in range(2)
        )
        self.keys = KeyRing(options.read_keys, lambda: self._key_reader.run(list_keys), clock)
        self._health = SingleFlight(lambda: self._watcher.run(_touch), _HEALTH_SECONDS, clock)

    async def check(self) -> None:
        """Raise an error when the database does not answer; the database is probed at most once a second."""
        await self._health.get()

    async def run(self, request: Request, work: Callable[[Database], T]) -> T:
        """Call ``work`` when it is the turn of the client that sent ``request``, and return its result."""
        return await self._client_queue.run(request.state.caller.label, lambda: self.readers.run(work))

    def reserve(self, request: Request, rows: int) -> None:
        """Charge the client that sent ``request`` for ``rows`` until it is known how many rows it gets.

        Raises:
            Problem: 429, while the client's bucket is in debt.
        """
        seconds = self.limiter.reserve(request.state.caller.label, rows)
        if seconds:
            raise self.too_many_requests(seconds)
        request.state.reserved = rows

    def too_many_requests(self, seconds: float) -> Problem:
        """Return the problem of a client that may send its next request in ``seconds``."""
        return Problem(
            429,
            "too-many-requests",
            f"this client sends more than {self.options.requests_per_second:g} requests a second, or reads more than"
            " their worth of rows: wait a little",
            headers={"Retry-After": retry_after(seconds)},
        )

    async def start(self) -> None:
        """Open the connections."""
        await self.readers.warm_up()

    def close(self) -> None:
        """Close the connections."""
        for readers in (self.readers, self._watcher, self._key_reader):
            readers.close()


def _touch(database: Database) -> None:
    database.require_answer()


def service_of(request: Request) -> Service:
    """Return the service of the app that received ``request``."""
    service: Service = request.app.state.service
    return service


async def answer(request: Request, work: Callable[[Database], Table], *, max_rows: int = 0) -> Response:
    """Return the table that ``work`` reads, in the format and compression that the client prefers.

    The table has at most ``max_rows`` rows; 0 when the number is not known in advance. The status is 304 when the client
    has the table already. The header ``Link`` names the next page in every format.
    """
    media_type = best_media_type(",".join(request.headers.getlist("accept")), MEDIA_TYPES)
    if media_type is None:
        raise Problem(406, "not-acceptable", f"responses are {', '.join(MEDIA_TYPES)}: accept one of them")
    encoding = best_encoding(",".join(request.headers.getlist("accept-encoding")), ENCODINGS)
    known = frozenset(
        tag.strip().removeprefix("W/")
        for header in request.headers.getlist("if-none-match")
        for tag in header.split(",")
    )
    service = service_of(request)
    service.reserve(request, max_rows)
    client = request.state.caller.label

    def make(database: Database) -> Encoded:
        service.unsent.require_room(client)
        # Encoded in the same thread: on the event loop, a year of minutes would delay all other requests.
        encoded = encode(work(database), media_type, encoding, known)
        service.unsent.add(client, encoded.size)
        return encoded

    encoded = await service.run(request, make)
    request.state.unsent = encoded.size
    # A table that the client has already took as long to read.
    request.state.rows = encoded.rows
    headers = {
        "ETag": encoded.etag,
        # A shared cache must not pass on a response that a key opened.
        "Cache-Control": f"private, max-age={encoded.max_age}, must-revalidate",
        "Vary": "Accept, Accept-Encoding",
        **encoded.headers,
    }
    if encoded.next_cursor is not None:
        next_page = request.url.include_query_params(cursor=encoded.next_cursor)
        headers["Link"] = f'<{next_page.path}?{next_page.query}>; rel="next"'
    if encoded.body is None:
        return Response(None, 304, headers)
    if encoded.encoding is not None:
        headers["Content-Encoding"] = encoded.encoding
    return Response(encoded.body, 200, headers, encoded.media_type)
