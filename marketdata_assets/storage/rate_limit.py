"""The table ``rate_limit``: one row per API key, in which processes reserve the time of their next request.

Belongs here: the statements, and the connections on which they run. Does not belong here: the wait of a caller, and
going on while the database does not answer (``polygon.limiter``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, LiteralString, NamedTuple, TypeVar

import psycopg
from psycopg.rows import args_row

from marketdata_assets.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

T = TypeVar("T")

_CHANNEL: Final = "marketdata_rate_limit"
_LISTEN: Final = "listen marketdata_rate_limit"

# One statement, evaluated under the row's lock (ON CONFLICT sees the newest row, not the snapshot's):
#   ring   the grants, the oldest first, at least %(requests)s of them
#   slot   the earliest time that the ring, the pace and a penalty allow
# A ring never shrinks: a smaller limit goes fewer positions back, and a later, larger one still has all grants.
_RESERVE: Final[LiteralString] = """
insert into rate_limit as kept (bucket, grants, position, paced_until)
values (
    %(bucket)s,
    array_fill('epoch'::timestamptz, array[%(requests)s::int - 1]) || clock_timestamp(),
    %(requests)s::int,
    clock_timestamp() + %(spacing)s::float8 * interval '1 second'
)
on conflict (bucket) do update set (grants, position, paced_until) = (
    select
        slot.ring[: slot.next_position - 1] || slot.granted || slot.ring[slot.next_position + 1 :],
        slot.next_position,
        -- A caller that the ring or a penalty delays leaves no allowance to those behind it: no burst follows.
        case when slot.granted > slot.free
            then slot.granted + (%(allowance)s::float8 + 1) * %(spacing)s::float8 * interval '1 second'
            else greatest(kept.paced_until, slot.granted) + %(spacing)s::float8 * interval '1 second'
        end
    from (
        select
            turn.ring,
            turn.latest %% cardinality(turn.ring) + 1 as next_position,
            free.free,
            greatest(
                free.free,
                kept.blocked_until,
                turn.ring[turn.latest],
                turn.ring[
                    (turn.latest - %(requests)s::int + cardinality(turn.ring)) %% cardinality(turn.ring) + 1
                ] + %(hold)s::float8 * interval '1 second'
            ) as granted
        from (
            select
                case when cardinality(kept.grants) >= %(requests)s::int then kept.grants
                    else array_fill(
                            'epoch'::timestamptz, array[%(requests)s::int - cardinality(kept.grants)]
                        ) || kept.grants[kept.position + 1 :] || kept.grants[: kept.position]
                end as ring,
                case when cardinality(kept.grants) >= %(requests)s::int then kept.position
                    else %(requests)s::int
                end as latest
        ) as turn,
        lateral (
            select greatest(
                clock_timestamp(),
                kept.paced_until - %(allowance)s::float8 * %(spacing)s::float8 * interval '1 second'
            ) as free
        ) as free
    ) as slot
)
returning
    extract(epoch from grants[position])::float8,
    extract(epoch from grants[position] - clock_timestamp())::float8,
    coalesce(blocked_until > clock_timestamp(), false)
"""

_PENALISE: Final = """
with blocked as (
    insert into rate_limit as kept (bucket, grants, position, paced_until, blocked_until)
    values (%(bucket)s, array['epoch'::timestamptz], 1, 'epoch',
            clock_timestamp() + %(seconds)s::float8 * interval '1 second')
    on conflict (bucket) do update set blocked_until = greatest(kept.blocked_until, excluded.blocked_until)
    returning extract(epoch from blocked_until)::float8 as until
)
select until, pg_notify(%(channel)s, %(bucket)s || ' ' || until) from blocked
"""

_BLOCKED: Final = "select extract(epoch from blocked_until)::float8 from rate_limit where bucket = %(bucket)s"


class Reservation(NamedTuple):
    """The parameters of a reservation under a limit of ``requests`` in a period."""

    bucket: str
    """The key of the row."""
    requests: int
    allowance: int
    """The number of grants that may come at once after a pause."""
    spacing: float
    """Seconds from one grant to the next, on average."""
    hold: float
    """Seconds for which a grant counts against the limit."""


class Grant(NamedTuple):
    """A slot that was reserved."""

    granted: float
    """Epoch seconds of the database's clock."""
    wait: float
    """Seconds until ``granted``."""
    is_penalised: bool
    """Whether a penalty lasts at present."""


async def reserve(connection: psycopg.AsyncConnection, reservation: Reservation) -> Grant:
    """Reserve the next slot, and return it."""
    return await _fetch_one(connection, _RESERVE, reservation._asdict(), Grant)


async def penalise(connection: psycopg.AsyncConnection, bucket: str, seconds: float) -> float:
    """Block all slots for ``seconds`` from now, and notify the listeners; return the end in epoch seconds."""
    values = {"bucket": bucket, "channel": _CHANNEL, "seconds": seconds}
    return await _fetch_one(connection, _PENALISE, values, _first)


async def read_penalty(connection: psycopg.AsyncConnection, bucket: str) -> float:
    """Return the end of the latest penalty in epoch seconds."""
    return await _fetch_one(connection, _BLOCKED, {"bucket": bucket}, _first)


async def listen(connection: psycopg.AsyncConnection) -> None:
    """Have penalties reported to ``connection`` from now on."""
    await connection.execute(_LISTEN)


async def penalties(connection: psycopg.AsyncConnection, bucket: str) -> AsyncIterator[float]:
    """Iterate over the ends of penalties of ``bucket``, in epoch seconds, as they are reported."""
    async for notice in connection.notifies():
        penalised, _, until = notice.payload.partition(" ")
        if penalised == bucket:
            yield float(until)


async def _fetch_one(
    connection: psycopg.AsyncConnection,
    statement: LiteralString,
    values: dict[str, object],
    row: Callable[..., T],
) -> T:
    async with connection.cursor(row_factory=args_row(row)) as cursor:
        await cursor.execute(statement, values)
        return (await cursor.fetchall())[0]


def _first(value: float, *_: object) -> float:
    return value


async def connect_limiter(database_url: str) -> psycopg.AsyncConnection:
    """Open a connection for reservations or for listening, in autocommit."""
    try:
        return await psycopg.AsyncConnection.connect(
            database_url,
            autocommit=True,
            connect_timeout=10,
            application_name="marketdata rate limit",
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
        )
    except psycopg.ProgrammingError:
        # The message of libpq quotes the text that it cannot parse, password included.
        message = "DATABASE_URL is malformed: write postgresql://user:password@host:port/database"
        raise ConfigurationError(message) from None
