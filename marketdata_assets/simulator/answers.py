"""The vendor's refusals, worded as recorded (POLYGON_API.md, "Errors and limits"; fixtures/errors.json)."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Refusal(Exception):  # noqa: N818  # an answer to a client, not a failure of the simulator
    """An answer other than data. ``request_id`` is added to ``body`` when it is sent."""

    def __init__(
        self, status: int, body: Mapping[str, object], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body
        self.headers = headers or {}


def unknown_key() -> Refusal:
    """401: no key, or one that nobody issued."""
    return Refusal(HTTPStatus.UNAUTHORIZED, {"status": "ERROR", "error": "Unknown API Key"})


def not_entitled(status: int = HTTPStatus.FORBIDDEN) -> Refusal:
    """403: the plan does not include this data at all. Has been seen with status 200 too."""
    message = "You are not entitled to this data. Please upgrade your plan at https://massive.com/pricing"
    return Refusal(status, {"status": "NOT_AUTHORIZED", "message": message})


def refused(status: int) -> Refusal:
    """A path that is not for this key (403), not there (404), or refused in another way."""
    if status == HTTPStatus.FORBIDDEN:
        return not_entitled()
    if status == HTTPStatus.NOT_FOUND:
        return Refusal(status, {"status": "NOT_FOUND", "message": "Not found."})
    return Refusal(status, {"status": "ERROR", "error": HTTPStatus(status).phrase})


def outside_plan() -> Refusal:
    """403: the plan does not reach that far back."""
    message = (
        "Your plan doesn't include this data timeframe. "
        "Please upgrade your plan at https://polygon.io/pricing"
    )
    return Refusal(HTTPStatus.FORBIDDEN, {"status": "NOT_AUTHORIZED", "message": message})


def too_many_requests(retry_after: float | None) -> Refusal:
    """429, with ``Retry-After`` only when a number of seconds is given."""
    error = (
        "You've exceeded the maximum requests per minute, please wait or upgrade your subscription "
        "to continue. https://polygon.io/pricing"
    )
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return Refusal(HTTPStatus.TOO_MANY_REQUESTS, {"status": "ERROR", "error": error}, headers)


def bad_request(error: str) -> Refusal:
    """400: a parameter that cannot be read or makes no sense."""
    return Refusal(HTTPStatus.BAD_REQUEST, {"status": "ERROR", "error": error})


def ticker_not_found() -> Refusal:
    """404, from the reference endpoints only: aggregates of an unknown ticker are empty."""
    return Refusal(HTTPStatus.NOT_FOUND, {"status": "NOT_FOUND", "message": "Ticker not found."})
