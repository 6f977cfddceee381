"""Dagster's instance as this project sets it up: where it stores, and the switches of every process."""

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
    """Set what Dagster reads from the environment, for this process and its children.

    Dagster's files live under MARKETDATA_HOME, with a copy of the project's ``dagster.yaml``. What the user has
    set stays.
    """
    home = settings.home / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    wanted = _configuration().read_text(encoding="utf-8")
    placed = home / "dagster.yaml"
    if not placed.is_file() or placed.read_text(encoding="utf-8") != wanted:
        draft = home / f"dagster.yaml.{os.getpid()}"
        draft.write_text(wanted, encoding="utf-8")
        draft.replace(placed)  # at once: another process may be reading it
    os.environ.setdefault("DAGSTER_HOME", str(home))
    # The instance must be the one of these settings, whatever working folder a child has.
    os.environ.setdefault("MARKETDATA_HOME", str(settings.home))
    for name, value in BATCHING.items():
        os.environ.setdefault(name, value)


def _configuration() -> Traversable:
    """The project's ``dagster.yaml``, else the package's own."""
    own = project_root() / "dagster.yaml"
    return own if own.is_file() else files("marketdata_assets").joinpath("dagster.yaml")


def keeps_order(instance: DagsterInstance, database: Database) -> bool:
    """Whether :func:`sync_series` would only add partitions behind those that exist, or nothing."""
    present = list(instance.get_dynamic_partitions(SERIES))
    return list_active_keys(database)[: len(present)] == present


def sync_series(instance: DagsterInstance, database: Database) -> list[str]:
    """Make the dynamic ``series`` partitions exactly the active pairs of ``tracked_symbols``.

    Returns all of them in Dagster's order, made that of ``tracked_symbols``: the timeframes of a symbol are
    neighbours, so that one run takes them all. Keys that are no longer tracked lose their partitions; their
    bars and their history stay.

    While range runs are queued or under way, which go by the present order, new keys are only added behind the
    others, and none goes: the next call after their end makes up for it. Callers take turns.
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
        # Dagster's order is that of insertion: what comes after the first difference is put in anew.
        for key in present[same:]:
            instance.delete_dynamic_partition(SERIES, key)
        if wanted[same:]:
            instance.add_dynamic_partitions(SERIES, wanted[same:])
        return wanted

    return database.transaction(sync)
