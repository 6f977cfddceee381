"""The database's clock, and the rows that a clock far ahead has written into the store."""

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
    """Raise unless this machine's clock agrees with the database's and is later than every recorded request.

    With ``is_repair``, for a command that repairs the records, only the database's clock counts.

    Raises:
        ClockError: The clocks disagree, or a request is recorded at a later time: rows that a command wrote by this
            clock could not be distinguished from correct ones later.
    """
    (stored,) = database.fetch(_TIMES, row=_Times)
    local = datetime.now(UTC)
    require_same_time(local, stored.now, "the database")
    if not is_repair:
        require_not_before(local, stored.latest_request)


class Leftover(NamedTuple):
    """The rows that a clock far ahead has left in one table."""

    table: str
    what: str
    """A description of the rows, for people."""
    rows: int


class _Repair(NamedTuple):
    table: str
    what: str
    condition: LiteralString
    """The condition that picks the rows of the future. ``clock_timestamp()`` is the present."""
    statement: LiteralString
    """The statement that repairs the rows, without its ``where`` and the condition."""


# No market's local date is later than UTC's, so that a day after it is in the future everywhere.
_TODAY: Final[LiteralString] = "(clock_timestamp() at time zone 'UTC')::date"
_REPAIRS: Final = (
    _Repair(
        "coverage",
        "series with future days that are recorded as answered",
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
        "requests for future days",
        "window_start > clock_timestamp()",
        "delete from fetch_log",
    ),
    _Repair(
        "fetch_log",
        "requests recorded at a future time, which get the present as their time",
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
        "greatest(paced_until, blocked_until, (select max(granted) from unnest(grants) as granted))"
        " > clock_timestamp() + interval '2 hours'",
        "delete from rate_limit",
    ),
)


def future_rows(database: Database) -> list[Leftover]:
    """Count the stored rows of future days, by table; tables without such rows are left out."""

    def count(session: Session) -> list[Leftover]:
        found = []
        for repair in _REPAIRS:
            query = f"select count(*) from {repair.table} where {repair.condition}"  # noqa: S608 - texts of this module
            (rows,) = fetch(session, query.encode(), row=int)
            found.append(Leftover(repair.table, repair.what, rows))
        return [leftover for leftover in found if leftover.rows]

    return database.transaction(count)


def remove_future_rows(database: Database) -> list[Leftover]:
    """Remove or repair the rows that :func:`future_rows` counts, in one transaction, and return their numbers."""

    def work(session: Session) -> list[Leftover]:
        found = [
            Leftover(
                repair.table,
                repair.what,
                session.execute(f"{repair.statement} where {repair.condition}".encode()).rowcount,
            )
            for repair in _REPAIRS
        ]
        # A series without covered days has no row in the table.
        session.execute("delete from coverage where isempty(covered)")
        return [leftover for leftover in found if leftover.rows]

    return database.transaction(work)
