"""What every use-case that asks the vendor shares: whom to ask about what, and the events."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.series import Instrument, Series
from marketdata_assets.domain.tickers import vendor_ticker
from marketdata_assets.pipeline.ingest import FailedRequest
from marketdata_assets.polygon.vendor import DayFetched, PageFetched
from marketdata_assets.storage.bars import bars_by_series, covered_without_bars
from marketdata_assets.storage.symbols import list_symbols, not_tracked
from marketdata_assets.storage.vendor import claim_store, require_kind

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
    from datetime import date

    from marketdata_assets.domain.timeframe import Timeframe
    from marketdata_assets.domain.windows import Window
    from marketdata_assets.pipeline.ingest import IngestReport
    from marketdata_assets.polygon.vendor import BarRequest, FetchEvent, Vendor
    from marketdata_assets.storage.connection import Database


def vendor_events(
    polygon: Vendor, requests: Sequence[BarRequest], database: Database
) -> Generator[FetchEvent]:
    """The events of ``requests``; the first page that arrives settles what kind of bars the store holds."""
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


def instruments_of(
    database: Database, series: Iterable[Series]
) -> tuple[dict[Instrument, list[Timeframe]], dict[Instrument, tuple[Timeframe, ...]]]:
    """The timeframes of ``series`` by instrument, and those that the instrument is tracked in.

    Raises:
        ConfigurationError: A symbol is not tracked.
    """
    symbols = {one.symbol: one for one in list_symbols(database)}
    wanted: dict[Instrument, list[Timeframe]] = {}
    tracked: dict[Instrument, tuple[Timeframe, ...]] = {}
    for one in series:
        if one.symbol not in symbols:
            raise not_tracked(one.symbol)
        instrument = Instrument(one.symbol, symbols[one.symbol].asset_class)
        wanted.setdefault(instrument, []).append(one.timeframe)
        tracked[instrument] = symbols[one.symbol].timeframes
    return wanted, tracked


def unknown_symbols(
    polygon: Vendor,
    database: Database,
    report: IngestReport,
    *,
    wanted: Mapping[Instrument, Sequence[Timeframe]],
    days: Collection[date],
    coverage: Mapping[Series, Sequence[Window]],
) -> list[FailedRequest]:
    """Find the symbols of which the vendor sent no bar, the store has none, and the vendor's directory has no entry.

    Those count, too, whose empty answer an earlier run recorded as coverage: a run that requests nothing of them must
    not pass either. Without a bar alone a symbol is not unknown: it may be listed later, or have been halted all the
    while. ``coverage`` is that of ``wanted`` before the run.
    """
    failed = set(report.failed_symbols)
    silent: dict[Instrument, Window] = {}
    for request in report.empty:
        silent.setdefault(Instrument(request.symbol, request.asset_class), request.window)
    with_bars = {series.symbol for series, bars in bars_by_series(database).items() if bars}
    silent = covered_without_bars(database, wanted, coverage, days) | silent
    doubtful = [one for one in silent if one.symbol not in failed | with_bars]
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
    """The vendor has no bar of an instrument, and its directory of tickers has no entry."""

    def __init__(self, instrument: Instrument, window: Window) -> None:
        ticker = vendor_ticker(instrument.symbol, instrument.asset_class)
        super().__init__(
            f"{instrument.symbol} {window}: the vendor has no bar of {ticker} in this range, and no such ticker, active"
            f" or delisted: is the symbol right? `marketdata symbols deactivate {instrument.symbol}` stops asking"
        )
