"""A request to the vendor, and the record of its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from marketdata_assets.domain.series import AssetClass
    from marketdata_assets.domain.timeframe import Timeframe
    from marketdata_assets.domain.windows import Window


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """A request for one range of bars of one symbol. It takes as many HTTP requests as it has pages.

    ``base`` is ``1m`` or ``1d`` for all bars that are stored; the vendor serves the other timeframes too.
    """

    symbol: str
    asset_class: AssetClass
    base: Timeframe
    window: Window

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols whose bars are requested."""
        return (self.symbol,)

    def __str__(self) -> str:
        return f"{self.symbol}:{self.base} {self.window}"


@dataclass(frozen=True, slots=True)
class FetchRecord:
    """The record of one requested page, its retries and its outcome. Contains no secret.

    Attributes:
        symbol: The symbol of the bars; or the list, as in ``splits of AAPL``.
        base: The timeframe of the bars; None for a list.
        window: The window of the whole request, not of the page; None for a list.
        page: 1 for the first page of the request.
        path: The path of the URL, without host and query.
        requested_at: The time at which the page was first wanted, before any wait (UTC).
        status: The HTTP status of the last attempt; None when no answer arrived.
        vendor_status: ``OK``, ``DELAYED`` …: the envelope's own status; None without a readable envelope.
        request_id: The vendor's name for the last attempt; None when the vendor gave none.
        bars: The number of bars, or of rows of the list, in the page.
        base_bars: The number of base bars that the vendor read for the page (``queryCount``); None when not given.
        retries: The number of attempts after the first.
        duration_seconds: The time spent on HTTP, over all attempts.
        waited_seconds: The time spent waiting for the rate limit, over all attempts.
        error: The text of the error that ended the request, or None.
        rate_limited: The number of attempts that the vendor rejected with 429, as too many in a minute.
    """

    symbol: str
    base: Timeframe | None
    window: Window | None
    page: int
    path: str
    requested_at: datetime
    status: int | None
    vendor_status: str | None
    request_id: str | None
    bars: int
    base_bars: int | None
    retries: int
    duration_seconds: float
    waited_seconds: float
    error: str | None
    rate_limited: int = 0
