"""Problem documents (RFC 9457): the responses to all requests that fail. They hold no SQL, no traceback and no secret."""

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
    "description": "A problem document (RFC 9457). `code` is for programs, `detail` for people.",
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


class Problem(Exception):  # noqa: N818 - the RFC's word, and raised as a response
    """An exception that ends a request with a problem document.

    Attributes:
        status: The HTTP status.
        code: What happened, for programs to compare: lower case, words joined by dashes.
        detail: What happened, for people, and what to do about it.
        headers: The headers of the response.
        errors: The arguments that are wrong, each with ``in`` and ``detail``.
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
        """Return the document as a response that must not be cached."""
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
    """Return the problem that a client sees for ``error``; details that it must not see are logged."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, UnadjustableError):
        return Problem(409, "splits-unknown", f"{error.reason}, or send adjusted=false")
    if isinstance(error, DoubtfulSymbolError):
        return Problem(
            422, "doubtful-symbol", f'{error.question} Send "confirmed": true to track it all the same'
        )
    for kind, status, code in _DOMAIN_PROBLEMS:
        if isinstance(error, kind) and not isinstance(error, StoreError):
            return Problem(status, code, str(error))
    return _database_problem(error) or _unexpected_problem(error)


_DOMAIN_PROBLEMS: Final[tuple[tuple[type[MarketDataError], int, str], ...]] = (
    (UnknownSeriesError, 404, "unknown-series"),
    (AnotherInstrumentError, 409, "another-instrument"),
    (SplitError, 409, "splits-contradict"),
    (ConfigurationError, 422, "invalid-argument"),
)
"""The errors whose text is for the client, special ones before general ones."""


def _database_problem(error: Exception) -> Problem | None:
    refusal = find_refusal(error)
    if refusal is Refusal.TOO_SLOW:
        detail = "the database took too long: request less, or try again later"
        return Problem(503, "too-slow", detail, headers=_RETRY_SOON)
    if refusal is Refusal.LOCKED:
        detail = "the rows to change are in use: try again later"
        return Problem(503, "locked", detail, headers=_RETRY_SOON)
    if refusal is Refusal.AWAY:
        _log.error("the database cannot be reached: %s", (str(error).splitlines() or [""])[0])
        detail = "the database does not answer: try again later"
        return Problem(503, "database-away", detail, headers=_RETRY_SOON)
    return None


def _unexpected_problem(error: Exception) -> Problem:
    # The traceback is in the message, because the console handler prints nothing else.
    _log.error("a request failed\n%s", "".join(traceback.format_exception(error)).rstrip())
    return Problem(500, "internal-error", "the server failed: see its log for the cause")


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI document says about each of ``statuses``, and about those that any request may get."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in (400, *statuses, 401, 429, 500, 503)
    }
