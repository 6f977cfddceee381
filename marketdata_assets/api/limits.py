"""Limits of each client: a bucket of tokens, bytes that it has not read yet, and a queue for the database."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from marketdata_assets.api.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

MAX_CLIENTS: Final = 10_000
"""The buckets that are kept; the client that has been silent for longest starts again with a full bucket."""

ROWS_PER_TOKEN: Final = 1_000

_CLIENT_UNSENT: Final = 64 * 1024 * 1024
_TOTAL_UNSENT: Final = 4 * _CLIENT_UNSENT


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RateLimiter:
    """Token buckets by client: ``rate`` tokens a second flow in, up to ``burst``.

    Before it is answered, a request takes one token, and one more for every thousand rows that it may return; the tokens
    of rows that it did not return are given back. So a client that reads years waits longer for its next response than
    one that reads days, and concurrent requests for years wait for each other. The buckets live in the memory of one
    process.
    """

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float], *, max_clients: int = MAX_CLIENTS
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._max_clients = max_clients
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def admit(self, client: str) -> float:
        """Take a token of ``client`` and return 0; without a token, take nothing and return the seconds to wait."""
        bucket = self._bucket(client)
        if bucket.tokens >= 1:
            bucket.tokens -= 1
            return 0.0
        return (1 - bucket.tokens) / self._rate

    def reserve(self, client: str, rows: int) -> float:
        """Take the tokens of ``rows``, into debt if need be, and return 0; return the seconds to wait while in debt."""
        bucket = self._bucket(client)
        if bucket.tokens < 0:
            return (1 - bucket.tokens) / self._rate
        bucket.tokens -= rows / ROWS_PER_TOKEN
        return 0.0

    def settle(self, client: str, reserved: int, rows: int) -> None:
        """Charge ``client`` for ``rows`` instead of the ``reserved`` ones."""
        bucket = self._bucket(client)
        bucket.tokens = min(bucket.tokens + (reserved - rows) / ROWS_PER_TOKEN, self._burst)

    def _bucket(self, client: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.pop(client, None) or _Bucket(self._burst, now)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._rate)
        bucket.at = now
        self._buckets[client] = bucket
        if len(self._buckets) > self._max_clients:
            self._buckets.popitem(last=False)
        return bucket


class Unsent:
    """The bytes of responses that clients have not read yet; at ``per_client`` or ``total``, no more responses are made.

    Safe to use from several threads. Responses that are being made meanwhile come on top: one for each reader.
    """

    def __init__(self, per_client: int = _CLIENT_UNSENT, total: int = _TOTAL_UNSENT) -> None:
        self._per_client = per_client
        self._total = total
        self._lock = threading.Lock()
        self._bytes: Counter[str] = Counter()

    def require_room(self, client: str) -> None:
        """Raise :class:`Problem` while ``client``, or all clients together, leave too much unread: 429 or 503."""
        with self._lock:
            own, total = self._bytes[client], self._bytes.total()
        if own >= self._per_client:
            detail = "this client has not read its earlier responses: read them first"
            raise Problem(429, "answers-unread", detail, headers={"Retry-After": "1"})
        if total >= self._total:
            detail = "too many responses are being sent: try again later"
            raise Problem(503, "busy", detail, headers={"Retry-After": "1"})

    def add(self, client: str, size: int) -> None:
        """Count a response of ``size`` bytes for ``client``."""
        with self._lock:
            self._bytes[client] += size

    def release(self, client: str, size: int) -> None:
        """Subtract ``size`` bytes of ``client`` that :meth:`add` has counted."""
        with self._lock:
            self._bytes[client] -= size
            if self._bytes[client] <= 0:
                del self._bytes[client]


@dataclass(slots=True)
class _Queue:
    running: asyncio.Semaphore
    tasks: set[asyncio.Future[Any]] = field(default_factory=set)


class ClientQueue:
    """A queue for each client: ``at_once`` of its requests use the database, and ``waiting`` more wait for their turn.

    So one client's requests never all stand before those of another. For one process with one event loop.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._at_once = at_once
        self._max_pending = at_once + waiting
        self._queues: dict[str, _Queue] = {}

    async def run(self, client: str, read: Callable[[], Coroutine[object, object, T]]) -> T:
        """Call ``read`` once it is the turn of ``client``, and return its result.

        Raises:
            Problem: 429, when too many requests of ``client`` are waiting.
        """
        queue = self._queues.setdefault(client, _Queue(asyncio.Semaphore(self._at_once)))
        if len(queue.tasks) >= self._max_pending:
            raise Problem(
                429,
                "too-many-requests",
                f"{self._max_pending} requests of this client are not answered yet: wait for some of them",
                headers={"Retry-After": "1"},
            )
        task = asyncio.ensure_future(_run_in_turn(queue, read))
        queue.tasks.add(task)
        # Not when the client goes away: the database is still working on its request then.
        task.add_done_callback(lambda done: self._leave(client, queue, done))
        return await asyncio.shield(task)

    def _leave(self, client: str, queue: _Queue, task: asyncio.Future[Any]) -> None:
        queue.tasks.discard(task)
        if not queue.tasks:
            del self._queues[client]


async def _run_in_turn(queue: _Queue, read: Callable[[], Coroutine[object, object, T]]) -> T:
    async with queue.running:
        return await read()


def retry_after(seconds: float) -> str:
    """Return ``seconds`` for the header ``Retry-After``: rounded up to a whole number, at least 1."""
    return str(max(1, math.ceil(seconds)))
