"""``marketdata status``: what needs attention, then the state of runs, series, vendor, tables and disk."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

import typer

from marketdata_assets.cli.options import JsonObject

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from marketdata_assets.cli.session import Store
    from marketdata_assets.domain.monitoring import Heading, Runs, TableSize, Vitals

_WORST: Final = 5
_TABLES: Final = 8


@dataclass(frozen=True)
class Report:
    """The facts that the command shows."""

    now: datetime
    vitals: Vitals
    attention: Sequence[Heading]
    freshness: pl.DataFrame
    tables: Sequence[TableSize]
    database_bytes: int


def status(
    *,
    as_json: JsonObject = False,
) -> None:
    """Show what needs attention first; then runs, freshness, the vendor, tables, slow queries and disk.

    Starts no run and fetches nothing, and works without the daemon. Like every command it starts the embedded server
    when that is down. Always exits with 0; scripts should read `attention` in --json.
    """
    from marketdata_assets.cli.session import open_store

    with open_store() as store:
        report = read_report(store, datetime.now(UTC))
    show_report(report, as_json=as_json)


def read_report(store: Store, now: datetime) -> Report:
    """Return what ``marketdata status`` shows at ``now``."""
    from marketdata_assets.domain.monitoring import concerns, headings
    from marketdata_assets.pipeline.freshness import freshness_of
    from marketdata_assets.pipeline.health import vitals as read_vitals
    from marketdata_assets.storage import monitoring

    database, settings = store.database, store.settings
    runs = _known_runs(store, now)
    freshness = freshness_of(database, now)
    vitals = read_vitals(database, settings, now, freshness=freshness, runs=runs)
    return Report(
        now=now,
        vitals=vitals,
        attention=headings(concerns(vitals, now)),
        freshness=freshness,
        tables=monitoring.table_sizes(database, now),
        database_bytes=monitoring.database_size(database),
    )


def _known_runs(store: Store, now: datetime) -> Runs:
    """Read runs, ticks and the daemon; when Dagster's tables are in this database, without its import, which takes seconds."""
    from marketdata_assets.storage.dagster_tables import are_dagsters_tables_here, runs_with_ticks

    if are_dagsters_tables_here(store.settings):
        found = runs_with_ticks(store.database, now)
        if found is not None:
            return found
    from dagster import DagsterInstance

    from marketdata_assets.defs.instance.environment import prepare_environment
    from marketdata_assets.defs.runs.history import runs_of

    prepare_environment(store.settings)
    with DagsterInstance.get() as instance:
        return runs_of(instance, now)


def show_report(report: Report, *, as_json: bool) -> None:
    """Print ``report``, as JSON or for reading."""
    if as_json:
        typer.echo(json.dumps(_facts(report), indent=2, default=_to_text))
    else:
        _show(report)


def _facts(report: Report) -> dict[str, object]:
    vitals = report.vitals
    vendor = vitals.vendor
    runs = vitals.runs
    disk = vitals.disk
    return {
        "as_of": report.now,
        "attention": [asdict(heading) for heading in report.attention],
        "runs": {
            "latest": [asdict(run) for run in runs.latest] if runs else [],
            "next": [asdict(tick) for tick in runs.ticks] if runs else [],
            "daemon_seen": runs.daemon_seen if runs else None,
            "daemon_alive": runs is not None and runs.is_daemon_alive(report.now),
        },
        "freshness": {
            "series": report.freshness.height,
            "states": _states(report.freshness),
            "stale": [asdict(series) for series in vitals.stale],
            "by_series": report.freshness.to_dicts(),
        },
        "vendor": {**asdict(vendor), "share_of_plan_today": vendor.share_of_plan(report.now)},
        "tables": [{**asdict(table), "bytes_a_day": table.bytes_a_day} for table in report.tables],
        "database_bytes": report.database_bytes,
        "slow_queries": asdict(vitals.slow),
        "disk": None if disk is None else {**asdict(disk), "share": disk.share},
        "gaps": None if vitals.gaps is None else asdict(vitals.gaps),
    }


def _to_text(value: object) -> str:
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value)


def _states(freshness: pl.DataFrame) -> dict[str, int]:
    return dict(Counter(freshness["state"].to_list()))


def _show(report: Report) -> None:
    sections = {
        "Attention": _attention(report),
        "Runs": _runs(report),
        "Freshness": _freshness(report),
        "Vendor": _vendor(report),
        "Tables": _tables(report),
        "Slow queries": _slow(report),
        "Disk": _disk(report),
    }
    for name, lines in sections.items():
        _line(name, style="bold")
        for text in lines:
            _line(f"  {text}", style="yellow" if name == "Attention" and report.attention else None)


def _line(text: str, *, style: str | None = None) -> None:
    from marketdata_assets.cli.console import out

    out.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _attention(report: Report) -> list[str]:
    if not report.attention:
        return ["nothing"]
    lines = []
    for number, heading in enumerate(report.attention, 1):
        # `do:` precedes a command that can be pasted.
        label = "do" if heading.remedy.startswith("marketdata ") else "remedy"
        lines += [f"{number}. {heading.title}: {heading.text}", f"   {label}: {heading.remedy}"]
    return lines


def _runs(report: Report) -> list[str]:
    runs = report.vitals.runs
    if runs is None or not runs.latest:
        lines = ["no runs yet: marketdata backfill, or marketdata up"]
    else:
        lines = [
            f"{run.job:<18} {run.status.lower():<9} {_ago(report.now, run.ended or run.started or run.created)}"
            + (f"  for {run.purpose}" if run.purpose else "")
            + (": done, the gap stays" if run.gap_stays else "")
            for run in runs.latest
        ]
    if runs is not None and runs.ticks:
        soon = ", ".join(f"{tick.schedule} {tick.at:%m-%d %H:%M}" for tick in runs.ticks)
        while_up = "" if runs.is_daemon_alive(report.now) else " (when the daemon runs)"
        lines.append(f"next, UTC{while_up}: {soon}")
    return lines


def _freshness(report: Report) -> list[str]:
    counts = _states(report.freshness)
    if not counts:
        return ["no series is due yet"]
    # The section Attention names the series that are not fresh, and why.
    more = ": `marketdata status --json` has each" if report.vitals.stale else ""
    return [", ".join(f"{number:,} {state}" for state, number in sorted(counts.items())) + more]


def _vendor(report: Report) -> list[str]:
    use = report.vitals.vendor
    share = use.share_of_plan(report.now)
    lines = [
        (
            f"today {use.requests_today:,} requests, {use.refused_today:,} refused with 429, {use.failed_today:,} windows"
            f" failed; this month {use.requests_month:,}, {use.refused_month:,} refused"
        ),
        f"{share:.1%} of what {use.per_minute:,} a minute allowed since midnight UTC"
        + (
            f"; busiest minute {use.busiest:%H:%M} with {use.busiest_requests:,}"
            if use.busiest is not None
            else ""
        ),
    ]
    if use.blocked_until is not None:
        lines.append(f"requests paused by a 429 until {use.blocked_until:%H:%M:%S} UTC")
    return lines


def _tables(report: Report) -> list[str]:
    largest = report.tables[:_TABLES]
    lines = [f"{_bytes(report.database_bytes)} in total"]
    width = max((len(table.table) for table in largest), default=0)
    for table in largest:
        rows = "" if table.rows is None else f"{table.rows:>14,} rows"
        growth = ""
        if table.rows_a_day is not None:
            size = "" if table.bytes_a_day is None else f", {_bytes(table.bytes_a_day)}"
            growth = f"  {table.rows_a_day:,.0f} rows{size} a day"
        lines.append(f"{table.table:<{width}} {_bytes(table.size):>10}{rows:>20}{growth}".rstrip())
    return lines


def _slow(report: Report) -> list[str]:
    slow = report.vitals.slow
    seen = (
        "by their mean (pg_stat_statements)"
        if slow.source == "pg_stat_statements"
        else "running now (pg_stat_activity)"
    )
    if not slow.queries:
        return [f"none over 500 ms, {seen}"]
    lines = [f"over 500 ms, {seen}:"]
    for query in slow.queries[:_WORST]:
        calls = "" if query.calls is None else f", {query.calls:,} calls"
        application = f", {query.application}" if query.application else ""
        lines.append(f"{query.milliseconds:,.0f} ms{calls}{application}: {query.text}")
    return lines


def _disk(report: Report) -> list[str]:
    disk = report.vitals.disk
    if disk is None:
        return ["on the server of DATABASE_URL: not visible from here"]
    free = disk.total - disk.used
    return [f"{disk.path}: {disk.share:.0%} of {_bytes(disk.total)} in use, {_bytes(free)} free"]


def _ago(now: datetime, then: datetime) -> str:
    length = now - then
    for unit, name in ((timedelta(days=1), "d"), (timedelta(hours=1), "h"), (timedelta(minutes=1), "min")):
        if length >= unit:
            return f"{length // unit} {name} ago"
    return "just now"


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} bytes"
