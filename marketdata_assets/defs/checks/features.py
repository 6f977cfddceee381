"""The check of ``features``: they are there, and they are whole."""

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
from marketdata_assets.pipeline.adjusted import adjusted_as_far_as_known, symbols_without_splits
from marketdata_assets.pipeline.gates import Stretch, failing_partitions, incomplete_in, stretches
from marketdata_assets.storage.connection import Database

COMPLETE: Final = "features_complete"
_DESCRIPTION: Final = """\
Each bar has features (`no_features`), none are left of a bar that is gone (`no_bar`), and a column is null only at the
start of a history or where `gap_in_window` says that bars were lost (`unexpected_null`). Columns that may be null for
other reasons (no volume, flat prices, a thin day) are not looked at. Partitions that `ohlcv_valid` or `no_gaps` holds
back, or whose splits were never asked for, have no features, and that is right: they are counted, and stand at the end
of the table. So does a week that a split divides and whose `1d` bars are not stored.

**What to do:** `marketdata features` computes what is out of date, `marketdata features --force` anything.
"""


def feature_checks() -> AssetChecksDefinition:
    """The check of ``features``."""
    spec = AssetCheckSpec(COMPLETE, asset="features", description=_DESCRIPTION)

    @multi_asset_check(name="features_checks", specs=[spec])
    def features_checks(
        context: AssetCheckExecutionContext, postgres: PostgresResource
    ) -> Iterator[Output[None] | AssetCheckEvaluation]:
        faults = [FAULT_SCHEMA.to_frame()]
        bars = 0
        with postgres.database() as database:
            scope = scope_of(context, database)
            held = failing_partitions(database, scope.windows)
            unadjusted = symbols_without_splits(database, scope.rectangle.series)
            refused: dict[str, list[date]] = {}
            for stretch in stretches(database, scope.windows):
                bars += stretch.bars.height
                faults.append(incomplete_in(database, stretch))
                if stretch.timeframe is Timeframe.W1:
                    refused |= _divided(database, stretch)
        found = pl.concat(faults)
        lacking = found.filter(what="no_features")
        waiting = lacking.filter(pl.col("symbol").is_in(unadjusted)).with_columns(
            what=pl.lit("never asked for")
        )
        divided = lacking.join(
            pl.DataFrame(
                [(symbol, Timeframe.W1.value, day) for symbol, days in refused.items() for day in days],
                schema={name: lacking.schema[name] for name in ("symbol", "timeframe", "day")},
                orient="row",
            ),
            on=["symbol", "timeframe", "day"],
            how="semi",
        ).with_columns(what=pl.lit("one divides the week, and its 1d bars are not stored"))
        reasons = [
            rows.with_columns(check=pl.lit("splits")).select(held.columns) for rows in (waiting, divided)
        ]
        held = pl.concat([held, *reasons])
        partition = ["symbol", "timeframe", "day"]
        wrong = found.join(held, on=partition, how="anti")
        wrong = pl.concat([wrong, found.filter(what="no_bar").join(held, on=partition, how="semi")])
        counts = {
            "bars": bars,
            "failing_rows": int(wrong["rows"].sum()),
            "partitions_held_back": held.select(partition).n_unique(),
        }
        # Shown at the end: by day, each with the check that holds it back.
        listed = held.with_columns(what=pl.format("held back by {}: {}", "check", "what"), score=pl.lit(0.0))
        right = held.select(partition).unique().join(wrong, on=partition, how="anti")
        yield from verdict(
            spec,
            scope,
            wrong,
            counts=counts,
            listed=listed.sort(partition).select(FAULT_SCHEMA.names()),
            blocked=right.height,
        )

    return features_checks


def _divided(database: Database, stretch: Stretch) -> dict[str, list[date]]:
    """The weeks of ``stretch`` that cannot be adjusted, by symbol: they get no features."""
    calendar = calendar_of(stretch.asset_class)
    today = calendar.local_day(datetime.now(UTC))
    _, refused = adjusted_as_far_as_known(database, stretch.bars, stretch.asset_class, as_of=today)
    return {symbol: [calendar.local_day(opened) for opened in opens] for symbol, opens in refused.items()}
