"""The interface of a source of bars: the synthetic market or replayed files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from marketdata_assets.domain.series import AssetClass
    from marketdata_assets.simulator.bars import Bars, Base
    from marketdata_assets.simulator.instruments import Dividend, Split


class BarSource(Protocol):
    """Raw (unadjusted) base bars and corporate actions by vendor ticker."""

    def asset_class(self, ticker: str) -> AssetClass | None:
        """Return the asset class of the ticker; None when it is not listed."""

    def tickers(self) -> Sequence[str]:
        """Return the tickers that the reference endpoints list, in order."""

    def splits(self) -> Sequence[Split]:
        """Return all splits."""

    def dividends(self, ticker: str | None) -> Sequence[Dividend]:
        """Return the dividends of ``ticker``, or of every listed ticker for None."""

    def base_bars(
        self,
        ticker: str,
        base: Base,
        start_ms: int,
        end_ms: int,
        max_bars: int,
        *,
        newest_first: bool,
        now_ms: int,
    ) -> Bars:
        """Return at most ``max_bars`` bars that open in ``[start_ms, end_ms)``, the oldest or newest, ascending.

        No bar opens after ``now_ms``; the one in progress is included.
        """
