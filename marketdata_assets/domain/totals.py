"""The totals of runs: counts that add up. What a run's metadata calls them is known to ``defs.run_totals``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class RunTotals:
    """Counts of one run, or of several added up. A subclass names the counts; each field defaults to 0."""

    def __add__(self, other: Self) -> Self:
        """Return the sum of each count."""
        return type(self)(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


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
