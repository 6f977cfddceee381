"""Retention: a job that removes the bars that are older than their timeframe allows, and its weekly schedule."""

from datetime import UTC, datetime
from typing import Final

from dagster import (
    AssetObservation,
    Config,
    DefaultScheduleStatus,
    JobDefinition,
    MetadataValue,
    OpExecutionContext,
    Output,
    RunConfig,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    job,
    op,
    schedule,
)
from pydantic import Field

from marketdata_assets.config import load_settings
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.domain.jobs import RETENTION_JOB
from marketdata_assets.domain.retention import (
    SHORTEST_DAYS,
    Pruned,
    first_kept_days,
    kept_days,
)
from marketdata_assets.domain.run_tags import Purpose
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.pipeline.retention import chosen_retention, prunable, prune

WEEKLY_RETENTION: Final = "weekly_retention"


class RetentionConfig(Config):
    """The options of a run of ``retention``."""

    keep_days: dict[str, int] | None = Field(
        default=None,
        description="Days to keep, by timeframe, such as `{1m: 30, 5m: 365}`; bars of other timeframes stay. Default:"
        f" MARKETDATA_RETENTION, otherwise 1m: 30. At least {SHORTEST_DAYS}.",
    )
    dry_run: bool = Field(
        default=True,
        description="Only count what would be removed; set to false to remove it, as the weekly schedule does.",
    )


@op(
    name="prune",
    description="Removes old bars, with their features, in small transactions.",
)
def prune_op(
    context: OpExecutionContext, config: RetentionConfig, postgres: PostgresResource
) -> Output[None]:
    """Remove old bars, and record the counts in the run and on ``ohlcv``."""
    chosen = (
        chosen_retention()
        if config.keep_days is None
        else {Timeframe.parse(name): kept_days(days) for name, days in config.keep_days.items()}
    )
    first_kept = first_kept_days(chosen, datetime.now(UTC))
    with postgres.database() as database:
        pruned = prunable(database, first_kept) if config.dry_run else prune(database, first_kept)
    metadata = {
        "dry_run": MetadataValue.bool(config.dry_run),
        "rows_removed": MetadataValue.int(sum(table.bars for table in pruned)),
        "feature_rows_removed": MetadataValue.int(sum(table.features for table in pruned)),
        "bytes_returned": MetadataValue.int(sum(table.bytes_returned for table in pruned)),
        "bytes_reusable": MetadataValue.int(sum(table.bytes_reusable for table in pruned)),
        "pruned": MetadataValue.md(pruned_table(pruned)),
    }
    if not config.dry_run:
        context.log_event(AssetObservation("ohlcv", metadata=metadata))
    return Output(None, metadata=metadata)


def retention_job() -> JobDefinition:
    """Return the job ``retention``."""

    @job(
        name=RETENTION_JOB,
        description="Removes bars that are older than `MARKETDATA_RETENTION` allows (default: `1m` for 30 days)."
        " Bars of other timeframes stay, even those rolled up from removed bars. The run"
        " reports rows and bytes. Started by hand it only counts, until `dry_run` is set to false.",
        tags=Purpose.RETENTION.tags,
    )
    def retention() -> None:
        prune_op()

    return retention


def retention_schedule() -> ScheduleDefinition:
    """Return the schedule of Sundays at 04:00 UTC, which is on by default only if ``MARKETDATA_RETENTION`` is set.

    Without the setting, nothing is removed: the vendor may no longer offer minutes that were backfilled years ago. The
    run's configuration has the days to keep, because the setting may be missing in the process that executes the run.
    """
    is_chosen = load_settings().retention is not None

    @schedule(
        name=WEEKLY_RETENTION,
        job_name=RETENTION_JOB,
        cron_schedule="0 4 * * 0",
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING if is_chosen else DefaultScheduleStatus.STOPPED,
        description="Removes old bars once a week. Off until it is turned on or MARKETDATA_RETENTION is set.",
        tags=Purpose.RETENTION.tags,
    )
    def weekly_retention(context: ScheduleEvaluationContext) -> RunRequest:
        keep_days = {timeframe.value: days for timeframe, days in chosen_retention().items()}
        return RunRequest(
            run_key=f"{context.scheduled_execution_time.astimezone(UTC):%Y-%m-%dT%H:%MZ}",
            run_config=RunConfig(ops={prune_op.name: RetentionConfig(keep_days=keep_days, dry_run=False)}),
            tags=Purpose.RETENTION.tags,
        )

    return weekly_retention


def pruned_table(pruned: list[Pruned]) -> str:
    """Return what was removed, by timeframe, as a Markdown table."""
    lines = [
        f"| {table.timeframe} | {table.before} | {table.bars:,} | {table.features:,} | {table.bytes_returned:,} |"
        f" {table.bytes_reusable:,} |"
        for table in pruned
    ]
    head = (
        "| timeframe | first day kept | bars | features | bytes returned | bytes reusable |\n"
        "|---|---|---:|---:|---:|---:|"
    )
    return "\n".join([head, *lines])
