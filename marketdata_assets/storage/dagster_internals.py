"""What this project needs of Dagster that its public API does not offer. Every private import stands here.

``context.add_asset_metadata(partition_key=...)`` checks the key against the whole range and copies all earlier
metadata on every call: quadratic in the partitions of a run. Adding them in one go is linear.
``test_dagster_internals`` notices when a release of Dagster moves what is used here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagster._core.execution.context.metadata_logging import AssetMetadataHandle, OutputMetadataAccumulator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagster import OutputContext


def add_partition_metadata(context: OutputContext, metadata: Mapping[str, Mapping[str, object]]) -> None:
    """Attach metadata to the materialization of each partition, given by partition key."""
    step = context.step_context
    earlier = step._metadata_accumulator.per_output_metadata  # noqa: SLF001 - see the module's docstring
    added = {
        AssetMetadataHandle(asset_key=context.asset_key, partition_key=key): dict(values)
        for key, values in metadata.items()
    }
    step._metadata_accumulator = OutputMetadataAccumulator(per_output_metadata={**earlier, **added})  # noqa: SLF001 - same
