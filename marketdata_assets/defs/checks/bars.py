"""The checks of ``ohlcv``: stored bars obey the rules, lie on the grid, and are in line with their series."""

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

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
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.windows import Window
from marketdata_assets.pipeline.adjusted import adjust_as_far_as_known
from marketdata_assets.pipeline.gates import BARS_AT_ONCE, VALID, find_invalid_in, read_batches
from marketdata_assets.storage.connection import Database

ON_GRID: Final = "on_grid"
IN_LINE: Final = "prices_in_line"

_DESCRIPTIONS: Final = {
    VALID: """\
Stored bars obey the rules: prices finite and above 0, `high` and `low` around `open` and `close`, `volume` not
negative, none for an index. A partition also fails when more of its base bars were quarantined than stored
(`lost_to_quarantine`). **Blocking**: a failing partition gets no features.

**What to do:** `marketdata backfill --force` for the series and day fetches the bars again. Rows that still break a rule
are in `ohlcv_quarantine` with the vendor's values.
""",
    ON_GRID: """\
Bars open where their timeframe has a bar (`off_grid`), on days with a session (`no_session`), and are made of as
many base bars as they can hold (`too_few_base_bars`, `too_many_base_bars`).

**What to do:** for `no_session`, nothing: the vendor has such bars, and nothing expects them. The other faults cannot come
from the vendor, so find out what else wrote to `ohlcv`.
""",
    IN_LINE: """\
Bars that break no rule but look wrong: a range over 500 %, a day or week with over 10 times or under a tenth
of the usual volume (median of the bars before), a jump far larger than usual for the series. **Only warns.**

Bars are compared on one scale: a split that the vendor lists causes neither a jump nor a change of volume. A week with a
split inside it is checked only when its days are stored.

**What to do:** compare with another source. A jump by a common split ratio without a listed split, `split_like`, is shown
but is not a warning.
""",
}


class Judged(NamedTuple):
    """The result of some checks of stored bars.

    Attributes:
        faults: The faults (``FAULT_SCHEMA``) by the name of the check.
        bars: The number of bars that were judged.
        quarantined: The number of rows in ``ohlcv_quarantine`` in the windows of the bars.
    """

    faults: Mapping[str, pl.DataFrame]
    bars: int
    quarantined: int


def judge_bars(
    database: Database,
    windows: Mapping[Series, Window],
    checks: Collection[str],
    *,
    now: datetime,
    bars_at_once: int = BARS_AT_ONCE,
) -> Judged:
    """Judge the bars in ``windows`` by the rules of ``checks``, about ``bars_at_once`` of them in memory at a time.

    Raises:
        ConfigurationError: A series is not tracked.
    """
    faults: dict[str, list[pl.DataFrame]] = {name: [FAULT_SCHEMA.to_frame()] for name in checks}
    bars = quarantined = 0
    lookback = LOOKBACK if IN_LINE in checks else 0
    for batch in read_batches(database, windows, lookback_bars=lookback, bars_at_once=bars_at_once):
        bars += batch.bars.height
        quarantined += batch.quarantined.height
        timeframe, asset_class = batch.timeframe, batch.asset_class
        calendar = calendar_of(asset_class)
        if VALID in checks:
            faults[VALID].append(find_invalid_in(batch))
        if ON_GRID in checks:
            faults[ON_GRID].append(find_off_grid(batch.bars, timeframe, calendar))
        if IN_LINE in checks:
            adjusted, _ = adjust_as_far_as_known(
                database, batch.context, asset_class, as_of=calendar.local_day(now)
            )
            faults[IN_LINE].append(find_outlying(adjusted, batch.windows, timeframe, asset_class))
    return Judged({name: pl.concat(found) for name, found in faults.items()}, bars, quarantined)


def bar_checks() -> AssetChecksDefinition:
    """Return the checks of ``ohlcv``, as one step, so that bars are read once."""
    specs = {
        name: AssetCheckSpec(name, asset="ohlcv", description=text, blocking=name == VALID)
        for name, text in _DESCRIPTIONS.items()
    }

    @multi_asset_check(name="ohlcv_checks", specs=list(specs.values()), can_subset=True)
    def ohlcv_checks(
        context: AssetCheckExecutionContext, postgres: PostgresResource
    ) -> Iterator[Output[None] | AssetCheckEvaluation]:
        chosen = {key.name for key in context.selected_asset_check_keys}
        with postgres.database() as database:
            scope = scope_of(context, database)
            judged = judge_bars(database, scope.windows, chosen, now=datetime.now(UTC))
        for name, spec in specs.items():
            if name not in chosen:
                continue
            found = judged.faults[name]
            is_listed = pl.col("what") == Outlier.SPLIT_LIKE.value
            failing, listed = found.filter(~is_listed), found.filter(is_listed)
            counts = {"bars": judged.bars, "failing_bars": _count_bars(failing)}
            if name == VALID:
                counts["quarantined"] = judged.quarantined
            if name == IN_LINE:
                counts["split_like_bars"] = _count_bars(listed)
            yield from verdict(spec, scope, failing, counts=counts, only_warns=name == IN_LINE, listed=listed)

    return ohlcv_checks


def _count_bars(faults: pl.DataFrame) -> int:
    return int(faults.filter(pl.col("what") != LOST_TO_QUARANTINE)["rows"].sum())
