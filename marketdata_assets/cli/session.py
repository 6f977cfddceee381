"""What every command that touches the store needs first: settings, a migrated database, Dagster's instance."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import stamina

from marketdata_assets.config import Settings, load_settings
from marketdata_assets.storage.connection import Database, resolve_database_url
from marketdata_assets.storage.migrations import migrate
from marketdata_assets.storage.symbols import add_symbols, list_symbols, packaged_universe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster import DagsterInstance

    from marketdata_assets.automation.commands import Command


@dataclass(frozen=True)
class Store:
    """An open market database, its schema up to date."""

    settings: Settings
    database: Database


@contextmanager
def open_store() -> Iterator[Store]:
    """The market database: started when embedded, migrated, and with the packaged universe when it is new."""
    # stamina's own notices go to stdout, where --json is read; the client logs every retry itself.
    stamina.instrumentation.set_on_retry_hooks(())
    settings = load_settings()
    url = resolve_database_url(settings)
    migrate(url)
    with Database(url) as database:
        if not list_symbols(database):
            add_symbols(database, packaged_universe())
        yield Store(settings, database)


def require_vendor_of(store: Store) -> None:
    """Refuse, before anything runs, to mix simulated bars and real ones. Raises :class:`ConfigurationError`."""
    from marketdata_assets.config import is_loopback
    from marketdata_assets.storage.vendor import require_kind

    require_kind(store.database, simulated=is_loopback(store.settings.polygon_base_url))


@contextmanager
def open_instance(store: Store, name: str) -> Iterator[tuple[DagsterInstance, Command]]:
    """Dagster's instance, and the command ``name`` that this process is: its tags belong on every run that it executes.

    What earlier commands have left unfinished whose process is gone is ended first.
    """
    from dagster import DagsterInstance

    from marketdata_assets.automation.commands import close_orphans, under_way
    from marketdata_assets.automation.instance import prepare_environment
    from marketdata_assets.cli.console import err

    prepare_environment(store.settings)
    with DagsterInstance.get() as instance, under_way(store.database, name) as command:
        closed = close_orphans(instance, store.database)
        if closed:
            err.print(
                f"{closed} earlier command(s) whose process is gone: their runs were marked as failed",
                highlight=False,
            )
        yield instance, command
