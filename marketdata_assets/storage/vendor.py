"""The kind of vendor that a store's bars come from: the simulated one or the real one, never both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.storage.rows import fetch_one

if TYPE_CHECKING:
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

_CLAIM: Final = "insert into vendor (simulated) values (%s) on conflict do nothing"
_KIND: Final = "select simulated from vendor"


def require_kind(database: Database, *, simulated: bool) -> None:
    """Raise when the store has bars of the other kind of vendor.

    Raises:
        ConfigurationError: The store has bars of the other kind: a series would mix both.
    """
    _raise_for_other(database.transaction(_fetch_kind), simulated=simulated)


def read_kind(database: Database) -> bool | None:
    """Return whether the store's bars are simulated; None while it has neither simulated nor real ones."""
    return database.transaction(_fetch_kind)


def claim_store(database: Database, *, simulated: bool) -> None:
    """Record the kind of the store's bars, simulated or real, unless it is recorded already.

    Raises:
        ConfigurationError: As :func:`require_kind` does.
    """

    def work(session: Session) -> bool | None:
        session.execute(_CLAIM, [simulated])
        return _fetch_kind(session)

    _raise_for_other(database.transaction(work), simulated=simulated)


def _fetch_kind(session: Session) -> bool | None:
    return fetch_one(session, _KIND, row=bool)


def _raise_for_other(has_simulated: bool | None, *, simulated: bool) -> None:  # noqa: FBT001 - the store's answer
    if has_simulated is None or has_simulated is simulated:
        return
    stored, requested = ("simulated", "the real") if has_simulated else ("real", "a simulated")
    message = (
        f"this store holds {stored} bars and {requested} vendor's would mix with them:"
        " set another MARKETDATA_HOME or DATABASE_URL, or correct POLYGON_BASE_URL"
    )
    if has_simulated:
        message += "; beside a running `marketdata up --simulate`, commands without a key use its simulator"
    raise ConfigurationError(message)
