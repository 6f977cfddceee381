"""The grid: where the bars of a timeframe open, and how many base bars each can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.bars import bucket_close, bucket_open
from marketdata_assets.domain.slots import local_day
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from datetime import date

    from marketdata_assets.domain.calendar import TradingCalendar

_WEEK_SESSIONS: Final = 5
_WEEK_DAYS: Final = 7


def grid_fault(timeframe: Timeframe, calendar: TradingCalendar, first: date, last: date) -> pl.Expr:
    """Return the fault of each bar's ``time`` or ``base_bars``, or null, for local days ``first`` to ``last``.

    ``off_grid``: no bar of ``timeframe`` opens at that time. ``no_session``: the market is closed on that day (bars of
    extended hours on a day with a session are not a fault). ``too_few_base_bars``, ``too_many_base_bars``: a bar is
    made of at least one base bar, of exactly one in a base timeframe, and otherwise of at most as many as its interval
    holds: a 4h bar that holds the change to winter time has 300 minutes.
    """
    time = pl.col("time")
    if timeframe.is_base:
        largest = pl.lit(1)
    elif timeframe is Timeframe.W1:
        largest = pl.lit(_WEEK_DAYS if calendar.is_always_open else _WEEK_SESSIONS)
    else:
        largest = (bucket_close(time, timeframe, calendar) - time).dt.total_minutes()
    # A week opens on its Sunday, whether or not that is a session.
    is_closed = (
        pl.lit(value=False)
        if calendar.is_always_open or timeframe is Timeframe.W1
        else ~local_day(time, calendar).is_in(
            pl.lit(pl.Series(calendar.sessions(first, last), dtype=pl.Date)).implode()
        )
    )
    return (
        pl.when(time != bucket_open(time, timeframe, calendar))
        .then(pl.lit("off_grid"))
        .when(is_closed)
        .then(pl.lit("no_session"))
        .when(pl.col("base_bars") < 1)
        .then(pl.lit("too_few_base_bars"))
        .when(pl.col("base_bars") > largest)
        .then(pl.lit("too_many_base_bars"))
        .otherwise(pl.lit(None, pl.String))
    )
