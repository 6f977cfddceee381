"""The clock of the sensors and the matrix, which a test replaces."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

Clock: TypeAlias = Callable[[], datetime]
"""A function that returns the current time, aware, in UTC."""


def read_utc_now() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)
