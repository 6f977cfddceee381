"""The histories of new series: what is recorded of their requests, and the runs that fetch those that are due.

The table ``initial_backfill`` records the series whose history was requested, so that a series is new until then,
whatever created its partitions, and is not new again when it is tracked again.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final, NamedTuple

from marketdata_assets.domain.maintenance import MAX_HISTORY_RUNS, History
from marketdata_assets.domain.ranges import range_runs
from marketdata_assets.domain.wording import name_first
from marketdata_assets.pipeline.alerts import Alert
from marketdata_assets.storage.maintenance import (
    finish_initial,
    forget_pause,
    give_up_initial,
    note_tracked,
    read_initial,
    record_initial,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date, datetime

    from marketdata_assets.domain.maintenance import DueHistory, HistoryPlan
    from marketdata_assets.domain.partitions import Rectangle
    from marketdata_assets.domain.series import Series
    from marketdata_assets.storage.connection import Database

_NAMED: Final = 5


class HistoryRun(NamedTuple):
    """A run that fetches histories, and the name of its request."""

    request: str
    rectangle: Rectangle


def read_histories(database: Database, tracked: Sequence[Series], today: date) -> dict[Series, History]:
    """Record which series are no longer ``tracked``, and read the histories of ``tracked`` that were requested before."""
    note_tracked(database, tracked, today)
    collected = set(tracked)
    return {series: history for series, history in read_initial(database).items() if series in collected}


def record_histories(
    database: Database, plan: HistoryPlan, ordered: Sequence[str], now: datetime
) -> list[HistoryRun]:
    """Record what ``plan`` decided at ``now``, and return the runs that fetch the histories that are due.

    ``ordered`` are the series keys in Dagster's order.
    """
    if plan.arrived:
        finish_initial(database, plan.arrived, now)
    if plan.returned:
        forget_pause(database, plan.returned)
    if plan.unreported:
        give_up_initial(database, plan.unreported, now)
    runs = _plan_runs(ordered, plan.due)
    requested = {
        series: History(run.request, due.days.first, due.attempt, now)
        for run in runs
        for series in run.rectangle.series
        if (due := plan.due.get(series)) is not None and due.days == _days_of(run)
    }
    record_initial(database, requested)
    return runs


def _plan_runs(ordered: Sequence[str], due: Mapping[Series, DueHistory]) -> list[HistoryRun]:
    return [
        HistoryRun(str(uuid.uuid4()), run)
        for days in sorted({history.days for history in due.values()})
        for run in range_runs(
            ordered, [series for series, history in due.items() if history.days == days], *days
        )
    ]


def _days_of(run: HistoryRun) -> tuple[date, date]:
    return run.rectangle.first, run.rectangle.last


def describe_waiting(plan: HistoryPlan) -> str:
    """Return in a sentence why ``plan`` requests nothing."""
    if plan.given_up:
        return _describe_given_up(plan.given_up)
    if plan.waiting:
        run_id, series = list(plan.waiting.items())[-1]
        return f"the history of {len(series)} series is under way (run {run_id})"
    return "every series has its partitions and its history"


def given_up_alert(plan: HistoryPlan) -> Alert | None:
    """Return the alert about the histories that ``plan`` gives up and that no alert has reported; None without any."""
    if not plan.unreported:
        return None
    return Alert(
        title=f"no history of {len(plan.unreported)} new series",
        text=_describe_given_up(plan.unreported),
        facts={"series": ", ".join(series.key for series in plan.unreported)},
    )


def _describe_given_up(series: Sequence[Series]) -> str:
    named = name_first([member.key for member in series], _NAMED)
    return (
        f"the history of {named} was given up after {MAX_HISTORY_RUNS} runs that did not fetch it:"
        " see their errors, then run `marketdata backfill`, or delete its rows of initial_backfill to have it requested again"
    )
