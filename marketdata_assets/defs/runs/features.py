"""Computing features: range runs of ``features`` over what is out of date, one after the other in this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from marketdata_assets.defs.runs.ranges import covering_runs, execute_range, failure_metadata, reason_of
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.storage.actions import stale_at
from marketdata_assets.storage.symbols import list_symbols

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import date, datetime

    from dagster import DagsterInstance, Definitions

    from marketdata_assets.defs.runs.ranges import RangeRun
    from marketdata_assets.domain.series import Series
    from marketdata_assets.storage.connection import Database


@dataclass(slots=True)
class FeaturesOutcome:
    """What runs of ``features`` did. ``failures`` holds one line for each run that recorded nothing."""

    rows_written: int = 0
    series_computed: int = 0
    partitions_held_back: int = 0
    failures: list[str] = field(default_factory=list)


def stale_days(
    database: Database, series: Iterable[Series], earliest: date, *, now: datetime
) -> dict[Series, tuple[date, date]]:
    """The first and the last local day of each of ``series`` whose features are out of date, not before ``earliest``.

    The last is that of the last bar. A series that is up to date is left out.
    """
    classes = {one.symbol: one.asset_class for one in list_symbols(database)}
    days = {}
    for one, stale in stale_at(database, now, list(series)).items():
        calendar = calendar_of(classes[one.symbol])
        last = calendar.local_day(max(stale.since, stale.last_bar or stale.since))
        if last >= earliest:
            days[one] = (max(earliest, calendar.local_day(stale.since)), last)
    return days


def feature_runs(ordered: Sequence[str], days: Mapping[Series, tuple[date, date]]) -> list[RangeRun]:
    """The runs that compute each series over its ``days``, first and last, both inclusive.

    A run is a rectangle: series that are out of date over much the same days share one.

    Raises:
        ConfigurationError: A series is no partition any more.
    """
    return covering_runs(ordered, ((one, *span) for one, span in days.items()))


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
