"""Which kind of vendor a store's bars come from: a simulated one or the real one, never both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from psycopg import Connection

    from marketdata_assets.storage.connection import Database


def claim_store(database: Database, *, simulated: bool) -> None:
    """Settle on the first call that the store holds simulated, or real, bars.

    Raises:
        ConfigurationError: The store holds bars of the other kind: they would stand side by side in a series.
    """

    def work(connection: Connection[tuple[object, ...]]) -> bool:
        connection.execute("insert into vendor (simulated) values (%s) on conflict do nothing", [simulated])
        row = connection.execute("select simulated from vendor").fetchone()
        return row == (True,)

    if database.transaction(work) is not simulated:
        held, asked = ("real", "a simulated") if simulated else ("simulated", "the real")
        message = (
            f"this store holds {held} bars and {asked} vendor's would mix with them:"
            " set another MARKETDATA_HOME or DATABASE_URL, or correct POLYGON_BASE_URL"
        )
        raise ConfigurationError(message)
