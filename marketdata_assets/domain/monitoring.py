"""Monitoring: the concerns that facts about the vendor, the store and the runs raise, the worst first.

A concern is identified by its topic and its subject, and lasts for an *episode*: from the first reading that finds it to
the last one, and for :data:`QUIET` after that, so that a concern that comes and goes is reported once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.wording import counted, join_first, name_first, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from marketdata_assets.domain.holes import LostGaps

RECENT: Final = timedelta(minutes=15)
"""The time over which the share of refused requests is taken."""
RATE_LIMITED_SHARE: Final = 0.05
"""The largest share of recent requests that may be refused with 429: above it, the key has another user or the limit is
too high."""
RATE_LIMITED_LEAST: Final = 3
"""The fewest refusals that raise a concern: one on a quiet day is not a rate."""
SLOW_QUERY: Final = timedelta(milliseconds=500)
"""The time above which a query is slow."""
DISK_SHARE: Final = 0.8
"""The share of the disk in use above which it is a concern."""
BACKFILL_MEMORY: Final = timedelta(days=1)
"""How long a failed request for minutes that was not repeated is a concern."""
DAEMON_SILENCE: Final = timedelta(minutes=5)
"""The time without a heartbeat of Dagster's daemon after which it counts as stopped."""
HAND_MEMORY: Final = timedelta(days=7)
"""How long a failed run that was started by hand in the UI is a concern: nothing starts it again."""
QUIET: Final = timedelta(hours=1)
"""A concern that returns after a shorter absence belongs to the same episode."""

_NAMED: Final = 5
_SYMBOLS_NAMED: Final = 20
_WIDTH: Final = 160


class Topic(StrEnum):
    """The topic of a concern, in order of urgency."""

    DISK = "disk"
    RATE_LIMIT = "rate_limit"
    DAEMON = "daemon"
    FAILED_RUN = "failed_run"
    MINUTE_BACKFILL = "minute_backfill"
    STALE = "stale"
    SLOW_QUERY = "slow_query"
    GAPS = "gaps"


_ORDER: Final = {topic: index for index, topic in enumerate(Topic)}


@dataclass(frozen=True, slots=True)
class VendorUse:
    """Requests to the vendor for bars, by UTC day and month; those for corporate actions, a few a day, are not counted.

    Attributes:
        per_minute: The plan's limit (POLYGON_REQUESTS_PER_MINUTE).
        requests_today: Requests since midnight UTC, repeated attempts included.
        refused_today: Requests of today that were refused with 429.
        failed_today: Windows that were requested today and not answered completely, whatever the reason.
        requests_month: Requests since the first of the month.
        refused_month: Requests of the month that were refused with 429.
        busiest: The minute of today with the most requests; None without a request.
        busiest_requests: The number of requests in that minute.
        requests_recent: Requests in the last 15 minutes.
        refused_recent: Requests of the last 15 minutes that were refused with 429.
        blocked_until: When the Retry-After of a 429, for which every process waits, ends; None without one.
    """

    per_minute: int
    requests_today: int = 0
    refused_today: int = 0
    failed_today: int = 0
    requests_month: int = 0
    refused_month: int = 0
    busiest: datetime | None = None
    busiest_requests: int = 0
    requests_recent: int = 0
    refused_recent: int = 0
    blocked_until: datetime | None = None

    def share_of_plan(self, now: datetime) -> float:
        """Return today's requests as a share of those that the plan allows from midnight UTC to ``now``, 0 to 1."""
        minutes = max(1.0, now.hour * 60 + now.minute + now.second / 60)
        return self.requests_today / (minutes * self.per_minute)


@dataclass(frozen=True, slots=True)
class TableSize:
    """The size of a table, its indexes and partitions included.

    Attributes:
        table: The name of the table.
        size: Bytes on disk.
        rows: The number of rows, exact for ``ohlcv`` and an estimate for others; None without an estimate of Postgres.
        rows_a_day: New rows per day, the mean of the last seven days; None where it cannot be counted.
    """

    table: str
    size: int
    rows: int | None
    rows_a_day: float | None = None

    @property
    def bytes_a_day(self) -> float | None:
        """The bytes that the new rows of a day take, at the mean size of a row; None when that is not known."""
        return self.rows_a_day * self.size / self.rows if self.rows_a_day is not None and self.rows else None


@dataclass(frozen=True, slots=True)
class SlowQuery:
    """A statement that takes longer than :data:`SLOW_QUERY`; ``calls`` is None while it is running."""

    text: str
    milliseconds: float
    application: str | None = None
    calls: int | None = None


@dataclass(frozen=True, slots=True)
class SlowQueries:
    """The slow queries, the slowest first, and where Postgres lists them.

    ``source`` is ``pg_stat_statements`` (means over all calls) or ``pg_stat_activity`` (queries that run at this moment).
    """

    source: str
    queries: tuple[SlowQuery, ...] = ()


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk that the embedded server writes to, in bytes."""

    path: str
    total: int
    used: int

    @property
    def share(self) -> float:
        """The share of the disk in use, 0 to 1."""
        return self.used / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class FailedFetch:
    """A request for minutes of ``symbol`` that failed ``at`` a time (UTC) and was not answered since."""

    symbol: str
    first: datetime
    end: datetime
    error: str
    at: datetime


@dataclass(frozen=True, slots=True)
class StaleSeries:
    """A series that is not fresh (:mod:`~marketdata_assets.domain.freshness`), with the reason in a sentence."""

    series: str
    reason: str
    late: int | None = None


@dataclass(frozen=True, slots=True)
class JobRun:
    """The latest run of a job. Times are UTC; ``started`` is None before the run starts, ``ended`` before it ends.

    ``by_hand`` is true for the job that materializes assets from the UI. ``gap_stays`` is true for a repair that did its
    work and failed only because a check reports bars that are still missing.
    """

    job: str
    run_id: str
    status: str
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    purpose: str | None = None
    by_hand: bool = False
    gap_stays: bool = False

    @property
    def has_failed(self) -> bool:
        """Whether the run failed."""
        return self.status == "FAILURE"

    def is_concern(self, now: datetime) -> bool:
        """Whether the run failed in a way that needs attention at ``now``."""
        is_forgotten = self.by_hand and now - (self.ended or self.created) > HAND_MEMORY
        return self.has_failed and not self.gap_stays and not is_forgotten


@dataclass(frozen=True, slots=True)
class NextTick:
    """The next tick of a schedule that is on, UTC."""

    schedule: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs on Dagster's instance: the latest run of each job, newest first, and the next ticks, soonest first.

    ``daemon_seen`` is the last heartbeat of the daemon, UTC; None when it never ran.
    """

    latest: tuple[JobRun, ...] = ()
    ticks: tuple[NextTick, ...] = ()
    daemon_seen: datetime | None = None

    def is_daemon_alive(self, now: datetime) -> bool:
        """Whether the daemon had a heartbeat within :data:`DAEMON_SILENCE` before ``now``."""
        return self.daemon_seen is not None and now - self.daemon_seen <= DAEMON_SILENCE


@dataclass(frozen=True, slots=True)
class Vitals:
    """The facts at one moment; a fact that was not read is empty or None."""

    vendor: VendorUse
    stale: tuple[StaleSeries, ...] = ()
    slow: SlowQueries = SlowQueries("pg_stat_activity")
    disk: Disk | None = None
    failed_fetches: tuple[FailedFetch, ...] = ()
    gaps: LostGaps | None = None
    runs: Runs | None = None


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that needs attention. ``text`` says what is wrong with ``subject``, in one line."""

    topic: Topic
    subject: str
    text: str
    reason: str | None = None
    """A reason that several subjects can share: a heading then names them together."""
    days: tuple[date, date] | None = None
    """The first and the last day that the concern is about."""

    @property
    def key(self) -> str:
        """The identity of the concern: its topic and its subject."""
        return f"{self.topic}:{self.subject}"


@dataclass(frozen=True, slots=True)
class Heading:
    """The concerns of a topic in a few words: what happened, to which subjects, and what to do.

    ``remedy`` is a command that can be pasted, or a sentence where no command helps.
    """

    topic: Topic
    title: str
    text: str
    remedy: str
    count: int


_REMEDIES: Final = {
    Topic.DISK: "marketdata prune --dry-run",
    Topic.RATE_LIMIT: "lower POLYGON_REQUESTS_PER_MINUTE to the plan's limit, or stop what else uses the key",
    Topic.DAEMON: "marketdata up",
    Topic.FAILED_RUN: "marketdata up",
    Topic.SLOW_QUERY: "see docs/operating.md",
}
"""The remedies that do not depend on the concerns; :func:`_choose_remedy` makes the others."""


def concerns(vitals: Vitals, now: datetime) -> list[Concern]:
    """Return what needs attention at ``now``, in the order of :class:`Topic`."""
    found = [
        *_disk_concerns(vitals.disk),
        *_rate_concerns(vitals.vendor),
        *_run_concerns(vitals.runs, now),
        *_fetch_concerns(vitals.failed_fetches, now),
        *(_stale_concern(series, now.date()) for series in vitals.stale),
        *_query_concerns(vitals.slow),
        *_gap_concerns(vitals.gaps),
    ]
    return sorted(found, key=lambda concern: _ORDER[concern.topic])


def headings(found: Iterable[Concern]) -> list[Heading]:
    """Return a heading for each topic of ``found``, in order of appearance; each names up to five subjects."""
    by_topic: dict[Topic, list[Concern]] = {}
    for concern in found:
        by_topic.setdefault(concern.topic, []).append(concern)
    return [_write_heading(topic, members) for topic, members in by_topic.items()]


def episodes(
    known: Mapping[str, datetime | None], found: Sequence[Concern], now: datetime
) -> tuple[list[Concern], dict[str, datetime | None]]:
    """Return those of ``found`` whose episode begins, and the episodes that last.

    An episode is a concern's key with the time since which the concern is absent (UTC), or None while it is present.
    ``known`` holds the episodes that the previous call returned: these were reported. A concern that returns after it was
    absent for :data:`QUIET` begins a new episode; a time without a call ends none.
    """
    lasting = {key: gone for key, gone in known.items() if gone is None or now - gone < QUIET}
    new = [concern for concern in found if concern.key not in lasting]
    absent = {key: gone or now for key, gone in lasting.items()}
    return new, {**absent, **dict.fromkeys(concern.key for concern in found)}


def _disk_concerns(disk: Disk | None) -> Iterable[Concern]:
    if disk is not None and disk.share > DISK_SHARE:
        free = (disk.total - disk.used) / 1e9
        yield Concern(Topic.DISK, disk.path, f"{disk.path}: {disk.share:.0%} in use, {free:,.1f} GB free")


def _rate_concerns(vendor: VendorUse) -> Iterable[Concern]:
    refused = vendor.refused_recent
    if refused >= RATE_LIMITED_LEAST and refused > RATE_LIMITED_SHARE * vendor.requests_recent:
        minutes = RECENT // timedelta(minutes=1)
        text = f"{refused:,} of {vendor.requests_recent:,} requests in the last {minutes} minutes were refused with 429"
        yield Concern(Topic.RATE_LIMIT, "vendor", text)


def _run_concerns(runs: Runs | None, now: datetime) -> Iterable[Concern]:
    if runs is None:
        return
    if not runs.is_daemon_alive(now):
        seen = (
            "never ran"
            if runs.daemon_seen is None
            else f"was seen last at {runs.daemon_seen:%Y-%m-%d %H:%M} UTC"
        )
        text = f"Dagster's daemon {seen}: no schedule and no sensor runs"
        yield Concern(Topic.DAEMON, "daemon", text)
    for run in runs.latest:
        if run.is_concern(now):
            text = f"{run.job} at {run.ended or run.created:%Y-%m-%d %H:%M} UTC, run {run.run_id[:8]}"
            yield Concern(Topic.FAILED_RUN, run.job, text)


def _fetch_concerns(failed: Iterable[FailedFetch], now: datetime) -> Iterable[Concern]:
    for fetch in failed:
        if now - fetch.at <= BACKFILL_MEMORY:
            text = f"{fetch.symbol}:1m from {fetch.first:%Y-%m-%d} until {fetch.end:%Y-%m-%d}: {fetch.error}"
            days = (fetch.first.date(), min(fetch.end.date(), now.date()))
            yield Concern(Topic.MINUTE_BACKFILL, fetch.symbol, text, days=days)


def _query_concerns(slow: SlowQueries) -> Iterable[Concern]:
    for query in slow.queries:
        calls = "running" if query.calls is None else f"mean of {query.calls:,} calls"
        text = f"{query.milliseconds:,.0f} ms ({calls}): {query.text}"
        yield Concern(Topic.SLOW_QUERY, query.text, text)


def _gap_concerns(gaps: LostGaps | None) -> Iterable[Concern]:
    if gaps is not None and gaps.gaps:
        between = f"from {gaps.first} to {gaps.last}"
        bars = f"{counted(gaps.bars, 'bar')} {'is' if gaps.bars == 1 else 'are'}"
        text = f"{bars} missing without an explanation, {between}"
        yield Concern(Topic.GAPS, "gaps", text, days=(gaps.first, gaps.last))


def _write_heading(topic: Topic, found: Sequence[Concern]) -> Heading:
    count = len(found)
    title = {
        Topic.DISK: "the disk is filling up",
        Topic.RATE_LIMIT: "the vendor refuses requests",
        Topic.DAEMON: "nothing runs by itself",
        Topic.FAILED_RUN: f"the latest run of {counted(count, 'job')} failed (the UI shows why)",
        Topic.MINUTE_BACKFILL: f"minutes of {counted(count, 'symbol')} did not arrive",
        Topic.STALE: f"{counted(count, 'series')} not fresh",
        Topic.SLOW_QUERY: f"{counted(count, 'slow query', 'slow queries')}",
        Topic.GAPS: "history has holes",
    }[topic]
    lines = _write_lines(found)
    left = sum(subjects for _, subjects in lines[_NAMED:])
    text = join_first([_shorten(line) for line, _ in lines], _NAMED, total=_NAMED + left)
    return Heading(topic, title, text, _choose_remedy(topic, found), count)


def _write_lines(found: Sequence[Concern]) -> list[tuple[str, int]]:
    """Put ``found`` in sentences, each with the number of its subjects: concerns that share a reason are one sentence."""
    groups: dict[str, list[Concern]] = {}
    for concern in found:
        groups.setdefault(concern.reason or concern.text, []).append(concern)
    lines = []
    for reason, members in groups.items():
        if len(members) == 1:
            lines.append((members[0].text, 1))
            continue
        names = name_first([member.subject for member in members], _NAMED)
        lines.append((f"{names}: {reason}", len(members)))
    return lines


def _choose_remedy(topic: Topic, found: Sequence[Concern]) -> str:
    """Return what to do about ``found``: a command over the symbols and days that the concerns are about."""
    if topic in _REMEDIES:
        return _REMEDIES[topic]
    days = [concern.days for concern in found if concern.days is not None]
    first, last = min(first for first, _ in days), max(last for _, last in days)
    over = f"--start {first} --end {last}"
    if topic is Topic.GAPS:
        return f"marketdata gaps --repair {over}"
    symbols = list(dict.fromkeys(concern.subject.split(":")[0] for concern in found))
    named = f"--symbols {','.join(symbols)} " if len(symbols) <= _SYMBOLS_NAMED else ""
    minutes = "--timeframes 1m " if topic is Topic.MINUTE_BACKFILL else ""
    return f"marketdata backfill {named}{minutes}{over}"


def _stale_concern(stale: StaleSeries, today: date) -> Concern:
    is_weekly = stale.series.endswith(":1w")
    missed = stale.late or 1
    # Missed sessions in calendar days, and a long weekend more.
    back = timedelta(days=7 * (missed + 1) if is_weekly else missed * 3 // 2 + 7)
    text = f"{stale.series}: {stale.reason}"
    return Concern(Topic.STALE, stale.series, text, reason=stale.reason, days=(today - back, today))


def _shorten(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
