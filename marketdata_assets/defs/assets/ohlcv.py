"""The ``ohlcv`` asset: bars of every series, fetched or rolled up, one partition per day and series."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    BackfillPolicy,
    Config,
    Failure,
    MetadataValue,
    MultiPartitionsDefinition,
    Output,
    asset,
)
from pydantic import Field

from marketdata_assets.defs.assets.fetching import VENDOR_POOL, request_metadata
from marketdata_assets.defs.assets.presentation import DAILY_FRESHNESS, OWNERS
from marketdata_assets.defs.resources.io_manager import Recording, table_metadata
from marketdata_assets.defs.resources.polygon import PolygonResource
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.domain.coverage import CORRECTION_SESSIONS
from marketdata_assets.domain.partitions import days_by_series, parse_key
from marketdata_assets.domain.wording import join_first, name_first
from marketdata_assets.pipeline.fetching import find_unknown_symbols, group_by_instrument, ingest_batches
from marketdata_assets.pipeline.ingest import Ingest
from marketdata_assets.pipeline.ingest_state import IngestReport
from marketdata_assets.polygon.planner import plan_fetches
from marketdata_assets.storage.bars import BarBatch, read_coverage
from marketdata_assets.storage.tables import OHLCV

DESCRIPTION = """\
OHLCV bars of every tracked series, **unadjusted**, keyed by `(symbol, timeframe, time)`; `time` is the open, UTC.

`1m` and `1d` are fetched from Polygon.io; `5m` to `4h` are rolled up from `1m`, `1w` from `1d`. A bar belongs to
the partition of the local date of its open. Rows that break a rule go to `ohlcv_quarantine`; old values of a
revised bar go to `ohlcv_revision`; only retention deletes bars.
"""

FAILED_SYMBOLS = "failed_symbols"
"""Metadata: the symbols whose requests failed, as a JSON array."""
FAILURE_REASONS = "failure_reasons"
"""Metadata: why, one line for each of them, as a JSON object."""

_NAMED = 20


class OhlcvConfig(Config):
    """The options of a run of ``ohlcv``."""

    ask_vendor: bool = Field(
        default=True,
        description="False makes no requests: it rolls up and records what is stored.",
    )
    force: bool = Field(default=False, description="Fetch windows again that are already stored.")
    keep_going: bool = Field(
        default=False,
        description="When some symbols fail, record the others and run the downstream steps; the partitions of the"
        " failed ones stay missing. False fails the run. If every symbol fails, the run fails either way.",
    )
    correction_sessions: int = Field(
        default=CORRECTION_SESSIONS,
        ge=0,
        description="Latest sessions that are fetched again, because late trades revise them.",
    )


def ohlcv_asset(partitions: MultiPartitionsDefinition) -> AssetsDefinition:
    """Build the asset over ``partitions``."""

    @asset(
        name="ohlcv",
        partitions_def=partitions,
        backfill_policy=BackfillPolicy.single_run(),
        group_name="bars",
        pool=VENDOR_POOL,
        kinds={"polars", "postgres"},
        description=DESCRIPTION,
        metadata=table_metadata(OHLCV),
        owners=OWNERS,
        tags={"domain": "bars", "source": "polygon"},
        freshness_policy=DAILY_FRESHNESS,
    )
    def ohlcv(
        context: AssetExecutionContext,
        config: OhlcvConfig,
        polygon: PolygonResource,
        postgres: PostgresResource,
    ) -> Output[Any]:
        # Wrapped, or Dagster would take the batches for outputs of the step.
        return Output(_batches(context, config, polygon, postgres))

    return ohlcv


def _batches(
    context: AssetExecutionContext, config: OhlcvConfig, polygon: PolygonResource, postgres: PostgresResource
) -> Iterator[BarBatch | Recording]:
    days = days_by_series(context.partition_keys)
    now = datetime.now(UTC)
    with postgres.database() as database:
        wanted, tracked = group_by_instrument(database, days)
        coverage = read_coverage(database, [instrument.symbol for instrument in wanted])
        planned = plan_fetches(
            wanted,
            {day for series_days in days.values() for day in series_days},
            coverage,
            now=now,
            force=config.force,
            correction_sessions=config.correction_sessions,
            tracked=tracked,
        )
        context.log.info(
            "%d series over %d days: %d requests (at most %d pages), %d windows rolled up from stored bars",
            len(days),
            len({day for series_days in days.values() for day in series_days}),
            len(planned.requests),
            planned.pages,
            len(planned.rollups),
        )
        if not config.ask_vendor:
            planned = planned.without_requests()
        ingest = Ingest(planned, now=now, coverage=coverage, run_id=context.run.run_id)
        yield from ingest_batches(database, polygon, ingest)
        report = ingest.report
        if config.ask_vendor:
            requested = {day for series_days in days.values() for day in series_days}
            report.failures += find_unknown_symbols(
                polygon, database, report, wanted=wanted, days=requested, coverage=coverage
            )
    for notice in report.notices:
        context.log.warning("%s", notice)
    failed = set(report.failed_symbols)
    if not failed:
        yield Recording(request_metadata(report))
        return
    if not config.keep_going or failed >= {one.symbol for one in days}:
        raise _failure(report)
    for reason in dict.fromkeys(str(request.error) for request in report.failures):
        context.log.error("%s", reason)
    unrecorded = frozenset(key for key in context.partition_keys if parse_key(key)[1].symbol in failed)
    yield Recording({**request_metadata(report), **_failure_metadata(report)}, unrecorded)


def _failure(report: IngestReport) -> Failure:
    # A whole day of a market that fails has one reason for all of its symbols.
    shown = join_first(list(dict.fromkeys(str(failed.error) for failed in report.failures)), 3)
    names = name_first(report.failed_symbols, _NAMED)
    return Failure(
        description=f"{names} failed, every other symbol is stored: {shown}",
        metadata={**request_metadata(report), **_failure_metadata(report)},
        allow_retries=False,
    )


def _failure_metadata(report: IngestReport) -> dict[str, MetadataValue]:
    return {
        FAILED_SYMBOLS: MetadataValue.json(report.failed_symbols),
        FAILURE_REASONS: MetadataValue.json(
            {failed.series.symbol: str(failed.error) for failed in reversed(report.failures)}
        ),
        "errors": MetadataValue.json(list(dict.fromkeys(str(failed.error) for failed in report.failures))),
    }
