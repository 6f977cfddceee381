"""The choice of a response's format and compression from Accept and Accept-Encoding, as RFC 9110 defines it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def best_media_type(accept: str, offered: Sequence[str]) -> str | None:
    """Return the media type of ``offered`` (best first) that ``accept`` prefers; None when it accepts none of them.

    A specific range takes precedence over a general one. An empty header accepts everything. Parameters other than ``q``
    are ignored.
    """
    ranges = _weights(accept)
    if not ranges:
        return offered[0]
    best, best_weight = None, 0.0
    for media_type in offered:
        kind = media_type.partition("/")[0]
        for media_range in (media_type, f"{kind}/*", "*/*"):
            if media_range in ranges:
                if ranges[media_range] > best_weight:
                    best, best_weight = media_type, ranges[media_range]
                break
    return best


def best_encoding(accept_encoding: str, offered: Sequence[str]) -> str | None:
    """Return the encoding of ``offered`` (best first) that ``accept_encoding`` prefers; None for no compression."""
    weights = _weights(accept_encoding)
    rest = weights.get("*", 0.0)
    best, best_weight = None, 0.0
    for encoding in offered:
        weight = weights.get(encoding, rest)
        if weight > best_weight:
            best, best_weight = encoding, weight
    return best if best_weight >= weights.get("identity", 0.0) else None


def _weights(header: str) -> dict[str, float]:
    """Return the items of ``header`` in lower case, each with its q; malformed items are left out."""
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
