"""The market database as a Dagster resource.

The URL comes from the environment when the resource is used; it is not a field, so that no page of the UI and no
run configuration can show its password.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from dagster import ConfigurableResource

from marketdata_assets.config import load_settings
from marketdata_assets.storage.clock import require_right_clock
from marketdata_assets.storage.connection import Database, resolve_database_url

if TYPE_CHECKING:
    from collections.abc import Iterator


class PostgresResource(ConfigurableResource[None]):
    """The market database: ``DATABASE_URL``, else the embedded server."""

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Open a :class:`Database`, which is closed when the context ends.

        Raises:
            ConfigurationError: The database cannot be reached.
            ClockError: This machine's clock is far off: times that a run writes would be wrong.
        """
        with Database(resolve_database_url(load_settings())) as database:
            require_right_clock(database)
            yield database
