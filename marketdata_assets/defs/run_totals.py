"""The totals of a run (``domain.totals``) as every partition of the run has them: metadata whose names begin with ``run_``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

from marketdata_assets.defs.metadata import integer_of
from marketdata_assets.domain import totals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagster import MetadataValue


@dataclass(frozen=True)
class RunTotals(totals.RunTotals):
    """Counts that a run records in its metadata."""

    def to_metadata(self) -> dict[str, MetadataValue]:
        """Return the counts as metadata."""
        # Imported here, because it takes two seconds, which a command that starts no run need not wait.
        from dagster import MetadataValue  # noqa: PLC0415

        return {_key(name): MetadataValue.int(count) for name, count in vars(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, MetadataValue]) -> Self:
        """Read the counts from ``metadata``; a count that the run did not record is 0."""
        values = {count.name: metadata.get(_key(count.name)) for count in fields(cls)}
        return cls(**{name: integer_of(value) for name, value in values.items() if value is not None})


class RowTotals(totals.RowTotals, RunTotals):
    """Recorded by ``gap_report``."""


class BarTotals(totals.BarTotals, RunTotals):
    """Recorded by the IO manager for ``ohlcv``."""


class WrittenTotals(totals.WrittenTotals, RunTotals):
    """Recorded by the IO manager for ``features``."""


class BlockedTotals(totals.BlockedTotals, RunTotals):
    """Recorded by the IO manager when every partition is blocked."""


class SeriesTotals(totals.SeriesTotals, RunTotals):
    """Recorded by ``features``."""


class FeatureTotals(totals.FeatureTotals, RunTotals):
    """Read from a run of ``features``: the counts of the asset and of the IO manager."""


def _key(name: str) -> str:
    return f"run_{name}"
