"""The checks of ``ohlcv``: what is stored obeys the rules, lies on the grid, and is in line with its series."""

from collections.abc import Iterator
from datetime import UTC, datetime
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
from marketdata_assets.domain.gates import FAULT_SCHEMA, LOST_TO_QUARANTINE, find_off_grid, find_outlying
from marketdata_assets.domain.outliers import LOOKBACK, Outlier
from marketdata_assets.pipeline.adjusted import adjusted_as_far_as_known
from marketdata_assets.pipeline.gates import VALID, invalid_in, stretches

ON_GRID: Final = "on_grid"
IN_LINE: Final = "prices_in_line"

_DESCRIPTIONS: Final = {
    VALID: """\
Stored bars obey the rules: prices finite and above 0, `high` and `low` around `open` and `close`, `volume` not
negative, none for an index. A partition of whose base bars more went to `ohlcv_quarantine` than are left
(`lost_to_quarantine`) fails, too. **Blocking**: a failing partition gets no features.

**What to do:** `marketdata backfill --force` for the series and day asks the vendor again; rows that are still broken
stand in `ohlcv_quarantine` with the vendor's values.
""",
    ON_GRID: """\
Bars open where their timeframe has a bar (`off_grid`), on days with a session (`no_session`), and are made of as
many base bars as they can hold (`too_few_base_bars`, `too_many_base_bars`).

**What to do:** nothing that comes from the vendor gets past the grid, so look for what wrote to `ohlcv` by hand. A
`no_session` bar is the vendor's own; nothing expects it.
""",
    IN_LINE: """\
Bars that obey every rule and still look wrong: a range over 500 %, a day or week with over 10 times or under a tenth
of the usual volume (median of the bars before), a jump far beyond the habits of the series. **Only warns.**

Bars are compared on one scale: a split that the vendor lists is neither a jump nor a change of volume. A week that it
divides is judged when its days are stored.

**What to do:** compare with another source. A jump by the ratio of a split that is not listed, `split_like`, is shown and
is not a warning.
""",
}


def bar_checks() -> AssetChecksDefinition:
    """The checks of ``ohlcv``, one step, so that bars are read once."""
    specs = {
        name: AssetCheckSpec(name, asset="ohlcv", description=text, blocking=name == VALID)
        for name, text in _DESCRIPTIONS.items()
    }

    @multi_asset_check(name="ohlcv_checks", specs=list(specs.values()), can_subset=True)
    def ohlcv_checks(
        context: AssetCheckExecutionContext, postgres: PostgresResource
    ) -> Iterator[Output[None] | AssetCheckEvaluation]:
        chosen = {key.name for key in context.selected_asset_check_keys}
        faults: dict[str, list[pl.DataFrame]] = {name: [FAULT_SCHEMA.to_frame()] for name in chosen}
        bars = quarantined = 0
        with postgres.database() as database:
            scope = scope_of(context, database)
            lookback = LOOKBACK if IN_LINE in chosen else 0
            for stretch in stretches(database, scope.windows, lookback_bars=lookback):
                bars += stretch.bars.height
                quarantined += stretch.quarantined.height
                timeframe, asset_class = stretch.timeframe, stretch.asset_class
                if VALID in chosen:
                    faults[VALID].append(invalid_in(stretch))
                if ON_GRID in chosen:
                    faults[ON_GRID].append(find_off_grid(stretch.bars, timeframe, calendar_of(asset_class)))
                if IN_LINE in chosen:
                    today = calendar_of(asset_class).local_day(datetime.now(UTC))
                    bars_alike, _ = adjusted_as_far_as_known(
                        database, stretch.context, asset_class, as_of=today
                    )
                    faults[IN_LINE].append(find_outlying(bars_alike, stretch.windows, timeframe, asset_class))
        for name, spec in specs.items():
            if name not in chosen:
                continue
            found = pl.concat(faults[name])
            is_listed = pl.col("what") == Outlier.SPLIT_LIKE.value
            failing, listed = found.filter(~is_listed), found.filter(is_listed)
            counts = {"bars": bars, "failing_bars": _bars_of(failing)}
            if name == VALID:
                counts["quarantined"] = quarantined
            if name == IN_LINE:
                counts["split_like_bars"] = _bars_of(listed)
            yield from verdict(spec, scope, failing, counts=counts, only_warns=name == IN_LINE, listed=listed)

    return ohlcv_checks


def _bars_of(faults: pl.DataFrame) -> int:
    return int(faults.filter(pl.col("what") != LOST_TO_QUARANTINE)["rows"].sum())
