"""From stored bars to stored features: minutes of ten stocks in Postgres, computed as the asset does."""

from __future__ import annotations

import resource
import sys
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from benchmarks.figures import Figure, Stopwatch
from benchmarks.server import fresh_database, settle
from benchmarks.walks import random_walk
from marketdata_assets.defs.partitions import partition_key
from marketdata_assets.domain.actions import SCHEMAS, ActionKind
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.slots import expected_by_series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.pipeline.features import FeatureReport, compute, plan_features
from marketdata_assets.storage.actions import store_actions
from marketdata_assets.storage.bars import BarBatch, write_batch
from marketdata_assets.storage.connection import Database, connect
from marketdata_assets.storage.features import write_features
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from marketdata_assets.storage.features import FeatureBatch

_SERIES = 20
_FIRST, _LAST, _LAST_QUICK = date(2020, 1, 1), date(2024, 12, 31), date(2020, 3, 31)
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run(server_url: str, *, quick: bool) -> list[Figure]:
    """Bars per second from the rows of ``ohlcv`` to the rows of ``features``, and the parts of it."""
    last = _LAST_QUICK if quick else _LAST
    series = [Series(f"S{number:02d}", Timeframe.M1) for number in range(_SERIES)]
    with fresh_database(server_url) as url, Database(url) as database:
        add_symbols(
            database,
            [TrackedSymbol(one.symbol, AssetClass.STOCK, timeframes=(Timeframe.M1,)) for one in series],
        )
        store_actions(
            database,
            ActionKind.SPLITS,
            SCHEMAS[ActionKind.SPLITS].to_frame(),
            symbols=[one.symbol for one in series],
            endpoint="none",
            today=last,
        )
        bars = _load(database, series, last)
        settle(url)
        whole, computing, again = Stopwatch(), Stopwatch(), Stopwatch()
        keys = [str(partition_key(day, one)) for one in series for day in (_FIRST, last)]
        with whole.running():
            batches = _batches(database, keys, force=False)
            while True:
                with computing.running():
                    batch = next(batches, None)
                if batch is None:
                    break
                write_features(database, batch)
        with again.running():
            for batch in _batches(database, keys, force=True):
                write_features(database, batch)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**20 if sys.platform == "darwin" else 2**10
        )
    what = f"{bars:,} minutes of {_SERIES} series, "
    beside = {
        "reading and computing alone": bars / computing.seconds,
        "writing alone": bars / (whole.seconds - computing.seconds),
    }
    return [
        Figure(what + "Postgres to features to Postgres", bars / whole.seconds, "bars/s", "≥ 60,000", beside),
        Figure(what + "again, replacing them", bars / again.seconds, "bars/s"),
        Figure(what + "peak memory", peak, "MiB", "< 1,024", best=max),
    ]


def _batches(database: Database, keys: Sequence[str], *, force: bool) -> Iterator[FeatureBatch]:
    plan = plan_features(database, keys, now=_NOW, earliest=_FIRST, force=force)
    yield from compute(database, plan, FeatureReport(plan))


def _load(database: Database, series: Iterable[Series], last: date) -> int:
    window = Window(
        datetime.combine(_FIRST, datetime.min.time(), UTC),
        datetime.combine(last, datetime.min.time(), UTC) + timedelta(days=2),
    )
    expected = expected_by_series(dict.fromkeys(series, AssetClass.STOCK), window, _NOW)
    for number, (one, slots) in enumerate(expected.items()):
        write_batch(database, BarBatch(random_walk(one.symbol, one.timeframe, slots.opens, number)))
    with connect(database.url, application_name="benchmarks") as connection:
        connection.autocommit = True
        connection.execute("vacuum analyze ohlcv")
    return sum(map(len, expected.values()))
