"""Scanning for gaps and fetching what is missing again, for one chunk of series at a time."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from marketdata_assets.domain.calendar import calendar_of, sunday_of
from marketdata_assets.domain.gap_history import KNOWN_SCHEMA, Asked, Look
from marketdata_assets.domain.gaps import MAX_ATTEMPTS, SETTLING
from marketdata_assets.domain.scans import BEYOND, EVIDENCE, scan_windows
from marketdata_assets.domain.series import AssetClass, Instrument, Series, with_siblings
from marketdata_assets.domain.slots import Held, Slots, expected_by_series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.pipeline.fetching import instruments_of, vendor_events
from marketdata_assets.pipeline.ingest import Ingest, IngestReport
from marketdata_assets.polygon.planner import Plan, plan_again
from marketdata_assets.storage.bars import read_coverage, read_rows, write_batch
from marketdata_assets.storage.gaps import (
    database_time,
    exclusive_look,
    first_bars,
    read_asked,
    read_gaps,
    read_held,
    read_rejected,
    scanned_around,
    write_gaps,
)
from marketdata_assets.storage.merge import MergeCounts
from marketdata_assets.storage.tables import OHLCV

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from marketdata_assets.polygon.vendor import Vendor
    from marketdata_assets.storage.connection import Database

_SLOTS_AT_ONCE: Final = 3_000_000
"""Expected slots that are held in memory at once."""

_RESULT_SCHEMA: Final = pl.Schema(
    {
        name: KNOWN_SCHEMA[name]
        for name in (
            *("symbol", "timeframe", "gap_start", "gap_end", "missing_bars"),
            *("state", "attempts", "reason"),
        )
    }
)


@dataclass(slots=True)
class GapOutcome:
    """What was found: gaps by state, as they stand in the end, how whole each day is, and what repairing cost."""

    gaps: list[pl.DataFrame] = field(default_factory=lambda: [_RESULT_SCHEMA.to_frame()])
    days: list[pl.DataFrame] = field(default_factory=list)
    reports: list[IngestReport] = field(default_factory=list)
    rows: MergeCounts = field(default_factory=MergeCounts)

    @property
    def frame(self) -> pl.DataFrame:
        """Every gap of the run, the worst first."""
        return pl.concat(self.gaps).sort("missing_bars", descending=True)


def report_gaps(
    database: Database,
    polygon: Vendor | None,
    days: dict[Series, list[date]],
    *,
    now: datetime,
    run_id: str | None,
    attempts: int = MAX_ATTEMPTS,
) -> GapOutcome:
    """Find, repair (with ``polygon``) and write down the gaps of each series between its first and last day.

    The siblings of a series, the tracked timeframes of its symbol that are made of the same base bars, are scanned
    with it: a fetch stores all of them, and what a refetch shows of the base holds for each.

    ``attempts`` is how often a gap is asked for here, at most.

    One look at a series at a time: who comes second waits, and finds what the first has written down.
    """
    wanted, tracked = instruments_of(database, days)
    classes = {instrument.symbol: instrument.asset_class for instrument in wanted}
    siblings = [
        Series(instrument.symbol, timeframe)
        for instrument, timeframes in tracked.items()
        for timeframe in timeframes
    ]
    edges = {one: (min(chosen), max(chosen)) for one, chosen in days.items()}
    windows = scan_windows(edges, with_siblings(days, siblings), classes)
    outcome = GapOutcome()
    _look_through(database, polygon, windows, classes, outcome, now=now, run_id=run_id, attempts=attempts)
    return outcome


def _look_through(
    database: Database,
    polygon: Vendor | None,
    windows: dict[Series, Window],
    classes: dict[str, AssetClass],
    outcome: GapOutcome,
    *,
    now: datetime,
    run_id: str | None,
    attempts: int = MAX_ATTEMPTS,
) -> None:
    for chunk in _chunks(windows):
        looker = _Looker(database, {one: classes[one.symbol] for one in chunk}, chunk, now)
        with exclusive_look(database, chunk):
            # Before the first bar is read: what is stored from here on may not be in the look.
            begun = database_time(database)
            look = looker.look()
            if polygon is not None:
                look = looker.repaired(look, polygon, run_id, outcome, attempts=attempts)
            result = look.result()._replace(begun=begun)
            write_gaps(database, result)
        outcome.gaps.append(result.gaps.select(_RESULT_SCHEMA.names()))
        outcome.days.append(result.daily)


def _chunks(windows: dict[Series, Window]) -> Iterator[dict[Series, Window]]:
    """The window of each series, as many symbols of one base at a time as fit in memory; siblings stay together."""
    families: dict[tuple[Timeframe, str], dict[Series, Window]] = {}
    for base in (Timeframe.M1, Timeframe.D1):
        for series, window in windows.items():
            if series.timeframe.base is base:
                families.setdefault((base, series.symbol), {})[series] = window
    chunk: dict[Series, Window] = {}
    chunk_base, slots = Timeframe.M1, 0.0
    for (base, _), family in families.items():
        size = sum(
            (window.duration + EVIDENCE[base]) / series.timeframe.duration
            for series, window in family.items()
        )
        if chunk and (base is not chunk_base or slots + size > _SLOTS_AT_ONCE):
            yield chunk
            chunk, slots = {}, 0.0
        chunk.update(family)
        chunk_base, slots = base, slots + size
    if chunk:
        yield chunk


class _Looker:
    """Reads, and asks the vendor, for a look at some series of one base."""

    def __init__(
        self,
        database: Database,
        classes: dict[Series, AssetClass],
        windows: dict[Series, Window],
        now: datetime,
    ) -> None:
        self._database = database
        self._classes = classes
        self._windows = windows
        self._now = now
        self._evidence = EVIDENCE[next(iter(windows)).timeframe.base]
        self._contexts: dict[Series, Window] = {}

    def look(self) -> Look:
        """What is known and held around the windows."""
        around = self._with_evidence()
        # A gap that reaches into its window is judged by what lies before all of it.
        self._contexts = self._containing(around, read_gaps(self._database, self._windows), self._evidence)
        # And none that is written down may be cut.
        known = read_gaps(self._database, self._contexts)
        self._contexts = self._containing(self._contexts, known, timedelta(0))
        held = read_held(self._database, self._contexts)
        rejected = read_rejected(self._database, self._contexts)
        return Look.begin(self._windows, self._slots(held), known, held, rejected)

    def _with_evidence(self) -> dict[Series, Window]:
        """Each window with as many scanned days before it as there is evidence to use, wherever they lie.

        Days that were never fetched are no evidence, so the scanned days beyond them are. Where a history has fewer
        days before the window, days after it take their place.
        """
        local_days = {}
        for one, window in self._windows.items():
            local_day = calendar_of(self._classes[one]).local_day
            local_days[one] = (local_day(window.start), local_day(window.end - timedelta(microseconds=1)))
        most = self._evidence.days
        scanned = scanned_around(self._database, local_days, most)
        around = {}
        for one, window in self._windows.items():
            calendar = calendar_of(self._classes[one])
            start, end = window.start - self._evidence, window.end + BEYOND
            sessions = calendar.sessions(calendar.local_day(start), local_days[one][0] - timedelta(days=1))
            count = len({sunday_of(day) for day in sessions} if one.timeframe is Timeframe.W1 else sessions)
            before, after = scanned.get(one, ((), ()))
            if before:
                start = min(start, calendar.day_start(before[:count][-1]))
            if after and len(before) < count:
                end = max(end, calendar.day_window(after[:count][-1]).end)
            around[one] = Window(start, end)
        return around

    def _containing(
        self, contexts: dict[Series, Window], gaps: pl.DataFrame, before: timedelta
    ) -> dict[Series, Window]:
        """Whole days that hold each context, and each of its ``gaps`` with as much time ``before`` it."""
        edges = {
            Series(symbol, Timeframe(timeframe)): (first - before, last)
            for symbol, timeframe, first, last in gaps.group_by("symbol", "timeframe")
            .agg(pl.col("gap_start").min(), pl.col("gap_end").max())
            .iter_rows()
        }
        wider = {}
        for one, context in contexts.items():
            calendar = calendar_of(self._classes[one])
            first, last = edges.get(one, (context.start, context.end))
            start = calendar.local_day(min(context.start, first).astimezone(UTC))
            end = calendar.local_day(max(context.end, last).astimezone(UTC) - timedelta(microseconds=1))
            wider[one] = Window(calendar.day_start(start), calendar.day_window(end).end)
        return wider

    def _slots(self, held: dict[Series, Held]) -> dict[Series, Slots]:
        """What is expected in each context, as far as it was ever asked for.

        Days with a bar count as asked for: somebody may have brought it in another way.
        """
        hull = Window(
            min(context.start for context in self._contexts.values()),
            max(context.end for context in self._contexts.values()),
        )
        firsts = first_bars(self._database, self._windows)
        every = expected_by_series(self._classes, hull, self._now - SETTLING, firsts)
        slots = {
            one: every[one].within(context.start, context.end) for one, context in self._contexts.items()
        }
        asked = read_asked(self._database, self._contexts)
        no_times = np.zeros(0, dtype=np.int64)
        return {
            one: each.asked_for(
                asked.get(one, ()), each.on_days_of(held[one].times if one in held else no_times)
            )
            for one, each in slots.items()
        }

    def repaired(
        self,
        look: Look,
        polygon: Vendor,
        run_id: str | None,
        outcome: GapOutcome,
        *,
        attempts: int,
    ) -> Look:
        """The look after what is open was asked for again, as often as that makes sense now."""
        for _ in range(attempts):
            due = look.due(look.standing())
            planned = plan_again(self._missing(due), now=self._now, tracked=self._tracked())
            if not planned.requests:
                break
            asked = self._ask(planned, polygon, run_id, outcome)
            look = look.asked_again(due, asked, read_held(self._database, self._contexts))
            if any(one.failure is not None for one in asked):
                # The next attempt is another run's: a second at once would meet the same failure.
                break
        return look

    def _ask(self, planned: Plan, polygon: Vendor, run_id: str | None, outcome: GapOutcome) -> list[Asked]:
        symbols = sorted({request.symbol for request in planned.requests})
        ingest = Ingest(
            planned, now=self._now, coverage=read_coverage(self._database, symbols), run_id=run_id
        )
        with closing(vendor_events(polygon, planned.requests, self._database)) as events:
            for batch in ingest.batches(events, self._read_bars):
                outcome.rows += write_batch(self._database, batch)
        outcome.reports.append(ingest.report)
        failures = {(failed.series, failed.window): str(failed.error) for failed in ingest.report.failures}
        return [
            Asked(
                request.symbol,
                request.base,
                request.window,
                failures.get((Series(request.symbol, request.base), request.window)),
            )
            for request in planned.requests
        ]

    def _missing(
        self, due: dict[Series, list[Window]]
    ) -> dict[Instrument, dict[Timeframe, Sequence[Window]]]:
        missing: dict[Instrument, dict[Timeframe, Sequence[Window]]] = {}
        for series, windows in due.items():
            instrument = Instrument(series.symbol, self._classes[series])
            missing.setdefault(instrument, {})[series.timeframe] = windows
        return missing

    def _tracked(self) -> dict[Instrument, tuple[Timeframe, ...]]:
        return instruments_of(self._database, self._windows)[1]

    def _read_bars(self, series: Series, window: Window) -> pl.DataFrame:
        return read_rows(self._database, OHLCV, {series: [window]})
