"""A call whose result many requests share: one of them makes it, and all of them get its result."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

FAILURE_SECONDS: Final = 1.0
"""How long a failure is reused: a database that does not answer is not called by every request."""


class SingleFlight(Generic[T]):
    """The result of ``call``, kept for ``seconds``; one call runs at a time. ``clock`` counts seconds and never goes back."""

    def __init__(self, call: Callable[[], Awaitable[T]], seconds: float, clock: Callable[[], float]) -> None:
        self._call = call
        self._seconds = seconds
        self._clock = clock
        self._task: asyncio.Task[T] | None = None
        self._good_until = 0.0

    async def get(self) -> T:
        """Return the result, which is at most ``seconds`` old.

        Raises what the call raises, and for :data:`FAILURE_SECONDS` raises it again without another call.
        """
        if self._task is None or (self._task.done() and self._clock() > self._good_until):
            self._task = asyncio.create_task(self._start())
        # A caller that goes away must not cancel the call of the others.
        return await asyncio.shield(self._task)

    async def _start(self) -> T:
        started = self._clock()
        try:
            result = await self._call()
        except BaseException:
            self._good_until = self._clock() + FAILURE_SECONDS
            raise
        self._good_until = started + self._seconds
        return result
