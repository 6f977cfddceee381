"""The check of ``gap_report``: no bar is missing without an explanation."""

from collections.abc import Iterator

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
from marketdata_assets.domain.gaps import LOSSES
from marketdata_assets.pipeline.gates import NO_GAPS, find_gappy_in
from marketdata_assets.storage.gaps import list_gaps

_DESCRIPTION = """\
No bar is missing without an explanation: a partition fails if an `open` gap (refetched by the next repair) or an
`unfilled` one (no refetches left) reaches into it. `no_trades` and `filled` count as complete.
**Blocking**: a failing partition gets no features.

It knows only what `gap_report` has found: a day that was never scanned has no gaps.

**What to do:** `open`: `marketdata gaps --repair` refetches the gap. `unfilled`: the reason says whether the vendor
failed, which may pass, or has no bars, which will not.
"""


def gap_checks() -> AssetChecksDefinition:
    """Return the check of ``gap_report``."""
    spec = AssetCheckSpec(NO_GAPS, asset="gap_report", blocking=True, description=_DESCRIPTION)

    @multi_asset_check(name="gap_report_checks", specs=[spec])
    def gap_report_checks(
        context: AssetCheckExecutionContext, postgres: PostgresResource
    ) -> Iterator[Output[None] | AssetCheckEvaluation]:
        with postgres.database() as database:
            scope = scope_of(context, database)
            gaps = list_gaps(database, scope.windows, LOSSES)
            faults = find_gappy_in(database, scope.windows, gaps)
        counts = {
            "failing_gaps": gaps.height,
            "missing_bars": int(faults["rows"].sum()),
        }
        yield from verdict(spec, scope, faults, counts=counts)

    return gap_report_checks
