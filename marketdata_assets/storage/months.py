"""Monthly partitions of one-minute rows, made before the first row of a month is written.

There is no default partition: Postgres refuses a new partition whose rows already sit in it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from psycopg import sql

from marketdata_assets.domain.calendar import next_month
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.storage.locks import lock
from marketdata_assets.storage.rows import fetch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from marketdata_assets.storage.rows import Session

BARS_1M: Final = "ohlcv_1m"
FEATURES_1M: Final = "features_1m"
"""The tables that are divided by month."""

_UNATTACHED: Final = """
select name, c.oid is not null
from unnest(%s::text[]) as wanted(name)
left join pg_class c on c.oid = to_regclass('public.' || name)
where c.relispartition is not true
"""
_IS_TABLE: Final = "select to_regclass('public.' || %s) is not null"


class _Unattached(NamedTuple):
    name: str
    is_table: bool


def months_between(first: datetime, last: datetime) -> list[datetime]:
    """The UTC months (as their first moments) from that of ``first`` to the one after that of ``last``."""
    month = datetime(first.year, first.month, 1, tzinfo=UTC)
    end = next_month(datetime(last.year, last.month, 1, tzinfo=UTC))
    months = []
    while month <= end:
        months.append(month)
        month = next_month(month)
    return months


def ensure_months(connection: Session, months: Iterable[datetime], parent: str = BARS_1M) -> list[str]:
    """Make the partitions of ``parent`` for ``months`` that are missing; returns their names.

    Attaching a table that was made on its own locks neither readers nor writers of the parent out.
    """
    wanted = {partition_name(month, parent): month for month in months}
    found = fetch(connection, _UNATTACHED, [list(wanted)], row=_Unattached)
    if detached := sorted(table.name for table in found if table.is_table):
        message = (
            f"{detached[0]} is detached from {parent}, so rows of that month have no place: attach it again,"
            " or rename it"
        )
        raise MarketDataError(message)
    if not found:
        return []
    lock(connection, parent)
    made = []
    for name in sorted(table.name for table in found):
        # Another writer may have made it while this one waited for the lock.
        if fetch(connection, _IS_TABLE, [name], row=bool) == [True]:
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
                sql.Literal(next_month(month).isoformat()),
            )
        )
        made.append(name)
    return made


def partition_name(month: datetime, parent: str = BARS_1M) -> str:
    """``ohlcv_1m_YYYY_MM``."""
    return f"{parent}_{month:%Y_%m}"
