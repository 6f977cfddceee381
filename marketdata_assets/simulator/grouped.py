"""Whole days of a market, as the vendor answers them (docs/vendor.md, "Grouped days").

The tickers that trade are not known in advance, since any well-formed one does: a day contains the well-known tickers, the
tickers of the configuration, and the tickers that an earlier request has named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING, Any

from marketdata_assets.domain.calendar import calendar_of, milliseconds
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.simulator.aggregates import adjust_bars
from marketdata_assets.simulator.answers import bad_request
from marketdata_assets.simulator.bars import DAY_MS, Bars
from marketdata_assets.simulator.instruments import KNOWN_TICKERS, THIN, draw_fraction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import date

    from marketdata_assets.simulator.config import SimulatorConfig
    from marketdata_assets.simulator.source import BarSource

MARKETS = {"us/stocks": AssetClass.STOCK, "global/crypto": AssetClass.CRYPTO}
_MARKET_OF = {
    AssetClass.STOCK: AssetClass.STOCK,
    AssetClass.ETF: AssetClass.STOCK,
    AssetClass.CRYPTO: AssetClass.CRYPTO,
}
_AROUND_MS = 64 * DAY_MS
_OTC = re.compile(r"[A-Z]{4}[FY]")
"""The form of tickers of foreign shares and receipts that trade over the counter."""
_LACKING_SHARE = 0.1
"""The share of a thin name's days on which the vendor leaves out vw and n."""


def is_otc(ticker: str) -> bool:
    """Whether a ticker trades over the counter: five letters, the last of them F or Y."""
    return _OTC.fullmatch(ticker) is not None and ticker not in KNOWN_TICKERS


@dataclass(frozen=True, slots=True)
class DayQuery:
    """A parsed request for a day of a market."""

    asset_class: AssetClass
    day: date
    adjusted: bool
    include_otc: bool

    @property
    def edges_ms(self) -> tuple[int, int]:
        """The local day, half-open, in Unix milliseconds."""
        window = calendar_of(self.asset_class).day_window(self.day)
        return milliseconds(window.start), milliseconds(window.end)

    @property
    def stamp_ms(self) -> int:
        """``t`` of every bar of the day: 16:00 in New York, or the last millisecond of a day of crypto."""
        if self.asset_class is AssetClass.CRYPTO:
            return self.edges_ms[1] - 1
        zone = calendar_of(self.asset_class).timezone
        return milliseconds(datetime.combine(self.day, time(16), zone).astimezone(UTC))


def read_day_query(path: Mapping[str, str], params: Mapping[str, str]) -> DayQuery:
    """Parse the query of a request's path and parameters. Raises a 400 refusal."""
    asset_class = MARKETS.get(f"{path['locale']}/{path['market']}")
    if asset_class is None:
        error = f"The parameter 'market' is not known: '{path['market']}'"
        raise bad_request(error)
    try:
        day = datetime.strptime(path["date"], "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        error = "Could not parse the time parameter: 'date'. Use YYYY-MM-DD"
        raise bad_request(error) from None
    return DayQuery(
        asset_class,
        day,
        params.get("adjusted", "true").lower() != "false",
        params.get("include_otc", "false").lower() == "true",
    )


class MarketDays:
    """The day bars of a source, by days instead of tickers. Caches tickers, and the days around the latest request."""

    def __init__(self, source: BarSource, config: SimulatorConfig) -> None:
        self._source = source
        self._tickers = {*source.tickers(), *config.tickers}
        if config.replay is None:
            self._tickers |= KNOWN_TICKERS
        self._read: dict[str, tuple[int, int, Bars]] = {}

    def remember(self, tickers: Iterable[str]) -> None:
        """Include ``tickers`` that the source has in the days that are requested from now on."""
        for ticker in tickers:
            if ticker not in self._tickers and self._source.asset_class(ticker) is not None:
                self._tickers.add(ticker)

    def bars(self, query: DayQuery, now_ms: int) -> dict[str, Bars]:
        """Return the bar of each ticker that traded on the day of ``query``, with its open as time."""
        found: dict[str, Bars] = {}
        for ticker in sorted(self._tickers):
            asset_class = self._source.asset_class(ticker)
            if asset_class is None or _MARKET_OF.get(asset_class) is not query.asset_class:
                continue
            if is_otc(ticker) and not query.include_otc:
                continue
            bars = self._bar(ticker, query, now_ms)
            if query.adjusted:
                zone = calendar_of(query.asset_class).timezone
                bars = adjust_bars(self._source, ticker, bars, now_ms, zone)
            if len(bars):
                found[ticker] = bars
        return found

    def _bar(self, ticker: str, query: DayQuery, now_ms: int) -> Bars:
        start, end = query.edges_ms
        if query.stamp_ms > now_ms:
            # The day is not over: its bar covers the trades so far.
            return self._source.base_bars(ticker, "day", start, end, 1, newest_first=False, now_ms=now_ms)
        low, high, bars = self._read.get(ticker, (0, 0, Bars.empty()))
        if not low <= start < high:
            # With the days around it: drawing a ticker's path costs milliseconds, and clients request many days.
            low, high = start - _AROUND_MS, max(end, min(start + _AROUND_MS, now_ms - 2 * DAY_MS))
            bars = self._source.base_bars(
                ticker, "day", low, high, _AROUND_MS // DAY_MS * 3, newest_first=False, now_ms=now_ms
            )
            self._read[ticker] = (low, high, bars)
        return bars.between(start, end)


def day_rows(
    found: Mapping[str, Bars], query: DayQuery, damage: Callable[[Bars, str], list[dict[str, Any]] | None]
) -> list[dict[str, Any]]:
    """Return the vendor's rows of ``found``; ``damage`` returns a ticker's damaged rows, None for undamaged ones."""
    moved = query.stamp_ms - query.edges_ms[0]
    rows = []
    for ticker, bars in found.items():
        for row in damage(bars, ticker) or bars.frame().to_dicts():
            lacks = ticker in THIN and draw_fraction("lacking", ticker, query.day) < _LACKING_SHARE
            sent = {name: value for name, value in row.items() if not (lacks and name in ("vw", "n"))}
            sent["t"] += moved
            rows.append({"T": ticker, **sent, **({"otc": True} if is_otc(ticker) else {})})
    return rows
