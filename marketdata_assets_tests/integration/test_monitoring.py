"""What the store tells of itself, and what ``watch`` makes of it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import TYPE_CHECKING, Any

import adbc_driver_manager
import psycopg
import pytest
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    build_sensor_context,
    instance_for_test,
)
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.execution.plan.objects import StepFailureData
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, ScheduleInstigatorData
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo

from marketdata_assets.config import Settings, load_settings
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.defs.runs.history import runs_of
from marketdata_assets.defs.sensors import watch as watch_module
from marketdata_assets.defs.sensors.watch import watch_sensor
from marketdata_assets.domain.jobs import BARS_JOB, GAPS_JOB, HISTORY_JOB
from marketdata_assets.domain.monitoring import Disk, Runs, Topic
from marketdata_assets.pipeline import health
from marketdata_assets.pipeline.alerts import Alert, AlertError
from marketdata_assets.pipeline.health import vitals
from marketdata_assets.storage import monitoring
from marketdata_assets.storage.bars import BarBatch, write_batch
from marketdata_assets.storage.connection import Database, dagster_storage_url
from marketdata_assets.storage.dagster_tables import runs_in_store, runs_with_ticks
from marketdata_assets_tests.integration.frames import run_of
from marketdata_assets_tests.integration.platform import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from marketdata_assets.storage.rows import Session

NOW = datetime(2023, 7, 6, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def log_fetches(database: Database, *rows: tuple[datetime, dict[str, object]]) -> None:
    """Requests for minutes of AAPL, answered in a minute unless told otherwise."""
    for at, values in rows:
        row: dict[str, object] = {
            "symbol": "AAPL",
            "base": "1m",
            "window_start": NOW - timedelta(days=2),
            "window_end": NOW - timedelta(days=1),
            "timeframes": ["1m"],
            "status": "ok",
            "pages": 1,
            "bars": 10,
            "retries": 0,
            "rate_limited": 0,
            "duration_seconds": 1.0,
            "waited_seconds": 0.0,
            "error": None,
            "requested_at": at,
            "finished_at": at + MINUTE,
            **values,
        }
        statement = (
            f"insert into fetch_log (id, {', '.join(row)})"
            f" values (gen_random_uuid(), {', '.join(['%s'] * len(row))})"
        ).encode()
        database.transaction(lambda session: session.execute(statement, list(row.values())))  # noqa: B023 - at once


def track(database: Database, *symbols: str, timeframes: str = "{1m,1d}") -> None:
    database.transaction(
        lambda session: session.execute(
            "insert into tracked_symbols (symbol, asset_class, timeframes, updated_at)"
            " select one, 'stock', %s::text[], '2023-01-01' from unnest(%s::text[]) as one",
            [timeframes, list(symbols)],
        )
    )


def test_the_vendors_use_is_counted_by_day_month_and_minute(database: Database) -> None:
    log_fetches(
        database,
        (NOW - timedelta(days=40), {"pages": 1000}),
        (NOW - timedelta(days=3), {"pages": 5, "retries": 2, "rate_limited": 2}),
        (NOW - 5 * 60 * MINUTE, {"pages": 30, "retries": 2}),
        (NOW - 5 * 60 * MINUTE + timedelta(seconds=30), {"pages": 4}),
        # Began long ago and ended just now: recent.
        (NOW - 60 * MINUTE, {"pages": 7, "retries": 3, "rate_limited": 1, "finished_at": NOW}),
        (NOW - MINUTE, {"status": "failed", "pages": 0, "retries": 4, "rate_limited": 5, "error": "429"}),
        (NOW + MINUTE, {"pages": 1000}),
    )
    use = monitoring.vendor_use(database, 150, NOW)
    assert (use.requests_today, use.refused_today, use.failed_today) == (32 + 4 + 10 + 5, 6, 1)
    assert (use.requests_month, use.refused_month) == (use.requests_today + 7, 8)
    assert (use.busiest, use.busiest_requests) == (NOW - 5 * 60 * MINUTE, 36)
    assert (use.requests_recent, use.refused_recent) == (15, 6)
    assert use.blocked_until is None
    assert use.share_of_plan(NOW) == use.requests_today / (150 * 720)


def test_a_penalty_of_the_limiter_shows_until_it_is_over(database: Database) -> None:
    database.transaction(
        lambda session: session.execute(
            "insert into rate_limit (bucket, grants, position, paced_until, blocked_until)"
            " values ('a', '{epoch}', 1, 'epoch', 'epoch'), ('b', '{epoch}', 1, 'epoch', %s)",
            [NOW],
        )
    )
    assert monitoring.vendor_use(database, 150, NOW - MINUTE).blocked_until == NOW
    assert monitoring.vendor_use(database, 150, NOW).blocked_until is None


def test_tables_are_measured_with_their_partitions_and_by_what_came_lately(database: Database) -> None:
    empty = {one.table: one for one in monitoring.table_sizes(database, NOW)}
    assert empty["ohlcv"].rows == 0
    assert "ohlcv_1m" not in empty
    start = NOW - timedelta(days=3)
    write_batch(database, BarBatch(run_of("AAPL:1m", 700, start=start)))
    write_batch(database, BarBatch(run_of("AAPL:1d", 14, start=NOW - timedelta(days=20))))
    sizes = {one.table: one for one in monitoring.table_sizes(database, NOW)}
    assert sizes["ohlcv"].rows == 714
    assert sizes["ohlcv"].rows_a_day == (700 + 1) / 7
    assert sizes["ohlcv"].size > empty["ohlcv"].size
    assert sizes["vendor"].rows_a_day is None
    assert monitoring.database_size(database) > sum(one.size for one in sizes.values())


def test_the_growth_of_many_series_is_that_of_ten_of_them(database: Database) -> None:
    symbols = [f"S{number}" for number in range(12)]
    track(database, *symbols, timeframes="{1h}")
    # By the order that the store takes them in: counted are the first ten.
    uncounted = max(symbols, key=lambda one: md5(one.encode(), usedforsecurity=False).hexdigest())
    for one in symbols:
        bars = 70 if one == uncounted else 14
        write_batch(database, BarBatch(run_of(f"{one}:1h", bars, start=NOW - timedelta(days=5))))
    write_batch(database, BarBatch(run_of("NEW:1h", 7, start=NOW - timedelta(days=5))))
    sizes = {one.table: one for one in monitoring.table_sizes(database, NOW)}
    assert sizes["ohlcv"].rows == 11 * 14 + 70 + 7
    assert sizes["ohlcv"].rows_a_day == pytest.approx((12 * 14 + 7) / 7)


def test_a_query_that_runs_for_long_is_seen_without_its_values(database: Database) -> None:
    found = monitoring.slow_queries(database)
    assert (found.source, found.queries) == ("pg_stat_activity", ())
    with (
        psycopg.connect(database.url, application_name="a reader", autocommit=True) as reader,
        psycopg.connect(database.url, autocommit=True) as writer,
        psycopg.connect(database.url, autocommit=True) as other,
    ):
        other.execute("select pg_advisory_lock(7)")
        threads = [
            # First: it has waited for longer by the time that the other one is seen.
            threading.Thread(target=_cancelled, args=(writer, "select pg_advisory_lock(7)")),
            threading.Thread(target=_cancelled, args=(reader, "select 'secret',  pg_sleep(30), 42")),
        ]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: bool(monitoring.slow_queries(database).queries), "a slow query")
            (query,) = monitoring.slow_queries(database).queries
        finally:
            for session in (reader, writer):
                session.cancel_safe()
            for thread in threads:
                thread.join()
    assert (query.text, query.application) == ("select ?, pg_sleep(?), ?", "a reader")
    assert query.milliseconds > 500
    assert query.calls is None


def _cancelled(session: Session, query: str) -> None:
    with pytest.raises(psycopg.errors.QueryCanceled):
        session.execute(query.encode())


def test_a_slow_read_of_a_frame_is_seen_as_it_was_asked(database: Database) -> None:
    query = "select 'secret' as word, pg_sleep(30)::text as nothing, 42 as number"
    with Database(database.url, application_name="a notebook") as reading:
        reading.adbc()
        thread = threading.Thread(target=_cancelled_frame, args=(reading, query))
        thread.start()
        try:
            wait_until(lambda: bool(monitoring.slow_queries(database).queries), "a slow query")
            (found,) = monitoring.slow_queries(database).queries
        finally:
            database.fetch(
                "select pg_cancel_backend(pid) from pg_stat_activity where application_name = 'a notebook'"
                " and state = 'active'",
                row=bool,
            )
            thread.join()
    assert found.text == "select ? as word, pg_sleep(?)::text as nothing, ? as number"
    assert found.application == "a notebook"


def _cancelled_frame(database: Database, query: str) -> None:
    with pytest.raises(adbc_driver_manager.Error):
        database.read_frame(query)


def test_means_are_read_where_postgres_keeps_them(database: Database) -> None:
    # The extension's library is not among the embedded binaries: a table in its place, as the catalogue has it.
    database.transaction(
        lambda session: session.execute(
            "create table pg_stat_statements as select d.oid as dbid, query, mean_exec_time, calls from pg_database d,"
            " (values ('select slow', 900.0, 3), ('vacuum ohlcv', 9000.0, 1), ('select fast', 499.0, 8),"
            "  ('copy  ohlcv (symbol) from stdin', 9000.0, 1), ('COPY (select frame) TO STDOUT (FORMAT binary)', 800.0, 2),"
            "  ('copy (select a long', 700.0, 1))"
            "  as v(query, mean_exec_time, calls) where datname = current_database()"
        )
    )
    assert monitoring.slow_queries(database).source == "pg_stat_activity"
    database.transaction(
        lambda session: session.execute(
            "insert into pg_extension select 99999, 'pg_stat_statements', 10, 2200, false, '1.12'"
        )
    )
    found = monitoring.slow_queries(database)
    assert found.source == "pg_stat_statements"
    assert [(one.text, one.milliseconds, one.calls) for one in found.queries] == [
        ("select slow", 900.0, 3),
        ("select frame", 800.0, 2),
        ("select a long", 700.0, 1),
    ]
    database.transaction(lambda session: session.execute("drop table pg_stat_statements"))
    assert monitoring.slow_queries(database).source == "pg_stat_activity"


def test_a_failed_request_counts_until_a_later_one_is_answered(database: Database) -> None:
    track(database, "AAPL", "MSFT")
    failed: dict[str, Any] = {"status": "failed", "error": "HTTP 503"}
    log_fetches(
        database,
        (NOW - 40 * MINUTE, {}),
        (NOW - 30 * MINUTE, failed),
        (NOW - 20 * MINUTE, {"symbol": "MSFT", **failed}),
        (NOW - 20 * MINUTE, {"symbol": "NONE", **failed}),
        (NOW - 10 * MINUTE, {"symbol": "MSFT"}),
        (NOW - 10 * MINUTE, {"base": "1d"}),
    )
    (found,) = monitoring.failed_fetches(database, NOW)
    assert (found.symbol, found.error, found.at) == ("AAPL", "HTTP 503", NOW - 30 * MINUTE)
    assert monitoring.failed_fetches(database, NOW + timedelta(days=1)) == []


@pytest.mark.parametrize(
    ("answered", "concerned"),
    [
        ([(0, 24)], 0),
        ([(0, 12), (12, 24)], 0),
        ([(12, 30), (-3, 13)], 0),
        ([(-5, 23)], 1),
        ([(1, 30)], 1),
        ([(0, 11), (13, 24)], 1),
        ([(24, 48)], 1),
    ],
)
def test_a_failed_request_is_answered_by_what_covers_all_of_it(
    database: Database, answered: list[tuple[int, int]], concerned: int
) -> None:
    track(database, "AAPL")
    start = NOW - timedelta(days=2)
    log_fetches(database, (NOW - 30 * MINUTE, {"status": "failed", "error": "HTTP 503"}))
    for first, end in answered:
        window = (start + timedelta(hours=first), start + timedelta(hours=end))
        log_fetches(database, (NOW - MINUTE, dict(zip(("window_start", "window_end"), window, strict=True))))
    assert len(monitoring.failed_fetches(database, NOW)) == concerned


def test_a_failed_request_for_what_was_pruned_since_concerns_nobody(database: Database) -> None:
    track(database, "AAPL")
    log_fetches(database, (NOW - 30 * MINUTE, {"status": "failed", "error": "HTTP 503"}))
    for hours, concerned in ((23, 1), (24, 0)):
        prune_minutes(database, until=NOW - timedelta(days=2) + timedelta(hours=hours))
        assert len(monitoring.failed_fetches(database, NOW)) == concerned


def prune_minutes(database: Database, until: datetime) -> None:
    database.transaction(
        lambda session: session.execute(
            "insert into pruned values ('AAPL', '1m', tstzmultirange(tstzrange(null, %s)))"
            " on conflict (symbol, timeframe) do update set pruned = excluded.pruned",
            [until],
        )
    )


def test_gaps_without_an_explanation_are_summed_up(database: Database) -> None:
    assert monitoring.count_losses(database) is None
    track(database, "AAPL")
    database.transaction(
        lambda session: session.execute(
            "insert into gap_report (symbol, timeframe, day, gap_start, gap_end, missing_bars, state, attempts, reason)"
            " values ('AAPL', '1d', '2023-07-03', '2023-07-03', '2023-07-04', 1, 'open', 0, ''),"
            " ('AAPL', '1m', '2023-07-05', '2023-07-05', '2023-07-06', 60, 'unfilled', 2, ''),"
            " ('AAPL', '1m', '2023-07-06', '2023-07-06', '2023-07-07', 9, 'no_trades', 2, ''),"
            " ('MSFT', '1m', '2023-07-06', '2023-07-06', '2023-07-07', 9, 'open', 2, '')"
        )
    )
    found = monitoring.count_losses(database)
    assert found is not None
    assert (found.gaps, found.bars, found.first.day, found.last.day) == (2, 61, 3, 5)


def test_the_disk_is_that_of_an_embedded_server(tmp_path: Path) -> None:
    disk = monitoring.disk_of(Settings(MARKETDATA_HOME=tmp_path))
    assert disk is not None
    assert 0 < disk.used < disk.total
    elsewhere = Settings(DATABASE_URL="postgresql://somewhere/else")
    assert monitoring.disk_of(elsewhere) is None


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with instance_for_test() as instance:  # type: ignore[no-untyped-call,unused-ignore]
        yield instance


def test_the_latest_run_of_each_job_is_told(instance: DagsterInstance) -> None:
    now = datetime.now(UTC)
    assert runs_of(instance, now).latest == ()
    instance.add_run(DagsterRun(BARS_JOB, status=DagsterRunStatus.FAILURE))
    instance.add_run(DagsterRun(GAPS_JOB, status=DagsterRunStatus.SUCCESS))
    instance.add_run(DagsterRun("__ASSET_JOB", status=DagsterRunStatus.FAILURE))
    instance.add_run(
        DagsterRun(BARS_JOB, status=DagsterRunStatus.STARTED, tags={"marketdata/purpose": "daily_bars"})
    )
    runs = runs_of(instance, now)
    assert [(one.job, one.status, one.purpose, one.by_hand) for one in runs.latest] == [
        (BARS_JOB, "STARTED", "daily_bars", False),
        ("__ASSET_JOB", "FAILURE", None, True),
        (GAPS_JOB, "SUCCESS", None, False),
    ]
    assert (runs.ticks, runs.daemon_seen, runs.is_daemon_alive(now)) == ((), None, False)


def test_dagsters_tables_answer_like_its_instance_of_tags_gaps_that_stay_and_ticks(
    database: Database,
) -> None:
    assert runs_with_ticks(database, NOW) is None
    storage = {"storage": {"postgres": {"postgres_url": dagster_storage_url(database.url)}}}
    location = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("platform"), "repository")
    with instance_for_test(overrides=storage) as instance:  # type: ignore[no-untyped-call,unused-ignore]
        for name, cron, status in (
            ("daily_bars", "0 2 * * *", InstigatorStatus.RUNNING),
            ("daily_features", "30 3-8 * * *", InstigatorStatus.DECLARED_IN_CODE),
            ("weekly_retention", ["0 4 * * 0", "15 5 * * 1"], InstigatorStatus.RUNNING),
            ("intraday_bars", "*/15 * * * *", InstigatorStatus.STOPPED),
        ):
            instance.add_instigator_state(
                InstigatorState(
                    RemoteInstigatorOrigin(location, name),
                    InstigatorType.SCHEDULE,
                    status,
                    ScheduleInstigatorData(cron, NOW.timestamp()),
                )
            )
        stays = []
        for job, tags, error in (
            (GAPS_JOB, {"marketdata/command": "1"}, "DagsterAssetCheckFailedError"),
            (HISTORY_JOB, {"marketdata/purpose": "gap_repair"}, "DagsterAssetCheckFailedError"),
            (BARS_JOB, {"marketdata/purpose": "gap_repair"}, "ValueError"),
            ("__ASSET_JOB", {}, "DagsterAssetCheckFailedError"),
        ):
            run = instance.add_run(DagsterRun(job, status=DagsterRunStatus.FAILURE, tags=tags))
            instance.report_dagster_event(
                DagsterEvent(
                    DagsterEventType.STEP_FAILURE.value,
                    job,
                    step_key="step",
                    event_specific_data=StepFailureData(  # type: ignore[no-untyped-call,unused-ignore]
                        SerializableErrorInfo("", [], error), None
                    ),
                ),
                run.run_id,
            )
        expected = runs_of(instance, NOW)
        assert runs_with_ticks(database, NOW) == expected
        stays = [one.gap_stays for one in expected.latest]
        assert (stays.count(True), len(expected.ticks)) == (2, 3)


def test_dagsters_tables_tell_what_dagster_tells(database: Database) -> None:
    assert runs_in_store(database) is None
    storage = {"storage": {"postgres": {"postgres_url": dagster_storage_url(database.url)}}}
    with instance_for_test(overrides=storage) as instance:  # type: ignore[no-untyped-call,unused-ignore]
        assert runs_in_store(database) == Runs()
        instance.add_run(DagsterRun(BARS_JOB, status=DagsterRunStatus.FAILURE))
        instance.add_run(DagsterRun(GAPS_JOB, status=DagsterRunStatus.SUCCESS))
        instance.add_run(DagsterRun(BARS_JOB))
        instance.report_run_canceled(instance.get_runs(limit=1)[0])
        instance.add_daemon_heartbeat(DaemonHeartbeat(NOW.timestamp(), "SENSOR", "one", []))
        told = runs_of(instance, NOW)
        assert runs_with_ticks(database, NOW) == told
    found = runs_in_store(database)
    assert found == told
    assert found is not None
    assert [(one.job, one.status) for one in found.latest] == [(BARS_JOB, "CANCELED"), (GAPS_JOB, "SUCCESS")]
    assert (found.latest[0].ended is not None, found.daemon_seen) == (True, NOW)


class Watch:
    """Ticks of ``watch``, with what they tell; each begins with the cursor that the one before has left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        self.disk: Disk | None = None
        self.webhook_answers = True
        self.webhook_refuses = False
        self.webhook_seconds = 1.0
        self.posts = 0
        self.logged: list[str] = []
        self.skipped: str | None = None
        self._cursor: str | None = None
        self._told: list[Alert] = []
        self._seconds = 0.0
        self._definition = watch_sensor(lambda: self.now, monotonic=lambda: self._seconds)
        self._instance = DagsterInstance.ephemeral()
        monkeypatch.setattr(watch_module, "send", self._send)
        monkeypatch.setattr(health, "disk_of", lambda _: self.disk)

    def _send(self, alert: Alert, webhook: object, *, within: timedelta, **_: object) -> None:
        self.logged.append(alert.facts["topic"])
        if webhook is None:
            return
        self.posts += 1
        self._seconds += min(self.webhook_seconds, within.total_seconds())
        if not self.webhook_answers:
            message = "the webhook did not take it"
            raise AlertError(message, answered=self.webhook_refuses)
        self._told.append(alert)

    def tick(self, *, after: timedelta = 10 * MINUTE) -> list[str]:
        """The topics that a tick tells of, ``after`` the one before."""
        self.now += after
        self._told.clear()
        self.logged.clear()
        began = self._seconds
        with build_sensor_context(
            self._instance, cursor=self._cursor, resources={"postgres": PostgresResource()}
        ) as context:
            tick = self._definition.evaluate_tick(context)
        self._cursor, self.skipped = tick.cursor, tick.skip_message
        assert not tick.run_requests
        assert self._seconds - began <= 40
        return [alert.facts["topic"] for alert in self._told]

    @property
    def texts(self) -> list[str]:
        return [alert.line for alert in self._told]


@pytest.fixture
def watch(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Watch:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("MARKETDATA_WEBHOOK_URL", "http://127.0.0.1:1/")
    return Watch(monkeypatch)


def test_nothing_is_told_of_a_store_that_is_well(watch: Watch) -> None:
    assert watch.tick() == []
    assert watch.skipped == "all is well"


def test_a_full_disk_is_told_once_and_again_when_it_was_better_for_an_hour(watch: Watch) -> None:
    watch.disk = Disk("/data", 100, 81)
    assert watch.tick() == [Topic.DISK]
    assert "81% in use" in watch.texts[0]
    assert watch.tick() == []
    assert watch.tick(after=timedelta(days=3)) == []
    watch.disk = Disk("/data", 100, 80)
    assert watch.tick() == []
    watch.disk = Disk("/data", 100, 82)
    assert watch.tick() == []
    watch.disk = None
    assert [watch.tick() for _ in range(7)] == [[]] * 7
    watch.disk = Disk("/data", 100, 82)
    assert watch.tick() == [Topic.DISK]


def test_refusals_and_minutes_that_did_not_come_are_told(watch: Watch, database: Database) -> None:
    track(database, "AAPL")
    database.transaction(lambda session: session.execute("update tracked_symbols set updated_at = %s", [NOW]))
    log_fetches(
        database,
        (NOW, {"status": "failed", "pages": 0, "retries": 5, "rate_limited": 6, "error": "over the limit"}),
    )
    assert watch.tick() == [Topic.RATE_LIMIT, Topic.MINUTE_BACKFILL]
    assert "6 of 6 requests" in watch.texts[0]
    assert "AAPL:1m from 2023-07-04 until 2023-07-05: over the limit" in watch.texts[1]
    assert watch.tick() == []
    log_fetches(database, (NOW + 11 * MINUTE, {}))
    assert watch.tick(after=timedelta(hours=2)) == []
    assert watch.skipped == "all is well"


def test_a_series_that_goes_stale_is_told_beside_one_that_was_told_already(
    watch: Watch, database: Database
) -> None:
    track(database, "AAPL", timeframes="{1d}")
    assert watch.tick() == [Topic.STALE]
    assert "AAPL:1d: no bar is stored" in watch.texts[0]
    track(database, "MSFT", timeframes="{1d}")
    assert watch.tick() == [Topic.STALE]
    assert "1 series not fresh: MSFT:1d" in watch.texts[0]
    assert watch.tick() == []


def test_what_the_webhook_refused_is_told_at_the_next_tick(watch: Watch) -> None:
    watch.disk = Disk("/data", 100, 90)
    watch.webhook_answers = False
    assert watch.tick() == []
    watch.webhook_answers = True
    assert watch.tick() == [Topic.DISK]
    assert watch.tick() == []


def test_a_webhook_that_hangs_is_asked_once_a_tick_and_told_everything_later(
    watch: Watch, database: Database
) -> None:
    watch.disk = Disk("/data", 100, 90)
    track(database, "AAPL", timeframes="{1d}")
    watch.webhook_answers, watch.webhook_seconds = False, 35
    assert watch.tick() == []
    assert watch.tick() == []
    assert watch.posts == 2
    assert watch.logged == [Topic.DISK, Topic.STALE]
    watch.webhook_answers, watch.webhook_seconds = True, 1
    assert watch.tick() == [Topic.DISK, Topic.STALE]
    assert watch.tick() == []


def test_a_webhook_that_refuses_one_alert_is_asked_about_the_others(watch: Watch, database: Database) -> None:
    watch.disk = Disk("/data", 100, 90)
    track(database, "AAPL", timeframes="{1d}")
    watch.webhook_answers, watch.webhook_refuses = False, True
    assert watch.tick() == []
    assert (watch.posts, watch.logged) == (2, [Topic.DISK, Topic.STALE])
    watch.webhook_answers = True
    assert watch.tick() == [Topic.DISK, Topic.STALE]


def test_without_a_webhook_everything_is_told_in_the_log_once(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MARKETDATA_WEBHOOK_URL")
    watch.disk = Disk("/data", 100, 90)
    watch.tick()
    assert watch.logged == [Topic.DISK]
    watch.tick()
    assert watch.logged == []


def test_what_a_tick_has_no_time_for_is_told_at_the_next_one(watch: Watch, database: Database) -> None:
    watch.disk = Disk("/data", 100, 90)
    track(database, "AAPL", timeframes="{1d}")
    watch.webhook_seconds = 60
    assert watch.tick() == [Topic.DISK]
    assert watch.tick() == [Topic.STALE]
    assert watch.tick() == []


def test_one_look_takes_in_everything_but_runs(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database.url)
    track(database, *(f"S{number}" for number in range(60)))
    seen = vitals(database, load_settings(), NOW)
    assert len(seen.stale) == 120
    assert seen.runs is None
