"""The vendor's rate limit, kept exactly by any number of processes.

One row of Postgres per API key holds the times of the latest grants (``storage.rate_limit``). A single statement
reserves the next slot, which is the latest of

- now,
- the N-th latest grant, plus the period and a slack (so that no period ever contains more than N),
- the pace: one grant every period/N, after an allowance of N/10 that refills while no slot is requested,
- the end of a penalty (a 429's Retry-After), which delays every process.

The caller then sleeps until its slot. The slack of 0.6 s, 1 % of a minute, absorbs delays between the
slot and the vendor's clock: a late wake-up, a new connection. A caller that wakes later than the slack allows
drops its slot and takes another. Callers that are asleep when a penalty begins are notified through LISTEN/NOTIFY
and take a new slot after it, so that no burst follows.

When the database is unavailable nothing is granted: :class:`RateLimiterUnavailableError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeVar

import stamina

from marketdata_assets.polygon.errors import RateLimiterUnavailableError
from marketdata_assets.storage import rate_limit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from pydantic import SecretStr

T = TypeVar("T")

_LOGGER = logging.getLogger(__name__)

PERIOD_SECONDS: Final = 60.0
"""The vendor counts requests in one rolling minute per key (docs/vendor.md, "Limits")."""

SLACK_SECONDS: Final = 0.6
"""The time beyond the vendor's period for which a slot stays taken."""

_DATABASE_TIMEOUT_SECONDS: Final = 15.0
_LISTEN_RETRY_SECONDS: Final = 5.0
_RECONNECT_SECONDS: Final = 30.0
_NOTE_WAIT_SECONDS: Final = 1.0
_NOTE_EVERY_SECONDS: Final = 10.0


def bucket_of(api_key: SecretStr) -> str:
    """Return the name under which processes with one key share a limit: a hash that does not reveal the key."""
    return hashlib.sha256(b"marketdata rate limit " + api_key.get_secret_value().encode()).hexdigest()[:16]


class Limiter(Protocol):
    """A limiter that decides when the next request may be sent."""

    async def acquire(self) -> float:
        """Wait for a slot, and return the seconds waited."""

    async def penalise(self, retry_after: float) -> None:
        """Let no request be sent for ``retry_after`` seconds."""


class NoLimit:
    """A limiter without a limit, for a plan that has none. A penalty is valid in this process only."""

    def __init__(self) -> None:
        self._blocked_until = 0.0

    async def acquire(self) -> float:
        """Wait for the end of a penalty, if there is one, and return the seconds waited."""
        started = time.monotonic()
        # Not an event: the end of a penalty is a time, and it may move while this sleeps.
        while (remaining := self._blocked_until - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(remaining)
        return time.monotonic() - started

    async def penalise(self, retry_after: float) -> None:
        """Let this process send no request for ``retry_after`` seconds."""
        self._blocked_until = max(self._blocked_until, time.monotonic() + retry_after)


@dataclass(frozen=True, slots=True)
class _Slot:
    granted: float  # epoch seconds of the database's clock
    due: float  # the same moment on this process's monotonic clock
    penalised: bool  # whether a penalty delayed it
    losses: int  # how often the listener had lost its connection when the slot was reserved


class RateLimiter:
    """A limiter of at most ``requests_per_minute`` grants in any period, over all processes with the same bucket.

    An async context manager that belongs to one event loop. It keeps two connections: one for reservations,
    one that listens for penalties.

    Args:
        database_url: The Postgres that holds the table ``rate_limit``.
        bucket: See :func:`bucket_of`.
        requests_per_minute: The limit N, per period.
        period_seconds: The vendor's window; another value than a minute is for tests.
    """

    def __init__(
        self,
        database_url: str,
        bucket: str,
        requests_per_minute: int,
        *,
        period_seconds: float = PERIOD_SECONDS,
    ) -> None:
        if requests_per_minute < 1:
            message = f"a rate limit grants at least one request a minute, not {requests_per_minute}"
            raise ValueError(message)
        hold = period_seconds + SLACK_SECONDS
        self._database_url = database_url
        self._bucket = bucket
        self._requests = requests_per_minute
        self._reservation = rate_limit.Reservation(
            bucket,
            requests=requests_per_minute,
            allowance=-(-requests_per_minute // 10),
            spacing=hold / requests_per_minute,
            hold=hold,
        )
        self._connection: rate_limit.LimiterConnection | None = None
        self._connecting = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None
        self._listening = False
        self._tried_to_listen = asyncio.Event()
        self._listener_losses = 0
        self._blocked_until = float("-inf")
        self._penalty = asyncio.Event()
        self._noted = float("-inf")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close both connections. Slots that were reserved and not used are lost."""
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener
            self._listener = None
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def acquire(self) -> float:
        """Wait until a request may be sent, which must happen at once, and return the seconds waited.

        Cancelling it loses the slot and nothing else. Raises :class:`RateLimiterUnavailableError`.
        """
        started = time.monotonic()
        while not await self._sleep_until(await self._reserve()):
            pass
        return time.monotonic() - started

    async def penalise(self, retry_after: float) -> None:
        """Let no process with this bucket send a request for ``retry_after`` seconds from now.

        Waiting callers whose slot lies before the end of the penalty take a new slot after it. Raises
        :class:`RateLimiterUnavailableError`.
        """
        seconds = max(0.0, retry_after)
        self._note_penalty(
            await self._run_with_retries(lambda session: rate_limit.penalise(session, self._bucket, seconds))
        )

    async def _reserve(self) -> _Slot:
        await self._listen()
        losses = self._listener_losses
        grant = await self._run_with_retries(lambda session: rate_limit.reserve(session, self._reservation))
        return _Slot(grant.granted, time.monotonic() + grant.wait, grant.is_penalised, losses)

    async def _sleep_until(self, slot: _Slot) -> bool:
        """Sleep until ``slot``, and return whether it is still valid: not after a penalty or a late wake-up."""
        self._log_wait(slot.due - time.monotonic(), penalised=slot.penalised)
        slept = False
        while (remaining := slot.due - time.monotonic()) > 0:
            if slot.granted < self._blocked_until:
                return False
            slept = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(remaining):
                    await self._penalty.wait()
        if slept and (self._listener_losses != slot.losses or not self._listening):
            # A penalty may have begun while the listener was not connected.
            self._note_penalty(
                await self._run_with_retries(lambda session: rate_limit.read_penalty(session, self._bucket))
            )
        return slot.granted >= self._blocked_until and time.monotonic() - slot.due < SLACK_SECONDS / 2

    def _log_wait(self, wait: float, *, penalised: bool) -> None:
        now = time.monotonic()
        if wait > _NOTE_WAIT_SECONDS and now - self._noted > _NOTE_EVERY_SECONDS:
            self._noted = now
            if penalised:
                _LOGGER.info(
                    "waiting %.1f s: the vendor rejected a request with 429, and every process pauses", wait
                )
            else:
                _LOGGER.info(
                    "waiting %.1f s for the vendor's limit of %d requests a minute", wait, self._requests
                )

    def _note_penalty(self, blocked_until: float) -> None:
        if blocked_until > self._blocked_until:
            self._blocked_until = blocked_until
            self._penalty.set()
            self._penalty = asyncio.Event()

    async def _run_with_retries(self, work: Callable[[rate_limit.LimiterConnection], Awaitable[T]]) -> T:
        """Run ``work`` on the kept connection, and return its result. A slot is lost with a lost connection.

        A server that restarts or recovers is given time to come back; until then nothing is granted.
        """
        try:
            async for attempt in stamina.retry_context(
                on=(rate_limit.RateLimitAwayError, TimeoutError),
                # A database that never answered is not restarting: its address is wrong.
                attempts=2 if self._connection is None else None,
                timeout=_RECONNECT_SECONDS,
                wait_initial=0.05,
                wait_max=1.0,
            ):
                with attempt:
                    return await self._run(work)
        except (rate_limit.RateLimitError, TimeoutError) as error:
            reason = str(error).strip().partition("\n")[0] or "no answer in time"
            message = (
                f"the vendor's rate limit cannot be kept without its database ({reason}): start it with "
                "`marketdata db start`, run `marketdata migrate`, or correct DATABASE_URL"
            )
            raise RateLimiterUnavailableError(message) from None
        message = "stamina ended without an outcome"
        raise AssertionError(message)

    async def _run(self, work: Callable[[rate_limit.LimiterConnection], Awaitable[T]]) -> T:
        async with asyncio.timeout(_DATABASE_TIMEOUT_SECONDS):
            async with self._connecting:
                if self._connection is None or self._connection.closed:
                    self._connection = await rate_limit.connect_limiter(self._database_url)
                connection = self._connection
            try:
                return await work(connection)
            except rate_limit.RateLimitAwayError:
                await connection.close()
                raise

    async def _listen(self) -> None:
        """Start to listen for penalties, once; return when the first attempt has succeeded or failed."""
        if self._listener is None:
            self._listener = asyncio.create_task(self._keep_listening())
        await self._tried_to_listen.wait()

    async def _keep_listening(self) -> None:
        while True:
            try:
                async with await rate_limit.connect_limiter(self._database_url) as connection:
                    await rate_limit.listen(connection)
                    self._listening = True
                    self._tried_to_listen.set()
                    async for until in rate_limit.penalties(connection, self._bucket):
                        self._note_penalty(until)
            except rate_limit.RateLimitError:
                _LOGGER.debug("not listening for penalties: waiting callers check for one when they wake")
            finally:
                self._listening = False
                self._listener_losses += 1
                self._tried_to_listen.set()
            await asyncio.sleep(_LISTEN_RETRY_SECONDS)
