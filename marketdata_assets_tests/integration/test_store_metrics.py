"""What Prometheus is told of the store."""

from __future__ import annotations

import socket
import time
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from marketdata_assets.api import store_metrics
from marketdata_assets.api.metrics import Metrics
from marketdata_assets.api.store_metrics import KEPT_SECONDS, StoreCollector
from marketdata_assets.config import load_settings
from marketdata_assets.pipeline.freshness import freshness_of
from marketdata_assets_tests.integration.platform import open_platform

if TYPE_CHECKING:
    import polars as pl
    import pytest
    from prometheus_client.registry import Collector

    from marketdata_assets.storage.connection import Database

MONDAY = date(2024, 5, 13)
NOW = datetime(2024, 5, 20, 12, tzinfo=UTC)
AWAY = "postgresql://somebody@127.0.0.1:{port}/nowhere"


def read(page: bytes) -> dict[tuple[str, ...], float]:
    """The samples of ``page`` by name and values of labels."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def samples(database: Database, now: datetime = NOW) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(StoreCollector(database.url, load_settings(), clock=lambda: now))
    return read(generate_latest(registry))


def test_an_empty_store_has_gauges(database: Database) -> None:
    database.transaction(lambda connection: connection.execute("update tracked_symbols set active = false"))
    told = samples(database)
    assert told["marketdata_store_up",] == 1
    assert told["marketdata_stale_series",] == 0
    assert told["marketdata_vendor_requests_today",] == 0
    assert told["marketdata_vendor_blocked_until_timestamp_seconds",] == 0
    assert told["marketdata_series", "fresh"] == 0
    assert told["marketdata_table_bytes", "ohlcv"] > 0
    assert told["marketdata_database_bytes",] > told["marketdata_table_bytes", "ohlcv"]
    assert not [name for name, *_ in told if name.startswith(("marketdata_daemon", "marketdata_last_run"))]


def test_what_was_lost_and_what_is_late_is_counted(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_platform(database_url, monkeypatch) as platform:
        platform.execute("update tracked_symbols set active = false")
        platform.track("AAPL:1d", "SPY:1d")
        platform.execute("update tracked_symbols set updated_at = '2024-01-01'")
        platform.run_range(MONDAY, MONDAY, "AAPL:1d")
        platform.execute(
            "insert into gap_report (symbol, timeframe, day, gap_start, gap_end, missing_bars, state, attempts, reason)"
            " values ('AAPL', '1d', '2024-05-14', '2024-05-14 04:00Z', '2024-05-16 04:00Z', 2, 'open', 0, 'a test')"
        )
        # Between Monday's run and Tuesday's: AAPL has what is due.
        now = datetime(2024, 5, 14, 12, tzinfo=UTC)
        platform.execute(
            "update fetch_log set requested_at = '2024-05-14 11:55Z', finished_at = '2024-05-14 11:56Z',"
            " retries = 1, rate_limited = 1"
        )
        platform.execute(
            "insert into rate_limit (bucket, grants, position, paced_until, blocked_until)"
            " values ('a test', '{epoch}', 1, 'epoch', '2024-05-14 12:01Z')"
        )
        told = samples(platform.database, now)
    assert told["marketdata_lost_gaps",] == 1
    assert told["marketdata_lost_bars",] == 2
    assert told["marketdata_stale_series",] == 1
    assert told["marketdata_series", "fresh"] == 1
    assert told["marketdata_series", "not_asked"] == 1
    assert told["marketdata_series_fresh", "AAPL", "1d"] == 1
    assert told["marketdata_series_fresh", "SPY", "1d"] == 0
    requested = told["marketdata_vendor_requests_today",]
    assert requested >= 2
    assert told["marketdata_vendor_requests_recent",] == requested
    assert told["marketdata_vendor_refused_recent",] == told["marketdata_vendor_refused_month",] >= 1
    limit = told["marketdata_vendor_requests_per_minute_limit",]
    assert told["marketdata_vendor_plan_used_ratio",] == requested / (limit * 720)
    blocked = told["marketdata_vendor_blocked_until_timestamp_seconds",]
    assert blocked == (now + timedelta(minutes=1)).timestamp()
    assert told["marketdata_table_rows", "ohlcv"] == 1
    assert told["marketdata_table_rows_per_day", "ohlcv"] == 1 / 7


def test_runs_are_told_where_dagster_keeps_them_here(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.transaction(
        lambda session: session.execute(
            "create schema dagster;"
            " create table dagster.runs (id serial, run_id text, pipeline_name text, status text,"
            "  create_timestamp timestamp, start_time float8, end_time float8);"
            " create table dagster.daemon_heartbeats (timestamp timestamp);"
            " insert into dagster.daemon_heartbeats values ('2024-05-20 11:56'), ('2024-05-20 11:00');"
            " insert into dagster.runs (run_id, pipeline_name, status, create_timestamp, start_time, end_time) values"
            "  ('1', 'bars', 'SUCCESS', '2024-05-20 02:00', 1, 2), ('2', 'bars', 'FAILURE', '2024-05-20 03:00', 3, 4),"
            "  ('3', 'gaps', 'QUEUED', '2024-05-20 04:00', null, null)"
        )
    )
    told = samples(database)
    assert {
        key: value for key, value in told.items() if key[0] == "marketdata_last_run_timestamp_seconds"
    } == {
        ("marketdata_last_run_timestamp_seconds", "bars", "failure"): 4,
        ("marketdata_last_run_timestamp_seconds", "gaps", "queued"): NOW.timestamp() - 8 * 3600,
    }
    assert told["marketdata_daemon_alive",] == 1
    assert told["marketdata_daemon_seen_timestamp_seconds",] == NOW.timestamp() - 240
    assert samples(database, NOW + timedelta(minutes=2))["marketdata_daemon_alive",] == 0
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql://elsewhere/dagster")
    assert ("marketdata_daemon_alive",) not in samples(database)


def page_of(collector: Collector) -> dict[tuple[str, ...], float]:
    metrics = Metrics([collector])
    metrics.count("GET", "/health", 200, 0.001, 0)
    return read(metrics.page())


def test_a_database_that_is_away_leaves_the_counts_of_the_api(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = 1000.0
    collector = StoreCollector(database.url, load_settings(), clock=lambda: NOW, monotonic=lambda: clock)
    with monkeypatch.context() as patch:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        patch.setattr(collector, "_url", AWAY.format(port=port))
        for _ in range(2):
            told = page_of(collector)
            assert told["marketdata_store_up",] == 0
            assert told["marketdata_api_requests_total", "GET", "/health", "200"] == 1
            assert ("marketdata_stale_series",) not in told
    (line,) = caplog.messages
    assert "cannot connect" in line
    assert "\n" not in line
    clock += KEPT_SECONDS
    assert page_of(collector)["marketdata_store_up",] == 0
    clock += 1
    assert page_of(collector)["marketdata_store_up",] == 1


def test_a_look_that_takes_long_is_told_for_long(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looks = 1000.0, 0

    def slowly(database: Database, now: datetime) -> pl.DataFrame:
        nonlocal clock, looks
        clock += 5
        looks += 1
        return freshness_of(database, now)

    monkeypatch.setattr(store_metrics, "freshness_of", slowly)
    collector = StoreCollector(database.url, load_settings(), clock=lambda: NOW, monotonic=lambda: clock)
    page_of(collector)
    clock += 100
    page_of(collector)
    assert looks == 1
    clock += 1
    page_of(collector)
    assert looks == 2


def test_a_statement_that_fails_is_no_end_of_the_page(database: Database) -> None:
    database.transaction(lambda session: session.execute("drop table rate_limit"))
    assert page_of(StoreCollector(database.url, load_settings()))["marketdata_store_up",] == 0


def test_a_database_that_never_answers_is_given_up_before_the_scraper_gives_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        told = page_of(StoreCollector(AWAY.format(port=silent.getsockname()[1]), load_settings()))
    assert told["marketdata_store_up",] == 0
    assert time.monotonic() - began < 5
