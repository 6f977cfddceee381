"""Retention: how many days bars are kept, and the removal of older bars."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from marketdata_assets.config import load_settings
from marketdata_assets.domain.retention import DEFAULT_RETENTION, Pruned, PruningPlan
from marketdata_assets.storage.pruned import calendars
from marketdata_assets.storage.retention import (
    delete_batch,
    empty_month,
    estimate_pruned,
    forget_pruned,
    read_finished_months,
    read_symbols,
    retry_while_locked,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import date

    from marketdata_assets.domain.timeframe import Timeframe
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

LOCK_TIMEOUT: Final = timedelta(seconds=2)
"""How long a transaction waits for a lock before it starts again; other transactions wait behind it no longer than that."""
PATIENCE: Final = timedelta(minutes=10)
"""How long a transaction that cannot get its lock is started again."""


def chosen_retention() -> Mapping[Timeframe, int]:
    """Return the days that bars are kept, by timeframe: ``MARKETDATA_RETENTION``, else the default."""
    return load_settings().retention or DEFAULT_RETENTION


def prunable(database: Database, first_kept: Mapping[Timeframe, date]) -> list[Pruned]:
    """Count what :func:`prune` would remove now; remove nothing."""
    return [
        database.transaction(partial(estimate_pruned, plan)) for plan in _read_plans(database, first_kept)
    ]


def prune(
    database: Database,
    first_kept: Mapping[Timeframe, date],
    *,
    lock_timeout: timedelta = LOCK_TIMEOUT,
    patience: timedelta = PATIENCE,
    on_batch: Callable[[Pruned], None] = lambda _: None,
) -> list[Pruned]:
    """Remove the bars of each timeframe that open before its first kept local day, whatever their symbol.

    Bars of other timeframes stay, even those that were rolled up from removed bars. ``on_batch`` is called with the
    counts of each transaction once it is committed.

    Raises:
        MarketDataError: Another session held a lock for all of ``patience``. Bars that were removed before stay removed.
    """
    pruned = []
    for plan in _read_plans(database, first_kept):
        total = plan.removed()
        for step in _list_steps(database, plan):
            execute = partial(
                retry_while_locked, database, plan, step, lock_timeout=lock_timeout, patience=patience
            )
            while (removed := execute()) is not None:
                total += removed
                on_batch(removed)
        pruned.append(total)
    return pruned


def _read_plans(database: Database, first_kept: Mapping[Timeframe, date]) -> list[PruningPlan]:
    known = database.transaction(calendars)
    return [PruningPlan(timeframe, before, known) for timeframe, before in first_kept.items()]


def _list_steps(database: Database, plan: PruningPlan) -> Iterator[Callable[[Session], Pruned | None]]:
    """Yield the steps in order; each is to be executed until it returns None."""
    for month, tables in database.transaction(partial(read_finished_months, plan)).items():
        yield partial(empty_month, plan, month, tables)
    for symbol in database.transaction(partial(read_symbols, plan)):
        yield partial(delete_batch, plan, symbol)
    yield partial(forget_pruned, plan)
