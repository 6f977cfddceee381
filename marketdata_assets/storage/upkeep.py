"""What the platform has asked for by itself: initial backfills, repairs of gaps, and how far the vendor was asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, NamedTuple

from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.upkeep import CATCH_UP
from marketdata_assets.storage.values import moment_or_none

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from psycopg import Connection

    from marketdata_assets.storage.connection import Database


@dataclass(frozen=True, slots=True)
class InitialBackfill:
    """The initial backfill of a series, as far as it has come. ``done_at`` is None until its bars are there."""

    first_day: date
    request: str
    attempts: int
    asked_at: datetime
    done_at: datetime | None = None
    untracked_since: date | None = None
    given_up_at: datetime | None = None


class OpenGap(NamedTuple):
    """An open gap: the local date and the moment of its start, its end, and how often a repair was asked for."""

    series: Series
    day: date
    start: datetime
    end: datetime
    repairs: int
    asked_at: datetime | None


def read_initial(database: Database) -> dict[Series, InitialBackfill]:
    """Every series that was ever given its initial backfill, tracked or not."""

    def read(connection: Connection[tuple[object, ...]]) -> dict[Series, InitialBackfill]:
        rows = connection.execute(
            "select symbol, timeframe, first_day, request, attempts, asked_at, done_at, untracked_since,"
            "  given_up_at from initial_backfill"
        ).fetchall()
        return {
            Series(str(symbol), Timeframe(str(timeframe))): InitialBackfill(
                first,
                str(request),
                int(str(attempts)),
                asked.astimezone(UTC),
                moment_or_none(done),
                _day(untracked),
                moment_or_none(given_up),
            )
            for symbol, timeframe, first, request, attempts, asked, done, untracked, given_up in rows
            if isinstance(first, date) and isinstance(asked, datetime)
        }

    return database.transaction(read)


def ask_initial(database: Database, asked: Mapping[Series, InitialBackfill]) -> None:
    """Write down the initial backfills that are asked for now."""
    rows = [
        (one.symbol, one.timeframe.value, row.first_day, row.request, row.attempts, row.asked_at)
        for one, row in sorted(asked.items())
    ]

    def write(connection: Connection[tuple[object, ...]]) -> None:
        connection.execute(
            "insert into initial_backfill (symbol, timeframe, first_day, request, attempts, asked_at)"
            " select * from unnest(%s::text[], %s::text[], %s::date[], %s::text[], %s::integer[], %s::timestamptz[])"
            " on conflict (symbol, timeframe) do update set first_day = excluded.first_day,"
            "  request = excluded.request, attempts = excluded.attempts, asked_at = excluded.asked_at,"
            "  done_at = null, untracked_since = null, given_up_at = null",
            [list(column) for column in zip(*rows, strict=True)],
        )

    if rows:
        database.transaction(write)


def finish_initial(database: Database, series: Iterable[Series], now: datetime) -> None:
    """Write down that the initial backfill of each of ``series`` has ended well."""
    keys = _columns(series)
    database.transaction(
        lambda connection: connection.execute(
            "update initial_backfill i set done_at = %s from unnest(%s::text[], %s::text[]) as w(symbol, timeframe)"
            " where i.symbol = w.symbol and i.timeframe = w.timeframe",
            [now, *keys],
        )
    )


def give_up_initial(database: Database, series: Iterable[Series], now: datetime) -> None:
    """Write down that people were told that the history of each of ``series`` did not come."""
    keys = _columns(series)
    database.transaction(
        lambda connection: connection.execute(
            "update initial_backfill i set given_up_at = %s from unnest(%s::text[], %s::text[]) as w(symbol, timeframe)"
            " where i.symbol = w.symbol and i.timeframe = w.timeframe",
            [now, *keys],
        )
    )


def note_tracked(database: Database, series: Iterable[Series], today: date) -> None:
    """Write down which initial backfills are of a series that is not among those collected any more.

    ``series`` are all that are collected. One that is collected again keeps its date until it is asked for or
    :func:`forget_pause`.
    """
    database.transaction(
        lambda connection: connection.execute(
            "update initial_backfill i set untracked_since = %s where untracked_since is null"
            " and not exists (select from unnest(%s::text[], %s::text[]) as w(symbol, timeframe)"
            " where i.symbol = w.symbol and i.timeframe = w.timeframe)",
            [today, *_columns(series)],
        )
    )


def forget_pause(database: Database, series: Iterable[Series]) -> None:
    """Write down that ``series`` are collected again and lack nothing."""
    keys = _columns(series)
    database.transaction(
        lambda connection: connection.execute(
            "update initial_backfill i set untracked_since = null from unnest(%s::text[], %s::text[]) as w(symbol, timeframe)"
            " where i.symbol = w.symbol and i.timeframe = w.timeframe",
            keys,
        )
    )


def asked_until(database: Database, series: Iterable[Series]) -> datetime | None:
    """Up to where the vendor was asked about the bases of ``series``: of the one that lags most.

    A base that the vendor never answered about does not count; None when there is no other. Nor does one that lags
    by more than ``CATCH_UP`` behind the one that is furthest: no night would reach what it lacks.
    """
    bases = sorted({(one.symbol, one.timeframe.base.value) for one in series})

    def read(connection: Connection[tuple[object, ...]]) -> datetime | None:
        row = connection.execute(
            "with latest as (select latest.window_end from unnest(%s::text[], %s::text[]) as w(symbol, base), lateral"
            " (select window_end from fetch_log f where f.symbol = w.symbol and f.base = w.base"
            "  and f.status = 'ok' order by window_start desc limit 1) as latest)"
            " select min(window_end) from latest where window_end >= (select max(window_end) from latest) - %s",
            [[symbol for symbol, _ in bases], [base for _, base in bases], CATCH_UP],
        ).fetchone()
        return moment_or_none(row[0]) if row else None

    return database.transaction(read)


def open_gaps(database: Database) -> list[OpenGap]:
    """The open gaps of what is collected, in the order of their key."""

    def read(connection: Connection[tuple[object, ...]]) -> list[OpenGap]:
        rows = connection.execute(
            "select g.symbol, g.timeframe, g.day, g.gap_start, g.gap_end, g.repairs, g.repair_asked_at"
            " from gap_report g join tracked_symbols t on t.symbol = g.symbol and g.timeframe = any(t.timeframes)"
            " where g.state = 'open' and t.active order by g.symbol, g.timeframe, g.gap_start"
        ).fetchall()
        return [
            OpenGap(
                Series(str(symbol), Timeframe(str(timeframe))),
                day,
                start.astimezone(UTC),
                end.astimezone(UTC),
                int(str(repairs)),
                moment_or_none(asked),
            )
            for symbol, timeframe, day, start, end, repairs, asked in rows
            if isinstance(day, date) and isinstance(start, datetime) and isinstance(end, datetime)
        ]

    return database.transaction(read)


def ask_repairs(database: Database, gaps: Iterable[OpenGap], now: datetime) -> None:
    """Write down that a repair of ``gaps`` is asked for now."""
    rows = [(gap.series.symbol, gap.series.timeframe.value, gap.start) for gap in gaps]

    def write(connection: Connection[tuple[object, ...]]) -> None:
        connection.execute(
            "update gap_report g set repairs = repairs + 1, repair_asked_at = %s"
            " from unnest(%s::text[], %s::text[], %s::timestamptz[]) as w(symbol, timeframe, gap_start)"
            " where g.symbol = w.symbol and g.timeframe = w.timeframe and g.gap_start = w.gap_start"
            " and g.state = 'open'",
            [now, *(list(column) for column in zip(*rows, strict=True))],
        )

    if rows:
        database.transaction(write)


def _columns(series: Iterable[Series]) -> list[list[str]]:
    wanted = list(series)
    return [[one.symbol for one in wanted], [one.timeframe.value for one in wanted]]


def _day(value: object) -> date | None:
    return value if isinstance(value, date) else None
