"""Tags of runs: what a run is for, and which command executes it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

PURPOSE_TAG: Final = "marketdata/purpose"
"""On every run that a schedule or a sensor asks for: a :class:`Purpose`; on a command's: what was typed."""

COMMAND_TAG: Final = "marketdata/command"
"""On every run of a command; its value is the command's id."""

UNFINISHED: Final = ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")
"""What a run in the process of a command can be left as; it is never queued."""

_PRIORITY_TAG: Final = "dagster/priority"


class Purpose(StrEnum):
    """What a run of the daemon is for."""

    DAILY_BARS = "daily_bars"
    DAILY_FEATURES = "daily_features"
    CORPORATE_ACTIONS = "corporate_actions"
    INTRADAY_BARS = "intraday_bars"
    INITIAL_BACKFILL = "initial_backfill"
    GAP_REPAIR = "gap_repair"
    MATRIX = "matrix"
    FRESHNESS = "freshness"
    RETENTION = "retention"

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its runs. In the queue, what brings new bars goes before old history."""
        patient = {_PRIORITY_TAG: "-1"} if self in _PATIENT else {}
        return {PURPOSE_TAG: self.value, **patient}


_PATIENT: Final = (Purpose.INITIAL_BACKFILL, Purpose.GAP_REPAIR)
