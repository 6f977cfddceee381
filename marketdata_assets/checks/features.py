"""The check of ``features``: they are there, and they are whole."""

from collections.abc import Iterator
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

from marketdata_assets.checks.verdict import scope_of, verdict
from marketdata_assets.domain.gates import FAULT_SCHEMA
from marketdata_assets.storage.gates import failing_partitions, incomplete_in, stretches
from marketdata_assets.storage.resource import PostgresResource

COMPLETE: Final = "features_complete"
_DESCRIPTION: Final = """\
Each bar has features (`no_features`), none are left of a bar that is gone (`no_bar`), and a column is null only at the
start of a history or where `gap_in_window` says that bars were lost (`unexpected_null`). Columns that may be null for
other reasons (no volume, flat prices, a thin day) are not looked at. Partitions that `ohlcv_valid` or `no_gaps` holds
back have no features, and that is right.

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
            for stretch in stretches(database, scope.windows):
                bars += stretch.bars.height
                faults.append(incomplete_in(database, stretch))
        found = pl.concat(faults)
        partition = ["symbol", "timeframe", "day"]
        wrong = found.join(held, on=partition, how="anti")
        wrong = pl.concat([wrong, found.filter(what="no_bar").join(held, on=partition, how="semi")])
        counts = {
            "bars": bars,
            "failing_rows": int(wrong["rows"].sum()),
            "partitions_held_back": held.select(partition).n_unique(),
        }
        yield from verdict(spec, scope, wrong, counts=counts)

    return features_checks
