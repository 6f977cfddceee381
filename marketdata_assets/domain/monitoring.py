"""What needs somebody's attention: facts about vendor, store and runs in, concerns out, the worst first.

A concern is known by its topic and its subject, and lasts for an *episode*: from the first look that finds it to the last
one, and :data:`QUIET` beyond, so that what comes and goes is told once, not at every return.
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
"""How far back the share of refused requests is looked at."""
RATE_LIMITED_SHARE: Final = 0.05
"""Of the requests that are recent, refused with 429: above it, something else uses the key or the limit is set too high."""
RATE_LIMITED_LEAST: Final = 3
"""Refusals that count at all: one on a quiet day is no rate."""
SLOW_QUERY: Final = timedelta(milliseconds=500)
"""A query that takes longer is slow."""
DISK_SHARE: Final = 0.8
"""Of the disk in use."""
BACKFILL_MEMORY: Final = timedelta(days=1)
"""How long a failed request for minutes that nobody has repeated is a concern."""
DAEMON_SILENCE: Final = timedelta(minutes=5)
"""Without a sign of life of Dagster's daemon for longer, no schedule and no sensor runs."""
HAND_MEMORY: Final = timedelta(days=7)
"""How long a failed run that somebody started by hand in the UI is a concern: nothing starts it again."""
QUIET: Final = timedelta(hours=1)
"""A concern that was gone for less is the same episode when it returns."""

_NAMED: Final = 5
_SYMBOLS_NAMED: Final = 20
_WIDTH: Final = 160


class Topic(StrEnum):
    """What a concern is about, in the order in which it is looked after."""

    DISK = "disk"
    RATE_LIMIT = "rate_limit"
    DAEMON = "daemon"
    FAILED_RUN = "failed_run"
    MINUTE_BACKFILL = "minute_backfill"
    STALE = "stale"
    SLOW_QUERY = "slow_query"
    GAPS = "gaps"


_ORDER: Final = {topic: place for place, topic in enumerate(Topic)}


@dataclass(frozen=True, slots=True)
class VendorUse:
    """Requests to the vendor for bars, by UTC; lists of corporate actions, a few a day, are not counted.

    Attributes:
        per_minute: The plan's limit (POLYGON_REQUESTS_PER_MINUTE).
        requests_today: Requests since midnight, attempts that were repeated included.
        refused_today: Those of them that were refused with 429.
        failed_today: Windows that were asked for and not answered whole today, whatever the reason.
        requests_month: Requests since the first of the month.
        refused_month: Those of them that were refused with 429.
        busiest: The minute of today with the most requests; None without one.
        busiest_requests: How many it had.
        requests_recent: Requests in the last 15 minutes.
        refused_recent: Those of them that were refused with 429.
        blocked_until: Until when a 429's Retry-After holds every process back; None when none does.
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
        """Today's requests as a share of what the plan would have let through since midnight UTC, 0 to 1."""
        minutes = max(1.0, now.hour * 60 + now.minute + now.second / 60)
        return self.requests_today / (minutes * self.per_minute)


@dataclass(frozen=True, slots=True)
class TableSize:
    """How much a table takes, its indexes and partitions included.

    Attributes:
        table: Its name.
        size: Bytes on disk.
        rows: How many rows, an estimate but for ``ohlcv``; None when Postgres has none.
        rows_a_day: Rows about the last seven days, by day; None where nothing tells.
    """

    table: str
    size: int
    rows: int | None
    rows_a_day: float | None = None

    @property
    def bytes_a_day(self) -> float | None:
        """What those rows take, at the table's bytes per row; None where that is not known."""
        return self.rows_a_day * self.size / self.rows if self.rows_a_day is not None and self.rows else None


@dataclass(frozen=True, slots=True)
class SlowQuery:
    """A statement that takes longer than :data:`SLOW_QUERY`; ``calls`` is None for one that is running now."""

    text: str
    milliseconds: float
    application: str | None = None
    calls: int | None = None


@dataclass(frozen=True, slots=True)
class SlowQueries:
    """The slow ones, the slowest first, and what told of them.

    ``source`` is ``pg_stat_statements`` (means over all calls) or ``pg_stat_activity`` (what runs at this moment).
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
        """In use, 0 to 1."""
        return self.used / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class FailedFetch:
    """Minutes of ``symbol`` that were asked for, failed, and were not answered since."""

    symbol: str
    first: datetime
    end: datetime
    error: str
    at: datetime


@dataclass(frozen=True, slots=True)
class StaleSeries:
    """A series that is not fresh (:mod:`~marketdata_assets.domain.freshness`), and why in a sentence."""

    series: str
    reason: str
    late: int | None = None


@dataclass(frozen=True, slots=True)
class JobRun:
    """The latest run of a job. Times are UTC; ``started`` and ``ended`` are None before that.

    ``by_hand`` is true of the job of whatever somebody materializes in the UI. ``gap_stays`` is true of a repair that did
    all it could, and which only the check turned red that says what is still missing.
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
        """Whether it ended red."""
        return self.status == "FAILURE"

    def is_concern(self, now: datetime) -> bool:
        """Whether it failed in a way that somebody should look after at ``now``."""
        is_forgotten = self.by_hand and now - (self.ended or self.created) > HAND_MEMORY
        return self.has_failed and not self.gap_stays and not is_forgotten


@dataclass(frozen=True, slots=True)
class NextTick:
    """When a schedule that is on runs next, UTC."""

    schedule: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Runs:
    """What Dagster's instance knows: the latest run of each job, newest first, and the ticks to come, soonest first.

    ``daemon_seen`` is the daemon's last sign of life; None when it never ran.
    """

    latest: tuple[JobRun, ...] = ()
    ticks: tuple[NextTick, ...] = ()
    daemon_seen: datetime | None = None

    def is_daemon_alive(self, now: datetime) -> bool:
        """Whether the daemon has shown a sign of life lately."""
        return self.daemon_seen is not None and now - self.daemon_seen <= DAEMON_SILENCE


@dataclass(frozen=True, slots=True)
class Vitals:
    """What is known at one moment; what was not looked at is empty or None."""

    vendor: VendorUse
    stale: tuple[StaleSeries, ...] = ()
    slow: SlowQueries = SlowQueries("pg_stat_activity")
    disk: Disk | None = None
    failed_fetches: tuple[FailedFetch, ...] = ()
    gaps: LostGaps | None = None
    runs: Runs | None = None


@dataclass(frozen=True, slots=True)
class Concern:
    """Something to look after. ``text`` says what is wrong with ``subject``, in one line."""

    topic: Topic
    subject: str
    text: str
    reason: str | None = None
    """What several subjects can share: a heading then names them together."""
    days: tuple[date, date] | None = None
    """The first and the last day that it is about."""

    @property
    def key(self) -> str:
        """What it is known by."""
        return f"{self.topic}:{self.subject}"


@dataclass(frozen=True, slots=True)
class Heading:
    """The concerns of a topic in a few words: what happened, to which of them, what to do.

    ``remedy`` is a command that can be pasted where one helps, else a sentence.
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
"""Of the topics whose remedy does not depend on what was found: others are made by :func:`_remedy`."""


def concerns(vitals: Vitals, now: datetime) -> list[Concern]:
    """What needs attention at ``now``, in the order of :class:`Topic`."""
    found = [
        *_disk(vitals.disk),
        *_rate(vitals.vendor),
        *_runs(vitals.runs, now),
        *_backfills(vitals.failed_fetches, now),
        *(_stale(one, now.date()) for one in vitals.stale),
        *_slow(vitals.slow),
        *_gaps(vitals.gaps),
    ]
    return sorted(found, key=lambda one: _ORDER[one.topic])


def headings(found: Iterable[Concern]) -> list[Heading]:
    """One heading a topic of ``found``, in the order in which the topics come; it names five subjects at most."""
    by_topic: dict[Topic, list[Concern]] = {}
    for one in found:
        by_topic.setdefault(one.topic, []).append(one)
    return [_heading(topic, of_topic) for topic, of_topic in by_topic.items()]


def episodes(
    known: Mapping[str, datetime | None], found: Sequence[Concern], now: datetime
) -> tuple[list[Concern], dict[str, datetime | None]]:
    """Those of ``found`` whose episode begins, and every episode that lasts: since when its concern is gone, or None.

    ``known`` is the second of the two as the look before returned it: what is in it is told already. A concern that has
    been gone for :data:`QUIET` begins anew when it returns; a time in which nobody looked ends nothing.
    """
    lasting = {key: gone for key, gone in known.items() if gone is None or now - gone < QUIET}
    new = [one for one in found if one.key not in lasting]
    absent = {key: gone or now for key, gone in lasting.items()}
    return new, {**absent, **dict.fromkeys(one.key for one in found)}


def _disk(disk: Disk | None) -> Iterable[Concern]:
    if disk is not None and disk.share > DISK_SHARE:
        free = (disk.total - disk.used) / 1e9
        yield Concern(Topic.DISK, disk.path, f"{disk.path}: {disk.share:.0%} in use, {free:,.1f} GB free")


def _rate(vendor: VendorUse) -> Iterable[Concern]:
    refused = vendor.refused_recent
    if refused >= RATE_LIMITED_LEAST and refused > RATE_LIMITED_SHARE * vendor.requests_recent:
        minutes = RECENT // timedelta(minutes=1)
        text = f"{refused:,} of {vendor.requests_recent:,} requests in the last {minutes} minutes were refused with 429"
        yield Concern(Topic.RATE_LIMIT, "vendor", text)


def _runs(runs: Runs | None, now: datetime) -> Iterable[Concern]:
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


def _backfills(failed: Iterable[FailedFetch], now: datetime) -> Iterable[Concern]:
    for one in failed:
        if now - one.at <= BACKFILL_MEMORY:
            text = f"{one.symbol}:1m from {one.first:%Y-%m-%d} until {one.end:%Y-%m-%d}: {one.error}"
            days = (one.first.date(), min(one.end.date(), now.date()))
            yield Concern(Topic.MINUTE_BACKFILL, one.symbol, text, days=days)


def _slow(slow: SlowQueries) -> Iterable[Concern]:
    for one in slow.queries:
        calls = "running" if one.calls is None else f"mean of {one.calls:,} calls"
        text = f"{one.milliseconds:,.0f} ms ({calls}): {one.text}"
        yield Concern(Topic.SLOW_QUERY, one.text, text)


def _gaps(gaps: LostGaps | None) -> Iterable[Concern]:
    if gaps is not None and gaps.gaps:
        span = f"from {gaps.first} to {gaps.last}"
        bars = f"{counted(gaps.bars, 'bar')} {'is' if gaps.bars == 1 else 'are'}"
        text = f"{bars} missing without an explanation, {span}"
        yield Concern(Topic.GAPS, "gaps", text, days=(gaps.first, gaps.last))


def _heading(topic: Topic, found: Sequence[Concern]) -> Heading:
    count = len(found)
    what = {
        Topic.DISK: "the disk is filling up",
        Topic.RATE_LIMIT: "the vendor refuses requests",
        Topic.DAEMON: "nothing runs by itself",
        Topic.FAILED_RUN: f"the latest run of {counted(count, 'job')} failed (the UI shows why)",
        Topic.MINUTE_BACKFILL: f"minutes of {counted(count, 'symbol')} did not come",
        Topic.STALE: f"{counted(count, 'series')} not fresh",
        Topic.SLOW_QUERY: f"{counted(count, 'slow query', 'slow queries')}",
        Topic.GAPS: "history has holes",
    }[topic]
    lines = _lines(found)
    left = sum(subjects for _, subjects in lines[_NAMED:])
    text = join_first([_cut(line) for line, _ in lines], _NAMED, total=_NAMED + left)
    return Heading(topic, what, text, _remedy(topic, found), count)


def _lines(found: Sequence[Concern]) -> list[tuple[str, int]]:
    """``found`` in sentences, each with the number of its subjects: those that share a reason are one sentence."""
    groups: dict[str, list[Concern]] = {}
    for one in found:
        groups.setdefault(one.reason or one.text, []).append(one)
    lines = []
    for reason, members in groups.items():
        if len(members) == 1:
            lines.append((members[0].text, 1))
            continue
        names = name_first([one.subject for one in members], _NAMED)
        lines.append((f"{names}: {reason}", len(members)))
    return lines


def _remedy(topic: Topic, found: Sequence[Concern]) -> str:
    """What to do about ``found``: a command over the symbols and days that they are about."""
    if topic in _REMEDIES:
        return _REMEDIES[topic]
    days = [one.days for one in found if one.days is not None]
    first, last = min(first for first, _ in days), max(last for _, last in days)
    over = f"--start {first} --end {last}"
    if topic is Topic.GAPS:
        return f"marketdata gaps --repair {over}"
    symbols = list(dict.fromkeys(one.subject.split(":")[0] for one in found))
    named = f"--symbols {','.join(symbols)} " if len(symbols) <= _SYMBOLS_NAMED else ""
    minutes = "--timeframes 1m " if topic is Topic.MINUTE_BACKFILL else ""
    return f"marketdata backfill {named}{minutes}{over}"


def _stale(stale: StaleSeries, today: date) -> Concern:
    is_weekly = stale.series.endswith(":1w")
    missed = stale.late or 1
    # Sessions as calendar days, with a long weekend to spare.
    back = timedelta(days=7 * (missed + 1) if is_weekly else missed * 3 // 2 + 7)
    text = f"{stale.series}: {stale.reason}"
    return Concern(Topic.STALE, stale.series, text, reason=stale.reason, days=(today - back, today))


def _cut(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
