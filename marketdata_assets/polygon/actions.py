"""The plan of the fewest requests for corporate actions. Pure.

The current endpoints take a list of tickers, so that one request returns the whole history of a hundred symbols
(docs/vendor.md, "Corporate actions"; massive.com/docs, ``ticker.any_of``). Whole histories cost no more than the
latest days would, and only they show which actions the vendor has withdrawn. The former endpoints, used when a plan or
a deployment lacks the current ones, take single tickers: one request for each symbol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.actions import ActionKind

if TYPE_CHECKING:
    from collections.abc import Sequence

SYMBOLS_A_REQUEST: Final = 100
"""The number of tickers in one request: the URL stays well under the 8,000 characters that servers accept."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The endpoint of a list: its path, its largest ``limit``, and the form of its query.

    ``by_list`` endpoints take several tickers at once. ``order`` is the query that puts the oldest row first: a row
    that is added while pages are read then moves no row of the pages that remain.
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
"""The endpoints of each kind, the current one first."""


@dataclass(frozen=True, slots=True)
class ListRequest:
    """A request for the complete list of some symbols. It takes as many HTTP requests as it has pages."""

    kind: ActionKind
    path: str
    query: tuple[tuple[str, str], ...]
    symbols: tuple[str, ...]

    def __str__(self) -> str:
        subject = self.symbols[0] if len(self.symbols) == 1 else f"{len(self.symbols)} symbols"
        return f"{self.kind} of {subject}"


def plan_lists(kind: ActionKind, endpoint: Endpoint, symbols: Sequence[str]) -> list[ListRequest]:
    """Plan the requests that list all actions of ``kind`` of ``symbols`` (stocks and ETFs), each symbol once."""
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
