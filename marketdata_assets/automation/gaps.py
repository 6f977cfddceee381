"""Looking for gaps: range runs of ``gap_report``, one after the other in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.automation.jobs import GAPS_JOB
from marketdata_assets.automation.ranges import execute_range, reason_of
from marketdata_assets.domain.errors import MarketDataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dagster import DagsterInstance, Definitions

    from marketdata_assets.automation.ranges import RangeRun


def look_for_gaps(
    definitions: Definitions,
    instance: DagsterInstance,
    runs: Sequence[RangeRun],
    *,
    repair: bool,
    on_run: Callable[[RangeRun], None] = lambda _: None,
) -> None:
    """Execute ``runs`` of ``gap_report`` in order, asking again for what is missing with ``repair``.

    Raises:
        ConfigurationError: A setting is wrong.
        MarketDataError: A run failed; the runs before it are recorded.
    """
    for run in runs:
        on_run(run)
        result = execute_range(
            definitions,
            instance,
            run,
            job=GAPS_JOB,
            config={"gap_report": {"repair": repair}},
            tags={},
        )
        if not result.get_asset_materialization_events():
            message = (
                f"gaps of {run.series[0]} … {run.series[-1]}, {run.first_day} to {run.last_day}, could not be"
                f" looked for: {reason_of(result)}"
            )
            raise MarketDataError(message)
