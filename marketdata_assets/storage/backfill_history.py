"""The table ``backfill_history``: when each backfill began and how it ended; which commands are still running, by their locks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

from marketdata_assets.storage.locks import LockSpace, try_lock
from marketdata_assets.storage.rows import fetch, moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

_BEGIN: Final = """
insert into backfill_history (id, started_at, status, arguments)
values (%s, clock_timestamp(), 'running', %s::jsonb)
returning started_at
"""
_REQUESTS: Final = """
select count(*), coalesce(sum(pages), 0)::bigint, coalesce(sum(retries), 0)::bigint,
  coalesce(sum(waited_seconds), 0)::float8
from fetch_log
where run_id = any(%s) and not shared
"""
_END: Final = """
update backfill_history
set finished_at = clock_timestamp(), status = %s, summary = %s::jsonb
where id = %s
"""
_RUNNING: Final = "select id::text from backfill_history where status = 'running'"
_FAIL: Final = """
update backfill_history
set status = 'failed', finished_at = clock_timestamp()
where id::text = any(%s) and status = 'running'
"""


class Requests(NamedTuple):
    """The requests to the vendor that a set of runs has made."""

    requests: int
    pages: int
    retries: int
    waited_seconds: float
    """Seconds that the requests waited for the rate limit."""


def begin_backfill(database: Database, backfill_id: str, arguments: Mapping[str, object]) -> datetime:
    """Record the start of a backfill, and return its time by the database's clock."""
    values = [backfill_id, json.dumps(arguments)]

    def write(session: Session) -> datetime:
        (begun,) = fetch(session, _BEGIN, values, row=moment)
        return begun

    return database.transaction(write)


def count_requests(session: Session, run_ids: Sequence[str]) -> Requests:
    """Count the requests that the runs ``run_ids`` have made."""
    (counted,) = fetch(session, _REQUESTS, [list(run_ids)], row=Requests)
    return counted


def end_backfill(session: Session, backfill_id: str, status: str, summary: Mapping[str, object]) -> None:
    """Record the end of a backfill with its ``status`` and the ``summary`` of what it did."""
    session.execute(_END, [status, json.dumps(summary), backfill_id])


def fail_dead(database: Database, command_ids: Iterable[str]) -> list[str]:
    """Record as failed the backfills that are recorded as running and whose process is gone.

    Return the commands, of these backfills and of ``command_ids``, that have no process any more: a command holds the
    lock of its identifier while it runs.
    """

    def work(session: Session) -> list[str]:
        known = sorted({*command_ids, *fetch(session, _RUNNING, row=str)})
        gone = [command_id for command_id in known if try_lock(session, command_id, LockSpace.COMMANDS)]
        session.execute(_FAIL, [gone])
        return gone

    return database.transaction(work)
