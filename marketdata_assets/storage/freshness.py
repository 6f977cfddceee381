"""The facts for judging freshness: each series' newest bar, and the vendor's answer for the last bar that was due."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from marketdata_assets.domain.freshness import Due
    from marketdata_assets.domain.series import Series
    from marketdata_assets.storage.connection import Database

_NEWEST: Final = """
select newest.time, answered.requested_at is not null, failed.reason, t.updated_at
from unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[])
  with ordinality as w(symbol, timeframe, base, opens, closes, position)
join tracked_symbols t on t.symbol = w.symbol
left join lateral (
  select o.time from ohlcv o
  where o.symbol = w.symbol and o.timeframe = w.timeframe
  order by o.time desc
  limit 1
) as newest on true
left join lateral (
  select f.requested_at from fetch_log f
  where f.symbol = w.symbol and f.base = w.base and w.timeframe = any(f.timeframes)
    and f.window_start <= w.opens and f.window_end >= w.closes and f.status = 'ok'
  order by f.window_start desc
  limit 1
) as answered on true
left join lateral (
  select coalesce(f.error, 'its answer did not arrive completely') as reason from fetch_log f
  where f.symbol = w.symbol and f.base = w.base and w.timeframe = any(f.timeframes)
    and f.window_start <= w.opens and f.window_end >= w.closes and f.status <> 'ok'
  order by f.requested_at desc
  limit 1
) as failed on true
order by w.position
"""


class Newest(NamedTuple):
    """The newest bar of a series, and the vendor's answer for the last bar that was due."""

    opens: datetime | None
    """The open of the newest bar; None without a bar."""
    is_answered: bool
    """Whether the vendor answered a request for the last bar that was due."""
    failure: str | None
    """Why the latest failed request for the bar that was due failed; None without a failed request."""
    changed_at: datetime
    """When the symbol was added or last changed."""


def read_newest(database: Database, last: Mapping[Series, Due]) -> list[Newest]:
    """Read the newest bar of each series of ``last``, and the answer for its last due bar, in the order of ``last``."""
    if not last:
        return []
    columns = [
        [series.symbol for series in last],
        [series.timeframe.value for series in last],
        [series.timeframe.base.value for series in last],
        [due.opens for due in last.values()],
        [due.closes for due in last.values()],
    ]
    return database.fetch(_NEWEST, columns, row=Newest)
