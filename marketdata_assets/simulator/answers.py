"""The vendor's refusals, in the recorded words (docs/vendor.md, "Errors")."""

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
    """Return a 401: the key is absent or unknown."""
    return Refusal(HTTPStatus.UNAUTHORIZED, {"status": "ERROR", "error": "Unknown API Key"})


def not_entitled(status: int = HTTPStatus.FORBIDDEN) -> Refusal:
    """Return a 403: the plan does not include this data at all. The vendor has sent it with status 200, too."""
    message = "You are not entitled to this data. Please upgrade your plan at https://massive.com/pricing"
    return Refusal(status, {"status": "NOT_AUTHORIZED", "message": message})


def refusal_of(status: int) -> Refusal:
    """Return the refusal of a path that the key may not use (403), that is absent (404), or with another status."""
    if status == HTTPStatus.FORBIDDEN:
        return not_entitled()
    if status == HTTPStatus.NOT_FOUND:
        return Refusal(status, {"status": "NOT_FOUND", "message": "Not found."})
    return Refusal(status, {"status": "ERROR", "error": HTTPStatus(status).phrase})


def outside_plan() -> Refusal:
    """Return a 403: the plan's history begins later."""
    message = (
        "Your plan doesn't include this data timeframe. "
        "Please upgrade your plan at https://polygon.io/pricing"
    )
    return Refusal(HTTPStatus.FORBIDDEN, {"status": "NOT_AUTHORIZED", "message": message})


def too_many_requests(retry_after: float | None) -> Refusal:
    """Return a 429, with the header ``Retry-After`` only when ``retry_after`` is given, in seconds."""
    error = (
        "You've exceeded the maximum requests per minute, please wait or upgrade your subscription "
        "to continue. https://polygon.io/pricing"
    )
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return Refusal(HTTPStatus.TOO_MANY_REQUESTS, {"status": "ERROR", "error": error}, headers)


def bad_request(error: str) -> Refusal:
    """Return a 400: a parameter is unreadable or impossible."""
    return Refusal(HTTPStatus.BAD_REQUEST, {"status": "ERROR", "error": error})


def ticker_not_found() -> Refusal:
    """Return a 404, from the reference endpoints only: aggregates of an unknown ticker are empty."""
    return Refusal(HTTPStatus.NOT_FOUND, {"status": "NOT_FOUND", "message": "Ticker not found."})
