"""Whether the clock of this machine can be relied on.

By the clock it is decided which bars have closed, which days are known to be empty, and what is old enough to be
removed. A clock that is a year ahead for one command would write down as known what has not happened yet.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from marketdata_assets.domain.errors import ClockError

CLOCK_TOLERANCE: Final = timedelta(minutes=15)
"""How far two clocks may lie apart: a machine that sets its clock over the network stays within seconds."""


def require_same_time(local: datetime, other: datetime, whose: str) -> None:
    """Do nothing when ``local``, this machine's time, is that of ``other``, the clock of ``whose``.

    Raises:
        ClockError: They lie further apart than :data:`CLOCK_TOLERANCE`.
    """
    if abs(local - other) > CLOCK_TOLERANCE:
        message = (
            f"the clock of this machine says {_shown(local)} and that of {whose} {_shown(other)},"
            f" {_apart(local, other)}: set the one that is wrong, then run the command again; nothing was written"
        )
        raise ClockError(message)


def require_not_before(local: datetime, latest: datetime | None) -> None:
    """Do nothing when ``local``, this machine's time, is not before ``latest``, that of the newest request on record.

    Raises:
        ClockError: It lies before by more than :data:`CLOCK_TOLERANCE`.
    """
    if latest is not None and latest - local > CLOCK_TOLERANCE:
        message = (
            f"the clock of this machine says {_shown(local)}, and the newest request on record was made at"
            f" {_shown(latest)}, {_apart(local, latest)} later: set the clock, or, when it is right, run"
            " `marketdata doctor --repair`; nothing was written"
        )
        raise ClockError(message)


def _shown(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _apart(one: datetime, other: datetime) -> str:
    length = abs(one - other)
    if length >= timedelta(days=2):
        return f"{length.days:,} days"
    hours, minutes = divmod(int(length.total_seconds()) // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
