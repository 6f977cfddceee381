"""What the simulator was asked and answered: the witness for tests and benchmarks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class RequestRecord:
    """One request. Holds no key: ``key_id`` tells keys apart.

    Attributes:
        arrived: Unix seconds.
        elapsed: Seconds on the limiter's clock since the simulator began.
        path: The path without the query.
        params: The query without the key.
        key_id: The first digits of the key's SHA-256; None when no key came.
        key_in_url: Whether the key stood in the URL, which a careful client avoids.
        status: The HTTP status; None when the connection was cut or is still open.
        base_bars: Base bars read for the answer, what ``queryCount`` says.
        bars: Bars sent, what ``resultsCount`` says.
        faults: Names of the faults that hit it.
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
    """What stands for a key in the log."""
    return hashlib.sha256(key.encode()).hexdigest()[:8] if key else None
