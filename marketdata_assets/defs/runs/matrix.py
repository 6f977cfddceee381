"""The refresh of the completeness of each series: a run of ``completeness_matrix`` in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.defs.runs.execution import reason_of
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.jobs import MATRIX_JOB

if TYPE_CHECKING:
    from marketdata_assets.defs.runs.execution import Runner


def refresh_matrix(runner: Runner) -> None:
    """Execute a run of ``completeness_matrix``, which replaces today's row (UTC) of every active series.

    Raises:
        ConfigurationError: A setting is wrong.
        MarketDataError: The run failed; the newest rows are unchanged.
    """
    result = runner.execute(MATRIX_JOB)
    if not result.get_asset_materialization_events():
        message = f"the completeness matrix could not be refreshed: {reason_of(result)}"
        raise MarketDataError(message)
