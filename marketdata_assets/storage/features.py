"""Features in Postgres, and the marks of series whose features are stale.

Every change to the inputs of features (bars, gaps, splits) marks its series as stale from the first affected bar on, in
the transaction of the change. Every change has a version, which outlives the mark: a computation that was overtaken by
another change does not clear a mark, and does not replace a newer computation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import polars as pl
from psycopg import sql

from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import hull
from marketdata_assets.storage.merge import copy_rows, lock_series
from marketdata_assets.storage.months import FEATURES_1M, ensure_months, months_between
from marketdata_assets.storage.rows import by_series, columns, fetch, key_columns
from marketdata_assets.storage.tables import FEATURES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from marketdata_assets.domain.windows import Window
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

_BEGINNING: Final = datetime(1, 1, 2, tzinfo=UTC)
"""A time before every bar that every time zone can represent."""

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
    """The mark of a series whose features are stale from the bar that opens at ``since`` on, with the reason.

    ``last_bar`` is the open of the last stored bar; None when the series has no bar.
    """

    since: datetime
    reason: str
    version: int
    last_bar: datetime | None


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """A batch of features that is committed in one transaction.

    Attributes:
        features: All features of the windows, as ``FEATURES_SCHEMA``.
        windows: The window of each series in which features are replaced.
        versions: The version of each series' latest change (:func:`read_versions`), read before its bars.
        refused: By series, the open of the first bar in its window whose price is unknown, and the reason: the series
            stays stale from that bar on.
        from_the_first: The series of ``windows`` that begin with the first partition: earlier bars get no features.
    """

    features: pl.DataFrame = field(default_factory=FEATURES.schema.to_frame)
    windows: Mapping[Series, Window] = field(default_factory=dict)
    versions: Mapping[Series, int] = field(default_factory=dict)
    refused: Mapping[Series, tuple[datetime, str]] = field(default_factory=dict)
    from_the_first: Collection[Series] = ()


@dataclass(frozen=True, slots=True)
class ReplaceCounts:
    """The effect of replacing features, in rows."""

    written: int = 0
    deleted: int = 0

    def __add__(self, other: ReplaceCounts) -> ReplaceCounts:
        return ReplaceCounts(self.written + other.written, self.deleted + other.deleted)


def mark_stale(session: Session, since: Mapping[Series, datetime], reason: str) -> None:
    """Mark each series as changed, and as stale from its time on, within a transaction that holds the series' locks."""
    if since:
        # In the order of the key, so that two writers wait for each other instead of deadlocking.
        keys = sorted((series.symbol, series.timeframe.value) for series in since)
        session.execute(_WRITE_CHANGES, columns(keys))
        _write_marks(session, {series: (moment, reason) for series, moment in since.items()})


def _write_marks(session: Session, since: Mapping[Series, tuple[datetime, str]]) -> None:
    """Mark each series as stale from its time on with its reason, as of the series' latest change."""
    rows = sorted((series.symbol, series.timeframe.value, *why) for series, why in since.items())
    if rows:
        session.execute(_WRITE_MARKS, columns(rows))


def read_versions(database: Database, series: Iterable[Series]) -> dict[Series, int]:
    """Return the version of the latest change to the inputs of each series' features.

    A series whose inputs have never changed is left out.
    """
    return dict(database.fetch(_VERSIONS, key_columns(series), row=by_series(int)))


def read_stale(database: Database, series: Iterable[Series] | None = None) -> dict[Series, Stale]:
    """Read the stale marks of ``series``, or of all; a series that is up to date has none."""
    keys = None if series is None else [item.key for item in series]

    return dict(database.fetch(_STALE, {"keys": keys}, row=by_series(Stale)))


def write_features(database: Database, batch: FeatureBatch) -> ReplaceCounts:
    """Replace the features in the windows of ``batch`` in one transaction.

    A series that has changed since its bars were read is marked from the window's start on, as its features are
    already stale. One that has changed and that another process has computed since keeps that process's features.
    The mark of a series moves to the end of its window when no bar lies between the mark and the window and nothing has
    changed since the bars were read. The mark is removed when no bar follows it.

    Raises:
        FrameError: The frame does not fit the table; nothing was sent.
    """
    rows = FEATURES.conform(batch.features)
    minutes = rows.filter(timeframe=Timeframe.M1.value)["time"]
    first, last = minutes.min(), minutes.max()
    if isinstance(first, datetime) and isinstance(last, datetime):
        months = months_between(first, last)
        database.transaction(lambda session: ensure_months(session, months, FEATURES_1M))

    if not batch.windows:
        return ReplaceCounts()

    def work(session: Session) -> ReplaceCounts:
        lock_series(session, batch.windows)
        overtaken, done = _find_overtaken(session, batch)
        windows = {series: window for series, window in batch.windows.items() if series not in done}
        written = rows.filter(
            ~pl.format("{}:{}", "symbol", "timeframe").is_in([series.key for series in done])
        )
        deleted = _delete(session, windows)
        if written.height:
            copy_rows(session.cursor(), sql.Identifier(FEATURES.name), FEATURES.columns, written)
        current = {
            series: version for series, version in batch.versions.items() if series not in overtaken | done
        }
        _move_marks(session, batch, current)
        why = "bars changed while features were computed"
        computed = {Series.of(*key) for key in written.select("symbol", "timeframe").unique().iter_rows()}
        _write_marks(session, {series: (windows[series].start, why) for series in overtaken & computed})
        _write_marks(session, {series: found for series, found in batch.refused.items() if series in windows})
        return ReplaceCounts(written.height, deleted)

    return database.transaction(work)


def _find_overtaken(session: Session, batch: FeatureBatch) -> tuple[set[Series], set[Series]]:
    """Return the series that have changed since their bars were read: those with a stale mark, and those without.

    Another process has computed the features of the latter since the change.
    """
    keys = key_columns(batch.windows)
    now = dict(fetch(session, _VERSIONS, keys, row=by_series(int)))
    changed = {series for series in batch.windows if now.get(series) != batch.versions.get(series)}
    waiting = set(fetch(session, _MARKED, keys, row=Series.of))
    return changed & waiting, changed - waiting


def _delete(session: Session, windows: Mapping[Series, Window]) -> int:
    deleted = 0
    # One timeframe at a time, as a constant, so that the planner prunes the partitions of the others.
    for timeframe in {series.timeframe for series in windows}:
        members = {series: window for series, window in windows.items() if series.timeframe is timeframe}
        around = hull(members.values())
        deleted += session.execute(
            _DELETE,
            [
                [series.symbol for series in members],
                [window.start for window in members.values()],
                [window.end for window in members.values()],
                timeframe.value,
                around.start,
                around.end,
            ],
            prepare=False,
        ).rowcount
    return deleted


def _move_marks(session: Session, batch: FeatureBatch, current: Collection[Series]) -> None:
    """Move or remove the marks of ``current``, the series that have not changed since their bars were read."""
    known = [
        (
            series.symbol,
            series.timeframe.value,
            _BEGINNING if series in batch.from_the_first else window.start,
            window.end,
        )
        for series, window in batch.windows.items()
        if series in current
    ]
    if not known:
        return
    session.execute(_MOVE_MARKS, columns(known))
    session.execute(_REMOVE_MARKS, columns(known))
