"""Whole days of a market: one request brings the day bars of every ticker that traded.

The vendor stamps these bars at the end of their day, and those of the range endpoint at its beginning
(docs/vendor.md, "Grouped days"). They leave this package as the range endpoint stamps them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.bars import UTC_TIME, VENDOR_SCHEMA
from marketdata_assets.domain.calendar import TradingCalendar, calendar_of
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.tickers import vendor_ticker
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from marketdata_assets.domain.windows import Window

DAY_SCHEMA: Final = pl.Schema({"symbol": pl.String(), **VENDOR_SCHEMA, "row": pl.UInt32()})
"""Day bars of the symbols that were asked for. ``row`` is the position of each in the vendor's page."""


class Market(StrEnum):
    """A market whose days the vendor answers whole. Indices have none."""

    STOCKS = "stocks"
    CRYPTO = "crypto"

    @classmethod
    def of(cls, asset_class: AssetClass) -> Market | None:
        """The market of an asset class; None when the vendor answers no whole day of it."""
        return _MARKETS.get(asset_class)

    @property
    def asset_class(self) -> AssetClass:
        """The asset class that stands for the market: its calendar and its tickers' form."""
        return AssetClass.CRYPTO if self is Market.CRYPTO else AssetClass.STOCK

    @property
    def calendar(self) -> TradingCalendar:
        """The calendar of the market's days."""
        return calendar_of(self.asset_class)

    @property
    def query(self) -> Mapping[str, str]:
        """What a request must say: the vendor adjusts for splits and leaves OTC out unless asked not to."""
        adjusted = {"adjusted": "false"}
        return adjusted if self is Market.CRYPTO else adjusted | {"include_otc": "true"}

    def path(self, day: date) -> str:
        """The path that answers ``day``."""
        locale = "global" if self is Market.CRYPTO else "us"
        return f"/v2/aggs/grouped/locale/{locale}/market/{self}/{day.isoformat()}"


_MARKETS: Final = {
    AssetClass.STOCK: Market.STOCKS,
    AssetClass.ETF: Market.STOCKS,
    AssetClass.CRYPTO: Market.CRYPTO,
}


@dataclass(frozen=True, slots=True)
class DayRequest:
    """One local day of a market, for the day bars of ``symbols``."""

    market: Market
    day: date
    symbols: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def symbol(self) -> str:
        """The market's name, which no symbol has: symbols begin with a capital or a digit."""
        return self.market.value

    @property
    def base(self) -> Timeframe:
        """The timeframe of the bars."""
        return Timeframe.D1

    @property
    def window(self) -> Window:
        """The day from local midnight to local midnight."""
        return self.market.calendar.day_window(self.day)

    def __str__(self) -> str:
        return f"{self.market} on {self.day}"


def bars_of_day(page: pl.DataFrame, request: DayRequest) -> pl.DataFrame:
    """The rows of ``page`` (``ticker`` and ``VENDOR_SCHEMA``) that are of the request's symbols, as ``DAY_SCHEMA``.

    A time within the day, both ends included, becomes its open; another one stays as it is.
    """
    tickers = pl.DataFrame(
        {
            "symbol": request.symbols,
            "ticker": [vendor_ticker(symbol, request.market.asset_class) for symbol in request.symbols],
        },
        schema={"symbol": pl.String, "ticker": pl.String},
    )
    window = request.window
    opens = pl.lit(window.start, UTC_TIME)
    return (
        page.with_row_index("row")
        .join(tickers, on="ticker", how="inner", maintain_order="left")
        .with_columns(
            time=pl.when(pl.col("time").is_between(window.start, window.end)).then(opens).otherwise("time")
        )
        .select(DAY_SCHEMA.names())
        .cast(DAY_SCHEMA)
    )


def days_between(calendar: TradingCalendar, days: Sequence[date]) -> list[tuple[date, date]]:
    """Sorted sessions as runs of neighbouring ones, each by its first and its last."""
    runs: list[tuple[date, date]] = []
    if not days:
        return runs
    positions = {day: position for position, day in enumerate(calendar.sessions(days[0], days[-1]))}
    for day in days:
        if runs and positions[day] == positions[runs[-1][1]] + 1:
            runs[-1] = (runs[-1][0], day)
        else:
            runs.append((day, day))
    return runs
