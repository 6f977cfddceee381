"""The names of the jobs, and which failed runs only report what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.run_tags import COMMAND_TAG, PURPOSE_TAG, Purpose

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

BARS_JOB: Final = "bars"
HISTORY_JOB: Final = "bars_and_gaps"
GAPS_JOB: Final = "gaps"
MATRIX_JOB: Final = "matrix"
FEATURES_JOB: Final = "feature_update"
CORPORATE_ACTIONS_JOB: Final = "corporate_actions"
FRESHNESS_JOB: Final = "freshness"
RETENTION_JOB: Final = "retention"
UI_JOB: Final = "__ASSET_JOB"
"""Dagster's name for the job that materializes assets from the UI."""

JOBS: Final = (
    BARS_JOB,
    HISTORY_JOB,
    GAPS_JOB,
    FEATURES_JOB,
    MATRIX_JOB,
    CORPORATE_ACTIONS_JOB,
    FRESHNESS_JOB,
    RETENTION_JOB,
    UI_JOB,
)

_CHECK_FAILED: Final = "DagsterAssetCheckFailedError"
"""Dagster's name for the error of a step whose blocking check failed."""


def may_leave_gaps(job: str, tags: Mapping[str, str]) -> bool:
    """Whether a run of ``job`` with ``tags`` fails when it leaves gaps: a repair by the daemon, or the scan of a command."""
    return tags.get(PURPOSE_TAG) == Purpose.GAP_REPAIR or (job == GAPS_JOB and COMMAND_TAG in tags)


def is_only_a_failed_check(errors: Collection[object]) -> bool:
    """Whether only checks failed in a run whose failed steps had ``errors`` (class names), so that the run did its work."""
    return bool(errors) and all(error == _CHECK_FAILED for error in errors)
