"""Whole days of a market: one request returns the day bars of every ticker that traded.

The vendor stamps these bars at the end of their day, and bars of the range endpoint at its beginning
(docs/vendor.md, "Grouped days"). This package returns both with the stamp of the range endpoint.
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
"""The schema of the day bars of requested symbols. ``row`` is the position of a bar in the vendor's page."""


class Market(StrEnum):
    """A market whose whole days the vendor serves. Indices have none."""

    STOCKS = "stocks"
    CRYPTO = "crypto"

    @classmethod
    def of(cls, asset_class: AssetClass) -> Market | None:
        """Return the market of an asset class; None when the vendor does not serve whole days of it."""
        return _MARKETS.get(asset_class)

    @property
    def asset_class(self) -> AssetClass:
        """The asset class that determines the market's calendar and the form of its tickers."""
        return AssetClass.CRYPTO if self is Market.CRYPTO else AssetClass.STOCK

    @property
    def calendar(self) -> TradingCalendar:
        """The calendar of the market's days."""
        return calendar_of(self.asset_class)

    @property
    def query(self) -> Mapping[str, str]:
        """The query of a request. The vendor's defaults are to adjust for splits and to leave out OTC."""
        adjusted = {"adjusted": "false"}
        return adjusted if self is Market.CRYPTO else adjusted | {"include_otc": "true"}

    def path(self, day: date) -> str:
        """Return the path of ``day``."""
        locale = "global" if self is Market.CRYPTO else "us"
        return f"/v2/aggs/grouped/locale/{locale}/market/{self}/{day.isoformat()}"


_MARKETS: Final = {
    AssetClass.STOCK: Market.STOCKS,
    AssetClass.ETF: Market.STOCKS,
    AssetClass.CRYPTO: Market.CRYPTO,
}


@dataclass(frozen=True, slots=True)
class DayRequest:
    """A request for one local day of a market, made for the day bars of ``symbols``."""

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
    """Return the rows of ``page`` (``ticker`` and ``VENDOR_SCHEMA``) of the request's symbols, as ``DAY_SCHEMA``.

    A time within the day, both ends included, becomes the day's open; any other time is kept.
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


def stretches_of_days(calendar: TradingCalendar, days: Sequence[date]) -> list[tuple[date, date]]:
    """Return the stretches of neighbouring sessions in the sorted ``days``, each as its first and last day."""
    stretches: list[tuple[date, date]] = []
    if not days:
        return stretches
    positions = {day: position for position, day in enumerate(calendar.sessions(days[0], days[-1]))}
    for day in days:
        if stretches and positions[day] == positions[stretches[-1][1]] + 1:
            stretches[-1] = (stretches[-1][0], day)
        else:
            stretches.append((day, day))
    return stretches
