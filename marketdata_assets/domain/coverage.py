"""Coverage: the windows for which the vendor's answer is final, so that they need not be requested again."""

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
"""The latest sessions, whose bars late trades still revise: they are fetched again until they are final."""


def start_of_history(first_bar: datetime, calendar: TradingCalendar) -> datetime:
    """Return where a history with this first bar begins: local midnight after the session before it, as UTC."""
    day = calendar.local_day(first_bar)
    before = calendar.last_sessions(day - timedelta(days=1), 1)
    return calendar.day_start(before[-1] + timedelta(days=1) if before else day)


def answered_windows(
    window: Window,
    *,
    screened: Screened,
    history_start: datetime | None,
    final_before: datetime,
    calendar: TradingCalendar,
) -> list[Window]:
    """Return the parts of ``window`` for which an answer is final: bars that are absent there do not exist.

    Args:
        window: The window that was requested and answered.
        screened: The answer. A day with a quarantined row is left out, unless a sound row for the same bar came as well.
        history_start: Where the history of the series begins (:func:`start_of_history`). An empty answer before the first
            bar is not final: the symbol may not have been listed, or the plan may cut its history off, and the vendor
            answers both with success. None when no bar is known.
        final_before: Bars that open at this time or later may still be revised.
        calendar: The calendar whose days the quarantined rows belong to.
    """
    if history_start is None or max(window.start, history_start) >= min(window.end, final_before):
        return []
    known = Window(max(window.start, history_start), min(window.end, final_before))
    absent = screened.quarantined.filter(
        ~pl.col("rule").is_in(RULES_WITHOUT_LOSS),
        ~pl.col("time").is_in(screened.bars["time"].implode()).fill_null(value=False),
    )["time"]
    if absent.null_count():
        # A row without a time may have been any of the bars.
        return []
    days = {calendar.local_day(moment) for moment in absent}
    return difference([known], [calendar.day_window(day) for day in days])
