"""Partitions: day x series, with one key per local date and active (symbol, timeframe) pair.

The dimension ``day`` sorts before ``series``; that order is part of every key (``2024-01-02|AAPL:1m``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.series import Series

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

DAY: Final = "day"
SERIES: Final = "series"
PARTITION: Final = "dagster/partition"
"""The tag of the run of a single partition."""

RANGE_START: Final = "dagster/asset_partition_range_start"
RANGE_END: Final = "dagster/asset_partition_range_end"
"""The tags for a run of every partition between two keys, in both dimensions."""


def key_of(day: date, series: Series) -> str:
    """Return the key of one partition."""
    return f"{day.isoformat()}|{series.key}"


def parse_key(key: str) -> tuple[date, Series]:
    """Return the local day and the series of a partition key."""
    day, _, series = key.partition("|")
    return date.fromisoformat(day), Series.parse(series)


def days_by_series(keys: Iterable[str]) -> dict[Series, list[date]]:
    """Return the days of each series that the partition ``keys`` name."""
    days: dict[Series, list[date]] = {}
    for key in keys:
        day, series = parse_key(key)
        days.setdefault(series, []).append(day)
    return days


def islands(ordered: Sequence[str], wanted: Collection[str]) -> list[tuple[str, str]]:
    """Return the ``wanted`` series keys as the fewest ranges of ``ordered``, Dagster's own order of the dimension.

    Each range, a pair of its first and last key, is one run: a run takes a contiguous range of a dimension.
    """
    ranges: list[tuple[str, str]] = []
    inside = False
    for key in ordered:
        if key in wanted:
            ranges = [*ranges[:-1], (ranges[-1][0], key)] if inside else [*ranges, (key, key)]
        inside = key in wanted
    return ranges


@dataclass(frozen=True, slots=True)
class Rectangle:
    """The partitions of one run: each of ``series`` on every day from ``first`` to ``last``, both inclusive.

    A run of several partitions takes every series between its first and its last in Dagster's order.
    """

    first: date
    last: date
    series: tuple[Series, ...]

    @classmethod
    def from_tags(cls, tags: Mapping[str, str], ordered: Sequence[str]) -> Rectangle | None:
        """Return the partitions that the ``tags`` of a run name, or None when they name none.

        ``ordered`` are the series keys in Dagster's own order. An unpartitioned step of a
        partitioned run learns the partitions of the run from the tags alone.

        Raises:
            ConfigurationError: The first or the last series of the range is no longer a partition.
        """
        if PARTITION in tags:
            day, series = parse_key(tags[PARTITION])
            return cls(day, day, (series,))
        if RANGE_START not in tags or RANGE_END not in tags:
            return None
        (first, begin), (last, end) = parse_key(tags[RANGE_START]), parse_key(tags[RANGE_END])
        if gone := {begin.key, end.key}.difference(ordered):
            message = f"{min(gone)} was untracked during the run: add it with `marketdata symbols add`"
            raise ConfigurationError(message)
        keys = ordered[ordered.index(begin.key) : ordered.index(end.key) + 1]
        return cls(first, last, tuple(map(Series.parse, keys)))

    @property
    def tags(self) -> dict[str, str]:
        """The tags for a run of these partitions."""
        return {
            RANGE_START: key_of(self.first, self.series[0]),
            RANGE_END: key_of(self.last, self.series[-1]),
        }

    @property
    def days(self) -> list[date]:
        """The days of the rectangle, in order."""
        return [self.first + timedelta(days=offset) for offset in range((self.last - self.first).days + 1)]

    @property
    def size(self) -> int:
        """The number of partitions."""
        return ((self.last - self.first).days + 1) * len(self.series)
