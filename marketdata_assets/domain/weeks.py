"""Split adjustment of week bars: a week that a split divides is rolled up from its day bars."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.adjust import adjust_for_splits, changes_scale
from marketdata_assets.domain.calendar import WEEK, sunday_of
from marketdata_assets.domain.rollup import roll_up
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window, union

if TYPE_CHECKING:
    from collections.abc import Sequence

    from marketdata_assets.domain.calendar import TradingCalendar

_TO_SATURDAY: Final = timedelta(days=6)


def divided_weeks(splits: pl.DataFrame, as_of: date, calendar: TradingCalendar) -> list[Window]:
    """Return the weeks, from Sunday to Sunday, in which a session precedes a split: their day bars are needed.

    ``splits`` has the columns of :data:`~marketdata_assets.domain.adjust.SPLIT_SCHEMA`; splits executed after ``as_of``,
    and splits into the same number of shares, divide no week.
    """
    sundays = set()
    for executed in splits.filter(changes_scale())["execution_date"]:
        sunday = sunday_of(executed)
        if executed <= as_of and calendar.sessions(sunday, executed - timedelta(days=1)):
            sundays.add(sunday)
    return union(Window(calendar.day_start(sunday), calendar.day_start(sunday + WEEK)) for sunday in sundays)


def refusal(symbol: str, refused: Sequence[datetime], calendar: TradingCalendar) -> str:
    """Return the line that says which week bars, by their opens, cannot be adjusted, and what to do about it."""
    sundays = [str(calendar.local_day(opened)) for opened in refused]
    return (
        f"{symbol} split within the week of {' and of '.join(sundays)}, and the 1d bars that its 1w bar is made of are"
        f" not all stored: collect {symbol} in 1d as well, read the weeks before and after by themselves, or read 1w bars"
        " with adjusted=False"
    )


def adjust_weeks(
    weeks: pl.DataFrame, days: pl.DataFrame, splits: pl.DataFrame, as_of: date, calendar: TradingCalendar
) -> tuple[pl.DataFrame, list[datetime]]:
    """Adjust ``weeks`` to the scale of ``as_of``, and return with them the opens of the weeks that cannot be adjusted.

    A week takes the factor of its Saturday, after every split of the week; a divided week is rolled up from its adjusted
    days, and cannot be adjusted unless all of these are stored. Columns and order stay; the weeks that cannot be adjusted
    are left out.

    Args:
        weeks: ``BAR_SCHEMA``, ``1w`` bars of one symbol, unadjusted.
        days: ``BAR_SCHEMA``, its ``1d`` bars in :func:`divided_weeks`, unadjusted; bars of other days are ignored.
        splits: :data:`~marketdata_assets.domain.adjust.SPLIT_SCHEMA`, the splits of that symbol.
        as_of: The local date whose scale is wanted.
        calendar: The calendar of the symbol.

    Raises:
        SplitError: A split is impossible, or two contradict each other.
    """
    divided = divided_weeks(splits, as_of, calendar)
    saturdays = [
        calendar.day_start(calendar.local_day(opened) + _TO_SATURDAY) for opened in weeks["time"].to_list()
    ]
    scaled = adjust_for_splits(
        weeks.with_columns(
            pl.Series("time", saturdays, dtype=weeks.schema["time"]), timeframe=pl.lit(Timeframe.D1.value)
        ),
        splits,
        as_of,
        calendar,
    ).with_columns(weeks["time"], weeks["timeframe"])
    rolled = roll_up(adjust_for_splits(days.sort("time"), splits, as_of, calendar), Timeframe.W1, calendar)
    inside = pl.any_horizontal(
        pl.lit(value=False),
        *(pl.col("time").is_between(week.start, week.end, closed="left") for week in divided),
    )
    wanted = weeks.filter(inside).select("time", "base_bars")
    lacking = wanted.join(rolled, on=["time", "base_bars"], how="anti")
    adjustable = scaled.join(lacking, on="time", how="anti", maintain_order="left")
    adjusted = adjustable.update(rolled.filter(inside).select(weeks.columns), on="time", include_nulls=True)
    return adjusted, lacking["time"].dt.convert_time_zone("UTC").sort().to_list()
