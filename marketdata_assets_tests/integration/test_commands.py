"""Commands whose process is gone: what becomes of their runs."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from marketdata_assets.defs.runs.commands import Command, close_orphans, run_ids, under_way

if TYPE_CHECKING:
    from marketdata_assets.storage.connection import Database

UNFINISHED = (
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
)


@pytest.fixture
def instance() -> DagsterInstance:
    return DagsterInstance.ephemeral()


def left(instance: DagsterInstance, status: DagsterRunStatus, command: Command | None = None) -> str:
    """A run that some process has left in ``status``."""
    run = DagsterRun("matrix", str(uuid.uuid4()), status=status, tags=command.tags if command else {})
    return instance.add_run(run).run_id


def statuses(instance: DagsterInstance, ids: list[str]) -> list[DagsterRunStatus]:
    return [run.status for one in ids if (run := instance.get_run_by_id(one)) is not None]


def test_runs_of_a_process_that_is_gone_are_failed_and_no_others(
    database: Database, instance: DagsterInstance
) -> None:
    with under_way(database, "backfill") as killed, under_way(database, "backfill") as other:
        orphans = [left(instance, status, killed) for status in UNFINISHED]
        orphans.append(left(instance, DagsterRunStatus.STARTED, other))
        assert close_orphans(instance, database) == 0
    done = left(instance, DagsterRunStatus.SUCCESS, killed)
    with under_way(database, "backfill") as alive:
        kept = [left(instance, status, alive) for status in UNFINISHED]
        of_the_daemon = [left(instance, status) for status in UNFINISHED]
        assert close_orphans(instance, database) == 2
        assert close_orphans(instance, database) == 0
    assert set(statuses(instance, orphans)) == {DagsterRunStatus.FAILURE}
    assert statuses(instance, kept) == statuses(instance, of_the_daemon) == list(UNFINISHED)
    assert statuses(instance, [done]) == [DagsterRunStatus.SUCCESS]


def test_the_runs_of_a_command_are_known_however_they_ended(
    database: Database, instance: DagsterInstance
) -> None:
    with under_way(database, "backfill") as one, under_way(database, "backfill") as other:
        left(instance, DagsterRunStatus.SUCCESS, other)
        own = [left(instance, status, one) for status in (DagsterRunStatus.SUCCESS, *UNFINISHED)]
        assert run_ids(instance, one.tags) == own
