"""Summing up how whole each series is: a run of ``completeness_matrix`` in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.defs.jobs import MATRIX_JOB
from marketdata_assets.defs.runs.execution import execute_job, reason_of
from marketdata_assets.domain.errors import MarketDataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagster import DagsterInstance, Definitions


def refresh_matrix(
    definitions: Definitions, instance: DagsterInstance, *, tags: Mapping[str, str] | None = None
) -> None:
    """Execute a run of ``completeness_matrix``: today's row (UTC) of every active series is written anew.

    Raises:
        ConfigurationError: A setting is wrong.
        MarketDataError: The run failed; the newest rows stay what they were.
    """
    result = execute_job(definitions, instance, job=MATRIX_JOB, config={}, tags=tags or {})
    if not result.get_asset_materialization_events():
        message = f"the completeness matrix could not be made: {reason_of(result)}"
        raise MarketDataError(message)
