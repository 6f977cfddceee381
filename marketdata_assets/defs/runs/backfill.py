"""Backfills: bars, gaps, repair, features and matrix of a rectangle of days x series, one after the other in this process."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from marketdata_assets.defs.runs.actions import refresh_actions
from marketdata_assets.defs.runs.bars import fetch_bars
from marketdata_assets.defs.runs.commands import run_ids
from marketdata_assets.defs.runs.features import run_features
from marketdata_assets.defs.runs.gaps import scan_for_gaps
from marketdata_assets.defs.runs.matrix import refresh_matrix
from marketdata_assets.domain.errors import ConfigurationError, MarketDataError
from marketdata_assets.domain.run_tags import COMMAND_TAG
from marketdata_assets.pipeline.backfill import (
    BackfillOutcome,
    BackfillPlanner,
    Stage,
    begin_stage,
    conclude,
    record_backfill,
)

if TYPE_CHECKING:
    from datetime import date

    from marketdata_assets.defs.runs.execution import Runner
    from marketdata_assets.pipeline.backfill import BackfillProgress, BackfillRequest, FeaturesOutcome
    from marketdata_assets.storage.connection import Database


def run_backfill(
    runner: Runner,
    database: Database,
    request: BackfillRequest,
    *,
    earliest: date,
    progress: BackfillProgress,
) -> BackfillOutcome:
    """Carry out ``request``, stage by stage; the id of the command in the tags of ``runner`` becomes the id of the backfill.

    ``earliest`` is the first day that is a partition. A symbol that fails does not stop the others.

    Raises:
        ConfigurationError: A setting is wrong (the key, say): every other run would fail like this one.
        MarketDataError: A scan for gaps or the refresh of the matrix failed.
    """
    outcome = BackfillOutcome(runner.tags[COMMAND_TAG], request)
    planner = BackfillPlanner(database, outcome, runner.ordered, earliest)
    with record_backfill(database, outcome, lambda: run_ids(runner.instance, runner.tags)) as begun:
        runs = planner.runs_to_fetch()
        begin_stage(progress, request, Stage.BARS, runs)
        fetch_bars(runner, runs, force=request.force, outcome=outcome.bars)

        runs = planner.runs_to_scan()
        begin_stage(progress, request, Stage.GAPS, runs)
        scan_for_gaps(runner, runs, repair=False)

        runs = planner.runs_to_repair()
        begin_stage(progress, request, Stage.REPAIR, runs)
        scan_for_gaps(runner, runs, repair=True, bars=outcome.bars)

        if request.with_features:
            # First: new splits make whole histories stale.
            if planner.lacks_splits():
                _fetch_splits(runner, outcome.features)
            runs = planner.runs_to_compute()
            begin_stage(progress, request, Stage.FEATURES, runs)
            run_features(runner, runs, outcome=outcome.features)

        is_current = planner.is_matrix_current()
        begin_stage(progress, request, Stage.MATRIX, is_idle=is_current)
        if not is_current:
            refresh_matrix(runner)
        conclude(database, outcome, begun=begun, now=datetime.now(UTC))
    return outcome


def _fetch_splits(runner: Runner, outcome: FeaturesOutcome) -> None:
    """Fetch corporate actions; a failure is added to ``outcome``, as the features that need their splits are missing."""
    try:
        refresh_actions(runner)
    except ConfigurationError:
        raise
    except MarketDataError as error:
        outcome.failures.append(str(error))
