"""What Prometheus is told of the store."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from marketdata_assets.api.store_metrics import StoreCollector
from marketdata_assets.config import load_settings
from marketdata_assets_tests.integration.platform import open_platform

if TYPE_CHECKING:
    import pytest

    from marketdata_assets.storage.connection import Database

MONDAY = date(2024, 5, 13)


def samples(database: Database) -> dict[tuple[str, str | None], float]:
    """Values by name and table."""
    registry = CollectorRegistry()
    registry.register(StoreCollector(database.url, load_settings()))
    text = generate_latest(registry).decode()
    return {
        (sample.name, sample.labels.get("table")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_an_empty_store_has_gauges(database: Database) -> None:
    database.transaction(lambda connection: connection.execute("update tracked_symbols set active = false"))
    told = samples(database)
    assert told["marketdata_stale_series", None] == 0
    assert told["marketdata_vendor_requests_today", None] == 0
    assert told["marketdata_table_bytes", "ohlcv"] > 0


def test_what_was_lost_and_what_is_late_is_counted(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_platform(database_url, monkeypatch) as platform:
        platform.execute("update tracked_symbols set active = false")
        platform.track("AAPL:1d")
        platform.execute("update tracked_symbols set updated_at = now() - interval '1 year'")
        platform.run_range(MONDAY, MONDAY, "AAPL:1d")
        platform.execute(
            "insert into gap_report (symbol, timeframe, day, gap_start, gap_end, missing_bars, state, attempts, reason)"
            " values ('AAPL', '1d', '2024-05-14', '2024-05-14 04:00Z', '2024-05-16 04:00Z', 2, 'open', 0, 'a test')"
        )
        told = samples(platform.database)
    assert told["marketdata_lost_gaps", None] == 1
    assert told["marketdata_lost_bars", None] == 2
    assert told["marketdata_stale_series", None] == 1
    assert told["marketdata_vendor_requests_today", None] >= 1
