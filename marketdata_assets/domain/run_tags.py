"""The tags of runs: the purpose of a run, and the command that executes it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

PURPOSE_TAG: Final = "marketdata/purpose"
"""The tag of every run that a schedule or a sensor requests, with a :class:`Purpose`, and of a command's run, with what was
typed."""

COMMAND_TAG: Final = "marketdata/command"
"""The tag of every run of a command; the value is the command's id."""

UNFINISHED: Final = ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")
"""The states in which a killed command can leave its run, which is never queued."""

_PRIORITY_TAG: Final = "dagster/priority"


class Purpose(StrEnum):
    """The purpose of a run of the daemon."""

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
        """The tags of the runs with this purpose. In the queue, runs for new bars go before runs for old history."""
        priority = {_PRIORITY_TAG: "-1"} if self in _PATIENT else {}
        return {PURPOSE_TAG: self.value, **priority}


_PATIENT: Final = (Purpose.INITIAL_BACKFILL, Purpose.GAP_REPAIR)
