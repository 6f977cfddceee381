"""The platform's own requests: initial backfills, repairs of gaps, and the time up to which the vendor was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from marketdata_assets.domain.maintenance import CATCH_UP, History
from marketdata_assets.domain.series import Series
from marketdata_assets.storage.rows import by_series, columns, key_columns, moment_or_none

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date, datetime

    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

_INITIAL: Final = """
select symbol, timeframe,
  request, first_day, attempts, asked_at, done_at is not null, untracked_since, given_up_at is not null
from initial_backfill
"""
_RECORD_INITIAL: Final = """
insert into initial_backfill (symbol, timeframe, first_day, request, attempts, asked_at)
select *
from unnest(%s::text[], %s::text[], %s::date[], %s::text[], %s::integer[], %s::timestamptz[])
on conflict (symbol, timeframe) do update set
  first_day = excluded.first_day,
  request = excluded.request,
  attempts = excluded.attempts,
  asked_at = excluded.asked_at,
  done_at = null,
  untracked_since = null,
  given_up_at = null
"""
_FINISH_INITIAL: Final = """
update initial_backfill i
set done_at = %s
from unnest(%s::text[], %s::text[]) as w(symbol, timeframe)
where i.symbol = w.symbol and i.timeframe = w.timeframe
"""
_GIVE_UP_INITIAL: Final = """
update initial_backfill i
set given_up_at = %s
from unnest(%s::text[], %s::text[]) as w(symbol, timeframe)
where i.symbol = w.symbol and i.timeframe = w.timeframe
"""
_NOTE_UNTRACKED: Final = """
update initial_backfill i
set untracked_since = %s
where untracked_since is null
  and not exists (
    select from unnest(%s::text[], %s::text[]) as w(symbol, timeframe)
    where i.symbol = w.symbol and i.timeframe = w.timeframe
  )
"""
_FORGET_PAUSE: Final = """
update initial_backfill i
set untracked_since = null
from unnest(%s::text[], %s::text[]) as w(symbol, timeframe)
where i.symbol = w.symbol and i.timeframe = w.timeframe
"""
_REQUESTED_UNTIL: Final = """
with latest as (
  select latest.window_end
  from unnest(%s::text[], %s::text[]) as w(symbol, base),
    lateral (
      select window_end from fetch_log f
      where f.symbol = w.symbol and f.base = w.base and f.status = 'ok'
      order by window_start desc
      limit 1
    ) as latest
)
select min(window_end)
from latest
where window_end >= (select max(window_end) from latest) - %s
"""
_OPEN_GAPS: Final = """
select g.symbol, g.timeframe, g.day, g.gap_start, g.gap_end, g.repairs, g.repair_asked_at
from gap_report g
join tracked_symbols t on t.symbol = g.symbol and g.timeframe = any(t.timeframes)
where g.state = 'open' and t.active
order by g.symbol, g.timeframe, g.gap_start
"""
_RECORD_REPAIRS: Final = """
update gap_report g
set repairs = repairs + 1, repair_asked_at = %s
from unnest(%s::text[], %s::text[], %s::timestamptz[]) as w(symbol, timeframe, gap_start)
where g.symbol = w.symbol and g.timeframe = w.timeframe and g.gap_start = w.gap_start and g.state = 'open'
"""


class OpenGap(NamedTuple):
    """An open gap: the local date and the time of its start, its end, and the number of repairs requested so far."""

    series: Series
    day: date
    start: datetime
    end: datetime
    repairs: int
    asked_at: datetime | None


def read_initial(database: Database) -> dict[Series, History]:
    """Read the history of every series for which one was ever requested, tracked or not."""
    return dict(database.fetch(_INITIAL, row=by_series(History)))


def record_initial(database: Database, requested: Mapping[Series, History]) -> None:
    """Record the histories that are requested now."""
    rows = [
        (
            series.symbol,
            series.timeframe.value,
            history.first_day,
            history.request,
            history.attempts,
            history.requested_at,
        )
        for series, history in sorted(requested.items(), key=lambda item: item[0])
    ]

    def write(session: Session) -> None:
        session.execute(_RECORD_INITIAL, columns(rows))

    if rows:
        database.transaction(write)


def finish_initial(database: Database, series: Iterable[Series], now: datetime) -> None:
    """Record that the initial backfill of each of ``series`` has succeeded."""
    values = [now, *key_columns(series)]
    database.transaction(lambda session: session.execute(_FINISH_INITIAL, values))


def give_up_initial(database: Database, series: Iterable[Series], now: datetime) -> None:
    """Record the alert that the history of each of ``series`` did not arrive."""
    values = [now, *key_columns(series)]
    database.transaction(lambda session: session.execute(_GIVE_UP_INITIAL, values))


def note_tracked(database: Database, series: Iterable[Series], today: date) -> None:
    """Record ``today`` as the date on which the series with an initial backfill that are not in ``series`` were dropped.

    ``series`` are all series that are collected. A series that is collected again keeps its date until its initial
    backfill is requested again or :func:`forget_pause` is called for it.
    """
    values = [today, *key_columns(series)]
    database.transaction(lambda session: session.execute(_NOTE_UNTRACKED, values))


def forget_pause(database: Database, series: Iterable[Series]) -> None:
    """Record that ``series`` are collected again and lack no bars."""
    keys = key_columns(series)
    database.transaction(lambda session: session.execute(_FORGET_PAUSE, keys))


def requested_until(database: Database, series: Iterable[Series]) -> datetime | None:
    """Return the time up to which all bases of ``series`` were fetched: that of the base that lags most.

    A base without an answer of the vendor does not count; None when there is no other. Nor does a base count that lags
    by more than ``CATCH_UP`` behind the most recent one: no daily run would reach what it lacks.
    """
    bases = sorted({(item.symbol, item.timeframe.base.value) for item in series})
    values = [[symbol for symbol, _ in bases], [base for _, base in bases], CATCH_UP]
    (until,) = database.fetch(_REQUESTED_UNTIL, values, row=moment_or_none)
    return until


def open_gaps(database: Database) -> list[OpenGap]:
    """Read the open gaps of the active series, in the order of their key."""

    def gap(symbol: str, timeframe: str, *others: Any) -> OpenGap:  # noqa: ANN401 - the columns in the gap's order
        return OpenGap(Series.of(symbol, timeframe), *others)

    return database.fetch(_OPEN_GAPS, row=gap)


def record_repairs(database: Database, gaps: Iterable[OpenGap], now: datetime) -> None:
    """Record that a repair of ``gaps`` is requested now."""
    rows = [(gap.series.symbol, gap.series.timeframe.value, gap.start) for gap in gaps]

    def write(session: Session) -> None:
        session.execute(_RECORD_REPAIRS, [now, *columns(rows)])

    if rows:
        database.transaction(write)
