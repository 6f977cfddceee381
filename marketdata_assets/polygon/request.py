"""What is asked of the vendor, and the record of what came of it."""

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
    """One range of bars of one symbol. It takes as many HTTP requests as it has pages.

    ``base`` is ``1m`` or ``1d`` in everything that is stored; the vendor answers the other timeframes too.
    """

    symbol: str
    asset_class: AssetClass
    base: Timeframe
    window: Window

    def __str__(self) -> str:
        return f"{self.symbol}:{self.base} {self.window}"


@dataclass(frozen=True, slots=True)
class FetchRecord:
    """One page that was asked for, with its retries, and how it ended. Holds no secret.

    Attributes:
        symbol: Whose bars; or which list, as in ``splits of AAPL``.
        base: The timeframe of the bars; None for a list.
        window: The window of the whole request, not of the page; None for a list.
        page: 1 for the first page of the request.
        path: Path of the URL, without host and query.
        requested_at: When the page was first wanted, before any wait (UTC).
        status: HTTP status of the last attempt; None when no answer arrived.
        vendor_status: ``OK``, ``DELAYED`` …: the envelope's own status; None without a readable envelope.
        request_id: The vendor's name for the last attempt, when it gave one.
        bars: Bars, or rows of the list, in the page.
        base_bars: Stored base bars that the vendor read for it (``queryCount``); None when it did not say.
        retries: Attempts after the first.
        duration_seconds: Time spent on HTTP, over all attempts.
        waited_seconds: Time spent waiting for the rate limit, over all attempts.
        error: The text of the error that ended it, or None.
        rate_limited: Attempts that the vendor refused because they came too fast (429).
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
