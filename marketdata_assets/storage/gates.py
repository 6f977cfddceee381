"""The facts for judging gates: quarantined rows, the extent of losses, and the number of bars before a window."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl
from psycopg import sql

from marketdata_assets.domain.bars import RULES_WITHOUT_LOSS, UTC_TIME
from marketdata_assets.domain.calendar import WEEK
from marketdata_assets.domain.gaps import LOSSES
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.windows import window_values

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from marketdata_assets.domain.series import Series
    from marketdata_assets.storage.connection import Database


_LOST_SPANS: Final = sql.SQL("""
select symbol, timeframe, min(gap_start) as lo, max(gap_end) as hi
from gap_report
where state = any({})
group by symbol, timeframe
""")
_QUARANTINED_SPANS: Final = sql.SQL("""
select symbol, timeframe, min(time) as lo, max(time) as hi
from ohlcv_quarantine
where rule <> all({})
group by symbol, timeframe
""")
_BARS_BEFORE: Final = sql.SQL("""
select w.symbol, w.timeframe, (
  select count(*)
  from (
    select from ohlcv o
    where o.symbol = w.symbol and o.timeframe = w.timeframe and o.time < w.lo
    order by o.time desc
    limit {limit}
  ) as earlier
) as before
from (values {windows}) as w(symbol, timeframe, lo, hi)
""")
_QUARANTINED: Final = sql.SQL("""
select q.symbol, q.time, q.rule
from (values {windows}) as w(symbol, timeframe, lo, hi)
join ohlcv_quarantine q
  on q.symbol = w.symbol and q.timeframe = {base} and q.time >= w.lo and q.time < w.hi
where q.rule <> all({harmless})
  and not exists (
    select from pruned p
    where p.symbol = q.symbol and p.timeframe = w.timeframe and p.pruned @> q.time
  )
""")


def lost_spans(database: Database) -> dict[tuple[str, str], tuple[datetime, datetime]]:
    """Read the start of the first and the end of the last gap in a state of ``LOSSES``, by symbol and timeframe."""
    return _spans(database, _LOST_SPANS.format(sql.Literal(list(LOSSES))))


def quarantined_spans(database: Database) -> dict[tuple[str, str], tuple[datetime, datetime]]:
    """Read the times of the first and the last quarantined row whose rule means a loss, by symbol and base."""
    return _spans(database, _QUARANTINED_SPANS.format(sql.Literal(list(RULES_WITHOUT_LOSS))))


def _spans(database: Database, query: sql.Composed) -> dict[tuple[str, str], tuple[datetime, datetime]]:
    rows = database.read_frame(query.as_string(None))
    return {
        (symbol, timeframe): (lo.astimezone(UTC), hi.astimezone(UTC))
        for symbol, timeframe, lo, hi in rows.iter_rows()
    }


def bars_before(database: Database, windows: Mapping[Series, Window], limit: int) -> pl.DataFrame:
    """Count the bars of each series before its window, up to ``limit``, as ``symbol, timeframe, before``."""
    query = _BARS_BEFORE.format(limit=sql.Literal(limit), windows=window_values(windows.items()))
    return database.read_frame(query.as_string(None))


def read_quarantined(
    database: Database, timeframe: Timeframe, windows: Mapping[Series, Window]
) -> pl.DataFrame:
    """Read ``symbol, time, rule`` of quarantined base bars in the windows, for week bars up to a week after them, too.

    Days that retention has removed are left out: no bar is missing there.
    """
    beyond = WEEK if timeframe is Timeframe.W1 else timedelta(0)
    widened = [(series, Window(window.start, window.end + beyond)) for series, window in windows.items()]
    query = _QUARANTINED.format(
        windows=window_values(widened),
        base=sql.Literal(timeframe.base.value),
        harmless=sql.Literal(list(RULES_WITHOUT_LOSS)),
    )
    frame = database.read_frame(query.as_string(None))
    schema = pl.Schema({"symbol": pl.String(), "time": UTC_TIME, "rule": pl.String()})
    return frame.cast(schema) if frame.width else schema.to_frame()
