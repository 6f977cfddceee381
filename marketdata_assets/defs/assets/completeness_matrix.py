"""The ``completeness_matrix`` asset: how complete each series is, one row per series, kept for every day."""

from typing import Final

import polars as pl
from dagster import (
    AssetDep,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    DagsterInstance,
    MaterializeResult,
    MetadataValue,
    SpecificPartitionsPartitionMapping,
    asset,
)

from marketdata_assets.defs.assets.heatmap import MAX_ROWS, days_picture, matrix_picture
from marketdata_assets.defs.assets.picture import markdown_image
from marketdata_assets.defs.assets.presentation import DAILY_FRESHNESS, OWNERS, columns_of
from marketdata_assets.defs.clock import Clock, read_utc_now
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.domain.completeness import Status, cell
from marketdata_assets.domain.wording import minute_of
from marketdata_assets.storage.completeness import Recent, read_recent, write_matrix

DESCRIPTION = """\
For each series, how many bars are expected, present, explained (`no_trades`) and missing, and the first and last bar.

It sums up the days that `gap_report` scanned. Unscanned days between the first and the last day that was scanned or has
a stored bar count as missing. `completeness_history` keeps one row per series and day; the view `completeness_matrix`
has the newest ones.
"""

GAP_REPORT: Final = "gap_report"
"""Metadata: the event of the latest ``gap_report`` that the sums certainly include, as :func:`latest_report` returns it."""

_SHOWN: Final = (
    *("symbol", "timeframe", "status", "completeness"),
    *("expected_bars", "present_bars", "no_trade_bars", "missing_bars", "first_bar", "last_bar"),
    *("first_scanned", "last_scanned"),
)


_COLUMNS: Final = {
    "symbol": ("text", "AAPL, BRK.B, BTC-USD"),
    "timeframe": ("text", "1m 5m 15m 30m 1h 4h 1d 1w"),
    "expected_bars": ("bigint", "Bars that the trading calendar expects"),
    "present_bars": ("bigint", "Expected bars that are stored"),
    "no_trade_bars": ("bigint", "Expected bars that are missing and explained"),
    "missing_bars": ("bigint", "Expected bars that are missing without an explanation"),
    "completeness": (
        "double precision",
        "Share of expected bars that are present or explained, 0 to 1; null when none are expected",
    ),
    "status": ("text", "whole, gaps, empty, nothing_expected or unchecked"),
    "first_bar": ("timestamptz", "Open of the first stored bar, UTC"),
    "last_bar": ("timestamptz", "Open of the last stored bar, UTC"),
    "as_of": ("date", "The day, in UTC, on which the row was written"),
    "first_scanned": ("date", "The first scanned local day with an expected bar"),
    "last_scanned": ("date", "The last such day; later days are not counted"),
}


def completeness_matrix_asset(clock: Clock = read_utc_now) -> AssetsDefinition:
    """Return the asset ``completeness_matrix``. It has no partitions: it sums up all partitions of ``gap_report``."""

    @asset(
        name="completeness_matrix",
        # No partitions: Dagster enumerates those that a step depends on, which takes seconds per run with 400,000.
        deps=[AssetDep("gap_report", partition_mapping=SpecificPartitionsPartitionMapping([]))],
        group_name="quality",
        kinds={"polars", "postgres"},
        description=DESCRIPTION,
        metadata=columns_of("completeness_matrix", _COLUMNS),
        owners=OWNERS,
        tags={"domain": "quality"},
        freshness_policy=DAILY_FRESHNESS,
    )
    def completeness_matrix(
        context: AssetExecutionContext, postgres: PostgresResource
    ) -> MaterializeResult[None]:
        # Read first: the sums may miss a report that is written meanwhile.
        report = latest_report(context.instance)
        with postgres.database() as database:
            matrix = write_matrix(database, clock().date())
            recent = read_recent(database)
        return MaterializeResult(
            metadata={**_metadata(matrix, recent), GAP_REPORT: MetadataValue.int(report)}
        )

    return completeness_matrix


def latest_report(instance: DagsterInstance) -> int:
    """Return the position in the event log of the latest materialization of ``gap_report``, -1 if there is none."""
    records = instance.fetch_materializations(AssetKey("gap_report"), limit=1).records
    return records[0].storage_id if records else -1


def _metadata(matrix: pl.DataFrame, recent: Recent | None) -> dict[str, MetadataValue]:
    counts = {
        f"series_{status.value}": MetadataValue.int(matrix.filter(status=status.value).height)
        for status in Status
    }
    expected, missing = int(matrix["expected_bars"].sum()), int(matrix["missing_bars"].sum())
    facts: dict[str, MetadataValue] = {
        "dagster/row_count": MetadataValue.int(matrix.height),
        **counts,
        "expected_bars": MetadataValue.int(expected),
        "present_bars": MetadataValue.int(int(matrix["present_bars"].sum())),
        "no_trade_bars": MetadataValue.int(int(matrix["no_trade_bars"].sum())),
        "missing_bars": MetadataValue.int(missing),
        "matrix": MetadataValue.md(matrix_table(matrix)),
        "heatmap": markdown_image("Completeness of symbols by timeframe", matrix_picture(matrix)),
    }
    if expected:
        facts["completeness"] = MetadataValue.float((expected - missing) / expected)
    if recent is not None:
        picture = days_picture(recent.days, recent.first, recent.last)
        facts["heatmap_days"] = markdown_image("Completeness of series by day", picture)
    return facts


def matrix_table(matrix: pl.DataFrame) -> str:
    """Return ``matrix`` as a Markdown table, the least complete series first; a sentence when it is empty.

    Of more than 124 series only the least complete are shown, and a line below says so.
    """
    if matrix.is_empty():
        return "No series has been scanned yet."
    lines = [
        f"| {symbol} | {timeframe} | {cell(Status(status), share)} | {expected:,} | {present:,} | {no_trades:,}"
        f" | {missing:,} | {minute_of(first)} | {minute_of(last)} | {since or ''} | {until or ''} |"
        for symbol, timeframe, status, share, expected, present, no_trades, missing, first, last, since, until in (
            matrix.sort("completeness", nulls_last=True, maintain_order=True)
            .select(*_SHOWN)
            .head(MAX_ROWS)
            .iter_rows()
        )
    ]
    head = (
        "| symbol | timeframe | complete | expected | present | no trades | missing | first bar (UTC) | last bar"
        " | scanned from | until |\n|---|---|---:|---:|---:|---:|---:|---|---|---|---|"
    )
    more = (
        [f"\n… and {matrix.height - MAX_ROWS:,} more: `marketdata matrix` shows all."]
        if matrix.height > MAX_ROWS
        else []
    )
    return "\n".join([head, *lines, *more])
