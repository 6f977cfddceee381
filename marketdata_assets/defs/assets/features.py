"""The ``features`` asset: numbers that describe each bar by itself and the bars before it."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    BackfillPolicy,
    Config,
    MetadataValue,
    MultiPartitionsDefinition,
    Output,
    asset,
)
from pydantic import Field

from marketdata_assets.defs.assets.feature_chart import feature_chart
from marketdata_assets.defs.assets.picture import markdown_image
from marketdata_assets.defs.assets.presentation import FEATURES_FRESHNESS, OWNERS
from marketdata_assets.defs.resources.io_manager import Recording, table_metadata
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.defs.run_totals import to_metadata
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.totals import SeriesTotals
from marketdata_assets.pipeline.features import FeatureReport, compute, plan_features
from marketdata_assets.storage.features import FeatureBatch
from marketdata_assets.storage.tables import FEATURES

DESCRIPTION = """\
Returns, ranges, momentum, trend, volatility and volume of each bar, on split-adjusted prices.

A value depends on the bars before it, never on the partition that is computed. Only stale features are recomputed:
those from the first bar, gap or split on that has changed. A partition blocked by `ohlcv_valid` or `no_gaps` gets no
features: it has no rows, and `blocked` in its metadata says why. So does a partition of a stock or ETF whose splits
were never fetched (`marketdata actions`), or of a series without any bar.
"""


class FeaturesConfig(Config):
    """The options of a run of ``features``."""

    force: bool = Field(default=False, description="Also recompute features that are not stale.")


def features_asset(partitions: MultiPartitionsDefinition, *, earliest: date) -> AssetsDefinition:
    """Build the asset over ``partitions``, whose first day is ``earliest``."""

    @asset(
        name="features",
        partitions_def=partitions,
        backfill_policy=BackfillPolicy.single_run(),
        deps=["ohlcv", "gap_report", "splits"],
        group_name="features",
        kinds={"polars", "postgres"},
        description=DESCRIPTION,
        metadata=table_metadata(FEATURES),
        owners=OWNERS,
        tags={"domain": "features"},
        freshness_policy=FEATURES_FRESHNESS,
    )
    def features(
        context: AssetExecutionContext, config: FeaturesConfig, postgres: PostgresResource
    ) -> Output[Any]:
        # Wrapped, or Dagster would take the batches for outputs of the step.
        return Output(_batches(context, earliest, postgres, force=config.force))

    return features


def _batches(
    context: AssetExecutionContext, earliest: date, postgres: PostgresResource, *, force: bool
) -> Iterator[FeatureBatch | Recording]:
    keys = context.partition_keys
    with postgres.database() as database:
        plan = plan_features(database, keys, now=datetime.now(UTC), earliest=earliest, force=force)
        report = FeatureReport(plan)
        yield from compute(database, plan, report)
    for line in (*report.notices, *report.blocked_lines()):
        context.log.warning("%s", line)
    totals = SeriesTotals(
        bars=report.bars,
        series_computed=report.series_computed,
        series_up_to_date=report.series_up_to_date,
        partitions_blocked=len(report.blocked),
    )
    yield Recording(to_metadata(totals), blocked=report.blocked, shown=partial(_shown, report))


def _shown(report: FeatureReport, series: Series) -> dict[str, MetadataValue]:
    """Render the columns, and a chart of ``series`` or, if it was not computed, of the first series that was."""
    shown: dict[str, MetadataValue] = {"columns": MetadataValue.md(report.summary.table())}
    charted = series if series in report.samples else next(iter(report.samples), None)
    if charted is not None:
        picture = feature_chart(charted, report.samples[charted])
        shown["chart"] = markdown_image(f"Close, ATR and volatility of {charted}", picture)
    return shown
