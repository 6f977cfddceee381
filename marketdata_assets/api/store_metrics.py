"""Gauges of the store for ``/metrics``: what ``marketdata status`` shows, for an alarm of one's own."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING, Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.monitoring import table_sizes, vitals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

    from marketdata_assets.config import Settings
    from marketdata_assets.domain.monitoring import TableSize, Vitals

KEPT_SECONDS: Final = 30.0
"""How long a look at the store is told again: it costs half a second, and every scraper asks."""

_GAUGES: Final[dict[str, tuple[str, Callable[[Vitals], float]]]] = {
    "marketdata_stale_series": (
        "Series without the bars that are due.",
        lambda found: len(found.stale),
    ),
    "marketdata_lost_gaps": (
        "Gaps that are open or unfilled.",
        lambda found: found.gaps.gaps if found.gaps else 0,
    ),
    "marketdata_lost_bars": (
        "Bars missing in gaps that are open or unfilled.",
        lambda found: found.gaps.bars if found.gaps else 0,
    ),
    "marketdata_vendor_requests_today": (
        "Requests to the vendor since midnight UTC.",
        lambda found: found.vendor.requests_today,
    ),
    "marketdata_vendor_refused_today": (
        "Requests that were refused with 429 since midnight UTC.",
        lambda found: found.vendor.refused_today,
    ),
    "marketdata_vendor_requests_month": (
        "Requests to the vendor since the first of the month, UTC.",
        lambda found: found.vendor.requests_month,
    ),
    "marketdata_vendor_requests_per_minute_limit": (
        "The plan's limit.",
        lambda found: found.vendor.per_minute,
    ),
    "marketdata_failed_minute_fetches": (
        "Windows of minutes that were asked for, failed, and were not answered since.",
        lambda found: len(found.failed_fetches),
    ),
    "marketdata_slow_queries": (
        "Queries over 500 ms, by what Postgres keeps of them.",
        lambda found: len(found.slow.queries),
    ),
}


class StoreCollector(Collector):
    """Looks at the store when it is scraped, at most every :data:`KEPT_SECONDS`."""

    def __init__(self, database_url: str, settings: Settings) -> None:
        self._url = database_url
        self._settings = settings
        self._lock = Lock()
        self._looked: tuple[float, Vitals, list[TableSize]] | None = None

    def describe(self) -> list[Metric]:
        """Nothing: a registry would otherwise look at the store to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The gauges.

        Raises:
            psycopg.Error: The database cannot be asked.
        """
        found, tables = self._look()
        for name, (text, value) in _GAUGES.items():
            yield GaugeMetricFamily(name, text, value(found))
        if found.disk is not None:
            yield GaugeMetricFamily(
                "marketdata_disk_used_ratio", "Of the embedded server's disk.", found.disk.share
            )
        sizes = GaugeMetricFamily(
            "marketdata_table_bytes", "On disk, with indexes and partitions.", labels=["table"]
        )
        for one in tables:
            sizes.add_metric([one.table], one.size)
        yield sizes

    def _look(self) -> tuple[Vitals, list[TableSize]]:
        with self._lock:
            if self._looked is None or time.monotonic() - self._looked[0] > KEPT_SECONDS:
                now = datetime.now(UTC)
                with Database(self._url, application_name="marketdata metrics") as database:
                    self._looked = (
                        time.monotonic(),
                        vitals(database, self._settings, now),
                        table_sizes(database, now),
                    )
            return self._looked[1], self._looked[2]
