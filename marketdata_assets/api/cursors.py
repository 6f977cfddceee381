"""Cursors: where the next page begins. A cursor is opaque to clients, and bound to the query it came from.

A cursor names the last key that was sent, so that rows which arrive or change meanwhile do not move other rows to another
page: no row is skipped or sent twice. A cursor also keeps what "now" and "today" were on the first page.
"""

from __future__ import annotations

import binascii
import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import msgspec

from marketdata_assets.api.problems import Problem
from marketdata_assets.domain.calendar import microseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_FIRST: Final = microseconds(datetime(1900, 1, 1, tzinfo=UTC))
_LAST: Final = microseconds(datetime(2200, 1, 1, tzinfo=UTC))

Micros = Annotated[int, msgspec.Meta(ge=_FIRST, le=_LAST)]
"""A moment, in microseconds since 1970 UTC."""


class SeriesCursor(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, tag="s"):
    """A position in one series: the open of the last bar, the end of the range, and the scale of the prices.

    The scale is a date and what :func:`splits_fingerprint` returned: the same date has another scale once a split is known.
    """

    fingerprint: str
    last: Micros
    end: Micros
    scale: date | None
    splits: str | None = None


class GapCursor(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, tag="g"):
    """A position in the list of gaps: the key of the last gap."""

    fingerprint: str
    symbol: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9.\-]{0,19}$")]
    timeframe: Annotated[str, msgspec.Meta(pattern="^(1m|5m|15m|30m|1h|4h|1d|1w)$")]
    start: Micros


C = TypeVar("C", SeriesCursor, GapCursor)


def query_fingerprint(kind: str, requested: Mapping[str, object]) -> str:
    """Return a hash of a query of ``kind``, which binds its cursors to it: all arguments but ``cursor`` and ``limit``."""
    parts = sorted((name, str(value)) for name, value in requested.items() if name not in ("cursor", "limit"))
    return hashlib.blake2b(msgspec.json.encode([kind, parts]), digest_size=6).hexdigest()


def splits_fingerprint(splits: Iterable[tuple[object, ...]], scale: date) -> str:
    """Return a hash of those of ``splits`` (rows of ``SPLIT_SCHEMA``) that are executed by ``scale``."""
    used = [[str(value) for value in split] for split in splits if str(split[1]) <= str(scale)]
    return hashlib.blake2b(msgspec.json.encode(sorted(used)), digest_size=6).hexdigest()


def encode(cursor: SeriesCursor | GapCursor) -> str:
    """Return ``cursor`` as text that needs no escaping in a URL."""
    return urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def decode(text: str, kind: type[C], fingerprint: str) -> C:
    """Return the cursor that ``text`` holds.

    Raises:
        Problem: ``text`` is not a cursor, or belongs to a query of another fingerprint.
    """
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        cursor = msgspec.json.decode(urlsafe_b64decode(padded), type=kind)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise not_a_cursor() from None
    if cursor.fingerprint != fingerprint:
        raise Problem(
            422,
            "invalid-cursor",
            "this cursor belongs to another query: repeat the first request with only `cursor` added",
        )
    return cursor


def not_a_cursor() -> Problem:
    """Return the problem of a text that is not a cursor of this API."""
    return Problem(422, "invalid-cursor", "this is not a cursor of this API: start again without one")
