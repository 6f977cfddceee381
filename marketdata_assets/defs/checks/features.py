"""The check of ``features``: every bar has features, and they are complete."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Final

import polars as pl
from dagster import (
    AssetCheckEvaluation,
    AssetCheckExecutionContext,
    AssetChecksDefinition,
    AssetCheckSpec,
    Output,
    multi_asset_check,
)

from marketdata_assets.defs.checks.verdict import scope_of, verdict
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.gates import FAULT_SCHEMA
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.pipeline.adjusted import adjust_as_far_as_known, symbols_without_splits
from marketdata_assets.pipeline.gates import (
    PartitionBatch,
    failing_partitions,
    find_incomplete_in,
    read_batches,
)
from marketdata_assets.storage.connection import Database

COMPLETE: Final = "features_complete"
_DESCRIPTION: Final = """\
Each bar has features (`no_features`), no features are left of a removed bar (`no_bar`), and a column is null only at the
start of a history or where `gap_in_window` says that bars were lost (`unexpected_null`). Columns that may be null for
other reasons (no volume, flat prices, a thin day) are not checked. Partitions that `ohlcv_valid` or `no_gaps` blocks,
or whose splits were never fetched, have no features, as intended, nor has a week with a split inside it and without stored
`1d` bars: they are counted, and listed at the end of the table.

**What to do:** `marketdata features` computes stale features, `marketdata features --force` any.
"""


def feature_checks() -> AssetChecksDefinition:
    """Return the check of ``features``."""
    spec = AssetCheckSpec(COMPLETE, asset="features", description=_DESCRIPTION)

    @multi_asset_check(name="features_checks", specs=[spec])
    def features_checks(
        context: AssetCheckExecutionContext, postgres: PostgresResource
    ) -> Iterator[Output[None] | AssetCheckEvaluation]:
        faults = [FAULT_SCHEMA.to_frame()]
        bars = 0
        with postgres.database() as database:
            scope = scope_of(context, database)
            blocked = failing_partitions(database, scope.windows)
            unadjusted = symbols_without_splits(database, scope.rectangle.series)
            refused: dict[str, list[date]] = {}
            for batch in read_batches(database, scope.windows):
                bars += batch.bars.height
                faults.append(find_incomplete_in(database, batch))
                if batch.timeframe is Timeframe.W1:
                    refused |= _find_divided_weeks(database, batch)
        found = pl.concat(faults)
        lacking = found.filter(what="no_features")
        waiting = lacking.filter(pl.col("symbol").is_in(unadjusted)).with_columns(
            what=pl.lit("never fetched")
        )
        divided = lacking.join(
            pl.DataFrame(
                [(symbol, Timeframe.W1.value, day) for symbol, days in refused.items() for day in days],
                schema={name: lacking.schema[name] for name in ("symbol", "timeframe", "day")},
                orient="row",
            ),
            on=["symbol", "timeframe", "day"],
            how="semi",
        ).with_columns(what=pl.lit("a split divides the week, and its 1d bars are not stored"))
        reasons = [
            rows.with_columns(check=pl.lit("splits")).select(blocked.columns) for rows in (waiting, divided)
        ]
        blocked = pl.concat([blocked, *reasons])
        partition = ["symbol", "timeframe", "day"]
        wrong = found.join(blocked, on=partition, how="anti")
        wrong = pl.concat([wrong, found.filter(what="no_bar").join(blocked, on=partition, how="semi")])
        counts = {
            "bars": bars,
            "failing_rows": int(wrong["rows"].sum()),
            "partitions_held_back": blocked.select(partition).n_unique(),
        }
        # Shown at the end, by day, each with the check that blocks it.
        listed = blocked.with_columns(what=pl.format("blocked by {}: {}", "check", "what"), score=pl.lit(0.0))
        only_blocked = blocked.select(partition).unique().join(wrong, on=partition, how="anti")
        yield from verdict(
            spec,
            scope,
            wrong,
            counts=counts,
            listed=listed.sort(partition).select(FAULT_SCHEMA.names()),
            blocked=only_blocked.height,
        )

    return features_checks


def _find_divided_weeks(database: Database, batch: PartitionBatch) -> dict[str, list[date]]:
    """Return the days of the weeks of ``batch`` that cannot be adjusted, by symbol: they get no features."""
    calendar = calendar_of(batch.asset_class)
    today = calendar.local_day(datetime.now(UTC))
    _, refused = adjust_as_far_as_known(database, batch.bars, batch.asset_class, as_of=today)
    return {symbol: [calendar.local_day(opened) for opened in opens] for symbol, opens in refused.items()}
