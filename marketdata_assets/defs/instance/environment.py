"""Dagster's instance as this project sets it up: its storage, and the environment of every process."""

from __future__ import annotations

import os
from importlib.resources import files
from typing import TYPE_CHECKING

from marketdata_assets.config import project_root
from marketdata_assets.defs.run_tags import unfinished_ranges
from marketdata_assets.domain.partitions import SERIES
from marketdata_assets.storage.locks import lock
from marketdata_assets.storage.symbols import list_active_keys

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from dagster import DagsterInstance

    from marketdata_assets.config import Settings
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

BATCHING = {
    # A thousand materializations in one statement instead of one each: 1.2 s instead of 60 s a thousand.
    "DAGSTER_EVENT_BATCH_SIZE": "1000",
    "DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS": "1",
}


def prepare_environment(settings: Settings) -> None:
    """Set the environment variables that Dagster reads, for this process and its children.

    Dagster's files live under MARKETDATA_HOME, with a copy of the project's ``dagster.yaml``. Variables that the user
    has set stay.
    """
    home = settings.home / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    wanted = _configuration().read_text(encoding="utf-8")
    copy = home / "dagster.yaml"
    if not copy.is_file() or copy.read_text(encoding="utf-8") != wanted:
        draft = home / f"dagster.yaml.{os.getpid()}"
        draft.write_text(wanted, encoding="utf-8")
        draft.replace(copy)  # atomically: another process may be reading it
    os.environ.setdefault("DAGSTER_HOME", str(home))
    # A child must use the instance of these settings, whatever its working folder is.
    os.environ.setdefault("MARKETDATA_HOME", str(settings.home))
    for name, value in BATCHING.items():
        os.environ.setdefault(name, value)


def _configuration() -> Traversable:
    """Return the project's ``dagster.yaml``, else the one of the package."""
    own = project_root() / "dagster.yaml"
    return own if own.is_file() else files("marketdata_assets").joinpath("dagster.yaml")


def keeps_order(instance: DagsterInstance, database: Database) -> bool:
    """Whether :func:`sync_series` would at most add partitions after the existing ones."""
    present = list(instance.get_dynamic_partitions(SERIES))
    return list_active_keys(database)[: len(present)] == present


def sync_series(instance: DagsterInstance, database: Database) -> list[str]:
    """Make the dynamic ``series`` partitions exactly the active pairs of ``tracked_symbols``.

    Returns all keys in Dagster's order, which becomes the order of ``tracked_symbols``: the timeframes of a symbol are
    neighbours, so that one run can take them all. Keys that are no longer tracked lose their partitions; their
    bars and their history stay.

    While range runs, which depend on the present order, are queued or under way, new keys are only added after the
    others, and no key is removed: the next call after the end of the runs does the rest. A lock serializes the callers.
    """

    def sync(session: Session) -> list[str]:
        lock(session, SERIES)
        wanted = list_active_keys(database)
        present = list(instance.get_dynamic_partitions(SERIES))
        same = 0
        while same < min(len(wanted), len(present)) and wanted[same] == present[same]:
            same += 1
        if same < len(present) and unfinished_ranges(instance):
            known = set(present)
            added = [key for key in wanted if key not in known]
            if added:
                instance.add_dynamic_partitions(SERIES, added)
            return [*present, *added]
        # Dagster's order is the order of insertion: the keys after the first difference are inserted again.
        for key in present[same:]:
            instance.delete_dynamic_partition(SERIES, key)
        if wanted[same:]:
            instance.add_dynamic_partitions(SERIES, wanted[same:])
        return wanted

    return database.transaction(sync)
