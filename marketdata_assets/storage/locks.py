"""Advisory locks: the spaces of their names, and the functions that take them.

A name is hashed with the number of its space, so that locks of two kinds never collide. The numbers never change: a
process of an older version must wait for the same locks.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from marketdata_assets.storage.rows import fetch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from marketdata_assets.storage.rows import Session


class LockSpace(IntEnum):
    """A space of names of locks."""

    STORE = 0x6D64
    """Series, months, the list of symbols, Dagster's list of series, and retention."""
    GAP_SCANS = 0x6D67
    """Series that are scanned for gaps, from reading through fetching to writing."""
    COMMANDS = 0x6D62
    """Running commands, by their identifiers."""
    LISTS = 0
    """Lists of corporate actions, and Dagster's schema."""


RETENTION: Final = "retention"
"""The name in ``STORE`` that all writers of series share, and that retention holds exclusively."""
SYMBOLS: Final = "tracked_symbols"
"""The name in ``STORE`` of the list of symbols."""
MIGRATIONS: Final = 0x6D64_6D69_6772_6174
"""The key, unhashed, of the lock that migrations hold: "mdmigrat" in ASCII."""

_LOCK: Final = "select pg_advisory_xact_lock(hashtextextended(%s, %s))"
_LOCK_SHARED: Final = "select pg_advisory_xact_lock_shared(hashtextextended(%s, %s))"
_LOCK_ALL: Final = """
select pg_advisory_xact_lock(hashtextextended(key, %s))
from unnest(%s::text[]) with ordinality as wanted(key, position)
order by position
"""
_LOCK_FOR_SESSION: Final = """
select pg_advisory_lock(hashtextextended(key, %s))
from unnest(%s::text[]) with ordinality as wanted(key, position)
order by position
"""
_TRY_LOCK: Final = "select pg_try_advisory_xact_lock(hashtextextended(%s, %s))"
_LOCK_MIGRATIONS: Final = "select pg_advisory_lock(%s)"


def lock(session: Session, name: str, space: LockSpace = LockSpace.STORE) -> None:
    """Take the lock ``name`` of ``space`` exclusively until the transaction ends, waiting for it."""
    session.execute(_LOCK, [name, space.value])


def lock_shared(session: Session, name: str, space: LockSpace = LockSpace.STORE) -> None:
    """Take the lock ``name`` of ``space`` shared until the transaction ends, waiting for it."""
    session.execute(_LOCK_SHARED, [name, space.value])


def lock_all(session: Session, names: Iterable[str], space: LockSpace = LockSpace.STORE) -> None:
    """Take the locks ``names`` of ``space`` until the transaction ends, in sorted order, each once."""
    session.execute(_LOCK_ALL, [space.value, sorted(set(names))])


def lock_for_session(session: Session, names: Iterable[str], space: LockSpace) -> None:
    """Take the locks ``names`` of ``space`` until the session ends, in sorted order, each once."""
    session.execute(_LOCK_FOR_SESSION, [space.value, sorted(set(names))])


def try_lock(session: Session, name: str, space: LockSpace) -> bool:
    """Take the lock ``name`` of ``space`` until the transaction ends, unless another session has it; return whether."""
    return fetch(session, _TRY_LOCK, [name, space.value], row=bool) == [True]


def lock_migrations(session: Session) -> None:
    """Take the lock of migrations until the session ends, however it ends, waiting for it."""
    session.execute(_LOCK_MIGRATIONS, [MIGRATIONS])
