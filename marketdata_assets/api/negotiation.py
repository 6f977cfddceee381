"""Which format and which compression an answer has: what RFC 9110 makes of Accept and Accept-Encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def best_media_type(accept: str, offered: Sequence[str]) -> str | None:
    """The one of ``offered`` (best first) that ``accept`` likes most; None when it refuses all.

    A range that is more specific decides over one that is less. An empty header accepts everything. Parameters
    other than ``q`` are not told apart.
    """
    ranges = _weights(accept)
    if not ranges:
        return offered[0]
    best, liked = None, 0.0
    for media_type in offered:
        kind = media_type.partition("/")[0]
        for one in (media_type, f"{kind}/*", "*/*"):
            if one in ranges:
                if ranges[one] > liked:
                    best, liked = media_type, ranges[one]
                break
    return best


def best_encoding(accept_encoding: str, offered: Sequence[str]) -> str | None:
    """The one of ``offered`` (best first) that ``accept_encoding`` likes most; None for no compression."""
    weights = _weights(accept_encoding)
    rest = weights.get("*", 0.0)
    best, liked = None, 0.0
    for encoding in offered:
        weight = weights.get(encoding, rest)
        if weight > liked:
            best, liked = encoding, weight
    return best if liked >= weights.get("identity", 0.0) else None


def _weights(header: str) -> dict[str, float]:
    """Each item of ``header`` in lower case with its q; what is malformed is left out."""
    weights = {}
    for item in header.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        weight = _weight(parameters)
        if name and weight is not None:
            weights[name] = weight
    return weights


def _weight(parameters: Sequence[str]) -> float | None:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            digits = value.strip()
            if not digits.replace(".", "", 1).isdecimal() or not digits.isascii():
                return None
            return min(float(digits), 1.0)
    return 1.0
