"""Monthly partitions of one-minute rows, made before the first row of a month is written.

There is no default partition: Postgres refuses a new partition whose rows already sit in it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from psycopg import sql

from marketdata_assets.domain.errors import MarketDataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg import Connection

LOCK_SPACE: Final = 0x6D64
"""Seed of the hashes that advisory locks are made of: keeps them apart from other users of the database."""

BARS_1M: Final = "ohlcv_1m"
FEATURES_1M: Final = "features_1m"
"""The tables that are divided by month."""


def months_between(first: datetime, last: datetime) -> list[datetime]:
    """The UTC months (as their first moments) from that of ``first`` to the one after that of ``last``."""
    month = datetime(first.year, first.month, 1, tzinfo=UTC)
    end = _next(datetime(last.year, last.month, 1, tzinfo=UTC))
    months = []
    while month <= end:
        months.append(month)
        month = _next(month)
    return months


def ensure_months(
    connection: Connection[tuple[object, ...]], months: Iterable[datetime], parent: str = BARS_1M
) -> list[str]:
    """Make the partitions of ``parent`` for ``months`` that are missing; returns their names.

    Attaching a table that was made on its own locks neither readers nor writers of the parent out.
    """
    wanted = {partition_name(month, parent): month for month in months}
    found = connection.execute(
        "select name, c.oid is not null as exists from unnest(%s::text[]) as wanted(name)"
        " left join pg_class c on c.oid = to_regclass('public.' || name)"
        " where c.relispartition is not true",
        [list(wanted)],
    ).fetchall()
    if detached := sorted(str(name) for name, exists in found if exists):
        message = (
            f"{detached[0]} is detached from {parent}, so rows of that month have no place: attach it again,"
            " or rename it"
        )
        raise MarketDataError(message)
    if not found:
        return []
    connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, %s))", [parent, LOCK_SPACE])
    made = []
    for name in sorted(str(row[0]) for row in found):
        # Another writer may have made it while this one waited for the lock.
        if connection.execute("select to_regclass('public.' || %s)", [name]).fetchone() != (None,):
            continue
        month = wanted[name]
        connection.execute(
            sql.SQL("create table {} (like {} including all)").format(
                sql.Identifier(name), sql.Identifier(parent)
            )
        )
        connection.execute(
            sql.SQL("alter table {} attach partition {} for values from ({}) to ({})").format(
                sql.Identifier(parent),
                sql.Identifier(name),
                sql.Literal(month.isoformat()),
                sql.Literal(_next(month).isoformat()),
            )
        )
        made.append(name)
    return made


def partition_name(month: datetime, parent: str = BARS_1M) -> str:
    """``ohlcv_1m_YYYY_MM``."""
    return f"{parent}_{month:%Y_%m}"


def _next(month: datetime) -> datetime:
    return datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)
