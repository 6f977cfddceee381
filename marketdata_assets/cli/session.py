"""The session of a command that uses the store: settings, a migrated database, and Dagster's instance."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import stamina

from marketdata_assets.config import Settings, load_settings
from marketdata_assets.storage.clock import require_right_clock
from marketdata_assets.storage.connection import Database, resolve_database_url
from marketdata_assets.storage.migrations import migrate
from marketdata_assets.storage.symbols import add_universe, list_symbols

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster import DagsterInstance

    from marketdata_assets.defs.runs.commands import Command


@dataclass(frozen=True)
class Store:
    """An open market database with a current schema, and the settings."""

    settings: Settings
    database: Database


@contextmanager
def open_store() -> Iterator[Store]:
    """Yield the market database: started if embedded, migrated, and with the packaged universe if it is new."""
    # stamina logs to stdout, which would garble --json; the client logs every retry itself.
    stamina.instrumentation.set_on_retry_hooks(())
    settings = load_settings()
    url = resolve_database_url(settings)
    migrate(url)
    with Database(url) as database:
        if not list_symbols(database):
            add_universe(database)
        yield Store(settings, database)


def require_vendor_of(store: Store) -> None:
    """Refuse to mix simulated and real bars in ``store``, before anything runs. Raises :class:`ConfigurationError`.

    Without a key, the vendor is the simulator of a running ``marketdata up --simulate``.
    """
    from marketdata_assets.cli.simulator_address import use_simulator
    from marketdata_assets.config import is_simulator
    from marketdata_assets.storage.vendor import require_kind

    use_simulator(store)
    # Loaded again, because use_simulator may have set the address of the simulator.
    require_kind(store.database, simulated=is_simulator(load_settings().polygon_base_url))


@contextmanager
def open_instance(store: Store, name: str) -> Iterator[tuple[DagsterInstance, Command]]:
    """Yield Dagster's instance and the running command ``name``, whose tags belong on every run that it executes.

    Unfinished runs of earlier commands whose process is gone are marked as failed first.

    Raises:
        ClockError: The clock of this machine is far off, so nothing may be written.
    """
    from marketdata_assets.cli.console import err
    from marketdata_assets.defs.instance.environment import prepare_environment
    from marketdata_assets.defs.instance.internals import open_instance_of_commands
    from marketdata_assets.defs.runs.commands import close_orphans, under_way

    require_right_clock(store.database)
    prepare_environment(store.settings)
    logging.getLogger().addFilter(_is_worth_a_line)
    # The pool logs that a lost connection cannot be closed; the cause of the loss is raised anyway.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    home = Path(os.environ["DAGSTER_HOME"]).expanduser()
    with open_instance_of_commands(home) as instance, under_way(store.database, name) as command:
        closed = close_orphans(instance, store.database)
        if closed:
            err.print(
                f"{closed} earlier command(s) whose process is gone: their runs were marked as failed",
                highlight=False,
            )
        yield instance, command


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    from marketdata_assets.defs.instance.internals import is_storage_retry

    return not is_storage_retry(record)
