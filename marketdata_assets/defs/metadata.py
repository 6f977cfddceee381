"""Values of Dagster's metadata, as this project wrote them."""

from __future__ import annotations


def integer_of(value: object) -> int:
    """Return the whole number that ``value`` stands for, wrapped by Dagster or not. Raises :class:`TypeError`."""
    # Imported here: commands that read no metadata need not wait two seconds for Dagster.
    from dagster import MetadataValue  # noqa: PLC0415

    given = value.value if isinstance(value, MetadataValue) else value
    if not isinstance(given, int | str):
        message = f"metadata holds {given!r} where a whole number belongs"
        raise TypeError(message)
    return int(given)
