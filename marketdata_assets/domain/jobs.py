"""Jobs of the platform by name, and which failed run of one only reports what is missing."""

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
"""Dagster's name of the job of assets that a person materializes in the UI."""

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
"""Dagster's name of the error of a step whose blocking check failed."""


def may_leave_gaps(job: str, tags: Mapping[str, str]) -> bool:
    """Whether a run of ``job`` with ``tags`` fails when it leaves gaps: a repair of the daemon, or a command's scan."""
    return tags.get(PURPOSE_TAG) == Purpose.GAP_REPAIR or (job == GAPS_JOB and COMMAND_TAG in tags)


def is_only_a_failed_check(errors: Collection[object]) -> bool:
    """Whether a run whose failed steps had ``errors``, by class name, did all it could: only checks failed."""
    return bool(errors) and all(error == _CHECK_FAILED for error in errors)
