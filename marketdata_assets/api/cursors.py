"""Cursors: where the next page of an answer begins. Opaque to clients, and bound to the question they came from.

A cursor names the last key that was sent, so that rows which arrive or change meanwhile move no other row to another
page: nothing is skipped and nothing comes twice. It also keeps what "now" and "today" were on the first page.
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
"""A moment, in microseconds since 1970."""


class SeriesCursor(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, tag="s"):
    """In one series: the last bar's open, the range's end, and the scale of its prices.

    That is a date in ISO 8601 and what :func:`splits_of` said: the same day has another scale once a split is known.
    """

    question: str
    last: Micros
    end: Micros
    scale: date | None
    splits: str | None = None


class GapCursor(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, tag="g"):
    """In the list of gaps: the key of the last."""

    question: str
    symbol: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9.\-]{0,19}$")]
    timeframe: Annotated[str, msgspec.Meta(pattern="^(1m|5m|15m|30m|1h|4h|1d|1w)$")]
    start: Micros


C = TypeVar("C", SeriesCursor, GapCursor)


def question_of(kind: str, requested: Mapping[str, object]) -> str:
    """What a cursor is bound to: everything that was asked, apart from the cursor and the size of a page."""
    parts = sorted((name, str(value)) for name, value in requested.items() if name not in ("cursor", "limit"))
    return hashlib.blake2b(msgspec.json.encode([kind, parts]), digest_size=6).hexdigest()


def splits_of(splits: Iterable[tuple[object, ...]], scale: date) -> str:
    """What tells ``splits`` (the rows of ``SPLIT_SCHEMA``) that are executed by ``scale`` from any others."""
    used = [[str(value) for value in split] for split in splits if str(split[1]) <= str(scale)]
    return hashlib.blake2b(msgspec.json.encode(sorted(used)), digest_size=6).hexdigest()


def encode(cursor: SeriesCursor | GapCursor) -> str:
    """``cursor`` as a text that needs no escaping in a URL."""
    return urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def decode(text: str, kind: type[C], question: str) -> C:
    """The cursor that ``text`` holds.

    Raises:
        Problem: It is none, or comes from another question.
    """
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        cursor = msgspec.json.decode(urlsafe_b64decode(padded), type=kind)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise not_a_cursor() from None
    if cursor.question != question:
        raise Problem(
            422,
            "invalid-cursor",
            "this cursor belongs to another question: ask what was asked first, with `cursor` added",
        )
    return cursor


def not_a_cursor() -> Problem:
    """Return the problem of a text that is not a cursor of this API."""
    return Problem(422, "invalid-cursor", "this is no cursor: begin again without one")
