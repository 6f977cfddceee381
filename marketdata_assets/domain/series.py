"""Series: a symbol in a timeframe, and the asset class that decides the calendar and the vendor's ticker."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.spelling import suggest_symbol
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from marketdata_assets.domain.windows import Window

_SYMBOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-]{0,19}")
_NAME_LENGTH = 200
# Control characters, separators of lines and paragraphs, halves of a character.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class AssetClass(StrEnum):
    """The kind of instrument that a symbol names."""

    STOCK = "stock"
    ETF = "etf"
    CRYPTO = "crypto"
    INDEX = "index"

    @property
    def can_split(self) -> bool:
        """Whether the instruments of the class are shares, which companies and funds split."""
        return self in (AssetClass.STOCK, AssetClass.ETF)


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
        """Return the series of a key such as ``AAPL:1m`` or ``BRK.B:1d``.

        Raises:
            ConfigurationError: ``key`` is not a series key.
        """
        symbol, separator, timeframe = key.rpartition(":")
        if not separator:
            message = f"{key!r} is not a series key: write SYMBOL:TIMEFRAME, as in AAPL:1m"
            raise ConfigurationError(message)
        return cls(parse_symbol(symbol), Timeframe.parse(timeframe))

    @property
    def key(self) -> str:
        """The key of the series, ``SYMBOL:TIMEFRAME``."""
        return f"{self.symbol}:{self.timeframe}"

    def __str__(self) -> str:
        return self.key


def by_market(
    windows: Mapping[Series, Window], classes: Mapping[str, AssetClass]
) -> dict[tuple[Timeframe, AssetClass], dict[Series, Window]]:
    """Group ``windows`` by timeframe and asset class: those of a group have the same sessions and slots."""
    groups: dict[tuple[Timeframe, AssetClass], dict[Series, Window]] = {}
    for series, window in windows.items():
        groups.setdefault((series.timeframe, classes[series.symbol]), {})[series] = window
    return groups


def with_siblings(series: Iterable[Series], tracked: Iterable[Series]) -> list[Series]:
    """List ``series``, then those of ``tracked`` that share symbol and base with one of them.

    Siblings are fetched by the same requests and stored together, so they are scanned and counted together.
    """
    chosen = list(dict.fromkeys(series))
    bases = {(member.symbol, member.timeframe.base) for member in chosen}
    siblings = (member for member in tracked if (member.symbol, member.timeframe.base) in bases)
    return list(dict.fromkeys([*chosen, *siblings]))


def parse_symbol(text: str) -> str:
    """Read ``text`` as a symbol, in its own spelling: letters, digits, dots and dashes, at most 20 characters.

    Capitals and small letters distinguish the vendor's securities (BACpL, BACPL): the tracked symbol that ``aapl`` means
    is found by :func:`~marketdata_assets.domain.spelling.match_symbol`. Dagster forbids ``| , [ ]`` in a partition key,
    and ``:`` separates symbol and timeframe.

    Raises:
        ConfigurationError: ``text`` is anything else.
    """
    symbol = text.strip()
    if not _SYMBOL.fullmatch(symbol):
        suggestion = suggest_symbol(symbol)
        remedy = (
            f"do you mean {suggestion}?"
            if suggestion
            else "use letters, digits, '.' and '-', as in AAPL, BRK.B or BTC-USD"
        )
        message = f"{text!r} is not a symbol: {remedy}"
        raise ConfigurationError(message)
    return symbol


def check_name(symbol: str, name: str) -> None:
    """Refuse a name of ``symbol`` that is empty, longer than 200 characters or more than one line of plain text.

    Raises:
        ConfigurationError: ``name`` is one of these.
    """
    if not name.strip():
        reason = "is empty: leave it out, or write some text"
    elif len(name) > _NAME_LENGTH:
        reason = f"has {len(name):,} characters: write {_NAME_LENGTH} or fewer"
    elif hidden := _UNPRINTABLE.search(name):
        reason = f"holds the control character {hidden[0]!a}: write one line of plain text"
    else:
        return
    message = f"the name of {symbol} {reason}"
    raise ConfigurationError(message)
