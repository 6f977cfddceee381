"""The clock that sensors and the matrix go by, which a test replaces."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

Clock: TypeAlias = Callable[[], datetime]
"""Returns the present, aware, in UTC."""


def read_utc_now() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)
