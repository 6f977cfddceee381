"""Values of Dagster's metadata, as this project writes them."""

from __future__ import annotations


def integer_of(value: object) -> int:
    """Return ``value``, wrapped by Dagster or not, as an integer. Raises :class:`TypeError` if it is not one."""
    # Imported here, because it takes two seconds, which commands that read no metadata need not wait.
    from dagster import MetadataValue  # noqa: PLC0415

    given = value.value if isinstance(value, MetadataValue) else value
    if not isinstance(given, int | str):
        message = f"expected an integer in the metadata, found {given!r}"
        raise TypeError(message)
    return int(given)
