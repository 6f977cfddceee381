"""Totals of a run: what it did, as every partition of the run carries it in metadata that begins with ``run_``."""

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
    """Counts of one run, or of several added up. A subclass names the counts; each is a field that is 0 by default."""

    def to_metadata(self) -> dict[str, MetadataValue]:
        """Return the counts as metadata."""
        # Imported here: a backfill with nothing to do adds up totals, and need not wait two seconds for Dagster.
        from dagster import MetadataValue  # noqa: PLC0415

        return {_key(name): MetadataValue.int(count) for name, count in vars(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, MetadataValue]) -> Self:
        """Read the counts from ``metadata``; one that the run did not record is 0."""
        values = {one.name: metadata.get(_key(one.name)) for one in fields(cls)}
        return cls(**{name: integer_of(value) for name, value in values.items() if value is not None})

    def __add__(self, other: Self) -> Self:
        """Add the counts up."""
        return type(self)(*map(add, vars(self).values(), vars(other).values()))


@dataclass(frozen=True)
class RowTotals(RunTotals):
    """Stored bars."""

    rows_inserted: int = 0
    rows_changed: int = 0
    rows_unchanged: int = 0


@dataclass(frozen=True)
class BarTotals(RowTotals):
    """Fetched bars, with those that went to quarantine."""

    rows_quarantined: int = 0


@dataclass(frozen=True)
class WrittenTotals(RunTotals):
    """Stored rows of features."""

    rows_written: int = 0
    rows_replaced: int = 0


@dataclass(frozen=True)
class BlockedTotals(RunTotals):
    """Partitions that get nothing, because a check holds them back or because something is not there."""

    partitions_blocked: int = 0


@dataclass(frozen=True)
class SeriesTotals(BlockedTotals):
    """Series that features were computed of, and their bars."""

    bars: int = 0
    series_computed: int = 0
    series_up_to_date: int = 0


@dataclass(frozen=True)
class FeatureTotals(WrittenTotals, SeriesTotals):
    """All counts of a run of ``features``: the asset records some of them, the IO manager the others."""


def _key(name: str) -> str:
    return f"run_{name}"
