"""Computing features: range runs of ``features`` over what is out of date, one after the other in this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from marketdata_assets.defs.runs.execution import execute_range, failure_metadata, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dagster import DagsterInstance, Definitions

    from marketdata_assets.domain.ranges import RangeRun


@dataclass(slots=True)
class FeaturesOutcome:
    """What runs of ``features`` did. ``failures`` holds one line for each run that recorded nothing."""

    rows_written: int = 0
    series_computed: int = 0
    partitions_held_back: int = 0
    failures: list[str] = field(default_factory=list)


def compute(
    definitions: Definitions,
    instance: DagsterInstance,
    runs: Sequence[RangeRun],
    *,
    force: bool = False,
    tags: Mapping[str, str] | None = None,
    outcome: FeaturesOutcome,
    on_run: Callable[[RangeRun], None] = lambda _: None,
) -> None:
    """Execute ``runs`` of ``features`` in order, adding to ``outcome``. A run that fails stops no other.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    from marketdata_assets.defs.jobs import FEATURES_JOB
    from marketdata_assets.defs.resources.io_manager import PARTITIONS_HELD_BACK

    for run in runs:
        on_run(run)
        result = execute_range(
            definitions,
            instance,
            run,
            job=FEATURES_JOB,
            config={"features": {"force": force}},
            tags=tags or {},
        )
        told = result.get_asset_materialization_events()[:1]
        held_back = failure_metadata(result).get(PARTITIONS_HELD_BACK)
        if held_back is not None:
            # Why is told by the checks; there was nothing to compute.
            outcome.partitions_held_back += int(str(held_back.value))
        elif not told:
            where = f"{run.series[0]} … {run.series[-1]}, {run.first_day} to {run.last_day}"
            outcome.failures.append(f"features of {where}: {reason_of(result)}")
        for event in told:
            facts = event.materialization.metadata
            for name in ("rows_written", "series_computed", "partitions_held_back"):
                setattr(outcome, name, getattr(outcome, name) + int(str(facts[f"run_{name}"].value)))
