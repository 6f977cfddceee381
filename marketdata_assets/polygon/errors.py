"""The errors of the vendor, as one hierarchy with the facts as attributes.

Every text is one line: what happened, to which symbol and window, the vendor's request_id, and what to do.
The API key never appears: the client removes it from the vendor's texts before they reach an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.domain.errors import ConfigurationError, MarketDataError

if TYPE_CHECKING:
    from marketdata_assets.domain.windows import Window
    from marketdata_assets.polygon.request import FetchRecord


class PolygonError(MarketDataError):
    """The vendor did not deliver what was requested.

    Attributes:
        symbol: The symbol whose bars were requested, as this project writes it; or the list, as in ``splits of AAPL``.
        window: The requested window; None for a list.
        status: The HTTP status, or None when no answer arrived.
        request_id: The vendor's own name for the request, to quote to its support; None when the vendor gave none.
        record: The client's record of the page that failed; None until the client has made it.
    """

    remedy = "try again later"

    def __init__(
        self,
        what: str,
        *,
        symbol: str | None = None,
        window: Window | None = None,
        status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        self.symbol = symbol
        self.window = window
        self.status = status
        self.request_id = request_id
        self.record: FetchRecord | None = None
        subject = " ".join(str(part) for part in (symbol, window) if part is not None)
        facts = [f"HTTP {status}"] if status is not None else []
        facts += [f"request_id {request_id}"] if request_id else []
        super().__init__(
            (f"{subject}: " if subject else "")
            + what.rstrip(". ")
            + (f" ({', '.join(facts)})" if facts else "")
            + f"; {self.remedy}"
        )


class AuthenticationError(PolygonError, ConfigurationError):
    """HTTP 401: the key is unknown to the vendor. No other request can succeed with it."""

    remedy = (
        "set POLYGON_API_KEY to a key of the vendor's dashboard, or run `marketdata demo`, which needs none"
    )


class EntitlementError(PolygonError):
    """The plan does not include this data: HTTP 403, or HTTP 200 with the status NOT_AUTHORIZED."""

    remedy = "request data that the vendor's plan includes, or change the plan"


class NotFoundError(PolygonError):
    """HTTP 404: the vendor does not know the ticker."""

    remedy = "check the symbol and its asset class"


class EndpointNotFoundError(NotFoundError):
    """A list that the vendor does not have at this address: HTTP 404, 405, 410 or 501. The symbols are not the cause."""

    remedy = "check POLYGON_BASE_URL, or do without this list: the vendor does not offer it there"


class AdjustedPageError(PolygonError):
    """A page reports split-adjusted bars, although unadjusted bars were requested.

    Stored, they would be adjusted twice when they are read.
    """

    remedy = "nothing of it is stored: report the request_id to the vendor, or check POLYGON_BASE_URL"


class BadRequestError(PolygonError):
    """HTTP 400 and other rejections: the request itself is wrong, so a retry cannot help."""

    remedy = "check the symbol, the dates and POLYGON_BASE_URL"


class RateLimitedError(PolygonError):
    """HTTP 429 on every attempt.

    Attributes:
        retry_after: The seconds to wait that the last answer gave.
    """

    remedy = "lower POLYGON_REQUESTS_PER_MINUTE to the plan's limit, or stop any other program that uses the same key"

    def __init__(
        self,
        what: str,
        *,
        retry_after: float,
        symbol: str | None = None,
        window: Window | None = None,
        status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        self.retry_after = retry_after
        super().__init__(what, symbol=symbol, window=window, status=status, request_id=request_id)


class VendorFailureError(PolygonError):
    """No usable answer on any attempt: 5xx, time-outs, resets, truncated bodies or no connection."""

    remedy = "check the network, POLYGON_BASE_URL and the vendor's status page, then try again"


class PagingLoopError(PolygonError):
    """A ``next_url`` led back to a page that had already been read."""

    remedy = "request a shorter window, and report the request_id to the vendor"


class MalformedPageError(MarketDataError):
    """A body is not a complete page. Raised by the parser; the client retries before it gives up."""


class RateLimiterUnavailableError(MarketDataError):
    """The database of the shared rate limit is unavailable, so no request may be made to the vendor."""
