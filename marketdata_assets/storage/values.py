"""What psycopg hands over as ``object``, as the types that the columns have."""

from __future__ import annotations

from datetime import UTC, datetime


def moment(value: object) -> datetime:
    """A ``timestamptz`` in UTC. Raises :class:`TypeError` when it is none, null included."""
    if not isinstance(value, datetime):
        message = f"a time that is always there is {value!r}"
        raise TypeError(message)
    return value.astimezone(UTC)


def moment_or_none(value: object) -> datetime | None:
    """A ``timestamptz`` in UTC; None for null. Raises :class:`TypeError` when it is neither."""
    return None if value is None else moment(value)
