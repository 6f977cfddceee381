import pytest

from marketdata_assets.domain.jobs import (
    BARS_JOB,
    GAPS_JOB,
    HISTORY_JOB,
    is_only_a_failed_check,
    may_leave_gaps,
)
from marketdata_assets.domain.run_tags import COMMAND_TAG, Purpose

COMMAND = {COMMAND_TAG: "1"}


@pytest.mark.parametrize(
    ("job", "tags", "may_leave"),
    [
        (GAPS_JOB, Purpose.GAP_REPAIR.tags, True),
        (GAPS_JOB, COMMAND, True),
        (GAPS_JOB, {}, False),
        (BARS_JOB, COMMAND, False),
        (HISTORY_JOB, Purpose.DAILY_BARS.tags, False),
    ],
)
def test_repairs_and_scans_of_commands_may_leave_gaps(
    job: str, tags: dict[str, str], *, may_leave: bool
) -> None:
    assert may_leave_gaps(job, tags) is may_leave


@pytest.mark.parametrize(
    ("errors", "is_only"),
    [
        (["DagsterAssetCheckFailedError"], True),
        (["DagsterAssetCheckFailedError", "StoreError"], False),
        (["DagsterAssetCheckFailedError", None], False),
        ([], False),
    ],
)
def test_a_run_did_all_it_could_when_only_checks_failed(errors: list[str | None], *, is_only: bool) -> None:
    assert is_only_a_failed_check(errors) is is_only
