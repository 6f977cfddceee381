"""What to ask for corporate actions, with the fewest requests. Pure.

The current endpoints take a list of tickers, so that one request brings the whole history of a hundred symbols
(docs/vendor.md, "Corporate actions"; massive.com/docs, ``ticker.any_of``). Whole histories cost no more than the
latest days would, and only they show what the vendor has withdrawn. The former endpoints, asked when a plan or a
deployment lacks the current ones, know single tickers: one request for each symbol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.actions import ActionKind

if TYPE_CHECKING:
    from collections.abc import Sequence

SYMBOLS_A_REQUEST: Final = 100
"""Tickers that one request names: the URL stays well under the 8,000 characters that servers take."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A list of the vendor's: its path, its largest ``limit``, and how it is asked.

    ``by_list`` endpoints take several tickers at once. ``order`` is the query that puts the oldest row first: a row
    that is added while pages are read then moves none of those that are still to come.
    """

    path: str
    limit: int
    order: tuple[tuple[str, str], ...]
    by_list: bool


ENDPOINTS: Final[dict[ActionKind, tuple[Endpoint, ...]]] = {
    ActionKind.SPLITS: (
        Endpoint("/stocks/v1/splits", 5_000, (("sort", "execution_date.asc"),), by_list=True),
        Endpoint(
            "/v3/reference/splits", 1_000, (("sort", "execution_date"), ("order", "asc")), by_list=False
        ),
    ),
    ActionKind.DIVIDENDS: (
        Endpoint("/stocks/v1/dividends", 5_000, (("sort", "ex_dividend_date.asc"),), by_list=True),
        Endpoint(
            "/v3/reference/dividends", 1_000, (("sort", "ex_dividend_date"), ("order", "asc")), by_list=False
        ),
    ),
    ActionKind.EARNINGS: (Endpoint("/benzinga/v1/earnings", 50_000, (("sort", "date.asc"),), by_list=True),),
}
"""Where each kind is listed, the current endpoint first."""


@dataclass(frozen=True, slots=True)
class ListRequest:
    """The whole list of some symbols at one endpoint. It takes as many HTTP requests as it has pages."""

    kind: ActionKind
    path: str
    query: tuple[tuple[str, str], ...]
    symbols: tuple[str, ...]

    def __str__(self) -> str:
        who = self.symbols[0] if len(self.symbols) == 1 else f"{len(self.symbols)} symbols"
        return f"{self.kind} of {who}"


def plan_lists(kind: ActionKind, endpoint: Endpoint, symbols: Sequence[str]) -> list[ListRequest]:
    """The requests that list everything of ``kind`` about ``symbols`` (stocks and ETFs), each of them once."""
    wanted = list(dict.fromkeys(symbols))
    size = SYMBOLS_A_REQUEST if endpoint.by_list else 1
    name = "ticker.any_of" if endpoint.by_list else "ticker"
    chunks = (tuple(wanted[start : start + size]) for start in range(0, len(wanted), size))
    return [
        ListRequest(
            kind,
            endpoint.path,
            ((name, ",".join(chunk)), *endpoint.order, ("limit", str(endpoint.limit))),
            chunk,
        )
        for chunk in chunks
    ]
