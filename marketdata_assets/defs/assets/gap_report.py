"""The ``gap_report`` asset: where the bars of a partition are not whole, and why; missing bars are re-fetched."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import polars as pl
from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    BackfillPolicy,
    Config,
    MaterializeResult,
    MetadataValue,
    MultiPartitionsDefinition,
    asset,
)
from pydantic import Field

from marketdata_assets.defs.assets.fetching import VENDOR_POOL, request_metadata
from marketdata_assets.defs.assets.presentation import DAILY_FRESHNESS, OWNERS, columns_of
from marketdata_assets.defs.instance.internals import add_partition_metadata, latest_partition
from marketdata_assets.defs.partitions import partition_key
from marketdata_assets.defs.resources.polygon import PolygonResource
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.defs.run_totals import to_metadata
from marketdata_assets.domain.gaps import LOSSES, MAX_ATTEMPTS, GapState
from marketdata_assets.domain.partitions import days_by_series
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.totals import RowTotals
from marketdata_assets.pipeline.gaps import GapOutcome, report_gaps
from marketdata_assets.pipeline.ingest_state import IngestReport

DESCRIPTION = """\
Maximal stretches of expected bars that are missing, each with a state and a reason.

`open`: missing, with refetches left. `filled`: the bars arrived. `no_trades`: refetched, the vendor has no bars, and
the history of the series explains it. `unfilled`: no refetches are left and it looks like a loss.
"""

_WORST: Final = 20

_COLUMNS: Final = {
    "symbol": ("text", "AAPL, BRK.B, BTC-USD"),
    "timeframe": ("text", "1m 5m 15m 30m 1h 4h 1d 1w"),
    "day": ("date", "Local date of gap_start, which is the partition"),
    "gap_start": ("timestamptz", "Open of the first missing bar, UTC"),
    "gap_end": ("timestamptz", "Close of the last missing bar, UTC, exclusive"),
    "missing_bars": ("bigint", "Expected bars in between, all of them missing (or, when filled, arrived)"),
    "state": ("text", "open, filled, no_trades or unfilled"),
    "attempts": ("integer", "How often the gap was refetched"),
    "failure": ("text", "How the vendor failed in the last refetch; null when it answered"),
    "reason": ("text", "One sentence with the figures behind the state"),
    "detected_at": ("timestamptz", "When the first of its bars was found missing"),
    "resolved_at": ("timestamptz", "When the gap left the state open"),
}


class GapReportConfig(Config):
    """The options of a run of ``gap_report``."""

    repair: bool = Field(default=True, description="Refetch missing bars.")
    attempts: int = Field(
        default=MAX_ATTEMPTS,
        ge=1,
        le=MAX_ATTEMPTS,
        description="The most refetches of one gap in this run.",
    )


def gap_report_asset(partitions: MultiPartitionsDefinition) -> AssetsDefinition:
    """Build the asset over ``partitions``."""

    @asset(
        name="gap_report",
        partitions_def=partitions,
        backfill_policy=BackfillPolicy.single_run(),
        deps=["ohlcv"],
        group_name="quality",
        pool=VENDOR_POOL,
        kinds={"polars", "postgres"},
        description=DESCRIPTION,
        metadata=columns_of("gap_report", _COLUMNS),
        owners=OWNERS,
        tags={"domain": "quality"},
        freshness_policy=DAILY_FRESHNESS,
    )
    def gap_report(
        context: AssetExecutionContext,
        config: GapReportConfig,
        polygon: PolygonResource,
        postgres: PostgresResource,
    ) -> MaterializeResult[None]:
        days = days_by_series(context.partition_keys)
        with postgres.database() as database:
            outcome = report_gaps(
                database,
                polygon if config.repair else None,
                days,
                now=datetime.now(UTC),
                run_id=context.run.run_id,
                attempts=config.attempts,
            )
        metadata = _by_partition(outcome, context.partition_keys)
        # What holds for the run stands with the latest partition alone: the event log keeps the metadata of each.
        latest = latest_partition(context)
        metadata[latest] = {**metadata.get(latest, {}), **_metadata(outcome)}
        add_partition_metadata(context, metadata)
        return MaterializeResult()

    return gap_report


def _by_partition(outcome: GapOutcome, keys: Sequence[str]) -> dict[str, dict[str, object]]:
    """Return the completeness of each of the partitions ``keys``, for plots; a partition that expects no bar is left out."""
    wanted = set(keys)
    columns = ("symbol", "timeframe", "day", "completeness", "expected_bars", "present_bars")
    return {
        key: {"completeness": share, "expected_bars": expected, "present_bars": present}
        for daily in outcome.days
        for symbol, timeframe, day, share, expected, present in daily.select(columns).iter_rows()
        if (key := str(partition_key(day, Series.of(symbol, timeframe)))) in wanted
    }


def _metadata(outcome: GapOutcome) -> dict[str, MetadataValue | int]:
    gaps = outcome.frame
    counts = {
        f"run_gaps_{state.value}": MetadataValue.int(gaps.filter(state=state.value).height)
        for state in GapState
    }
    lost = gaps.filter(pl.col("state").is_in(LOSSES))
    return {
        **counts,
        **to_metadata(RowTotals(outcome.rows.inserted, outcome.rows.changed, outcome.rows.unchanged)),
        "run_missing_bars": MetadataValue.int(int(lost["missing_bars"].sum())),
        "worst": MetadataValue.md(gap_table(lost.head(_WORST))),
        **request_metadata(sum(outcome.reports, start=IngestReport())),
    }


def gap_table(gaps: pl.DataFrame) -> str:
    """Render ``gaps`` as a Markdown table, or a sentence when there are none."""
    if gaps.is_empty():
        return "No bar is missing without an explanation."
    lines: Sequence[str] = [
        f"| {symbol} | {timeframe} | {start:%Y-%m-%d %H:%M} | {end:%Y-%m-%d %H:%M} | {bars:,} | {state} | {reason} |"
        for symbol, timeframe, start, end, bars, state, reason in gaps.select(
            "symbol", "timeframe", "gap_start", "gap_end", "missing_bars", "state", "reason"
        ).iter_rows()
    ]
    head = (
        "| symbol | timeframe | from (UTC) | until | bars | state | reason |\n|---|---|---|---|---:|---|---|"
    )
    return "\n".join([head, *lines])
