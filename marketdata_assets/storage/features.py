"""Features in Postgres, and from where on those of a series no longer belong to its bars.

Whoever changes what features are made of (bars, gaps, splits) marks the series as stale from the first bar that is
concerned, in the transaction of the change. Every change has a version, which outlives the mark: a computation that
was overtaken by another change does not clear a mark, and does not take the place of a newer computation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import polars as pl
from psycopg import sql

from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.storage.merge import copy_rows, lock_series
from marketdata_assets.storage.months import FEATURES_1M, ensure_months, months_between
from marketdata_assets.storage.rows import by_series, columns, fetch, key_columns, series_of
from marketdata_assets.storage.tables import FEATURES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from marketdata_assets.domain.windows import Window
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

_BEGINNING: Final = datetime(1, 1, 2, tzinfo=UTC)
"""Before every bar, and representable in every time zone."""

_WRITE_CHANGES: Final = """
insert into feature_changes as c (symbol, timeframe, version)
select symbol, timeframe, nextval('features_stale_version')
from unnest(%s::text[], %s::text[]) as t(symbol, timeframe)
on conflict (symbol, timeframe) do update set version = excluded.version
"""
_WRITE_MARKS: Final = """
insert into features_stale as s (symbol, timeframe, since, reason, version)
select t.symbol, t.timeframe, t.since, t.reason, coalesce(c.version, nextval('features_stale_version'))
from unnest(%s::text[], %s::text[], %s::timestamptz[], %s::text[]) as t(symbol, timeframe, since, reason)
left join feature_changes c on c.symbol = t.symbol and c.timeframe = t.timeframe
on conflict (symbol, timeframe) do update set
  reason = case when excluded.since < s.since then excluded.reason else s.reason end,
  since = least(s.since, excluded.since),
  version = excluded.version,
  changed_at = now()
"""
_VERSIONS: Final = """
select c.symbol, c.timeframe, c.version
from feature_changes c
join unnest(%s::text[], %s::text[]) as w(symbol, timeframe)
  on w.symbol = c.symbol and w.timeframe = c.timeframe
"""
_STALE: Final = """
select s.symbol, s.timeframe, s.since, s.reason, s.version, (
  select o.time from ohlcv o
  where o.symbol = s.symbol and o.timeframe = s.timeframe
  order by o.time desc
  limit 1
)
from features_stale s
where %(keys)s::text[] is null or s.symbol || ':' || s.timeframe = any(%(keys)s)
order by s.symbol, s.timeframe
"""
_MARKED: Final = """
select s.symbol, s.timeframe
from features_stale s
join unnest(%s::text[], %s::text[]) as w(symbol, timeframe)
  on w.symbol = s.symbol and w.timeframe = s.timeframe
"""
_DELETE: Final = """
delete from features f
using unnest(%s::text[], %s::timestamptz[], %s::timestamptz[]) as w(symbol, lo, hi)
where f.symbol = w.symbol and f.time >= w.lo and f.time < w.hi
  and f.timeframe = %s and f.time >= %s and f.time < %s
"""
_MOVE_MARKS: Final = """
update features_stale s
set since = w.hi
from unnest(%s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[]) as w(symbol, timeframe, lo, hi)
where s.symbol = w.symbol and s.timeframe = w.timeframe
  and s.since < w.hi
  and (s.since >= w.lo or not exists (
    select from ohlcv o
    where o.symbol = s.symbol and o.timeframe = s.timeframe and o.time >= s.since and o.time < w.lo
  ))
"""
_REMOVE_MARKS: Final = """
delete from features_stale s
using unnest(%s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[]) as w(symbol, timeframe, lo, hi)
where s.symbol = w.symbol and s.timeframe = w.timeframe
  and s.since >= w.lo and s.since <= w.hi
  and not exists (
    select from ohlcv o
    where o.symbol = s.symbol and o.timeframe = s.timeframe and o.time >= s.since
  )
"""


@dataclass(frozen=True, slots=True)
class Stale:
    """From which bar on the features of a series are out of date, and why.

    ``last_bar`` is the open of the last bar that is stored; None when there is none.
    """

    since: datetime
    reason: str
    version: int
    last_bar: datetime | None


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """What is committed together.

    Attributes:
        features: ``FEATURES_SCHEMA``: all that is to stand in the windows.
        windows: By series: the features in it are replaced.
        versions: The version of each series' latest change (:func:`read_versions`), read before its bars were.
        refused: By series: the open of the first bar in its window whose price is unknown, and why: the series stays
            stale from there on.
        blocked: Partitions that are not recorded, by key, whatever their windows; each with the reason.
        from_the_first: Those of ``windows`` that begin with the first partition: what lies before gets no features.
        shown: What the partition shows that stands for the whole run, given its series, as Dagster's metadata.
    """

    features: pl.DataFrame = field(default_factory=FEATURES.schema.to_frame)
    windows: Mapping[Series, Window] = field(default_factory=dict)
    versions: Mapping[Series, int] = field(default_factory=dict)
    refused: Mapping[Series, tuple[datetime, str]] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)
    from_the_first: Collection[Series] = ()
    shown: Callable[[Series], Mapping[str, object]] | None = None


@dataclass(frozen=True, slots=True)
class ReplaceCounts:
    """What replacing did, in rows."""

    written: int = 0
    deleted: int = 0

    def __add__(self, other: ReplaceCounts) -> ReplaceCounts:
        return ReplaceCounts(self.written + other.written, self.deleted + other.deleted)


def mark_stale(connection: Session, since: Mapping[Series, datetime], reason: str) -> None:
    """Mark each series as changed and stale from a moment on, within a transaction that holds their locks."""
    if since:
        # In the order of the key, so that two writers wait for each other instead of deadlocking.
        keys = sorted((one.symbol, one.timeframe.value) for one in since)
        connection.execute(_WRITE_CHANGES, columns(keys))
        _mark(connection, {one: (moment, reason) for one, moment in since.items()})


def _mark(connection: Session, since: Mapping[Series, tuple[datetime, str]]) -> None:
    """Mark each series as stale from a moment on for a reason, as of its latest change."""
    rows = sorted((one.symbol, one.timeframe.value, *why) for one, why in since.items())
    if rows:
        connection.execute(_WRITE_MARKS, columns(rows))


def read_versions(database: Database, series: Iterable[Series]) -> dict[Series, int]:
    """Return the version of the latest change of what the features of each of ``series`` are computed from.

    A series of which nothing has changed yet has none.
    """
    return dict(database.fetch(_VERSIONS, key_columns(series), row=by_series(int)))


def read_stale(database: Database, series: Iterable[Series] | None = None) -> dict[Series, Stale]:
    """The marks of ``series``, or of all; a series that is up to date has none."""
    keys = None if series is None else [one.key for one in series]

    return dict(database.fetch(_STALE, {"keys": keys}, row=by_series(Stale)))


def write_features(database: Database, batch: FeatureBatch) -> ReplaceCounts:
    """Replace the features in the windows of ``batch`` in one transaction, or nothing of them.

    A series that was changed since its bars were read is marked from the window's start on: what was written is old.
    One that was changed and computed by another process since is left as that process wrote it.
    The mark of a series moves behind its window when no bar lies between them and nothing has changed since the
    bars were read; it goes when no bar is left behind it.

    Raises:
        FrameError: The frame does not fit the table; nothing was sent.
    """
    rows = FEATURES.conform(batch.features)
    minutes = rows.filter(timeframe=Timeframe.M1.value)["time"]
    first, last = minutes.min(), minutes.max()
    if isinstance(first, datetime) and isinstance(last, datetime):
        months = months_between(first, last)
        database.transaction(lambda connection: ensure_months(connection, months, FEATURES_1M))

    if not batch.windows:
        return ReplaceCounts()

    def work(connection: Session) -> ReplaceCounts:
        lock_series(connection, batch.windows)
        overtaken, done = _overtaken(connection, batch)
        windows = {one: window for one, window in batch.windows.items() if one not in done}
        written = rows.filter(~pl.format("{}:{}", "symbol", "timeframe").is_in([one.key for one in done]))
        deleted = _delete(connection, windows)
        if written.height:
            copy_rows(connection.cursor(), sql.Identifier(FEATURES.name), FEATURES.columns, written)
        current = {one: version for one, version in batch.versions.items() if one not in overtaken | done}
        _move_marks(connection, batch, current)
        why = "bars changed while features were computed"
        computed = {
            Series(symbol, Timeframe(timeframe))
            for symbol, timeframe in written.select("symbol", "timeframe").unique().iter_rows()
        }
        _mark(connection, {one: (windows[one].start, why) for one in overtaken & computed})
        _mark(connection, {one: found for one, found in batch.refused.items() if one in windows})
        return ReplaceCounts(written.height, deleted)

    return database.transaction(work)


def _overtaken(connection: Session, batch: FeatureBatch) -> tuple[set[Series], set[Series]]:
    """Return the series that were changed since their bars were read, and those of them without a mark.

    Of the latter another process has computed features since the change.
    """
    keys = key_columns(batch.windows)
    now = dict(fetch(connection, _VERSIONS, keys, row=by_series(int)))
    changed = {one for one in batch.windows if now.get(one) != batch.versions.get(one)}
    waiting = set(fetch(connection, _MARKED, keys, row=series_of))
    return changed & waiting, changed - waiting


def _delete(connection: Session, windows: Mapping[Series, Window]) -> int:
    deleted = 0
    # A timeframe at a time, as a constant: the planner looks into no other partition.
    for timeframe in {one.timeframe for one in windows}:
        members = {one: window for one, window in windows.items() if one.timeframe is timeframe}
        deleted += connection.execute(
            _DELETE,
            [
                [one.symbol for one in members],
                [window.start for window in members.values()],
                [window.end for window in members.values()],
                timeframe.value,
                min(window.start for window in members.values()),
                max(window.end for window in members.values()),
            ],
            prepare=False,
        ).rowcount
    return deleted


def _move_marks(connection: Session, batch: FeatureBatch, current: Collection[Series]) -> None:
    """Move the marks of ``current``, the series of which nothing has changed since their bars were read."""
    known = [
        (
            one.symbol,
            one.timeframe.value,
            _BEGINNING if one in batch.from_the_first else window.start,
            window.end,
        )
        for one, window in batch.windows.items()
        if one in current
    ]
    if not known:
        return
    connection.execute(_MOVE_MARKS, columns(known))
    connection.execute(_REMOVE_MARKS, columns(known))
