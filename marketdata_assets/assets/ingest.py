"""From vendor pages to batches that are committed whole: screened, rolled up, with their evidence.

Pages are cut at local midnights: a batch holds whole days only, so that every rolled-up bar is made of all its
base bars, and what is committed before an interruption need not be asked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.bars import (
    BAR_SCHEMA,
    QUARANTINE_SCHEMA,
    VENDOR_SCHEMA,
    bucket_close,
    complete,
    screen,
)
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.rollup import roll_up
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.polygon.errors import PolygonError
from marketdata_assets.polygon.resource import FetchEvent, RequestFailed
from marketdata_assets.storage.bars import BarBatch, FetchLogEntry

if TYPE_CHECKING:
    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.polygon.planner import Fetch, Plan, StoredRollup
    from marketdata_assets.polygon.request import FetchRequest

BATCH_ROWS: Final = 100_000
"""Rows that are worth a transaction of their own."""

_ROLLUP_DAYS: Final = 31

ReadBars = Callable[[Series, Window], pl.DataFrame]
"""Reads the stored bars (``BAR_SCHEMA``) of a series in a window."""


class QuarantinedError(MarketDataError):
    """Every row that the vendor sent for a request broke a rule."""


@dataclass(slots=True)
class IngestReport:
    """What an ingest did, in the end.

    ``rows_fetched`` counts the vendor's rows, broken ones included; ``failures`` holds one error per request
    that failed.
    """

    requests: int = 0
    pages: int = 0
    rows_fetched: int = 0
    retries: int = 0
    waited_seconds: float = 0.0
    failures: list[tuple[Series, MarketDataError]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def failed_symbols(self) -> list[str]:
        """Symbols with a failure, sorted."""
        return sorted({series.symbol for series, _ in self.failures})


@dataclass(slots=True)
class _Progress:
    """How far one request has come."""

    fetch: Fetch
    log: FetchLogEntry
    position: datetime
    """Everything before is committed or in the pending batch."""
    carried: pl.DataFrame
    """Rows of a day that the pages so far do not close."""
    bars: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)


class Ingest:
    """Turns the events of a plan's requests into batches. Use once.

    Args:
        plan: What is fetched and what is rolled up from the store.
        now: The present: bars that have not closed by then are dropped.
        run_id: Stands in ``fetch_log``.
    """

    def __init__(self, plan: Plan, *, now: datetime, run_id: str | None = None) -> None:
        self.report = IngestReport()
        self._plan = plan
        self._now = now
        self._run_id = run_id
        self._fetches: dict[FetchRequest, Fetch] = {fetch.request: fetch for fetch in plan.fetches}
        self._progress: dict[FetchRequest, _Progress] = {}
        self._pending = _Pending()

    def batches(self, events: Iterable[FetchEvent], read_bars: ReadBars) -> Iterator[BarBatch]:
        """Batches in the order in which pages arrive, then those that are rolled up from the store.

        A request that fails is kept in the report and does not stop the others. An error that stops
        everything (a refused key, say) is raised after what arrived before it was yielded.
        """
        try:
            for event in events:
                self._take(event)
                if self._pending.rows >= BATCH_ROWS:
                    yield self._pending.take()
        except PolygonError:
            yield self._pending.take()
            raise
        for rollup in self._plan.rollups:
            for window in _chunks(rollup):
                self._roll_up_stored(rollup, window, read_bars)
                if self._pending.rows >= BATCH_ROWS:
                    yield self._pending.take()
        yield self._pending.take()

    def _take(self, event: FetchEvent) -> None:
        progress = self._progress.get(event.request) or self._begin(event)
        record = event.record
        progress.log = log = replace(
            progress.log,
            retries=progress.log.retries + record.retries,
            duration_seconds=progress.log.duration_seconds + record.duration_seconds,
            waited_seconds=progress.log.waited_seconds + record.waited_seconds,
            request_id=record.request_id or progress.log.request_id,
        )
        self.report.retries += record.retries
        self.report.waited_seconds += record.waited_seconds
        series = Series(event.request.symbol, event.request.base)
        if isinstance(event, RequestFailed):
            self.report.failures.append((series, event.error))
            self._end(progress, replace(log, status="failed", error=str(event.error)))
            return
        self.report.pages += 1
        self.report.rows_fetched += event.frame.height
        progress.log = replace(log, pages=log.pages + 1, bars=log.bars + event.frame.height)
        if event.notice is not None:
            self.report.notices.append(str(event.notice))
            # The stretch before the first bar is not known to be empty: the plan may have cut it off.
            asked, opens = event.request.window, event.frame["time"]
            # A stray row outside the window tells nothing about it.
            self._skip_to(progress, opens.filter((opens >= asked.start) & (opens < asked.end)).min())
        progress.carried = pl.concat([progress.carried, event.frame])
        self._advance(progress, is_last=event.is_last)
        if not event.is_last:
            self._pending.log(progress.log)
            return
        if progress.quarantined and not progress.bars:
            error = _all_quarantined(event.request, progress.quarantined)
            self.report.failures.append((series, error))
            self._end(progress, replace(progress.log, status="failed", error=str(error)))
            return
        self._end(progress, replace(progress.log, status="ok"))

    def _begin(self, event: FetchEvent) -> _Progress:
        request = event.request
        fetch = self._fetches[request]
        self.report.requests += 1
        self._progress[request] = progress = _Progress(
            fetch=fetch,
            log=FetchLogEntry(
                symbol=request.symbol,
                base=request.base,
                window=request.window,
                timeframes=fetch.timeframes,
                status="partial",
                requested_at=event.record.requested_at,
                run_id=self._run_id,
            ),
            position=request.window.start,
            carried=VENDOR_SCHEMA.to_frame(),
        )
        return progress

    def _end(self, progress: _Progress, log: FetchLogEntry) -> None:
        self._pending.log(log)
        progress.carried = VENDOR_SCHEMA.to_frame()

    def _skip_to(self, progress: _Progress, first: object) -> None:
        if isinstance(first, datetime):
            calendar = calendar_of(progress.fetch.request.asset_class)
            opened = calendar.day_start(calendar.local_day(first))
            progress.position = max(progress.position, opened)

    def _advance(self, progress: _Progress, *, is_last: bool) -> None:
        """Move every closed day from the carried rows into the pending batch."""
        request = progress.fetch.request
        calendar = calendar_of(request.asset_class)
        boundary = request.window.end if is_last else _last_closed_day(progress, calendar)
        if boundary is None or boundary <= progress.position:
            return
        open_rows = (
            pl.col("time").is_not_null() & (pl.col("time") >= boundary)
            if not is_last
            else pl.lit(value=False)
        )
        rows, progress.carried = (
            progress.carried.filter(~open_rows),
            progress.carried.filter(open_rows),
        )
        window = Window(progress.position, boundary)
        screened = screen(rows, Series(request.symbol, request.base), window, calendar)
        for rule, count in screened.quarantined.group_by("rule").len().iter_rows():
            progress.quarantined[rule] = progress.quarantined.get(rule, 0) + count
        progress.bars += screened.bars.height
        progress.position = boundary
        self._pending.quarantine(screened.quarantined)
        if screened.bars.is_empty() and not screened.quarantined.is_empty():
            # Nothing sound arrived: the window stays unanswered and is asked for again.
            return
        self._store(request.symbol, request.asset_class, progress.fetch.timeframes, screened.bars, window)

    def _roll_up_stored(self, rollup: StoredRollup, window: Window, read_bars: ReadBars) -> None:
        instrument = rollup.instrument
        bars = read_bars(Series(instrument.symbol, rollup.base), window)
        self._store(instrument.symbol, instrument.asset_class, rollup.timeframes, bars, window)

    def _store(
        self,
        symbol: str,
        asset_class: AssetClass,
        timeframes: Iterable[Timeframe],
        base: pl.DataFrame,
        window: Window,
    ) -> None:
        calendar = calendar_of(asset_class)
        for timeframe in timeframes:
            rolled = complete(roll_up(base, timeframe, calendar), timeframe, calendar, self._now)
            whole = rolled.filter(
                pl.col("time") >= window.start,
                bucket_close(pl.col("time"), timeframe, calendar) <= window.end,
            )
            answered = _whole_weeks(window, calendar) if timeframe is Timeframe.W1 else window
            self._pending.add(Series(symbol, timeframe), whole, answered)


def _last_closed_day(progress: _Progress, calendar: TradingCalendar) -> datetime | None:
    """Local midnight before the latest carried row: later pages add nothing before it."""
    request = progress.fetch.request
    if request.base is Timeframe.D1:
        # A request of day bars has one page in practice; weeks stay whole when it waits for the last.
        return None
    times = progress.carried["time"].filter(progress.carried["time"] < request.window.end)
    latest = times.max()
    return calendar.day_start(calendar.local_day(latest)) if isinstance(latest, datetime) else None


def _whole_weeks(window: Window, calendar: TradingCalendar) -> Window | None:
    """The part of ``window`` from its first to its last local Sunday 00:00."""
    first = calendar.local_day(window.start - timedelta(microseconds=1)) + timedelta(days=1)
    last = calendar.local_day(window.end)
    start = first + timedelta(days=-(first.weekday() + 1) % 7)
    end = last - timedelta(days=(last.weekday() + 1) % 7)
    return Window(calendar.day_start(start), calendar.day_start(end)) if start < end else None


def _chunks(rollup: StoredRollup) -> Iterator[Window]:
    """The window of a stored rollup in stretches of whole local days that fit in memory."""
    if rollup.base is Timeframe.D1:
        yield rollup.window
        return
    calendar = calendar_of(rollup.instrument.asset_class)
    start = rollup.window.start
    while start < rollup.window.end:
        following = calendar.day_start(calendar.local_day(start) + timedelta(days=_ROLLUP_DAYS))
        end = min(following, rollup.window.end)
        yield Window(start, end)
        start = end


def _all_quarantined(request: FetchRequest, rules: dict[str, int]) -> QuarantinedError:
    counted = ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items(), key=lambda item: -item[1]))
    return QuarantinedError(
        f"{request}: all {sum(rules.values())} rows that the vendor sent broke a rule ({counted}) and none was stored:"
        " see ohlcv_quarantine, then run the backfill again"
    )


class _Pending:
    """The batch that is being filled."""

    def __init__(self) -> None:
        self.rows = 0
        self._bars: list[pl.DataFrame] = []
        self._quarantined: list[pl.DataFrame] = []
        self._covered: dict[Series, list[Window]] = {}
        self._fetches: dict[object, FetchLogEntry] = {}

    def add(self, series: Series, bars: pl.DataFrame, answered: Window | None) -> None:
        self._bars.append(bars)
        self.rows += bars.height
        if answered is not None:
            self._covered.setdefault(series, []).append(answered)

    def quarantine(self, rows: pl.DataFrame) -> None:
        self._quarantined.append(rows)
        self.rows += rows.height

    def log(self, entry: FetchLogEntry) -> None:
        self._fetches[entry.id] = entry

    def take(self) -> BarBatch:
        """What is pending, as a batch; starts an empty one."""
        batch = BarBatch(
            # Stretches of one series can overlap when a week was completed: the later fetch is kept.
            bars=pl.concat([BAR_SCHEMA.to_frame(), *self._bars]).unique(
                ["symbol", "timeframe", "time"], keep="last"
            ),
            quarantined=pl.concat([QUARANTINE_SCHEMA.to_frame(), *self._quarantined]),
            covered=self._covered,
            fetches=list(self._fetches.values()),
        )
        self.__init__()  # type: ignore[misc]  # an empty batch is a new one
        return batch
