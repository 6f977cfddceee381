"""How much one client may ask for: a bucket of tokens for each, and turns at the database."""

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
"""Buckets that are kept; a client that sent nothing for the longest time begins anew."""

ROWS_PER_TOKEN: Final = 1_000

_CLIENT_UNSENT: Final = 64 * 1024 * 1024
_TOTAL_UNSENT: Final = 4 * _CLIENT_UNSENT


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RateLimiter:
    """Token buckets by client: ``rate`` tokens a second flow in, up to ``burst``.

    A request takes one token, and one more for every thousand rows that it may be answered with, before it is; what
    it did not need is given back. A client that reads years waits longer for its next answer than one that reads
    days, and years that are asked for together wait for each other. Of one process, in its memory.
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
        """Take a token of ``client``: 0, or the seconds to wait when there is none; then nothing is taken."""
        bucket = self._bucket(client)
        if bucket.tokens >= 1:
            bucket.tokens -= 1
            return 0.0
        return (1 - bucket.tokens) / self._rate

    def reserve(self, client: str, rows: int) -> float:
        """Take what ``rows`` cost, into debt when the bucket has less: 0, or the seconds to wait while it is in debt."""
        bucket = self._bucket(client)
        if bucket.tokens < 0:
            return (1 - bucket.tokens) / self._rate
        bucket.tokens -= rows / ROWS_PER_TOKEN
        return 0.0

    def settle(self, client: str, reserved: int, rows: int) -> None:
        """Let ``client`` have paid for ``rows`` instead of the ``reserved`` ones."""
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
    """Bytes of answers that their clients have not taken yet, ``per_client`` and ``total`` at most before more are made.

    Used from several threads. Answers that are being made meanwhile come on top: one of each reader.
    """

    def __init__(self, per_client: int = _CLIENT_UNSENT, total: int = _TOTAL_UNSENT) -> None:
        self._per_client = per_client
        self._total = total
        self._lock = threading.Lock()
        self._bytes: Counter[str] = Counter()

    def require_room(self, client: str) -> None:
        """Raise :class:`Problem` while ``client``, or all together, leave too much unread: 429 or 503."""
        with self._lock:
            own, total = self._bytes[client], self._bytes.total()
        if own >= self._per_client:
            detail = "this client has not read its earlier answers: read them first"
            raise Problem(429, "answers-unread", detail, headers={"Retry-After": "1"})
        if total >= self._total:
            detail = "too many answers are being sent: try again later"
            raise Problem(503, "busy", detail, headers={"Retry-After": "1"})

    def add(self, client: str, size: int) -> None:
        """Count an answer of ``size`` bytes for ``client``."""
        with self._lock:
            self._bytes[client] += size

    def release(self, client: str, size: int) -> None:
        """Take back what :meth:`add` has counted."""
        with self._lock:
            self._bytes[client] -= size
            if self._bytes[client] <= 0:
                del self._bytes[client]


@dataclass(slots=True)
class _Queue:
    running: asyncio.Semaphore
    tasks: set[asyncio.Future[Any]] = field(default_factory=set)


class Turns:
    """``at_once`` questions of each client at the database, and ``waiting`` that wait for their turn.

    However much one client asks at once, what others ask is not behind all of it. Of one process and one event loop.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._at_once = at_once
        self._most = at_once + waiting
        self._queues: dict[str, _Queue] = {}

    async def take(self, client: str, ask: Callable[[], Coroutine[object, object, T]]) -> T:
        """What ``ask`` returns, once it is the turn of ``client``.

        Raises:
            Problem: 429, when too many of its questions wait already.
        """
        queue = self._queues.setdefault(client, _Queue(asyncio.Semaphore(self._at_once)))
        if len(queue.tasks) >= self._most:
            raise Problem(
                429,
                "too-many-requests",
                f"{self._most} questions of this client are not answered yet: wait for some of them",
                headers={"Retry-After": "1"},
            )
        task = asyncio.ensure_future(_in_turn(queue, ask))
        queue.tasks.add(task)
        # Not when the client goes away: its question is still being worked on then.
        task.add_done_callback(lambda done: self._leave(client, queue, done))
        return await asyncio.shield(task)

    def _leave(self, client: str, queue: _Queue, task: asyncio.Future[Any]) -> None:
        queue.tasks.discard(task)
        if not queue.tasks:
            del self._queues[client]


async def _in_turn(queue: _Queue, ask: Callable[[], Coroutine[object, object, T]]) -> T:
    async with queue.running:
        return await ask()


def retry_after(seconds: float) -> str:
    """``seconds`` as the header says them: whole, and never too few."""
    return str(max(1, math.ceil(seconds)))
