"""The grid: whether a stored bar opens where its timeframe has a bar, and is made of as much as it can hold."""

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
    """What is wrong with each bar's ``time`` and ``base_bars``, or null, for local days ``first`` to ``last``.

    ``off_grid``: no bar of ``timeframe`` opens then. ``no_session``: the market stays closed on that day (hours
    are no matter: bars of extended hours are welcome). ``too_few_base_bars``, ``too_many_base_bars``: a bar is
    made of one base bar at least, of one exactly in a base timeframe, and else of as many as its interval
    has: a bar of 4 h that holds the change to winter time has 300 minutes.
    """
    time = pl.col("time")
    if timeframe.is_base:
        most = pl.lit(1)
    elif timeframe is Timeframe.W1:
        most = pl.lit(_WEEK_DAYS if calendar.is_always_open else _WEEK_SESSIONS)
    else:
        most = (bucket_close(time, timeframe, calendar) - time).dt.total_minutes()
    # A week opens on a Sunday, whatever the market does then.
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
        .when(pl.col("base_bars") > most)
        .then(pl.lit("too_many_base_bars"))
        .otherwise(pl.lit(None, pl.String))
    )
