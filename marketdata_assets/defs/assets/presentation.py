"""How assets present themselves in Dagster's UI: owner, tags, liveness, and the columns of their tables."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from dagster import FreshnessPolicy, MetadataValue, TableColumn, TableSchema

from marketdata_assets.domain.freshness import DAILY_RUN, GRACE

if TYPE_CHECKING:
    from collections.abc import Mapping

OWNERS: Final = ["team:market-data"]

DAILY_FRESHNESS: Final = FreshnessPolicy.cron(
    deadline_cron=f"{DAILY_RUN.minute} {DAILY_RUN.hour + GRACE // timedelta(hours=1)} * * *",
    lower_bound_delta=GRACE,
)
"""The policy that the daily run materializes something between 02:00 and 08:00 UTC. It shows that the machinery works,
whatever days were fetched: ``bars_fresh`` checks that each series has the bars that are due."""

FEATURES_FRESHNESS: Final = FreshnessPolicy.time_window(fail_window=timedelta(days=5))
"""The policy that something is computed within a long weekend: a daily run without new bars computes nothing."""

ACTIONS_FRESHNESS: Final = FreshnessPolicy.time_window(
    fail_window=timedelta(hours=36), warn_window=timedelta(hours=28)
)
"""The policy that the lists are fetched every day."""


def columns_of(table: str, columns: Mapping[str, tuple[str, str]]) -> Mapping[str, Any]:
    """Return metadata of an asset whose rows are in ``table``: its name, and the type and meaning of each column."""
    return {
        "dagster/table_name": f"public.{table}",
        "dagster/column_schema": MetadataValue.table_schema(
            TableSchema(
                columns=[
                    TableColumn(name, type=kind, description=text) for name, (kind, text) in columns.items()
                ]
            )
        ),
    }
