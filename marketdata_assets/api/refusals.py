"""Log lines about refused requests and closed connections, limited so that they cannot fill a disk."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_BURST: Final = 5
_PER_MINUTE: Final = 10
_MAX_CHARACTERS: Final = 200
_MAX_KINDS: Final = 100

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Allowance:
    lines: float
    at: float
    left_out: int = 0


class RefusalLog:
    """A log of refusals by kind, such as ``unknown-key``: for each kind, 5 lines at once and then 10 a minute.

    The next line of a kind counts the lines that were left out before it. ``clock`` counts seconds and never goes back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._allowances: dict[str, _Allowance] = {}

    def write(self, kind: str, address: str, what: str) -> None:
        """Log that ``address`` was refused ``what`` for a reason of ``kind``."""
        now = self._clock()
        if kind not in self._allowances and len(self._allowances) >= _MAX_KINDS:
            kind = "other"
        allowance = self._allowances.setdefault(kind, _Allowance(_BURST, now))
        allowance.lines = min(_BURST, allowance.lines + (now - allowance.at) * _PER_MINUTE / 60)
        allowance.at = now
        if allowance.lines < 1:
            allowance.left_out += 1
            return
        allowance.lines -= 1
        more = f" ({allowance.left_out:,} more since the last such line)" if allowance.left_out else ""
        allowance.left_out = 0
        # Escaped, so that a client cannot forge log lines.
        shown = what.encode("unicode_escape").decode("ascii")[:_MAX_CHARACTERS]
        _log.warning(
            "%s refused %s: %s, %s%s", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", address, kind, shown, more
        )
