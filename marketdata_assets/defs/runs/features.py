"""Computing features: range runs of ``features`` over stale days, one after the other in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.defs.run_totals import read_totals
from marketdata_assets.defs.runs.execution import failure_metadata, reason_of, run_metadata
from marketdata_assets.domain.totals import FeatureTotals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from marketdata_assets.defs.runs.execution import Runner
    from marketdata_assets.domain.partitions import Rectangle
    from marketdata_assets.pipeline.backfill import FeaturesOutcome


def run_features(
    runner: Runner, runs: Sequence[Rectangle], *, force: bool = False, outcome: FeaturesOutcome
) -> None:
    """Execute ``runs`` of ``features`` in order, adding to ``outcome``. A run that fails stops no other.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    from marketdata_assets.domain.jobs import FEATURES_JOB

    for run in runs:
        runner.on_run(run)
        result = runner.execute(FEATURES_JOB, run, config={"features": {"force": force}})
        recorded = run_metadata(result)
        outcome.totals += read_totals(FeatureTotals, recorded or failure_metadata(result))
        if not recorded:
            where = f"{run.series[0]} … {run.series[-1]}, {run.first} to {run.last}"
            outcome.failures.append(f"features of {where}: {reason_of(result)}")
