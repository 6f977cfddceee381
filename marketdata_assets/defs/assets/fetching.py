"""What every asset that makes requests shares: the pool of its runs, and the cost of its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dagster import MetadataValue

if TYPE_CHECKING:
    from marketdata_assets.pipeline.ingest_state import IngestReport

VENDOR_POOL: Final = "polygon"
"""Dagster's pool of the steps that make requests: ``dagster.yaml`` limits how many execute at once."""


def request_metadata(report: IngestReport) -> dict[str, MetadataValue]:
    """Return the cost of the requests of a run, as the metadata that each of its partitions gets."""
    return {
        "run_rows_fetched": MetadataValue.int(report.rows_fetched),
        "run_requests": MetadataValue.int(report.requests),
        "run_pages": MetadataValue.int(report.pages),
        "run_retries": MetadataValue.int(report.retries),
        "run_bars_differing_from_range": MetadataValue.int(len(report.differs_from_range)),
        "run_seconds_waited_for_limit": MetadataValue.float(round(report.waited_seconds, 3)),
    }
