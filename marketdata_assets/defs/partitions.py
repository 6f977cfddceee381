"""Dagster's partitions: day x series. What a key means is in ``domain.partitions``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.domain.partitions import DAY, SERIES

if TYPE_CHECKING:
    from datetime import date

    from dagster import MultiPartitionKey, MultiPartitionsDefinition

    from marketdata_assets.domain.series import Series


def day_by_series(start: date) -> MultiPartitionsDefinition:
    """The partitions of every asset that holds bars, from ``start`` on; today is the last day."""
    from dagster import (  # noqa: PLC0415 - costs seconds that a command with nothing to do need not pay
        DailyPartitionsDefinition,
        DynamicPartitionsDefinition,
        MultiPartitionsDefinition,
    )

    return MultiPartitionsDefinition(
        {
            # The last partition is today's: closed bars of an open session have a place.
            DAY: DailyPartitionsDefinition(start_date=start.isoformat(), end_offset=1),
            SERIES: DynamicPartitionsDefinition(name=SERIES),
        }
    )


def partition_key(day: date, series: Series) -> MultiPartitionKey:
    """The key of one partition."""
    from dagster import MultiPartitionKey  # noqa: PLC0415 - as above

    return MultiPartitionKey({DAY: day.isoformat(), SERIES: series.key})
