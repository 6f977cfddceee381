"""The metrics of the API for Prometheus. Gauges of the store itself are passed in as collectors."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.registry import Collector

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
MULTIPROCESS_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the folder in which a server's workers add up their counts; read when the library is imported."""

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The counts of one app. ``route`` is the template of the path, so that there are few of them."""

    def __init__(self, collectors: Iterable[Collector] = ()) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "marketdata_api_requests",
            "Requests by method, route and status.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "marketdata_api_request_seconds",
            "From a request's arrival to the end of its response.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._rows = Counter(
            "marketdata_api_rows", "Rows read for responses.", ["route"], registry=self._registry
        )
        self._collectors = list(collectors)
        for collector in self._collectors:
            self._registry.register(collector)

    def count(self, method: str, route: str, status: int, seconds: float, rows: int) -> None:
        """Count a request that was answered, and the rows that were read for it."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if rows:
            self._rows.labels(route).inc(rows)

    def page(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        if MULTIPROCESS_FOLDER not in os.environ:
            return generate_latest(self._registry)
        shared = CollectorRegistry()
        # The library types only some of itself.
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        for collector in self._collectors:
            shared.register(collector)
        return generate_latest(shared)
