"""The instruments of the simulated market: base prices, volatility, liquidity, listing dates, splits and dividends.

Figures are round numbers of the right size, not quotations. A well-formed ticker that is in no table gets
figures drawn from its own name, so that any symbol works, and always in the same way.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import date
from enum import Enum

from marketdata_assets.domain.series import AssetClass

VENDOR_STOCKS_SINCE = date(2003, 9, 10)
"""The first day of the vendor's stock history."""
CRYPTO_SINCE = date(2013, 1, 1)

_STOCK = re.compile(r"[A-Z]{1,5}(p[A-Z]?)?[rw]?(\.[A-Z]{1,2})*")
"""The form of tickers of shares, preferred shares (BACpL), rights, when-issued shares and warrants (ACHR.WS)."""
_QUOTES = {
    "USD": 1.0,
    "USDT": 1.0,
    "USDC": 1.0,
    "EUR": 1.1,
    "GBP": 1.27,
    "CHF": 1.18,
    "AUD": 0.67,
    "CAD": 0.75,
    "JPY": 0.0069,
    "BRL": 0.2,
    "BTC": 44_000.0,
    "ETH": 2_350.0,
}
"""The price of a unit of each quote currency in dollars."""
_CRYPTO = re.compile(rf"X:([A-Z0-9]{{2,10}}?)({'|'.join(sorted(_QUOTES, key=len, reverse=True))})")
_INDEX = re.compile(r"I:[A-Z0-9]{1,10}")


class Liquidity(Enum):
    """How often an instrument trades: the share of regular (or, for crypto, all) minutes that have a bar."""

    LIQUID = 1.0
    ACTIVE = 0.975
    THIN = 0.2


@dataclass(frozen=True, slots=True)
class Split:
    """``split_from`` old shares become ``split_to`` new ones when the market opens on ``execution_date``."""

    ticker: str
    execution_date: date
    split_from: float
    split_to: float


@dataclass(frozen=True, slots=True)
class Dividend:
    """A cash amount per share (in shares of that date) for holders before ``ex_dividend_date``."""

    ticker: str
    ex_dividend_date: date
    cash_amount: float
    frequency: int = 4


@dataclass(frozen=True, slots=True)
class Instrument:
    """One ticker. ``price`` is in today's shares, ``volatility`` yearly, ``volume`` units a day."""

    ticker: str
    asset_class: AssetClass
    price: float
    volatility: float
    volume: float
    liquidity: Liquidity
    trades: float
    since: date
    dividend_yield: float = 0.0

    @property
    def tick_decimals(self) -> int:
        """The number of decimals of a printed price."""
        if self.asset_class is not AssetClass.CRYPTO or self.price >= 100:  # noqa: PLR2004  # cents suit both
            return 2
        return 4 if self.price >= 1 else 8 if self.price < 0.01 else 5  # noqa: PLR2004  # five significant digits


def hash_of(*parts: object) -> int:
    """Return a 64-bit number that depends on ``parts`` only, the same in every process."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def draw_fraction(*parts: object) -> float:
    """Draw a number in [0, 1) that depends on ``parts`` only."""
    return hash_of(*parts) / 2**64


def instrument_of(ticker: str) -> Instrument | None:
    """Return the instrument of a ticker; None when the ticker is not listed. Tickers are case-sensitive."""
    if pair := _CRYPTO.fullmatch(ticker):
        return None if pair[1].startswith("UNKNOWN") else _crypto(ticker, pair[1], pair[2])
    if _INDEX.fullmatch(ticker):
        price, volatility = _INDICES.get(ticker, (500 + 9500 * draw_fraction("price", ticker), 0.18))
        return Instrument(
            ticker, AssetClass.INDEX, price, volatility, 0, Liquidity.LIQUID, 0, date(2023, 2, 14)
        )
    if _STOCK.fullmatch(ticker) and not ticker.startswith("UNKNOWN"):
        return _equity(ticker)
    return None


def _equity(ticker: str) -> Instrument:
    row = _EQUITIES.get(ticker)
    if row is None:
        price = round(10 + 300 * draw_fraction("price", ticker) ** 2, 2)
        volatility, volume, liquidity = 0.2 + 0.4 * draw_fraction("volatility", ticker), 2.5, Liquidity.ACTIVE
    else:
        price, volatility, volume, liquidity = row
    if ticker in THIN:
        volume, liquidity = 0.05, Liquidity.THIN
    return Instrument(
        ticker=ticker,
        asset_class=AssetClass.ETF if ticker in ETFS else AssetClass.STOCK,
        price=price,
        volatility=volatility,
        volume=volume * 1e6,
        liquidity=liquidity,
        trades=volume * 1e6 / 110,
        since=LISTED.get(ticker, VENDOR_STOCKS_SINCE),
        dividend_yield=_YIELDS.get(ticker, 0.0),
    )


def _crypto(ticker: str, coin: str, quote: str) -> Instrument:
    price, dollars, rank = _COINS.get(coin, (1 + 40 * draw_fraction("price", coin), 4e6, Liquidity.ACTIVE))
    return Instrument(
        ticker=ticker,
        asset_class=AssetClass.CRYPTO,
        price=price / _QUOTES[quote],
        volatility=0.55 if rank is Liquidity.LIQUID else 0.8,
        volume=dollars / price,
        liquidity=rank,
        trades=dollars / 900,
        since=LISTED.get(ticker, CRYPTO_SINCE),
    )


_L, _A, _T = Liquidity.LIQUID, Liquidity.ACTIVE, Liquidity.THIN

# price, yearly volatility, million shares a day, liquidity
_EQUITIES: dict[str, tuple[float, float, float, Liquidity]] = {
    "AAPL": (185, 0.27, 55, _L), "MSFT": (370, 0.25, 24, _L), "GOOGL": (138, 0.28, 28, _L),
    "GOOG": (139, 0.28, 21, _L), "AMZN": (150, 0.33, 45, _L), "NVDA": (48, 0.45, 420, _L),
    "META": (346, 0.36, 16, _L), "TSLA": (248, 0.52, 110, _L), "BRK.B": (362, 0.17, 3.4, _L),
    "JPM": (172, 0.24, 9.5, _L), "V": (259, 0.21, 6, _L), "JNJ": (160, 0.16, 7, _L),
    "WMT": (53, 0.19, 20, _L), "PG": (148, 0.16, 7, _L), "XOM": (102, 0.25, 18, _L),
    "UNH": (537, 0.24, 3.3, _L), "HD": (344, 0.23, 3.5, _L), "MA": (422, 0.22, 2.6, _L),
    "BAC": (34, 0.29, 42, _L), "DIS": (90, 0.28, 11, _L), "KO": (59, 0.15, 13, _L),
    "NFLX": (47, 0.38, 42, _L), "AMD": (138, 0.48, 60, _L), "INTC": (48, 0.38, 42, _L),
    "AVGO": (108, 0.38, 23, _L), "CRM": (256, 0.33, 6, _L), "COIN": (160, 0.8, 12, _L),
    "PLTR": (17, 0.6, 52, _L), "UBER": (60, 0.4, 19, _L), "GE": (102, 0.28, 5, _L),
    "SPY": (472, 0.17, 78, _L), "QQQ": (403, 0.21, 48, _L), "IWM": (199, 0.23, 34, _L),
    "DIA": (377, 0.15, 3.6, _L), "VTI": (236, 0.17, 3.6, _L), "VOO": (434, 0.17, 5, _L),
    "EEM": (40, 0.2, 29, _L), "EFA": (75, 0.17, 16, _L), "GLD": (191, 0.14, 7.5, _L),
    "SLV": (21.7, 0.27, 18, _L), "TLT": (98, 0.16, 40, _L), "HYG": (77, 0.08, 36, _L),
    "LQD": (110, 0.09, 25, _L), "XLF": (37.5, 0.19, 42, _L), "XLE": (84, 0.27, 18, _L),
    "XLK": (190, 0.22, 6.5, _L), "XLV": (136, 0.14, 9, _L), "ARKK": (51, 0.45, 13, _L),
    "VNQ": (88, 0.21, 5, _A), "VWO": (41, 0.19, 9, _A), "USO": (67, 0.33, 4, _A),
}  # fmt: skip

ETFS = frozenset(
    [
        "SPY",
        "QQQ",
        "IWM",
        "DIA",
        "VTI",
        "VOO",
        "EEM",
        "EFA",
        "GLD",
        "SLV",
        "TLT",
        "HYG",
        "LQD",
        "XLF",
        "XLE",
        "XLK",
        "XLV",
        "ARKK",
        "VNQ",
        "VWO",
        "USO",
        "DBB",
        "ICLN",
        "THIN",
        "XLI",
        "XLY",
        "XLP",
        "XLU",
        "XLB",
        "XLRE",
        "XLC",
        "AGG",
        "BND",
        "IEF",
        "SHY",
        "VEA",
        "IVV",
        "KWEB",
        "SMH",
        "SOXX",
        "GDX",
    ]
)
THIN = frozenset({"DBB", "ICLN", "THIN"})
"""ETFs that trade in about a fifth of the regular minutes."""

# price in dollars, dollars a day, how often it trades
_COINS: dict[str, tuple[float, float, Liquidity]] = {
    "BTC": (44_000, 9e8, _L), "ETH": (2_350, 4e8, _L), "SOL": (105, 2e8, _L), "XRP": (0.6, 9e7, _L),
    "ADA": (0.58, 5e7, _L), "DOGE": (0.089, 6e7, _L), "LTC": (72, 4e7, _L), "BNB": (312, 3e7, _L),
    "AVAX": (38, 5e7, _L), "LINK": (15, 5e7, _L), "DOT": (8.2, 2e7, _A), "MATIC": (0.95, 2e7, _A),
    "BCH": (262, 2e7, _A), "UNI": (7, 1e7, _A), "SHIB": (0.0000102, 2e7, _A), "ATOM": (10.5, 9e6, _A),
    "XLM": (0.127, 8e6, _A), "ETC": (21, 8e6, _A), "AAVE": (105, 6e6, _A), "FIL": (6.5, 6e6, _A),
    "ALGO": (0.21, 5e6, _A), "NEAR": (3.6, 7e6, _A), "XTZ": (1, 2e6, _T), "COMP": (56, 2e6, _T),
}  # fmt: skip

_INDICES: dict[str, tuple[float, float]] = {
    "I:SPX": (4_750, 0.17), "I:NDX": (16_600, 0.21), "I:DJI": (37_600, 0.15), "I:RUT": (2_010, 0.23),
    "I:VIX": (14, 0.9),
}  # fmt: skip

LISTED: dict[str, date] = {
    "GOOGL": date(2004, 8, 19), "GOOG": date(2014, 4, 3), "META": date(2012, 5, 18),
    "TSLA": date(2010, 6, 29),
    "V": date(2008, 3, 19), "MA": date(2006, 5, 25), "AVGO": date(2009, 8, 6), "COIN": date(2021, 4, 14),
    "PLTR": date(2020, 9, 30), "UBER": date(2019, 5, 10), "VOO": date(2010, 9, 9), "ARKK": date(2014, 10, 31),
    "ICLN": date(2008, 6, 25), "DBB": date(2007, 1, 5), "GLD": date(2004, 11, 18), "SLV": date(2006, 4, 28),
    "X:SOLUSD": date(2021, 6, 17), "X:AVAXUSD": date(2021, 9, 30), "X:SHIBUSD": date(2021, 9, 9),
    "X:ETHUSD": date(2016, 5, 23), "X:NEARUSD": date(2022, 9, 1), "X:UNIUSD": date(2020, 9, 18),
}  # fmt: skip
"""The first days of tickers that were listed after the vendor's history began."""

_YIELDS: dict[str, float] = {
    "AAPL": 0.005, "MSFT": 0.008, "JPM": 0.024, "V": 0.008, "JNJ": 0.029, "WMT": 0.014, "PG": 0.025,
    "XOM": 0.036, "UNH": 0.014, "HD": 0.024, "MA": 0.006, "BAC": 0.027, "KO": 0.031, "AVGO": 0.018,
    "SPY": 0.014, "QQQ": 0.006, "IWM": 0.013, "DIA": 0.017, "VTI": 0.014, "VOO": 0.014, "XLF": 0.016,
    "XLE": 0.035, "XLK": 0.007, "XLV": 0.016, "INTC": 0.015,
}  # fmt: skip

SPLITS: tuple[Split, ...] = tuple(
    Split(ticker, date.fromisoformat(day), old, new)
    for ticker, day, old, new in (
        ("AAPL", "2005-02-28", 1, 2), ("AAPL", "2014-06-09", 1, 7), ("AAPL", "2020-08-31", 1, 4),
        ("TSLA", "2020-08-31", 1, 5), ("TSLA", "2022-08-25", 1, 3),
        ("NVDA", "2006-04-07", 1, 2), ("NVDA", "2007-09-11", 2, 3), ("NVDA", "2021-07-20", 1, 4),
        ("NVDA", "2024-06-10", 1, 10),
        ("GOOGL", "2014-04-03", 1000, 1998), ("GOOGL", "2022-07-18", 1, 20), ("GOOG", "2022-07-18", 1, 20),
        ("AMZN", "2022-06-06", 1, 20), ("WMT", "2024-02-26", 1, 3), ("AVGO", "2024-07-15", 1, 10),
        ("NFLX", "2015-07-15", 1, 7), ("NFLX", "2025-11-17", 1, 10), ("V", "2015-03-19", 1, 4),
        ("MA", "2014-01-22", 1, 10), ("KO", "2012-08-13", 1, 2), ("GE", "2021-08-02", 8, 1),
        ("BRK.B", "2010-01-21", 1, 50), ("USO", "2020-04-29", 8, 1),
    )
)  # fmt: skip
"""Well-known splits, reverse ones included."""

KNOWN_TICKERS: frozenset[str] = frozenset(
    {*_EQUITIES, *ETFS, *LISTED, *(split.ticker for split in SPLITS), *(f"X:{coin}USD" for coin in _COINS)}
)
"""Stocks, ETFs and crypto pairs that trade whether or not a request has named them."""
