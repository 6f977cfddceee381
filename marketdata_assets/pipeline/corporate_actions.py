"""Corporate actions: what the vendor lists for the tracked stocks and ETFs, screened and stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from marketdata_assets.domain.actions import ScreenedActions, screen_actions
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.storage.actions import ActionCounts, store_actions
from marketdata_assets.storage.symbols import list_symbols
from marketdata_assets.storage.vendor import claim_store, require_kind

if TYPE_CHECKING:
    from datetime import datetime

    from marketdata_assets.domain.actions import ActionKind
    from marketdata_assets.polygon.vendor import ListedActions, Vendor
    from marketdata_assets.storage.connection import Database


class RefreshedActions(NamedTuple):
    """The rows that the vendor listed, those of them that could be stored, and the changes in the store."""

    listed: ListedActions
    screened: ScreenedActions
    counts: ActionCounts


def symbols_with_actions(database: Database) -> list[str]:
    """List the active symbols that can have corporate actions: stocks and ETFs."""
    return [
        symbol.symbol for symbol in list_symbols(database, active_only=True) if symbol.asset_class.can_split
    ]


def refresh_corporate_actions(
    database: Database, polygon: Vendor, kind: ActionKind, symbols: list[str], *, now: datetime
) -> RefreshedActions:
    """Fetch everything of ``kind`` that the vendor lists for ``symbols``, and store the rows that can be read.

    Raises:
        EntitlementError: The plan does not include an endpoint for this kind.
        EndpointNotFoundError: The vendor does not have an endpoint for this kind.
        PolygonError: A request failed for another reason; the subclass says which.
        ConfigurationError: The store has bars of the other kind of vendor, real or simulated.
    """
    require_kind(database, simulated=polygon.is_simulated)
    listed = polygon.actions(kind, symbols, database_url=database.url)
    claim_store(database, simulated=polygon.is_simulated)
    screened = _screen(kind, listed, symbols)
    counts = store_actions(
        database,
        kind,
        screened.rows,
        symbols=[symbol for symbol in symbols if symbol not in screened.problems],
        endpoint=listed.endpoint,
        today=calendar_of(AssetClass.STOCK).local_day(now),
    )
    return RefreshedActions(listed, screened, counts)


def _screen(kind: ActionKind, listed: ListedActions, symbols: list[str]) -> ScreenedActions:
    """Return the rows of ``listed`` that can be stored; none of a symbol with a value that could not be read."""
    unread = {symbol: listed.problems[symbol] for symbol in symbols if symbol in listed.problems}
    screened = screen_actions(kind, listed.rows, [symbol for symbol in symbols if symbol not in unread])
    return ScreenedActions(screened.rows, {**unread, **screened.problems})
