"""Computing features: range runs of ``features`` over what is out of date, one after the other in this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from marketdata_assets.defs.run_totals import FeatureTotals
from marketdata_assets.defs.runs.execution import failure_metadata, reason_of, run_metadata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from marketdata_assets.defs.runs.execution import Runner
    from marketdata_assets.domain.partitions import Rectangle


@dataclass(slots=True)
class FeaturesOutcome:
    """The outcome of runs of ``features``. ``failures`` holds one line for each run that recorded nothing."""

    totals: FeatureTotals = field(default_factory=FeatureTotals)
    failures: list[str] = field(default_factory=list)


def compute(
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
        totals = FeatureTotals.from_metadata(recorded or failure_metadata(result))
        outcome.totals += totals
        # A run whose every partition is held back is not a failure: the checks report why.
        if not (recorded or totals.partitions_blocked):
            where = f"{run.series[0]} … {run.series[-1]}, {run.first} to {run.last}"
            outcome.failures.append(f"features of {where}: {reason_of(result)}")
