"""Problem documents (RFC 9457): what every answer is that is no success. They hold no SQL, no trace and no secret."""

from __future__ import annotations

import logging
import traceback
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import Response

from marketdata_assets.domain.adjust import SplitError
from marketdata_assets.domain.errors import (
    AnotherInstrumentError,
    ConfigurationError,
    DoubtfulSymbolError,
    MarketDataError,
    UnadjustableError,
    UnknownSeriesError,
)
from marketdata_assets.storage.failures import Refusal, StoreError, find_refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MEDIA_TYPE: Final = "application/problem+json"

_RETRY_SOON: Final = {"Retry-After": "5"}

_log = logging.getLogger(__name__)

SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "description": "A problem document (RFC 9457). `code` says for programs what `detail` says for people.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "errors": {
            "type": "array",
            "description": "Each argument that is wrong, and why.",
            "items": {
                "type": "object",
                "required": ["in", "detail"],
                "properties": {"in": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}


class Problem(Exception):  # noqa: N818 - the RFC's word, and raised as an answer
    """Ends a request with a problem document.

    Attributes:
        status: The HTTP status.
        code: What happened, as a program compares it: lower case, words joined by dashes.
        detail: The same for people, with what to do about it.
        headers: What the answer carries beside the document.
        errors: Arguments that are wrong: ``in`` and ``detail``.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = list(errors)

    def response(self) -> Response:
        """The document as an answer that nobody may cache."""
        document = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **({"errors": self.errors} if self.errors else {}),
        }
        return Response(
            msgspec.json.encode(document),
            self.status,
            {"Cache-Control": "no-store", **self.headers},
            MEDIA_TYPE,
        )


def invalid_arguments(errors: Sequence[Mapping[str, str]]) -> Problem:
    """Make the problem of arguments that are wrong: the first ``errors``, each with ``in`` and ``detail``."""
    detail = "; ".join(f"{one['in']}: {one['detail']}" for one in errors[:3])
    return Problem(422, "invalid-argument", detail, errors=errors[:20])


def problem_of(error: Exception) -> Problem:
    """What a client is told about ``error``; what it must not be told is logged."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, UnadjustableError):
        return Problem(409, "splits-unknown", f"{error.reason}, or ask with adjusted=false")
    if isinstance(error, DoubtfulSymbolError):
        return Problem(
            422, "doubtful-symbol", f'{error.question} Send "confirmed": true to track it all the same'
        )
    for kind, status, code in _OF_THE_DOMAIN:
        if isinstance(error, kind) and not isinstance(error, StoreError):
            return Problem(status, code, str(error))
    return _of_the_database(error) or _unexpected(error)


_OF_THE_DOMAIN: Final[tuple[tuple[type[MarketDataError], int, str], ...]] = (
    (UnknownSeriesError, 404, "unknown-series"),
    (AnotherInstrumentError, 409, "another-instrument"),
    (SplitError, 409, "splits-contradict"),
    (ConfigurationError, 422, "invalid-argument"),
)
"""Errors whose text is for the client, the special ones first."""


def _of_the_database(error: Exception) -> Problem | None:
    refusal = find_refusal(error)
    if refusal is Refusal.TOO_SLOW:
        detail = "the database took too long: ask for less, or try again later"
        return Problem(503, "too-slow", detail, headers=_RETRY_SOON)
    if refusal is Refusal.LOCKED:
        detail = "what was to be changed is in use: try again later"
        return Problem(503, "locked", detail, headers=_RETRY_SOON)
    if refusal is Refusal.AWAY:
        _log.error("the database is out of reach: %s", (str(error).splitlines() or [""])[0])
        detail = "the database does not answer: try again later"
        return Problem(503, "database-away", detail, headers=_RETRY_SOON)
    return None


def _unexpected(error: Exception) -> Problem:
    # In the message: the handler of the commands prints nothing else.
    _log.error("a request failed\n%s", "".join(traceback.format_exception(error)).rstrip())
    return Problem(500, "internal-error", "something failed here; the server's log says what")


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says about each of ``statuses``, and about those that any request may get."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in (400, *statuses, 401, 429, 500, 503)
    }
