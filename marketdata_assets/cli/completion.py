"""What the shell completes: symbols and keys' names from the store, and timeframes; alone, or in a list with commas.

Cheap, or nothing: a server that is down is not started, and no error is ever told.
"""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from marketdata_assets.storage.rows import Session

_PATIENCE: Final = timedelta(seconds=2)


def complete_symbol(incomplete: str) -> list[str]:
    """The active symbols that begin so."""
    return [one for one in _symbols() if one.startswith(incomplete)]


def complete_symbols(incomplete: str) -> list[str]:
    """The same for the last of a list."""
    return _continued(incomplete, _symbols())


def complete_key(incomplete: str) -> list[str]:
    """The names of API keys that work and begin so."""
    from marketdata_assets.storage.keys import list_working_names

    return [one for one in _asked(list_working_names) if one.startswith(incomplete)]


def complete_timeframe(incomplete: str) -> list[str]:
    """The timeframes that begin so."""
    return [one.value for one in Timeframe if one.value.startswith(incomplete)]


def complete_timeframes(incomplete: str) -> list[str]:
    """The same for the last of a list."""
    return _continued(incomplete, [one.value for one in Timeframe])


def _continued(incomplete: str, known: Iterable[str]) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    given = before.split(",")
    return [f"{before}{comma}{one}" for one in known if one.startswith(last) and one not in given]


def _symbols() -> list[str]:
    from marketdata_assets.storage.symbols import list_active_names

    return _asked(list_active_names)


def _asked(read: Callable[[Session], list[str]]) -> list[str]:
    from marketdata_assets.config import load_settings
    from marketdata_assets.domain.errors import MarketDataError
    from marketdata_assets.storage.connection import DRIVER_ERRORS, Timeouts, connect, resolve_database_url
    from marketdata_assets.storage.embedded import EmbeddedServer

    try:
        settings = load_settings()
        if settings.database_url is None and not EmbeddedServer(settings.home).status().running:
            return []
        timeouts = Timeouts(statement=_PATIENCE, lock=_PATIENCE, connect=_PATIENCE)
        url = resolve_database_url(settings)
        with closing(connect(url, application_name="completion", timeouts=timeouts)) as session:
            return read(session)
    except (MarketDataError, *DRIVER_ERRORS, OSError):
        # A shell that waits for words has no place for a line about a server.
        return []
