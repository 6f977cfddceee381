"""Dagster's partitions: day x series. ``domain.partitions`` defines what a key means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.domain.partitions import DAY, SERIES

if TYPE_CHECKING:
    from datetime import date

    from dagster import MultiPartitionKey, MultiPartitionsDefinition

    from marketdata_assets.domain.series import Series


def day_by_series(start: date) -> MultiPartitionsDefinition:
    """Return the partitions of every asset with bars or features, from ``start`` on; today (UTC) is the last day."""
    from dagster import (  # noqa: PLC0415 - costs seconds that a command with nothing to do need not pay
        DailyPartitionsDefinition,
        DynamicPartitionsDefinition,
        MultiPartitionsDefinition,
    )

    return MultiPartitionsDefinition(
        {
            # The last partition is today's, for the closed bars of an open session.
            DAY: DailyPartitionsDefinition(start_date=start.isoformat(), end_offset=1),
            SERIES: DynamicPartitionsDefinition(name=SERIES),
        }
    )


def partition_key(day: date, series: Series) -> MultiPartitionKey:
    """Return the key of the partition of ``day`` and ``series``."""
    from dagster import MultiPartitionKey  # noqa: PLC0415 - as above

    return MultiPartitionKey({DAY: day.isoformat(), SERIES: series.key})
