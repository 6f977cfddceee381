"""Dagster's own storage: runs, events, schedules, in the Postgres that holds the bars.

``dagster.yaml`` names the class here, so that every process of Dagster finds the database by the same settings
as the platform: no URL and no password stands in a file or travels in an instance's description.
"""

from __future__ import annotations

import os
from typing import Any

from dagster_postgres import DagsterPostgresStorage

from marketdata_assets.config import load_settings
from marketdata_assets.defs.instance.internals import RangeRunEventLog, passing_storage
from marketdata_assets.storage.connection import (
    connect,
    dagster_storage_url,
    psycopg2_url,
    resolve_database_url,
)


class MarketDataStorage(DagsterPostgresStorage):
    """Dagster's Postgres storage at ``DAGSTER_POSTGRES_URL``, else in schema ``dagster`` of the market database."""

    def __init__(self, postgres_url: str, *, inst_data: Any = None) -> None:  # noqa: ANN401 - Dagster's private class
        super().__init__(postgres_url, inst_data=inst_data)
        # The event log that the line above makes has created the tables, or found them.
        self._event_log = RangeRunEventLog(postgres_url, should_autocreate_tables=False)

    @property
    def event_log_storage(self) -> RangeRunEventLog:
        """The event log."""
        return self._event_log

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return no fields: the environment says where the database is."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> Any:  # noqa: ANN401 - Dagster's signature
        """Return the storage of an instance, and start the embedded server if the settings mean that one.

        Definitions are validated without a database, on a storage that lasts as long as the validation.

        Raises:
            ConfigurationError: The database is out of reach.
        """
        del config_value
        if os.environ.get("DAGSTER_IS_DEFS_VALIDATION_CLI"):
            return passing_storage()
        settings = load_settings()
        if settings.dagster_postgres_url is None:
            url = dagster_storage_url(resolve_database_url(settings))
        else:
            url = psycopg2_url(settings.dagster_postgres_url.get_secret_value())
            # Dagster's own attempt would go on for a while and end in a traceback.
            connect(url.replace("+psycopg2", "", 1), application_name="marketdata set-up").close()
        return cls(url, inst_data=inst_data)
