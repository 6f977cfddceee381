"""The shell's completion of symbols, names of keys, and timeframes, alone or in a list with commas.

Completion is cheap or gives nothing: it does not start a server that is down, and it never reports an error.
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
    """Return the active symbols that begin with ``incomplete``."""
    return [name for name in _symbols() if name.startswith(incomplete)]


def complete_symbols(incomplete: str) -> list[str]:
    """Return completions of the last symbol of the list ``incomplete``."""
    return _complete_last(incomplete, _symbols())


def complete_key(incomplete: str) -> list[str]:
    """Return the names of working API keys that begin with ``incomplete``."""
    from marketdata_assets.storage.keys import list_working_names

    return [name for name in _read_names(list_working_names) if name.startswith(incomplete)]


def complete_timeframe(incomplete: str) -> list[str]:
    """Return the timeframes that begin with ``incomplete``."""
    return [timeframe.value for timeframe in Timeframe if timeframe.value.startswith(incomplete)]


def complete_timeframes(incomplete: str) -> list[str]:
    """Return completions of the last timeframe of the list ``incomplete``."""
    return _complete_last(incomplete, [timeframe.value for timeframe in Timeframe])


def _complete_last(incomplete: str, known: Iterable[str]) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    given = before.split(",")
    return [f"{before}{comma}{name}" for name in known if name.startswith(last) and name not in given]


def _symbols() -> list[str]:
    from marketdata_assets.storage.symbols import list_active_names

    return _read_names(list_active_names)


def _read_names(read: Callable[[Session], list[str]]) -> list[str]:
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
        # An error message would garble the shell's prompt.
        return []
