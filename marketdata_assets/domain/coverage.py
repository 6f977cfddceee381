"""Coverage: which windows an answer of the vendor settles, so that they need not be asked for again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.bars import RULES_WITHOUT_LOSS
from marketdata_assets.domain.windows import Window, difference

if TYPE_CHECKING:
    from datetime import datetime

    from marketdata_assets.domain.bars import Screened
    from marketdata_assets.domain.calendar import TradingCalendar

CORRECTION_SESSIONS: Final = 3
"""The latest sessions, whose bars late trades still revise: they are asked for again until they have settled."""


def history_begins(first_bar: datetime, calendar: TradingCalendar) -> datetime:
    """Where a history with this first bar begins: local midnight after the session before it, as UTC."""
    day = calendar.local_day(first_bar)
    before = calendar.last_sessions(day - timedelta(days=1), 1)
    return calendar.day_start(before[-1] + timedelta(days=1) if before else day)


def answered_windows(
    window: Window,
    *,
    screened: Screened,
    begins: datetime | None,
    settled: datetime,
    calendar: TradingCalendar,
) -> list[Window]:
    """The parts of ``window`` that an answer settles: bars that are absent there do not exist.

    Args:
        window: What was asked for and arrived.
        screened: What arrived: a day of which a row broke a rule lacks that bar, unless it came as well.
        begins: Where the history of the series begins (:func:`history_begins`). Emptiness before the first bar is
            not known: the symbol may not have been listed, or the plan may cut its history off, and the vendor
            answers both with success. None when no bar is known.
        settled: What opens from then on may still be revised.
        calendar: Whose days the broken rows belong to.
    """
    if begins is None or max(window.start, begins) >= min(window.end, settled):
        return []
    known = Window(max(window.start, begins), min(window.end, settled))
    lost = screened.quarantined.filter(
        ~pl.col("rule").is_in(RULES_WITHOUT_LOSS),
        ~pl.col("time").is_in(screened.bars["time"].implode()).fill_null(value=False),
    )["time"]
    if lost.null_count():
        # A row without a time may have been any of the bars.
        return []
    days = {calendar.local_day(moment) for moment in lost}
    return difference([known], [calendar.day_window(day) for day in days])
