"""The decision whether the clock of this machine can be relied on.

The clock decides which bars have closed, which days are known to be empty, and which bars are old enough to be removed.
A command whose clock is a year ahead would record as known what has not happened yet.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from marketdata_assets.domain.errors import ClockError

CLOCK_TOLERANCE: Final = timedelta(minutes=15)
"""How far two clocks may differ: a machine that sets its clock over the network stays within seconds."""


def require_same_time(local: datetime, other: datetime, whose: str) -> None:
    """Require that ``local``, this machine's time, agrees with ``other``, the time of the clock of ``whose``.

    Raises:
        ClockError: The two times differ by more than :data:`CLOCK_TOLERANCE`.
    """
    if abs(local - other) > CLOCK_TOLERANCE:
        message = (
            f"the clock of this machine says {_format_time(local)} and that of {whose} {_format_time(other)},"
            f" {_format_difference(local, other)}: set the one that is"
            " wrong, then run the command again; nothing was written"
        )
        raise ClockError(message)


def require_not_before(local: datetime, latest: datetime | None) -> None:
    """Require that ``local``, this machine's time, is not before ``latest``, the time of the newest request on record.

    Raises:
        ClockError: ``local`` is earlier than ``latest`` by more than :data:`CLOCK_TOLERANCE`.
    """
    if latest is not None and latest - local > CLOCK_TOLERANCE:
        message = (
            f"the clock of this machine says {_format_time(local)}, and the newest request on record was made at"
            f" {_format_time(latest)}, {_format_difference(local, latest)} later: set the clock, or, when it is right, run"
            " `marketdata doctor --repair`; nothing was written"
        )
        raise ClockError(message)


def _format_time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _format_difference(first: datetime, second: datetime) -> str:
    length = abs(first - second)
    if length >= timedelta(days=2):
        return f"{length.days:,} days"
    hours, minutes = divmod(int(length.total_seconds()) // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
