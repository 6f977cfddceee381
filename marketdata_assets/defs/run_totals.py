"""The totals of a run, which every partition of the run has in metadata whose names begin with ``run_``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import add
from typing import TYPE_CHECKING, Self

from marketdata_assets.defs.metadata import integer_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagster import MetadataValue


@dataclass(frozen=True)
class RunTotals:
    """Counts of one run, or of several added up. A subclass names the counts; each field defaults to 0."""

    def to_metadata(self) -> dict[str, MetadataValue]:
        """Return the counts as metadata."""
        # Imported here, because it takes two seconds, which a backfill with nothing to do need not wait.
        from dagster import MetadataValue  # noqa: PLC0415

        return {_key(name): MetadataValue.int(count) for name, count in vars(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, MetadataValue]) -> Self:
        """Read the counts from ``metadata``; a count that the run did not record is 0."""
        values = {count.name: metadata.get(_key(count.name)) for count in fields(cls)}
        return cls(**{name: integer_of(value) for name, value in values.items() if value is not None})

    def __add__(self, other: Self) -> Self:
        """Return the sum of each count."""
        return type(self)(*map(add, vars(self).values(), vars(other).values()))


@dataclass(frozen=True)
class RowTotals(RunTotals):
    """The numbers of stored bars."""

    rows_inserted: int = 0
    rows_changed: int = 0
    rows_unchanged: int = 0


@dataclass(frozen=True)
class BarTotals(RowTotals):
    """The numbers of stored and of quarantined bars."""

    rows_quarantined: int = 0


@dataclass(frozen=True)
class WrittenTotals(RunTotals):
    """The numbers of stored rows of features."""

    rows_written: int = 0
    rows_replaced: int = 0


@dataclass(frozen=True)
class BlockedTotals(RunTotals):
    """The number of partitions that get nothing, because a check blocks them or because their input is missing."""

    partitions_blocked: int = 0


@dataclass(frozen=True)
class SeriesTotals(BlockedTotals):
    """The numbers of series, and of their bars, that features were computed for."""

    bars: int = 0
    series_computed: int = 0
    series_up_to_date: int = 0


@dataclass(frozen=True)
class FeatureTotals(WrittenTotals, SeriesTotals):
    """All counts of a run of ``features``, some recorded by the asset and the others by the IO manager."""


def _key(name: str) -> str:
    return f"run_{name}"
