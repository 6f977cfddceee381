"""Commands that execute runs in their own process: how their runs are known, and ended when the process is gone."""

from __future__ import annotations

import uuid
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.run_tags import COMMAND_TAG, PURPOSE_TAG, UNFINISHED
from marketdata_assets.storage.connection import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster import DagsterInstance, DagsterRun
    from psycopg import Connection

    from marketdata_assets.storage.connection import Database

_LOCK_SPACE: Final = 0x6D62  # any constant that nobody else hashes advisory locks with


@dataclass(frozen=True, slots=True)
class Command:
    """A command that is under way in this process."""

    id: str
    """A UUID."""
    name: str
    """What was typed: ``backfill``."""

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its runs. The daemon does not start them again: the command does, when it is given again."""
        return {
            COMMAND_TAG: self.id,
            PURPOSE_TAG: f"marketdata {self.name}",
            "dagster/max_retries": "0",
        }


@contextmanager
def under_way(database: Database, name: str) -> Iterator[Command]:
    """The command ``name``, whose runs carry its tags; while it lasts, nobody takes them for those of a process that is gone.

    It holds a lock in a session of its own, which the server frees when this process is gone.
    """
    command = Command(str(uuid.uuid4()), name)
    with connect(database.url, application_name="marketdata command") as session:
        session.autocommit = True
        session.execute("select pg_advisory_lock(hashtextextended(%s, %s))", [command.id, _LOCK_SPACE])
        yield command


def close_orphans(instance: DagsterInstance, database: Database) -> int:
    """End what commands have left whose process is gone (killed, or its machine restarted); returns of how many.

    Their runs and backfills count as failed. Nothing else is left of them: batches are transactions, and locks end
    with their connection.
    """
    from dagster import DagsterRunStatus, RunsFilter

    unfinished = [DagsterRunStatus(status) for status in UNFINISHED]
    runs: dict[str, list[DagsterRun]] = defaultdict(list)
    for run in instance.get_runs(RunsFilter(statuses=unfinished)):
        if (command_id := run.tags.get(COMMAND_TAG)) is not None:
            runs[command_id].append(run)

    def dead(connection: Connection[tuple[object, ...]]) -> list[str]:
        rows = connection.execute("select id::text from backfill_history where status = 'running'").fetchall()
        # Whoever runs holds the command's lock: who can take it has found nobody.
        taken = "select pg_try_advisory_xact_lock(hashtextextended(%s, %s))"
        gone = [
            one
            for one in sorted({*runs, *(str(row[0]) for row in rows)})
            if connection.execute(taken, [one, _LOCK_SPACE]).fetchone() == (True,)
        ]
        connection.execute(
            "update backfill_history set status = 'failed', finished_at = clock_timestamp()"
            " where id::text = any(%s) and status = 'running'",
            [gone],
        )
        return gone

    gone = database.transaction(dead)
    for run in [run for one in gone for run in runs[one]]:
        # It may have ended between the first look and the lock.
        now = instance.get_run_by_id(run.run_id)
        if now is not None and now.status in unfinished:
            instance.report_run_failed(
                now, message="The process that executed this run is gone; run the command again."
            )
    return len(gone)


def run_ids(instance: DagsterInstance, command: Command) -> list[str]:
    """The ids of the runs of ``command``, in their order, those that did not finish included."""
    from dagster import RunsFilter

    runs = instance.get_runs(RunsFilter(tags=command.tags), ascending=True)
    return [run.run_id for run in runs]
