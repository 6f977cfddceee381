"""What the endpoints ask of a source of bars: the synthetic market or replayed files."""

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
        """What the ticker is, or None when nothing is listed under it."""

    def tickers(self) -> Sequence[str]:
        """The tickers that the reference endpoints list, in order."""

    def splits(self) -> Sequence[Split]:
        """All splits."""

    def dividends(self, ticker: str | None) -> Sequence[Dividend]:
        """The dividends of ``ticker``, or of every listed one."""

    def base_bars(
        self,
        ticker: str,
        base: Base,
        start_ms: int,
        end_ms: int,
        at_most: int,
        *,
        newest_first: bool,
        now_ms: int,
    ) -> Bars:
        """At most ``at_most`` bars that open in ``[start_ms, end_ms)``, the oldest or newest, ascending.

        No bar opens after ``now_ms``; the one in progress is included.
        """
