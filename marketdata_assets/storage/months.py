"""Monthly partitions of one-minute rows, created before the first row of a month is written.

There is no default partition: Postgres rejects a new partition whose rows are already in the default one.
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
"""``BARS_1M`` and ``FEATURES_1M`` are the tables that are partitioned by month."""

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
    """Return the starts of the UTC months from that of ``first`` to the one after that of ``last``, both inclusive."""
    month = datetime(first.year, first.month, 1, tzinfo=UTC)
    end = next_month(datetime(last.year, last.month, 1, tzinfo=UTC))
    months = []
    while month <= end:
        months.append(month)
        month = next_month(month)
    return months


def ensure_months(session: Session, months: Iterable[datetime], parent: str = BARS_1M) -> list[str]:
    """Create the partitions of ``parent`` for ``months`` that are missing, and return their names.

    A table that is created on its own and then attached locks out neither readers nor writers of the parent.
    """
    wanted = {partition_name(month, parent): month for month in months}
    found = fetch(session, _UNATTACHED, [list(wanted)], row=_Unattached)
    if detached := sorted(table.name for table in found if table.is_table):
        message = (
            f"{detached[0]} is detached from {parent}, so rows of that month cannot be stored: attach it again,"
            " or rename it"
        )
        raise MarketDataError(message)
    if not found:
        return []
    lock(session, parent)
    made = []
    for name in sorted(table.name for table in found):
        # Another writer may have created the partition while this one waited for the lock.
        if fetch(session, _IS_TABLE, [name], row=bool) == [True]:
            continue
        month = wanted[name]
        session.execute(
            sql.SQL("create table {} (like {} including all)").format(
                sql.Identifier(name), sql.Identifier(parent)
            )
        )
        session.execute(
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
    """Return the name of the partition of ``parent`` for ``month``, such as ``ohlcv_1m_2024_03``."""
    return f"{parent}_{month:%Y_%m}"
