"""Vendor pages to merged bars: fetched, parsed, screened, rolled up and stored, and each stage alone."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from benchmarks.figures import Figure, Stopwatch
from benchmarks.server import fresh_database, settle
from benchmarks.vendor import recorder, simulator
from marketdata_assets.defs.resources.polygon import PolygonResource
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.series import AssetClass, Instrument
from marketdata_assets.domain.tickers import vendor_ticker
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.pipeline.ingest import Ingest
from marketdata_assets.polygon.parser import parse_envelope, parse_page
from marketdata_assets.polygon.planner import Plan, plan_fetches
from marketdata_assets.polygon.vendor import RequestFailed
from marketdata_assets.storage.bars import write_batch
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.tables import OHLCV

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import polars as pl

    from marketdata_assets.domain.series import Series
    from marketdata_assets.domain.windows import Window
    from marketdata_assets.polygon.request import FetchRequest
    from marketdata_assets.polygon.vendor import FetchEvent

_INSTRUMENTS = (
    Instrument("SPY", AssetClass.ETF),
    Instrument("AAPL", AssetClass.STOCK),
    Instrument("MSFT", AssetClass.STOCK),
    Instrument("BTC-USD", AssetClass.CRYPTO),
)
_INTRADAY = tuple(timeframe for timeframe in Timeframe if timeframe.base is Timeframe.M1)
_FIRST, _LAST = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 12, 31, tzinfo=UTC)
_NOW = datetime(2025, 6, 1, tzinfo=UTC)
_KEY = "benchmark"


def run(server_url: str, *, quick: bool) -> list[Figure]:
    """Fetched one-minute bars a second, into one timeframe and into six."""
    with simulator() as simulator_url, recorder(simulator_url) as vendor_url:
        os.environ["POLYGON_API_KEY"] = _KEY
        resource = PolygonResource(base_url=vendor_url, requests_per_minute=0)
        wanted = _plan((Timeframe.M1,), quick=quick)
        # The first pass records; the timed ones replay.
        events = _fetched(resource, wanted)
        bars = sum(event.record.bars for event in events)
        bodies = asyncio.run(_download(vendor_url, wanted))
        simulated = _rate(bars, lambda: asyncio.run(_download(simulator_url, wanted)))
        downloaded = _rate(bars, lambda: asyncio.run(_download(vendor_url, wanted)))
        parsed = _rate(bars, lambda: [parse_page(body) for body in bodies])
        figures = []
        for name, timeframes in (("1m", (Timeframe.M1,)), ("1m and the five rolled up from it", _INTRADAY)):
            planned = _plan(timeframes, quick=quick)
            figures.append(
                Figure(
                    f"{bars:,} 1m bars from pages to {name}",
                    _whole(server_url, resource, planned, bars),
                    "bars/s",
                    "≥ 150,000" if timeframes == (Timeframe.M1,) else "",
                    {
                        "simulator alone": simulated,
                        "replayed download alone": downloaded,
                        "parsing alone": parsed,
                        "screening and rolling up alone": _rate(bars, partial(_prepare, planned, events)),
                    },
                )
            )
    return figures


def _plan(timeframes: tuple[Timeframe, ...], *, quick: bool) -> Plan:
    calendar = calendar_of(AssetClass.CRYPTO)
    last = _FIRST.replace(month=1, day=31) if quick else _LAST
    days = calendar.sessions(_FIRST.date(), last.date())
    return plan_fetches(dict.fromkeys(_INSTRUMENTS, timeframes), days, {}, now=_NOW)


def _fetched(resource: PolygonResource, planned: Plan) -> list[FetchEvent]:
    with closing(resource.stream(planned.requests)) as stream:
        events = list(stream)
    failed = [event for event in events if isinstance(event, RequestFailed)]
    if failed:
        raise failed[0].error
    return events


def _whole(server_url: str, resource: PolygonResource, planned: Plan, bars: int) -> float:
    with fresh_database(server_url) as url, Database(url) as database:
        settle(url)

        def work() -> None:
            with closing(resource.stream(planned.requests)) as events:
                for batch in Ingest(planned, now=_NOW).batches(events, _nothing_stored):
                    write_batch(database, batch)

        return _rate(bars, work)


def _prepare(planned: Plan, events: Sequence[FetchEvent]) -> None:
    for _ in Ingest(planned, now=_NOW).batches(events, _nothing_stored):
        pass


def _nothing_stored(_series: Series, _window: Window) -> pl.DataFrame:
    return OHLCV.schema.to_frame()


def _rate(bars: int, work: Callable[[], object]) -> float:
    watch = Stopwatch()
    with watch.running():
        work()
    return bars / watch.seconds


async def _download(base_url: str, planned: Plan) -> list[bytes]:
    """The bodies of every page of the plan, all requests at once, nothing but their envelopes read."""
    async with httpx.AsyncClient(
        base_url=base_url, timeout=60, headers={"Authorization": f"Bearer {_KEY}"}
    ) as client:
        pages = await asyncio.gather(*(_pages(client, fetch.request) for fetch in planned.fetches))
    return [body for bodies in pages for body in bodies]


async def _pages(client: httpx.AsyncClient, request: FetchRequest) -> list[bytes]:
    ticker = vendor_ticker(request.symbol, request.asset_class)
    start, end = (int(edge.timestamp() * 1000) for edge in (request.window.start, request.window.end))
    target: str | None = (
        f"/v2/aggs/ticker/{ticker}/range/1/minute/{start}/{end - 1}?adjusted=false&sort=asc&limit=50000"
    )
    bodies = []
    while target:
        answer = (await client.get(target)).raise_for_status()
        bodies.append(answer.content)
        following = parse_envelope(answer.content).next_url
        target = f"{urlsplit(following).path}?{urlsplit(following).query}" if following else None
    return bodies
