"""``run_failure``: one alert for each run that has failed for good."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from dagster import (
    DagsterRun,
    DefaultSensorStatus,
    RunFailureSensorContext,
    SensorDefinition,
    run_failure_sensor,
)

from marketdata_assets.config import load_settings
from marketdata_assets.defs.run_tags import WILL_RETRY_TAG
from marketdata_assets.defs.runs.execution import error_chain, error_text
from marketdata_assets.defs.runs.history import is_a_gap_that_stays
from marketdata_assets.domain.partitions import PARTITION, RANGE_END, RANGE_START
from marketdata_assets.domain.run_tags import PURPOSE_TAG
from marketdata_assets.domain.wording import one_line
from marketdata_assets.pipeline.alerts import Alert, send

_SECONDS: Final = 30
_WITHIN: Final = timedelta(seconds=8)
"""The time limit of an alert: a tick handles up to five runs, and a tick that Dagster ends after a minute would repeat all."""


def run_failure_alerts() -> SensorDefinition:
    """Return the sensor that sends an alert for each failed run of this platform's jobs.

    Runs that a command executes in its own process cause no alert: the command prints the failure. Nor does a repair
    in which only the check failed: the gap is still missing, which the check reports. A webhook that refuses an alert
    fails the tick, which the UI shows; the alert is in the log, and the next failure is reported as usual.
    """

    @run_failure_sensor(
        name="run_failure",
        minimum_interval_seconds=_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description=(
            "Sends an alert, to the log and to MARKETDATA_WEBHOOK_URL if set, for each run that failed and will not be"
            " retried."
        ),
    )
    def run_failure(context: RunFailureSensorContext) -> None:
        # Read again, because Dagster tags a failed run after its failure, which may be after the tick began.
        run = context.instance.get_run_by_id(context.dagster_run.run_id) or context.dagster_run
        if run.tags.get(WILL_RETRY_TAG) == "true" or is_a_gap_that_stays(context.instance, run):
            return
        alert = alert_of(run, _find_reason(context))
        send(alert, load_settings().webhook_url, within=_WITHIN, log=context.log)

    return run_failure


def alert_of(run: DagsterRun, reason: str) -> Alert:
    """Return the alert for the failed ``run``."""
    where = _describe_partitions(run)
    purpose = run.tags.get(PURPOSE_TAG)
    return Alert(
        title=f"run of {run.job_name} failed" + (f" ({where})" if where else ""),
        text=f"{reason} [run {run.run_id}]",
        facts={
            "run_id": run.run_id,
            "job": run.job_name,
            **({"purpose": purpose} if purpose else {}),
            **({"partitions": where} if where else {}),
        },
    )


def _describe_partitions(run: DagsterRun) -> str:
    if RANGE_START in run.tags and RANGE_END in run.tags:
        return f"{run.tags[RANGE_START]} to {run.tags[RANGE_END]}"
    return run.tags.get(PARTITION, "")


def _find_reason(context: RunFailureSensorContext) -> str:
    """Return why the run failed, in one line: the error of its first failed step, else Dagster's message about the run."""
    for event in context.get_step_failure_events():
        data = event.step_failure_data
        if data.user_failure_data is not None and data.user_failure_data.description:
            return one_line(data.user_failure_data.description)
        if data.error is not None:
            return error_text(error_chain(data.error)[-1])
    return one_line(context.failure_event.message or "no step recorded a reason")
