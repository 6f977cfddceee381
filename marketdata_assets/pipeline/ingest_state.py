"""The state of an ingest that pages of ranges and days of markets share: its report, and the batch that is being filled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl

from marketdata_assets.domain.bars import BAR_SCHEMA, QUARANTINE_SCHEMA, bucket_close, keep_closed
from marketdata_assets.domain.calendar import sunday_of
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.rollup import roll_up
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.polygon.errors import EntitlementError
from marketdata_assets.storage.bars import BarBatch, FetchLogEntry

if TYPE_CHECKING:
    from datetime import date

    from marketdata_assets.domain.bars import Screened
    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.polygon.parser import PageRows
    from marketdata_assets.polygon.planner import Plan
    from marketdata_assets.polygon.request import FetchRecord, FetchRequest
    from marketdata_assets.polygon.vendor import BarRequest

PAGE_BITS: Final = 32
"""A row's ``source`` is its position in the page, with the number of the page above so many bits."""

ReadBars = Callable[[Series, Window], pl.DataFrame]
"""A function that reads the stored bars (``BAR_SCHEMA``) of a series in a window."""


class QuarantinedError(MarketDataError):
    """Every row that the vendor sent for a request broke a rule."""


class FailedRequest(NamedTuple):
    """A request that failed, and its error."""

    series: Series
    """The symbol and the base of the request."""
    window: Window
    error: MarketDataError


@dataclass(slots=True)
class IngestReport:
    """The outcome of an ingest.

    ``rows_fetched`` counts the vendor's rows, quarantined ones included; ``failures`` has one error per failed request;
    ``empty`` has the requests that the vendor answered without a row. ``differs_from_range`` has the day bars of whole
    markets that differ from stored bars which were fetched by ranges: the stored bars stay.
    """

    requests: int = 0
    pages: int = 0
    rows_fetched: int = 0
    retries: int = 0
    waited_seconds: float = 0.0
    failures: list[FailedRequest] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    empty: list[FetchRequest] = field(default_factory=list)
    differs_from_range: list[tuple[Series, date]] = field(default_factory=list)

    def __add__(self, other: IngestReport) -> IngestReport:
        return IngestReport(
            **{count.name: getattr(self, count.name) + getattr(other, count.name) for count in fields(self)}
        )

    @property
    def failed_symbols(self) -> list[str]:
        """Symbols with a failure, sorted."""
        return sorted({failed.series.symbol for failed in self.failures})


class Pending:
    """The batch that is being filled."""

    def __init__(self, differing: list[pl.DataFrame]) -> None:
        self.rows = 0
        self._differing = differing
        self._bars: list[pl.DataFrame] = []
        self._day_bars: list[pl.DataFrame] = []
        self._quarantined: list[pl.DataFrame] = []
        self._covered: dict[Series, list[Window]] = {}
        self._fetches: dict[object, FetchLogEntry] = {}

    def add(self, series: Series, bars: pl.DataFrame, answered: Sequence[Window]) -> None:
        """Add ``bars`` of ``series``, and the ``answered`` windows that they cover."""
        self._bars.append(bars)
        self.rows += bars.height
        if answered:
            self._covered.setdefault(series, []).extend(answered)

    def add_day(self, bars: pl.DataFrame) -> None:
        """Add day bars of a market, which replace no bar of a range."""
        self._day_bars.append(bars)
        self.rows += bars.height

    def cover(self, series: Series, window: Window) -> None:
        """Add a covered window of ``series``, joined with the previous window if it begins where that one ends."""
        windows = self._covered.setdefault(series, [])
        if windows and windows[-1].end == window.start:
            window = Window(windows.pop().start, window.end)
        windows.append(window)

    def quarantine(self, rows: pl.DataFrame) -> None:
        """Add quarantined ``rows``, as ``QUARANTINE_SCHEMA``."""
        self._quarantined.append(rows)
        self.rows += rows.height

    def log(self, entry: FetchLogEntry) -> None:
        """Add ``entry``, or put it in the place of its earlier state."""
        self._fetches[entry.id] = entry

    def batch(self) -> BarBatch:
        """Return the pending batch."""
        return BarBatch(
            # Stretches of one series can overlap when a week was completed: the later fetch is kept.
            bars=pl.concat([BAR_SCHEMA.to_frame(), *self._bars]).unique(
                ["symbol", "timeframe", "time"], keep="last"
            ),
            quarantined=pl.concat([QUARANTINE_SCHEMA.to_frame(), *self._quarantined]),
            covered=self._covered,
            fetches=list(self._fetches.values()),
            day_bars=pl.concat([BAR_SCHEMA.to_frame(), *self._day_bars]),
            differing=self._differing,
        )


class IngestState:
    """The state of one ingest.

    Attributes:
        plan: The requests to make, and the windows to roll up from the store.
        now: The present: bars that have not closed by then are dropped.
        run_id: The id of the run, for ``fetch_log``.
        coverage: The covered windows by series.
        begins: The begin of each known history, by symbol and base.
        report: The outcome so far.
        differing: The day bars of markets that differ from bars of ranges, as committed batches found them.
        pending: The batch that is being filled.
        read_bars: Reads stored bars; set when the batches are taken.
    """

    read_bars: ReadBars

    def __init__(
        self, plan: Plan, now: datetime, coverage: Mapping[Series, Sequence[Window]], run_id: str | None
    ) -> None:
        self.plan = plan
        self.now = now
        self.run_id = run_id
        self.coverage = coverage
        self.begins: dict[tuple[str, Timeframe], datetime] = {}
        for series, windows in coverage.items():
            for window in windows:
                self.note_begin(series.symbol, series.timeframe.base, window.start)
        self.report = IngestReport()
        self.differing: list[pl.DataFrame] = []
        self.pending = Pending(self.differing)

    def flush(self) -> BarBatch:
        """Return the pending batch, and begin another."""
        batch = self.pending.batch()
        self.pending = Pending(self.differing)
        return batch

    def note_begin(self, symbol: str, base: Timeframe, moment: datetime) -> None:
        """Note that the history of ``symbol`` on ``base`` begins at ``moment`` or before."""
        key = (symbol, base)
        self.begins[key] = min(moment, self.begins.get(key, moment))

    def is_before_history(self, series: Series, window: Window, error: MarketDataError) -> bool:
        """Whether ``error`` refuses a ``window`` that ends before the known history: the plan does not reach so far."""
        begins = self.begins.get((series.symbol, series.timeframe))
        return isinstance(error, EntitlementError) and begins is not None and window.end <= begins

    def open_log(
        self, request: BarRequest, timeframes: tuple[Timeframe, ...], requested_at: datetime
    ) -> FetchLogEntry:
        """Count ``request`` in the report, and return its first row of ``fetch_log``."""
        self.report.requests += 1
        return FetchLogEntry(
            symbol=request.symbol,
            base=request.base,
            window=request.window,
            timeframes=timeframes,
            status="partial",
            requested_at=requested_at,
            run_id=self.run_id,
        )

    def count_page(self, log: FetchLogEntry, rows: int) -> FetchLogEntry:
        """Add a page of ``rows`` to the report, and return ``log`` with it."""
        self.report.pages += 1
        self.report.rows_fetched += rows
        return replace(log, pages=log.pages + 1, bars=log.bars + rows)

    def count(self, log: FetchLogEntry, record: FetchRecord) -> FetchLogEntry:
        """Add the cost of ``record`` to the report, and return ``log`` with it."""
        self.report.retries += record.retries
        self.report.waited_seconds += record.waited_seconds
        return replace(
            log,
            retries=log.retries + record.retries,
            rate_limited=log.rate_limited + record.rate_limited,
            duration_seconds=log.duration_seconds + record.duration_seconds,
            waited_seconds=log.waited_seconds + record.waited_seconds,
            request_id=record.request_id or log.request_id,
        )

    def store(
        self,
        series: Series,
        base: pl.DataFrame,
        window: Window,
        answered: Sequence[Window],
        calendar: TradingCalendar,
    ) -> int:
        """Put the bars of ``series`` that ``base`` rolls up to into the pending batch, and return their number."""
        timeframe = series.timeframe
        rolled = keep_closed(roll_up(base, timeframe, calendar), timeframe, calendar, self.now)
        whole = rolled.filter(
            pl.col("time") >= window.start,
            bucket_close(pl.col("time"), timeframe, calendar) <= window.end,
        )
        if timeframe is Timeframe.W1:
            answered = [weeks for piece in answered if (weeks := complete_weeks(piece, calendar))]
        self.pending.add(series, whole, answered)
        return whole.height


def add_sources(
    frame: pl.DataFrame, rows: PageRows, page: int, positions: pl.Series | None = None
) -> pl.DataFrame:
    """Add the columns of ``PAGE_SCHEMA`` that the rows of a page lack.

    ``positions`` are the positions of the rows in the page, None when ``frame`` has all rows of the page.
    """
    if positions is None:
        positions = pl.int_range(0, frame.height, dtype=pl.UInt64, eager=True)
    faults = pl.Series([None], dtype=pl.String).new_from_index(0, frame.height)
    if rows.faults:
        faults = pl.Series([rows.faults.get(at) for at in positions], dtype=pl.String)
    return frame.with_columns(fault=faults, source=positions.cast(pl.UInt64) + (page << PAGE_BITS))


def add_texts(screened: Screened, pages: Mapping[int, PageRows]) -> pl.DataFrame:
    """Add the text that the vendor sent to the quarantined rows of ``screened``, and return them."""
    sources = screened.sources.to_list()
    by_page: dict[int, list[int]] = {}
    for source in sources:
        if source is not None:
            by_page.setdefault(source >> PAGE_BITS, []).append(source & ((1 << PAGE_BITS) - 1))
    texts: dict[int, str | None] = {}
    for page, positions in by_page.items():
        if page in pages:
            found = pages[page].texts(positions)
            texts |= {(page << PAGE_BITS) + at: text for at, text in zip(positions, found, strict=True)}
    return screened.quarantined.with_columns(
        vendor_row=pl.Series([texts.get(source) for source in sources], dtype=pl.String)
    )


def complete_weeks(window: Window, calendar: TradingCalendar) -> Window | None:
    """Return the part of ``window`` from its first to its last local Sunday 00:00, None when it has no complete week."""
    first = calendar.last_day_before(window.start) + timedelta(days=1)
    last = calendar.local_day(window.end)
    start = sunday_of(first + timedelta(days=6))
    end = sunday_of(last)
    return Window(calendar.day_start(start), calendar.day_start(end)) if start < end else None


def all_quarantined_error(subject: str, rules: Mapping[str, int]) -> QuarantinedError:
    """Return the error of a request, ``subject``, of which every row broke one of ``rules``."""
    return QuarantinedError(
        f"{subject}: all {sum(rules.values())} rows that the vendor sent broke a rule"
        f" ({describe_counts(rules)}) and none was stored: see ohlcv_quarantine, then run the"
        " backfill again"
    )


def describe_counts(rules: Mapping[str, int]) -> str:
    """Return ``rules`` with the number of rows that broke each, the largest number first."""
    return ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items(), key=lambda item: -item[1]))
