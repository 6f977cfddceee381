"""Dagster's own tables, read without Dagster: runs, the daemon, schedules, partitions and what is recorded of them.

They are private to Dagster. Nothing else reads them by hand, and a test holds what is read here against Dagster's answer.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.monitoring import JobRun, Runs
from marketdata_assets.storage.values import moment, moment_or_none

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import date

    from psycopg import Connection

    from marketdata_assets.config import Settings
    from marketdata_assets.domain.series import Series
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


def are_dagsters_tables_here(settings: Settings) -> bool:
    """Whether Dagster's instance of this process keeps its tables in the market database, as far as the settings say."""
    home = os.environ.get("DAGSTER_HOME")
    return settings.dagster_postgres_url is None and (home is None or Path(home) == settings.home / "dagster")


def is_recorded(
    database: Database, assets: Collection[str], series: Collection[Series], days: Sequence[date]
) -> bool:
    """Whether Dagster has a materialization of every partition of ``assets``: each of ``series`` on each of ``days``.

    False where Dagster has no tables in this database.
    """
    keys = [f"{day.isoformat()}|{one.key}" for one in series for day in days]

    def read(session: Connection[tuple[object, ...]]) -> bool:
        if not _has_table(session, "dagster.event_logs"):
            return False
        (absent,) = session.execute(
            "select exists (select from unnest(%s::text[]) as a(asset), unnest(%s::text[]) as k(key) where not exists"
            " (select from dagster.event_logs e where e.asset_key = a.asset"
            "  and e.dagster_event_type = 'ASSET_MATERIALIZATION' and e.partition = k.key))",
            [[f'["{asset}"]' for asset in assets], keys],
        ).fetchone() or (True,)
        return not absent

    return database.transaction(read)


def series_partitions(database: Database, dimension: str) -> list[str] | None:
    """The keys of the dynamic partitions ``dimension`` in Dagster's order; None where Dagster has no tables here."""

    def read(session: Connection[tuple[object, ...]]) -> list[str] | None:
        if not _has_table(session, "dagster.dynamic_partitions"):
            return None
        rows = session.execute(
            "select partition from dagster.dynamic_partitions where partitions_def_name = %s order by id",
            [dimension],
        ).fetchall()
        return [str(key) for (key,) in rows]

    return database.transaction(read)


def has_unfinished_runs(database: Database, tag: str, statuses: Collection[str]) -> bool:
    """Whether a run that carries ``tag`` is in one of ``statuses``."""

    def read(session: Connection[tuple[object, ...]]) -> bool:
        found = session.execute(
            "select from dagster.runs r join dagster.run_tags t on t.run_id = r.run_id and t.key = %s"
            " where r.status = any(%s) limit 1",
            [tag, list(statuses)],
        ).fetchone()
        return found is not None

    return database.transaction(read)


def _has_table(session: Connection[tuple[object, ...]], name: str) -> bool:
    return session.execute("select to_regclass(%s) is not null", [name]).fetchone() == (True,)
