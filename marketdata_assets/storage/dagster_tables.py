"""Dagster's own tables, read without Dagster: runs, the daemon's heartbeats, schedules, partitions and materializations.

The tables are private to Dagster. No other module reads them, and a test compares these results with Dagster's own.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg

from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.jobs import UI_JOB, is_only_a_failed_check, may_leave_gaps
from marketdata_assets.domain.monitoring import JobRun, NextTick, Runs
from marketdata_assets.domain.run_tags import COMMAND_TAG, PURPOSE_TAG
from marketdata_assets.storage.rows import fetch, fetch_one, grouped, moment_or_none

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import date, datetime

    from marketdata_assets.config import Settings
    from marketdata_assets.domain.series import Series
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

# From each job's name to the next by an index: the table has very many runs and few jobs.
_LATEST_RUNS: Final = """
with recursive jobs as (
  select min(pipeline_name) as job from dagster.runs
  union all
  select (select min(r.pipeline_name) from dagster.runs r where r.pipeline_name > j.job)
  from jobs j
  where j.job is not null
)
select r.pipeline_name, r.run_id, r.status, r.create_timestamp at time zone 'UTC',
  to_timestamp(r.start_time), to_timestamp(r.end_time)
from jobs j
cross join lateral (
  select * from dagster.runs where pipeline_name = j.job order by id desc limit 1
) as r
"""
_TAGS: Final = """
select run_id, key, value
from dagster.run_tags
where run_id = any(%s) and key = any(%s)
"""
_STEP_FAILURES: Final = """
select run_id, event::jsonb #>> '{dagster_event,event_specific_data,error,cls_name}'
from dagster.event_logs
where run_id = any(%s) and dagster_event_type = 'STEP_FAILURE'
"""
_SCHEDULES: Final = """
select name, cron
from (
  select coalesce(body #>> '{origin,instigator_name}', body #>> '{origin,job_name}') as name,
    coalesce(body #> '{instigator_data,cron_schedule}', body #> '{job_specific_data,cron_schedule}') as cron
  from (
    select instigator_body::jsonb as body
    from dagster.instigators
    where instigator_type = 'SCHEDULE' and status <> 'STOPPED'
  ) as i
) as schedules
"""
_HAS_RUNS: Final = """
select to_regclass('dagster.runs') is not null and to_regclass('dagster.daemon_heartbeats') is not null
"""
_HAS_TABLE: Final = "select to_regclass(%s) is not null"
_ARE_RECORDED: Final = """
select not exists (
  select from unnest(%s::text[]) as a(asset), unnest(%s::text[]) as k(key)
  where not exists (
    select from dagster.event_logs e
    where e.asset_key = a.asset and e.dagster_event_type = 'ASSET_MATERIALIZATION' and e.partition = k.key
  )
)
"""
_PARTITIONS: Final = """
select partition
from dagster.dynamic_partitions
where partitions_def_name = %s
order by id
"""
_HAS_UNFINISHED: Final = """
select exists (
  select from dagster.runs r
  join dagster.run_tags t on t.run_id = r.run_id and t.key = %s
  where r.status = any(%s)
)
"""
_DAEMON_SEEN: Final = "select max(timestamp) at time zone 'UTC' from dagster.daemon_heartbeats"


class UnknownTablesError(MarketDataError):
    """Dagster's tables do not have the columns that this version expects."""


class _Tag(NamedTuple):
    run_id: str
    key: str
    value: str


class _StepFailure(NamedTuple):
    run_id: str
    error: str | None
    """The class of the error."""


class _Schedule(NamedTuple):
    name: str
    cron: str | list[str] | None

    @property
    def crons(self) -> list[str]:
        return [self.cron] if isinstance(self.cron, str) else self.cron or []


def runs_with_ticks(database: Database, now: datetime) -> Runs | None:
    """Read the result of ``defs.runs.history.runs_of`` from Dagster's own tables; None where they are not in this database."""
    found = runs_in_store(database)
    if found is None:
        return None
    ids = [run.run_id for run in found.latest]

    def read(session: Session) -> Runs:
        tags: dict[str, dict[str, str]] = {}
        for tag in fetch(session, _TAGS, [ids, [PURPOSE_TAG, COMMAND_TAG]], row=_Tag):
            tags.setdefault(tag.run_id, {})[tag.key] = tag.value
        failed = [run.run_id for run in found.latest if run.has_failed]
        errors = grouped(fetch(session, _STEP_FAILURES, [failed], row=_StepFailure))
        latest = [
            replace(
                run,
                purpose=tags.get(run.run_id, {}).get(PURPOSE_TAG),
                by_hand=run.job == UI_JOB,
                gap_stays=may_leave_gaps(run.job, tags.get(run.run_id, {}))
                and is_only_a_failed_check(errors.get(run.run_id, [])),
            )
            for run in found.latest
        ]
        ticks = [
            NextTick(schedule.name, min(_next_tick(cron, now) for cron in schedule.crons))
            for schedule in fetch(session, _SCHEDULES, row=_Schedule)
            if schedule.cron is not None
        ]
        return Runs(
            tuple(latest), tuple(sorted(ticks, key=lambda tick: (tick.at, tick.schedule))), found.daemon_seen
        )

    return database.transaction(read)


def _next_tick(cron: str, now: datetime) -> datetime:
    from cronsim import CronSim  # noqa: PLC0415 - only where a schedule is running

    return next(CronSim(cron, now.astimezone(UTC)))


def runs_in_store(database: Database) -> Runs | None:
    """Read the latest run of each job and the daemon's last heartbeat from Dagster's own tables, without Dagster.

    For callers that cannot afford to import Dagster (seconds, 70 MB). The next ticks, and whether the gap of a repair
    stays, are left out: ``defs.runs.history`` has them. None where Dagster has no tables in this database.

    Raises:
        UnknownTablesError: Dagster's tables do not have the expected columns.
    """

    def read(session: Session) -> Runs | None:
        if fetch(session, _HAS_RUNS, row=bool) == [False]:
            return None
        runs = fetch(session, _LATEST_RUNS, row=JobRun)
        seen = fetch_one(session, _DAEMON_SEEN, row=moment_or_none)
        return Runs(tuple(sorted(runs, key=lambda run: run.created, reverse=True)), daemon_seen=seen)

    try:
        return database.transaction(read)
    except psycopg.ProgrammingError as error:
        raise UnknownTablesError(str(error)) from error


def are_dagsters_tables_here(settings: Settings) -> bool:
    """Whether, by the settings, the Dagster instance of this process has its tables in the market database."""
    home = os.environ.get("DAGSTER_HOME")
    return settings.dagster_postgres_url is None and (home is None or Path(home) == settings.home / "dagster")


def is_recorded(
    database: Database, assets: Collection[str], series: Collection[Series], days: Sequence[date]
) -> bool:
    """Whether Dagster has a materialization of every partition of ``assets``: of each of ``series`` on each of ``days``.

    False where Dagster has no tables in this database.
    """
    keys = [f"{day.isoformat()}|{item.key}" for item in series for day in days]

    def read(session: Session) -> bool:
        if not _has_table(session, "dagster.event_logs"):
            return False
        values = [[f'["{asset}"]' for asset in assets], keys]
        return fetch(session, _ARE_RECORDED, values, row=bool) == [True]

    return database.transaction(read)


def series_partitions(database: Database, dimension: str) -> list[str] | None:
    """Read the keys of the dynamic partitions ``dimension`` in Dagster's order; None where Dagster has no tables here."""

    def read(session: Session) -> list[str] | None:
        if not _has_table(session, "dagster.dynamic_partitions"):
            return None
        return fetch(session, _PARTITIONS, [dimension], row=str)

    return database.transaction(read)


def has_unfinished_runs(database: Database, tag: str, statuses: Collection[str]) -> bool:
    """Whether a run with the tag ``tag`` is in one of ``statuses``."""
    return database.fetch(_HAS_UNFINISHED, [tag, list(statuses)], row=bool) == [True]


def _has_table(session: Session, name: str) -> bool:
    return fetch(session, _HAS_TABLE, [name], row=bool) == [True]
