"""Series: a symbol in a timeframe, and the asset class that decides its calendar and vendor ticker."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Iterable

_SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9.\-]{0,19}")


class AssetClass(StrEnum):
    """What kind of instrument a symbol names."""

    STOCK = "stock"
    ETF = "etf"
    CRYPTO = "crypto"
    INDEX = "index"


@dataclass(frozen=True, slots=True)
class Instrument:
    """A symbol with its asset class."""

    symbol: str
    asset_class: AssetClass


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """A symbol in one timeframe. Its key, ``SYMBOL:TIMEFRAME``, is the ``series`` partition key."""

    symbol: str
    timeframe: Timeframe

    @classmethod
    def parse(cls, key: str) -> Series:
        """The series of a key such as ``AAPL:1m`` or ``BRK.B:1d``; raises :class:`ConfigurationError`."""
        symbol, separator, timeframe = key.rpartition(":")
        if not separator:
            message = f"{key!r} is not a series key: write SYMBOL:TIMEFRAME, as in AAPL:1m"
            raise ConfigurationError(message)
        return cls(parse_symbol(symbol), Timeframe.parse(timeframe))

    @property
    def key(self) -> str:
        """``SYMBOL:TIMEFRAME``."""
        return f"{self.symbol}:{self.timeframe}"

    def __str__(self) -> str:
        return self.key


def with_siblings(series: Iterable[Series], tracked: Iterable[Series]) -> list[Series]:
    """List ``series``, then those of ``tracked`` that share symbol and base with one of them.

    Siblings are fetched by the same requests and stored along, so they are scanned and counted along.
    """
    chosen = list(dict.fromkeys(series))
    bases = {(one.symbol, one.timeframe.base) for one in chosen}
    siblings = (one for one in tracked if (one.symbol, one.timeframe.base) in bases)
    return list(dict.fromkeys([*chosen, *siblings]))


def parse_symbol(text: str) -> str:
    """``text`` as a symbol: upper case, letters, digits, dots and dashes, at most 20 characters.

    Raises :class:`ConfigurationError` for anything else; Dagster forbids ``| , [ ]`` in a partition key and
    ``:`` separates symbol and timeframe.
    """
    symbol = text.strip().upper()
    if not _SYMBOL.fullmatch(symbol):
        message = f"{text!r} is not a symbol: use letters, digits, '.' and '-', as in AAPL, BRK.B or BTC-USD"
        raise ConfigurationError(message)
    return symbol
