"""The log of the simulator's requests and answers, for tests and benchmarks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class RequestRecord:
    """One request. It does not contain the key: ``key_id`` distinguishes keys.

    Attributes:
        arrived: The time of arrival, in Unix seconds.
        elapsed: The seconds on the limiter's clock since the simulator started.
        path: The path without the query.
        params: The query without the key.
        key_id: The first digits of the key's SHA-256; None without a key.
        key_in_url: Whether the URL contained the key, which a careful client avoids.
        status: The HTTP status; None when the connection was cut or is still open.
        base_bars: The number of base bars read for the answer, its ``queryCount``.
        bars: The number of bars sent, its ``resultsCount``.
        faults: The names of the faults that hit the request.
    """

    arrived: float
    elapsed: float
    path: str
    params: Mapping[str, str]
    key_id: str | None
    key_in_url: bool
    ticker: str | None = None
    status: int | None = None
    base_bars: int = 0
    bars: int = 0
    faults: list[str] = field(default_factory=list)
    request_id: str = ""


def key_id_of(key: str | None) -> str | None:
    """Return the id that stands for a key in the log."""
    return hashlib.sha256(key.encode()).hexdigest()[:8] if key else None
