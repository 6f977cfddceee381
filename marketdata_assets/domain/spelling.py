"""The spelling of symbols: how people write them, and which symbol they mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

CURRENCIES: Final = frozenset(
    {
        "USD",
        "EUR",
        "GBP",
        "JPY",
        "AUD",
        "CAD",
        "CHF",
        "BRL",
        "KRW",
        "TRY",
        "MXN",
        "INR",
        "SGD",
        "HKD",
        "NZD",
        "ZAR",
    }
)
"""National currencies in which coins are quoted."""

_QUOTES: Final = ("USDT", "USDC", *sorted(CURRENCIES), "BTC", "ETH")
_JOINED_PAIR: Final = re.compile(rf"([A-Z0-9]{{2,10}})({'|'.join(_QUOTES)})")
_PAIR: Final = re.compile(r"([A-Z0-9]{1,10})[/_ ]([A-Z0-9]{3,10})")
_SHARE_CLASS: Final = re.compile(r"([A-Z]{1,5})[-/_ ]([A-Z]{1,3})")
_PREFERRED: Final = re.compile(r"PR?([A-Z])")
_SUFFIXES: Final = {"WS": ".WS", "WT": ".WS", "U": ".U", "UN": ".U", "R": "r", "RT": "r", "WI": "w"}


@dataclass(frozen=True, slots=True)
class Match:
    """The known symbol that a text means.

    Attributes:
        symbol: That symbol; None when there is none, or more than one.
        similar: Known symbols that differ from the text in capitals and small letters only, when ``symbol`` is None.
    """

    symbol: str | None
    similar: tuple[str, ...] = ()


def match_symbol(text: str, known: Iterable[str]) -> Match:
    """Find the symbol of ``known`` that ``text`` means.

    A known symbol means itself. A text in small letters alone (``aapl``) means the only symbol with these letters; a
    text with a capital means only itself, because capitals distinguish the vendor's securities.
    """
    similar = []
    for symbol in known:
        if symbol == text:
            return Match(symbol)
        if symbol.lower() == text.lower():
            similar.append(symbol)
    if is_lower(text) and len(similar) == 1:
        return Match(similar[0])
    return Match(None, tuple(sorted(similar)))


def is_lower(text: str) -> bool:
    """Whether ``text`` is written in small letters alone, as no ticker of the vendor is."""
    return text.islower()


def capitalise(text: str) -> str:
    """Return ``text`` in capitals when it is written in small letters alone, else ``text`` itself."""
    return text.upper() if is_lower(text) else text


def split_pair(text: str) -> str | None:
    """Return the crypto pair that ``text`` writes in one word: ``BTC-USD`` for ``BTCUSD``; None when ``text`` is not a pair."""
    joined = _JOINED_PAIR.fullmatch(text)
    return f"{joined[1]}-{joined[2]}" if joined else None


def suggest_share(text: str) -> str | None:
    """Return the vendor's spelling of a share that others write with a dash or a slash; None when that is not known.

    ``BRK.B`` for ``BRK-B``, ``BACpL`` for ``BAC-PL`` and ``BAC-PRL``, ``ACHR.WS`` for ``ACHR-WT``.
    """
    share = _SHARE_CLASS.fullmatch(text)
    if share is None:
        return None
    root, suffix = share.groups()
    if suffix in _SUFFIXES:
        return root + _SUFFIXES[suffix]
    if preferred := _PREFERRED.fullmatch(suffix):
        return f"{root}p{preferred[1]}"
    return f"{root}.{suffix}" if len(suffix) == 1 else None


def suggest_symbol(text: str) -> str | None:
    """Return the symbol that ``text``, which is not a symbol, probably means, with its class if it needs one; else None.

    ``BTC-USD`` for ``X:BTCUSD`` and ``BTC/USD``, ``BRK.B`` for ``BRK/B``, ``VIX`` of the class index for ``^VIX``.
    """
    written = capitalise(text)
    if written.startswith("X:"):
        return split_pair(written[2:])
    for prefix in ("I:", "^", "$"):
        name = written.removeprefix(prefix)
        if name != written and re.fullmatch("[A-Z0-9]{1,10}", name):
            return f"{name} with the class index"
    if share := suggest_share(written):
        return share
    pair = _PAIR.fullmatch(written)
    return f"{pair[1]}-{pair[2]}" if pair else None
