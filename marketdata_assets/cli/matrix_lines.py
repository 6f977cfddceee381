"""Lines about the completeness matrix: its summary, days that were never scanned, and series that end too early."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from marketdata_assets.domain.wording import counted

if TYPE_CHECKING:
    import polars as pl


def summary_of(matrix: pl.DataFrame) -> str:
    """Return a line that counts the series of ``matrix`` (``MATRIX_SCHEMA``) by status, with the day of the matrix."""
    counts = [
        f"{number:,} {words}"
        for status, words in (
            ("whole", "whole"),
            ("gaps", "with gaps"),
            ("empty", "empty"),
            ("unchecked", "never scanned"),
            ("nothing_expected", "with nothing to expect"),
        )
        if (number := matrix.filter(status=status).height)
    ]
    days = matrix["as_of"].drop_nulls()
    as_of = f", as of {days.max()!s} (UTC)" if len(days) else ""
    return f"{', '.join(counts) or 'no series'}{as_of}"


def unchecked_line(days: pl.DataFrame) -> str | None:
    """Return a line that counts the days that were never fetched or scanned, with a remedy; None without such days.

    ``days`` has ``DAILY_COMPLETENESS_SCHEMA``.
    """
    import polars as pl

    if days.is_empty():
        return None
    by_series = days.group_by("symbol", "timeframe", maintain_order=True).agg(
        pl.len().alias("days"), first=pl.col("day").min(), last=pl.col("day").max()
    )
    symbol, timeframe, _, first, last = by_series.sort("days", descending=True, maintain_order=True).row(0)
    series = counted(by_series.height, "series")
    return (
        f"{counted(days.height, 'day')} of {series} {'was' if days.height == 1 else 'were'} never fetched, or never"
        f" scanned, such as {symbol}:{timeframe} from {first} to {last}: `marketdata backfill --symbols {symbol}"
        f" --timeframes {timeframe} --start {first} --end {last}` fetches them"
    )


def ended_line(ended: pl.DataFrame | None) -> str | None:
    """Return a line that counts the series not scanned up to the day that is due, with a remedy; None without them.

    ``ended`` comes from ``ended_series``.
    """
    if ended is None or ended.is_empty():
        return None
    oldest = ended.sort("last_scanned", maintain_order=True).row(0, named=True)
    symbol, timeframe, last, due = (oldest[name] for name in ("symbol", "timeframe", "last_scanned", "due"))
    ends = "ends" if ended.height == 1 else "end"
    return (
        f"{counted(ended.height, 'series')} {ends} before the day that is due, such as {symbol}:{timeframe}, scanned up"
        f" to {last} where {due} is due: `marketdata backfill --symbols {symbol} --timeframes {timeframe}"
        f" --start {last + timedelta(days=1)}` fetches the rest"
    )
