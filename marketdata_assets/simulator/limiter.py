"""The vendor's own rate limit: a sliding window of 60 seconds per key."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW_SECONDS = 60.0


class SlidingWindow:
    """A window that admits at most ``limit`` requests of one key in any 60 seconds. Refused requests do not count."""

    def __init__(self, limit: int | None, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._admitted: defaultdict[str, deque[float]] = defaultdict(deque)

    def admit(self, key: str) -> bool:
        """Return whether a request of ``key`` that arrives now is answered, and count it if so."""
        if self._limit is None:
            return True
        now = self._clock()
        admitted = self._admitted[key]
        while admitted and admitted[0] <= now - WINDOW_SECONDS:
            admitted.popleft()
        if len(admitted) >= self._limit:
            return False
        admitted.append(now)
        return True

    def clear(self) -> None:
        """Forget every request."""
        self._admitted.clear()
