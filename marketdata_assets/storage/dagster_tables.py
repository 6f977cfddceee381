"""Dagster's own tables, read without Dagster: what ``/metrics`` tells of runs and of the daemon.

They are private to Dagster. Nothing else reads them by hand, and a test holds what is read here against Dagster's answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.monitoring import JobRun, Runs
from marketdata_assets.storage.values import moment, moment_or_none

if TYPE_CHECKING:
    from psycopg import Connection

    from marketdata_assets.storage.connection import Database

_LATEST_RUNS: Final = (
    # From one name to the next by the index on it: a run is one row of very many.
    "with recursive jobs as (select min(pipeline_name) as job from dagster.runs union all"
    " select (select min(r.pipeline_name) from dagster.runs r where r.pipeline_name > j.job) from jobs j"
    "  where j.job is not null)"
    " select r.pipeline_name, r.run_id, r.status, r.create_timestamp at time zone 'UTC',"
    "  to_timestamp(r.start_time), to_timestamp(r.end_time) from jobs j cross join lateral ("
    "  select * from dagster.runs where pipeline_name = j.job order by id desc limit 1) as r"
)
_DAEMON_SEEN: Final = "select max(timestamp) at time zone 'UTC' from dagster.daemon_heartbeats"


def runs_in_store(database: Database) -> Runs | None:
    """The latest run of each job and the daemon's last sign of life, from Dagster's own tables, without Dagster.

    For what cannot afford to import it (seconds, 70 MB). The ticks to come and whether a repair's gap stays are not told:
    ``automation.runs`` does. None where Dagster has no tables in this database.
    """

    def read(session: Connection[tuple[object, ...]]) -> Runs | None:
        (found,) = session.execute(
            "select to_regclass('dagster.runs') is not null and to_regclass('dagster.daemon_heartbeats') is not null"
        ).fetchone() or (False,)
        if not found:
            return None
        runs = [
            JobRun(
                str(job),
                str(run),
                str(status),
                moment(created),
                moment_or_none(started),
                moment_or_none(ended),
            )
            for job, run, status, created, started, ended in session.execute(_LATEST_RUNS).fetchall()
        ]
        (seen,) = session.execute(_DAEMON_SEEN).fetchone() or (None,)
        latest = tuple(sorted(runs, key=lambda run: run.created, reverse=True))
        return Runs(latest, daemon_seen=moment_or_none(seen))

    return database.transaction(read)
