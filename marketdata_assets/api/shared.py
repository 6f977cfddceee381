"""What many requests need and one of them asks for: a single question, whose answer all of them get."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

FAILURE_SECONDS: Final = 1.0
"""For how long a failure is believed: a database that is away is not asked by every request."""


class Shared(Generic[T]):
    """What ``ask`` returns, kept for ``seconds``; asked once at a time. ``clock`` counts seconds and never goes back."""

    def __init__(self, ask: Callable[[], Awaitable[T]], seconds: float, clock: Callable[[], float]) -> None:
        self._ask = ask
        self._seconds = seconds
        self._clock = clock
        self._task: asyncio.Task[T] | None = None
        self._good_until = 0.0

    async def get(self) -> T:
        """The answer, as old as ``seconds`` at the most.

        Raises what asking raises, for :data:`FAILURE_SECONDS` without asking again.
        """
        if self._task is None or (self._task.done() and self._clock() > self._good_until):
            self._task = asyncio.create_task(self._asked())
        # Whoever goes away leaves the question to the others.
        return await asyncio.shield(self._task)

    async def _asked(self) -> T:
        started = self._clock()
        try:
            answer = await self._ask()
        except BaseException:
            self._good_until = self._clock() + FAILURE_SECONDS
            raise
        self._good_until = started + self._seconds
        return answer
