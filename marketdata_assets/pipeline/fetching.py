"""The parts that use-cases which request bars share: the instruments to request, the events, and unknown symbols."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.series import Instrument, Series
from marketdata_assets.domain.tickers import vendor_ticker
from marketdata_assets.pipeline.ingest import Ingest
from marketdata_assets.pipeline.ingest_state import FailedRequest
from marketdata_assets.polygon.vendor import DayFetched, PageFetched
from marketdata_assets.storage.bars import (
    covered_without_bars,
    read_coverage,
    read_rows,
    symbols_with_bars,
    write_batch,
)
from marketdata_assets.storage.merge import MergeCounts
from marketdata_assets.storage.symbols import list_symbols, not_tracked
from marketdata_assets.storage.tables import OHLCV
from marketdata_assets.storage.vendor import claim_store, require_kind

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
    from datetime import date, datetime

    import polars as pl

    from marketdata_assets.domain.timeframe import Timeframe
    from marketdata_assets.domain.windows import Window
    from marketdata_assets.pipeline.ingest_state import IngestReport
    from marketdata_assets.polygon.planner import Plan
    from marketdata_assets.polygon.vendor import BarRequest, FetchEvent, Vendor
    from marketdata_assets.storage.bars import BarBatch
    from marketdata_assets.storage.connection import Database


def fetch_events(
    polygon: Vendor, requests: Sequence[BarRequest], database: Database
) -> Generator[FetchEvent]:
    """Yield the events of ``requests``; the first page decides whether the store holds real or simulated bars."""
    if not requests:
        return
    require_kind(database, simulated=polygon.is_simulated)
    claimed = False
    with closing(polygon.stream(requests, database_url=database.url)) as events:
        for event in events:
            if not claimed and isinstance(event, PageFetched | DayFetched):
                claim_store(database, simulated=polygon.is_simulated)
                claimed = True
            yield event


def ingest_batches(database: Database, polygon: Vendor, ingest: Ingest) -> Iterator[BarBatch]:
    """Make the requests of ``ingest`` and yield its batches, which are to be written in their order."""

    def read_bars(series: Series, window: Window) -> pl.DataFrame:
        return read_rows(database, OHLCV, {series: [window]})

    with closing(fetch_events(polygon, ingest.requests, database)) as events:
        yield from ingest.batches(
            events, read_bars, lambda requests: fetch_events(polygon, requests, database)
        )


def fetch_and_store(
    database: Database, polygon: Vendor, plan: Plan, *, now: datetime, run_id: str | None
) -> tuple[Ingest, MergeCounts]:
    """Make the requests of ``plan`` and store their bars; return the ingest, with its report, and the counts of rows."""
    coverage = read_coverage(database, sorted({request.symbol for request in plan.requests}))
    ingest = Ingest(plan, now=now, coverage=coverage, run_id=run_id)
    batches = ingest_batches(database, polygon, ingest)
    return ingest, sum((write_batch(database, batch) for batch in batches), MergeCounts())


def group_by_instrument(
    database: Database, series: Iterable[Series]
) -> tuple[dict[Instrument, list[Timeframe]], dict[Instrument, tuple[Timeframe, ...]]]:
    """Group the timeframes of ``series`` by instrument, and return them with the timeframes that each is tracked in.

    Raises:
        ConfigurationError: A symbol is not tracked.
    """
    symbols = {symbol.symbol: symbol for symbol in list_symbols(database)}
    wanted: dict[Instrument, list[Timeframe]] = {}
    tracked: dict[Instrument, tuple[Timeframe, ...]] = {}
    for member in series:
        if member.symbol not in symbols:
            raise not_tracked(member.symbol)
        instrument = Instrument(member.symbol, symbols[member.symbol].asset_class)
        wanted.setdefault(instrument, []).append(member.timeframe)
        tracked[instrument] = symbols[member.symbol].timeframes
    return wanted, tracked


def find_unknown_symbols(
    polygon: Vendor,
    database: Database,
    report: IngestReport,
    *,
    wanted: Mapping[Instrument, Sequence[Timeframe]],
    days: Collection[date],
    coverage: Mapping[Series, Sequence[Window]],
) -> list[FailedRequest]:
    """Find the symbols without a bar from the vendor or in the store, and without an entry in the vendor's directory.

    Symbols whose empty response an earlier run recorded as coverage count too: a run that requests nothing of them must
    not pass either. A symbol that only lacks bars is not unknown: it may be listed later, or have been halted all the
    time. ``coverage`` is the coverage of ``wanted`` before the run.
    """
    failed = set(report.failed_symbols)
    silent: dict[Instrument, Window] = {}
    for request in report.empty:
        silent.setdefault(Instrument(request.symbol, request.asset_class), request.window)
    with_bars = symbols_with_bars(database)
    silent = covered_without_bars(database, wanted, coverage, days) | silent
    doubtful = [instrument for instrument in silent if instrument.symbol not in failed | with_bars]
    if not doubtful:
        return []
    unlisted = polygon.unlisted(doubtful, database_url=database.url)
    return [
        FailedRequest(
            Series(instrument.symbol, wanted[instrument][0].base),
            silent[instrument],
            UnknownTickerError(instrument, silent[instrument]),
        )
        for instrument in doubtful
        if instrument in unlisted
    ]


class UnknownTickerError(MarketDataError):
    """An error for an instrument without a bar from the vendor and without an entry in its directory of tickers."""

    def __init__(self, instrument: Instrument, window: Window) -> None:
        ticker = vendor_ticker(instrument.symbol, instrument.asset_class)
        super().__init__(
            f"{instrument.symbol} {window}: the vendor has no bar of {ticker} in this range, and no such ticker, active"
            f" or delisted: is the symbol right? `marketdata symbols deactivate {instrument.symbol}` stops collecting"
            " it"
        )
