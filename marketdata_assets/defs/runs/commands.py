"""Commands that execute runs in their own process: how their runs are identified, and ended when the process is gone."""

from __future__ import annotations

import uuid
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marketdata_assets.domain.run_tags import COMMAND_TAG, PURPOSE_TAG, UNFINISHED
from marketdata_assets.storage.backfill_history import fail_dead
from marketdata_assets.storage.connection import connect
from marketdata_assets.storage.locks import LockSpace, lock_for_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster import DagsterInstance, DagsterRun

    from marketdata_assets.storage.connection import Database


@dataclass(frozen=True, slots=True)
class Command:
    """A command that is under way in this process."""

    id: str
    """A UUID."""
    name: str
    """The name that was typed, such as ``backfill``."""

    @property
    def tags(self) -> dict[str, str]:
        """The tags of the runs of the command. The daemon does not retry these runs: running the command again does."""
        return {
            COMMAND_TAG: self.id,
            PURPOSE_TAG: f"marketdata {self.name}",
            "dagster/max_retries": "0",
        }


@contextmanager
def under_way(database: Database, name: str) -> Iterator[Command]:
    """Yield the command ``name``, whose tags its runs get; during the context, its runs do not count as orphans.

    The command holds a lock in a session of its own, which the server releases when this process is gone.
    """
    command = Command(str(uuid.uuid4()), name)
    with connect(database.url, application_name="marketdata command") as session:
        session.autocommit = True
        lock_for_session(session, [command.id], LockSpace.COMMANDS)
        yield command


def close_orphans(instance: DagsterInstance, database: Database) -> int:
    """End the runs and backfills of commands whose process is gone (killed, or its machine restarted).

    Returns the number of these commands. Their runs and backfills become failed. Nothing else is left of such a command:
    batches are transactions, and locks end with their connection.
    """
    from dagster import DagsterRunStatus, RunsFilter

    unfinished = [DagsterRunStatus(status) for status in UNFINISHED]
    runs: dict[str, list[DagsterRun]] = defaultdict(list)
    for run in instance.get_runs(RunsFilter(statuses=unfinished)):
        if (command_id := run.tags.get(COMMAND_TAG)) is not None:
            runs[command_id].append(run)

    gone = fail_dead(database, runs)
    for run in [run for command_id in gone for run in runs[command_id]]:
        # The run may have ended between the query and the lock.
        current = instance.get_run_by_id(run.run_id)
        if current is not None and current.status in unfinished:
            instance.report_run_failed(
                current, message="The process that executed this run is gone; run the command again."
            )
    return len(gone)


def run_ids(instance: DagsterInstance, command: Command) -> list[str]:
    """List the ids of the runs of ``command`` in the order of their creation, with those that did not finish."""
    from dagster import RunsFilter

    runs = instance.get_runs(RunsFilter(tags=command.tags), ascending=True)
    return [run.run_id for run in runs]
