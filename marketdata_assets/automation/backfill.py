"""Backfills: bars of a rectangle of days x series, in range runs one after the other in this process."""

from __future__ import annotations

import json
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dagster import DagsterRunStatus, JsonMetadataValue, RunsFilter

from marketdata_assets.automation.jobs import BARS_JOB
from marketdata_assets.automation.ranges import execute_range, range_runs, reason_of
from marketdata_assets.storage.connection import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dagster import DagsterInstance, Definitions, ExecuteInProcessResult, MetadataValue
    from psycopg import Connection

    from marketdata_assets.automation.ranges import RangeRun
    from marketdata_assets.storage.connection import Database

_BACKFILL_TAG: Final = "marketdata/backfill"
_LOCK_SPACE: Final = 0x6D62  # any constant that nobody else hashes advisory locks with


@dataclass(slots=True)
class Outcome:
    """What a backfill did. Rows count bars over all series; ``failures`` holds one line per symbol."""

    backfill_id: str
    run_ids: list[str] = field(default_factory=list)
    rows_inserted: int = 0
    rows_changed: int = 0
    rows_unchanged: int = 0
    rows_quarantined: int = 0
    requests: int = 0
    pages: int = 0
    retries: int = 0
    seconds_waited_for_limit: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)


def execute(
    definitions: Definitions,
    instance: DagsterInstance,
    database: Database,
    runs: Sequence[RangeRun],
    *,
    arguments: dict[str, object],
    force: bool = False,
    on_run: Callable[[RangeRun], None] = lambda _: None,
) -> Outcome:
    """Execute ``runs`` in order. A symbol that fails does not stop the others.

    When a run loses a symbol, Dagster records none of its partitions; the others are stored all the same, so
    their partitions are recorded by a second run that asks the vendor for nothing.

    Raises:
        ConfigurationError: A setting is wrong (the key, say): every other run would fail like this one.
    """
    outcome = Outcome(backfill_id=str(uuid.uuid4()))
    with _alive(database, outcome.backfill_id):
        _begin_history(database, outcome, arguments)
        try:
            for run in runs:
                on_run(run)
                _execute(definitions, instance, database, run, outcome, force=force)
        except BaseException:
            _end_history(database, outcome, "failed")
            raise
        _end_history(database, outcome, "failed" if outcome.failures else "ok")
    return outcome


@contextmanager
def _alive(database: Database, backfill_id: str) -> Iterator[None]:
    """Hold the backfill's lock in a session of its own: the server frees it when this process is gone."""
    with connect(database.url, application_name="marketdata backfill") as session:
        session.autocommit = True
        session.execute(_TRY_LOCK, [backfill_id, _LOCK_SPACE])
        yield


_TRY_LOCK: Final = "select pg_try_advisory_lock(hashtextextended(%s, %s))"


def _execute(
    definitions: Definitions,
    instance: DagsterInstance,
    database: Database,
    run: RangeRun,
    outcome: Outcome,
    *,
    force: bool,
) -> None:
    result = _run_once(definitions, instance, run, outcome, {"force": force})
    if result.success:
        return
    named = _given_up(result)
    if not named:
        # The run ended before its last request did: nothing is known of any of its symbols.
        outcome.failures |= dict.fromkeys((one.symbol for one in run.series), reason_of(result))
        return
    reasons = _reasons(database, result.run_id)
    outcome.failures |= {symbol: reasons.get(symbol, reason_of(result)) for symbol in named}
    sound = [one for one in run.series if one.symbol not in named]
    # Contiguous in the run's own order, which is a stretch of Dagster's.
    ordered = [one.key for one in run.series]
    for again in range_runs(ordered, sound, run.first_day, run.last_day):
        recorded = _run_once(definitions, instance, again, outcome, {"ask_vendor": False})
        if not recorded.success:
            outcome.failures |= dict.fromkeys((one.symbol for one in again.series), reason_of(recorded))


def _run_once(
    definitions: Definitions,
    instance: DagsterInstance,
    run: RangeRun,
    outcome: Outcome,
    config: dict[str, object],
) -> ExecuteInProcessResult:
    tags = {_BACKFILL_TAG: outcome.backfill_id}
    result = execute_range(definitions, instance, run, job=BARS_JOB, config={"ohlcv": config}, tags=tags)
    outcome.run_ids.append(result.run_id)
    # Every partition of a range run carries the totals of the run; a run that gave up on a symbol tells them, too.
    told = [event.materialization.metadata for event in result.get_asset_materialization_events()[:1]]
    for metadata in told or [_given_up_metadata(result)]:
        for name in ("rows_inserted", "rows_changed", "rows_unchanged", "rows_quarantined"):
            if name in metadata:
                setattr(outcome, name, getattr(outcome, name) + int(str(metadata[name].value)))
    return result


def _given_up_metadata(result: ExecuteInProcessResult) -> Mapping[str, MetadataValue]:
    """What the asset said when it gave up on some symbols; empty when it ended otherwise."""
    for event in result.all_events:
        if event.is_step_failure and (said := event.step_failure_data.user_failure_data) is not None:
            return said.metadata
    return {}


def _given_up(result: ExecuteInProcessResult) -> list[str]:
    """The symbols that the asset gave up on after every other symbol was stored."""
    said = _given_up_metadata(result).get("failed_symbols")
    symbols = said.value if isinstance(said, JsonMetadataValue) else None
    return [str(symbol) for symbol in symbols] if isinstance(symbols, list) else []


def _reasons(database: Database, run_id: str) -> dict[str, str]:
    """Why requests of a run failed, by symbol."""

    def read(connection: Connection[tuple[object, ...]]) -> dict[str, str]:
        rows = connection.execute(
            "select distinct on (symbol) symbol, error from fetch_log"
            " where run_id = %s and status = 'failed' order by symbol, requested_at",
            [run_id],
        ).fetchall()
        return {str(symbol): str(error) for symbol, error in rows}

    return database.transaction(read)


def _begin_history(database: Database, outcome: Outcome, arguments: dict[str, object]) -> None:
    database.transaction(
        lambda connection: connection.execute(
            "insert into backfill_history (id, started_at, status, arguments)"
            " values (%s, clock_timestamp(), 'running', %s::jsonb)",
            [outcome.backfill_id, json.dumps(arguments, default=str)],
        )
    )


def _end_history(database: Database, outcome: Outcome, status: str) -> None:
    def write(connection: Connection[tuple[object, ...]]) -> None:
        row = connection.execute(
            "select count(*), coalesce(sum(pages), 0), coalesce(sum(retries), 0), coalesce(sum(waited_seconds), 0)"
            " from fetch_log where run_id = any(%s)",
            [outcome.run_ids],
        ).fetchone()
        if row is not None:
            outcome.requests, outcome.pages, outcome.retries = (int(str(value)) for value in row[:3])
            outcome.seconds_waited_for_limit = float(str(row[3]))
        connection.execute(
            "update backfill_history set finished_at = clock_timestamp(), status = %s, summary = %s::jsonb"
            " where id = %s",
            [status, json.dumps(summary(outcome)), outcome.backfill_id],
        )

    database.transaction(write)


def summary(outcome: Outcome) -> dict[str, object]:
    """``outcome`` as JSON can hold it."""
    return {
        "backfill_id": outcome.backfill_id,
        "runs": outcome.run_ids,
        "rows_inserted": outcome.rows_inserted,
        "rows_changed": outcome.rows_changed,
        "rows_unchanged": outcome.rows_unchanged,
        "rows_quarantined": outcome.rows_quarantined,
        "requests": outcome.requests,
        "pages": outcome.pages,
        "retries": outcome.retries,
        "seconds_waited_for_limit": round(outcome.seconds_waited_for_limit, 3),
        "failures": outcome.failures,
    }


def close_orphans(instance: DagsterInstance, database: Database) -> int:
    """End the records of backfills whose process is gone (killed, or its machine restarted); returns how many.

    Nothing else is left of them: batches are transactions, and locks end with their connection.
    """

    def dead(connection: Connection[tuple[object, ...]]) -> list[str]:
        rows = connection.execute("select id::text from backfill_history where status = 'running'").fetchall()
        # Whoever runs holds the backfill's lock: who can take it has found nobody.
        taken = "select pg_try_advisory_xact_lock(hashtextextended(%s, %s))"
        gone = [
            str(row[0])
            for row in rows
            if connection.execute(taken, [row[0], _LOCK_SPACE]).fetchone() == (True,)
        ]
        connection.execute(
            "update backfill_history set status = 'failed', finished_at = clock_timestamp()"
            " where id = any(%s::uuid[]) and status = 'running'",
            [gone],
        )
        return gone

    gone = database.transaction(dead)
    unfinished = [DagsterRunStatus.STARTED, DagsterRunStatus.STARTING]
    for backfill_id in gone:
        for run in instance.get_runs(RunsFilter(statuses=unfinished, tags={_BACKFILL_TAG: backfill_id})):
            instance.report_run_failed(
                run, message="The process that executed this run is gone; run the backfill again."
            )
    return len(gone)
