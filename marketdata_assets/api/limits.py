"""How much one client may ask for: a bucket of tokens for each."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_CLIENTS: Final = 10_000
"""Buckets that are kept; whoever was not heard of for the longest begins anew."""

ROWS_PER_TOKEN: Final = 1_000


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RateLimiter:
    """Token buckets by client: ``rate`` tokens a second flow in, up to ``burst``.

    A request takes one token before it is answered, and one more for every thousand rows afterwards: a client
    that reads years waits longer for its next answer than one that reads days. Of one process, in its memory.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def admit(self, client: str) -> float:
        """Take a token of ``client``: 0, or the seconds to wait when there is none; then nothing is taken."""
        bucket = self._bucket(client)
        if bucket.tokens >= 1:
            bucket.tokens -= 1
            return 0.0
        return (1 - bucket.tokens) / self._rate

    def charge(self, client: str, rows: int) -> None:
        """Take what ``rows`` cost, into debt when the bucket has less, but not for longer than it takes to fill."""
        bucket = self._bucket(client)
        bucket.tokens = max(bucket.tokens - rows / ROWS_PER_TOKEN, -self._burst)

    def _bucket(self, client: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.pop(client, None) or _Bucket(self._burst, now)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._rate)
        bucket.at = now
        self._buckets[client] = bucket
        if len(self._buckets) > _MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return bucket


def retry_after(seconds: float) -> str:
    """``seconds`` as the header says them: whole, and never too few."""
    return str(max(1, math.ceil(seconds)))
