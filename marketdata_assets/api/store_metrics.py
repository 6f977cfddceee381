"""Gauges of the store for ``/metrics``: what ``marketdata status`` shows, for alerts in Prometheus."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.freshness import Freshness
from marketdata_assets.domain.wording import one_line
from marketdata_assets.pipeline.freshness import freshness_of
from marketdata_assets.pipeline.health import vitals
from marketdata_assets.storage.connection import DRIVER_ERRORS, Database, Timeouts
from marketdata_assets.storage.dagster_tables import UnknownTablesError, runs_in_store
from marketdata_assets.storage.monitoring import database_size, table_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import polars as pl
    from prometheus_client.metrics_core import Metric

    from marketdata_assets.config import Settings
    from marketdata_assets.domain.monitoring import Runs, TableSize, Vitals

KEPT_SECONDS: Final = 30.0
"""How long a reading of the store is reused, a failed one too, because every scraper requests it."""
_KEPT_COSTS: Final = 20
"""How many times its own duration a reading is reused, if that is longer: judging hundreds of silent series takes seconds."""

# By default a scraper gives up after ten seconds, and then gets nothing, not even what the API counts itself: no single
# step of a reading may take that long.
_TIMEOUTS: Final = Timeouts(
    statement=timedelta(seconds=4), lock=timedelta(seconds=2), connect=timedelta(seconds=2)
)
_PATIENCE: Final = timedelta(seconds=1)
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Reading:
    """A reading of the store; ``runs`` is None when Dagster's tables are in another database."""

    now: datetime
    vitals: Vitals
    freshness: pl.DataFrame
    tables: list[TableSize]
    database_bytes: int
    runs: Runs | None


_GAUGES: Final[dict[str, tuple[str, Callable[[Vitals, datetime], float]]]] = {
    "marketdata_stale_series": (
        "Series without the bars that are due.",
        lambda found, _: len(found.stale),
    ),
    "marketdata_lost_gaps": (
        "Gaps that are open or unfilled.",
        lambda found, _: found.gaps.gaps if found.gaps else 0,
    ),
    "marketdata_lost_bars": (
        "Bars missing in gaps that are open or unfilled.",
        lambda found, _: found.gaps.bars if found.gaps else 0,
    ),
    "marketdata_vendor_requests_today": (
        "Requests to the vendor since midnight UTC.",
        lambda found, _: found.vendor.requests_today,
    ),
    "marketdata_vendor_refused_today": (
        "Requests that were refused with 429 since midnight UTC.",
        lambda found, _: found.vendor.refused_today,
    ),
    "marketdata_vendor_requests_month": (
        "Requests to the vendor since the first of the month, UTC.",
        lambda found, _: found.vendor.requests_month,
    ),
    "marketdata_vendor_refused_month": (
        "Requests that were refused with 429 since the first of the month, UTC.",
        lambda found, _: found.vendor.refused_month,
    ),
    "marketdata_vendor_requests_recent": (
        "Requests to the vendor in the last 15 minutes.",
        lambda found, _: found.vendor.requests_recent,
    ),
    "marketdata_vendor_refused_recent": (
        "Requests that were refused with 429 in the last 15 minutes.",
        lambda found, _: found.vendor.refused_recent,
    ),
    "marketdata_vendor_requests_per_minute_limit": (
        "The plan's limit.",
        lambda found, _: found.vendor.per_minute,
    ),
    "marketdata_vendor_plan_used_ratio": (
        "Today's requests as a share of those that the plan allowed since midnight UTC.",
        lambda found, now: found.vendor.share_of_plan(now),
    ),
    "marketdata_vendor_blocked_until_timestamp_seconds": (
        "Until when a 429 blocks all requests; 0 when none does.",
        lambda found, _: found.vendor.blocked_until.timestamp() if found.vendor.blocked_until else 0,
    ),
    "marketdata_failed_minute_fetches": (
        "Symbols whose latest failed request for minutes has not been answered later.",
        lambda found, _: len(found.failed_fetches),
    ),
    "marketdata_slow_queries": (
        "Queries over 500 ms, as Postgres records them.",
        lambda found, _: len(found.slow.queries),
    ),
}


class StoreCollector(Collector):
    """A collector that reads the store when it is scraped, at most every :data:`KEPT_SECONDS`.

    Until then all scrapers of this process get the same reading. ``clock`` returns the current time, in UTC, and
    ``monotonic`` counts seconds.
    """

    def __init__(
        self,
        database_url: str,
        settings: Settings,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = database_url
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._lock = Lock()
        self._reading_due = -math.inf
        self._reading: _Reading | None = None

    def describe(self) -> list[Metric]:
        """Return nothing: a registry would otherwise read the store to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges; only ``marketdata_store_up 0``, and a line in the log, when the store cannot be read."""
        reading = self._read_store_when_due()
        yield GaugeMetricFamily(
            "marketdata_store_up",
            "Whether the database answered; 0 without the gauges of the store.",
            reading is not None,
        )
        if reading is None:
            return
        for name, (text, value) in _GAUGES.items():
            yield GaugeMetricFamily(name, text, value(reading.vitals, reading.now))
        if (disk := reading.vitals.disk) is not None:
            yield GaugeMetricFamily(
                "marketdata_disk_used_ratio", "Share of the embedded server's disk in use.", disk.share
            )
        yield GaugeMetricFamily(
            "marketdata_database_bytes", "The whole database on disk.", reading.database_bytes
        )
        yield from _gauges_of_tables(reading.tables)
        yield from _gauges_of_series(reading.freshness)
        if reading.runs is not None:
            yield from _gauges_of_runs(reading.runs, reading.now)

    def _read_store_when_due(self) -> _Reading | None:
        with self._lock:
            began = self._monotonic()
            if began > self._reading_due:
                try:
                    self._reading = self._read_store()
                except (MarketDataError, *DRIVER_ERRORS) as error:
                    self._reading = None
                    _LOG.error("/metrics is without the store's gauges: %s", one_line(str(error)))
                ended = self._monotonic()
                cost = 0 if self._reading is None else ended - began
                self._reading_due = ended + max(KEPT_SECONDS, _KEPT_COSTS * cost)
            return self._reading

    def _read_store(self) -> _Reading:
        now = self._clock()
        with Database(
            self._url, application_name="marketdata metrics", timeouts=_TIMEOUTS, patience=_PATIENCE
        ) as database:
            freshness = freshness_of(database, now)
            return _Reading(
                now=now,
                vitals=vitals(database, self._settings, now, freshness=freshness),
                freshness=freshness,
                tables=table_sizes(database, now),
                database_bytes=database_size(database),
                # With a database of its own, Dagster's schema in this one may be a leftover from before it moved.
                runs=None if self._settings.dagster_postgres_url else _read_runs(database),
            )


def _read_runs(database: Database) -> Runs | None:
    try:
        return runs_in_store(database)
    except (UnknownTablesError, TypeError) as error:
        # Dagster may change its tables; the store's own gauges must not depend on them.
        _LOG.error("/metrics is without Dagster's runs: %s", one_line(str(error)))
        return None


def _gauges_of_tables(tables: Iterable[TableSize]) -> Iterator[Metric]:
    sizes = _gauge("marketdata_table_bytes", "Bytes on disk, with indexes and partitions.", "table")
    rows = _gauge("marketdata_table_rows", "Rows; an estimate, except for ohlcv.", "table")
    growth = _gauge(
        "marketdata_table_rows_per_day", "Rows a day over the last seven days; an estimate.", "table"
    )
    for table in tables:
        sizes.add_metric([table.table], table.size)
        if table.rows is not None:
            rows.add_metric([table.table], table.rows)
        if table.rows_a_day is not None:
            growth.add_metric([table.table], table.rows_a_day)
    yield from (sizes, rows, growth)


def _gauges_of_series(freshness: pl.DataFrame) -> Iterator[Metric]:
    counts = Counter(freshness["state"].to_list())
    states = _gauge("marketdata_series", "Active series by freshness.", "state")
    for state in Freshness:
        states.add_metric([state.value], counts[state.value])
    fresh = _gauge(
        "marketdata_series_fresh", "1 when the series has the bars that are due.", "symbol", "timeframe"
    )
    for symbol, timeframe, state in freshness.select("symbol", "timeframe", "state").iter_rows():
        fresh.add_metric([symbol, timeframe], state == Freshness.FRESH.value)
    yield from (states, fresh)


def _gauges_of_runs(runs: Runs, now: datetime) -> Iterator[Metric]:
    latest = _gauge(
        "marketdata_last_run_timestamp_seconds",
        "When the latest run of the job ended, else started, else was created; and its status.",
        "job",
        "status",
    )
    for run in runs.latest:
        moment = run.ended or run.started or run.created
        latest.add_metric([run.job, run.status.lower()], moment.timestamp())
    yield latest
    yield GaugeMetricFamily(
        "marketdata_daemon_alive",
        "Whether Dagster's daemon showed a sign of life in the last five minutes.",
        runs.is_daemon_alive(now),
    )
    if runs.daemon_seen is not None:
        yield GaugeMetricFamily(
            "marketdata_daemon_seen_timestamp_seconds",
            "The last sign of life of Dagster's daemon.",
            runs.daemon_seen.timestamp(),
        )


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)
