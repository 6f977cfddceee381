"""Scans for gaps: range runs of ``gap_report``, one after the other in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.defs.run_totals import read_totals
from marketdata_assets.defs.runs.execution import reason_of, run_metadata
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.jobs import GAPS_JOB
from marketdata_assets.domain.totals import BarTotals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from marketdata_assets.defs.runs.execution import Runner
    from marketdata_assets.domain.partitions import Rectangle
    from marketdata_assets.pipeline.backfill import BarsOutcome


def scan_for_gaps(
    runner: Runner, runs: Sequence[Rectangle], *, repair: bool, bars: BarsOutcome | None = None
) -> None:
    """Execute ``runs`` of ``gap_report`` in order, with ``repair`` also refetching what is missing.

    Adds the rows that were fetched to ``bars``.

    Raises:
        ConfigurationError: A setting is wrong.
        MarketDataError: A run failed; the runs before it are recorded.
    """
    for run in runs:
        runner.on_run(run)
        result = runner.execute(GAPS_JOB, run, config={"gap_report": {"repair": repair}})
        # A check that failed afterwards is not a failure of the scan: reporting gaps is its purpose.
        recorded = run_metadata(result)
        if not recorded:
            message = (
                f"the scan for gaps of {run.series[0]} … {run.series[-1]}, {run.first} to {run.last}, failed:"
                f" {reason_of(result)}"
            )
            raise MarketDataError(message)
        if bars is not None:
            bars.totals += read_totals(BarTotals, recorded)
