"""What every asset that asks the vendor shares: the pool of its runs, and what its requests cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dagster import MetadataValue

if TYPE_CHECKING:
    from marketdata_assets.pipeline.ingest import IngestReport

VENDOR_POOL: Final = "polygon"
"""Dagster's pool of what asks the vendor: ``dagster.yaml`` says how many such runs go on at once."""


def request_metadata(report: IngestReport) -> dict[str, MetadataValue]:
    """What the requests of a run cost, as the metadata that each of its partitions carries."""
    return {
        "run_rows_fetched": MetadataValue.int(report.rows_fetched),
        "run_requests": MetadataValue.int(report.requests),
        "run_pages": MetadataValue.int(report.pages),
        "run_retries": MetadataValue.int(report.retries),
        "run_bars_differing_from_range": MetadataValue.int(len(report.differs_from_range)),
        "run_seconds_waited_for_limit": MetadataValue.float(round(report.waited_seconds, 3)),
    }
