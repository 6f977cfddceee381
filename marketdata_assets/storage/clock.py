"""What the store knows of the time, and what a clock that was far ahead has written into it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, LiteralString, NamedTuple

from marketdata_assets.domain.clock import require_not_before, require_same_time
from marketdata_assets.storage.rows import fetch

if TYPE_CHECKING:
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

_TIMES: Final = "select clock_timestamp(), (select max(requested_at) from fetch_log)"


class _Times(NamedTuple):
    now: datetime
    latest_request: datetime | None


def require_right_clock(database: Database, *, is_repair: bool = False) -> None:
    """Do nothing when this machine's clock agrees with the database's and lies behind every request on record.

    A repair of the record (``is_repair``) goes by the database's clock alone.

    Raises:
        ClockError: It does not: what a command would write by it could not be told from the truth later.
    """
    (stored,) = database.fetch(_TIMES, row=_Times)
    local = datetime.now(UTC)
    require_same_time(local, stored.now, "the database")
    if not is_repair:
        require_not_before(local, stored.latest_request)


class Leftover(NamedTuple):
    """What a clock that was ahead has left in one table."""

    table: str
    what: str
    """The rows, in words, for people."""
    rows: int


class _Repair(NamedTuple):
    table: str
    what: str
    condition: LiteralString
    """Which rows are of the future. ``clock_timestamp()`` is the present."""
    statement: LiteralString
    """What mends the rows that the condition picks, which follows it."""


# The local date of no market is later than UTC's, so that a day or a month after it is of the future everywhere.
_TODAY: Final[LiteralString] = "(clock_timestamp() at time zone 'UTC')::date"
_REPAIRS: Final = (
    _Repair(
        "coverage",
        "series with days that are recorded as answered",
        "upper(covered) > clock_timestamp()",
        """
update coverage
set covered = covered - tstzmultirange(tstzrange(clock_timestamp(), null)), updated_at = now()
""",
    ),
    _Repair("gap_report", "gaps", "gap_end > clock_timestamp()", "delete from gap_report"),
    _Repair("completeness_daily", "days", f"day > {_TODAY}", "delete from completeness_daily"),
    _Repair(
        "completeness_history", "rows of the matrix", f"as_of > {_TODAY}", "delete from completeness_history"
    ),
    _Repair(
        "fetch_log",
        "requests about days to come",
        "window_start > clock_timestamp()",
        "delete from fetch_log",
    ),
    _Repair(
        "fetch_log",
        "requests made at a time to come, which get the present as their time",
        "window_start <= clock_timestamp() and greatest(requested_at, finished_at) > clock_timestamp()",
        """
update fetch_log
set requested_at = least(requested_at, clock_timestamp()),
  finished_at = case when finished_at > clock_timestamp() then clock_timestamp() else finished_at end
""",
    ),
    _Repair(
        "rate_limit",
        "keys whose next request would wait for days",
        "greatest(paced_until, blocked_until, (select max(one) from unnest(grants) as one))"
        " > clock_timestamp() + interval '2 hours'",
        "delete from rate_limit",
    ),
)


def future_rows(database: Database) -> list[Leftover]:
    """What the store holds of days that have not come, by table; tables without any are left out."""

    def count(session: Session) -> list[Leftover]:
        found = []
        for repair in _REPAIRS:
            query = f"select count(*) from {repair.table} where {repair.condition}"  # noqa: S608 - texts of this module
            (rows,) = fetch(session, query.encode(), row=int)
            found.append(Leftover(repair.table, repair.what, rows))
        return [leftover for leftover in found if leftover.rows]

    return database.transaction(count)


def remove_future_rows(database: Database) -> list[Leftover]:
    """Take out of the store, in one transaction, what :func:`future_rows` counts; what was taken out."""

    def work(session: Session) -> list[Leftover]:
        found = [
            Leftover(
                repair.table,
                repair.what,
                session.execute(f"{repair.statement} where {repair.condition}".encode()).rowcount,
            )
            for repair in _REPAIRS
        ]
        # Days of which nothing is recorded as answered have no row.
        session.execute("delete from coverage where isempty(covered)")
        return [leftover for leftover in found if leftover.rows]

    return database.transaction(work)
