"""The ``gap_report`` asset: where the bars of a partition are not whole, and why; missing bars are re-fetched."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Final

import polars as pl
from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    BackfillPolicy,
    Config,
    MaterializeResult,
    MetadataValue,
    MultiPartitionsDefinition,
    asset,
)
from pydantic import Field

from marketdata_assets.assets.fetching import instruments_of, request_metadata, vendor_events
from marketdata_assets.assets.ingest import Ingest, IngestReport
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.completeness import DAILY_COMPLETENESS_SCHEMA, daily_completeness
from marketdata_assets.domain.gap_history import KNOWN_SCHEMA, filled_since, inherited
from marketdata_assets.domain.gaps import (
    MAX_ATTEMPTS,
    SETTLING,
    GapState,
    classify,
    find_gaps,
    judge,
    slots_in_gaps,
)
from marketdata_assets.domain.series import AssetClass, Instrument, Series
from marketdata_assets.domain.slots import Slots, expected_by_series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.partitions import days_by_series
from marketdata_assets.polygon.planner import plan_again
from marketdata_assets.polygon.resource import PolygonResource
from marketdata_assets.storage.bars import read_coverage, read_rows, write_batch
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.gaps import first_bars, read_asked, read_gaps, read_held, write_gaps
from marketdata_assets.storage.resource import PostgresResource
from marketdata_assets.storage.tables import OHLCV

DESCRIPTION = """\
Maximal runs of expected bars that are missing, each with a state and a reason.

`open`: missing, and re-fetch attempts remain. `filled`: a re-fetch brought the bars. `no_trades`: re-fetched, the
vendor has none, and the series' own habits explain it. `unfilled`: attempts are used up and it looks like loss.
"""

_EVIDENCE: Final = {Timeframe.M1: timedelta(days=40), Timeframe.D1: timedelta(days=380)}
"""How far back the habits of a series are looked at, by base: somewhat more than the sessions that judging uses."""
_BEYOND: Final = timedelta(days=7)
"""How far behind a window known gaps are looked for that continue one of its own."""
_SLOTS_AT_ONCE: Final = 3_000_000
"""Expected slots that are held in memory at once."""
_WORST: Final = 20


_RESULT_SCHEMA: Final = pl.Schema(
    {
        name: KNOWN_SCHEMA[name]
        for name in (
            *("symbol", "timeframe", "gap_start", "gap_end", "missing_bars"),
            *("state", "attempts", "reason"),
        )
    }
)


class GapReportConfig(Config):
    """What a run of ``gap_report`` may be told."""

    repair: bool = Field(default=True, description="Ask the vendor again for bars that are missing.")


@dataclass(slots=True)
class GapOutcome:
    """What was found: gaps by state, as they stand in the end, and what repairing cost."""

    gaps: list[pl.DataFrame] = field(default_factory=lambda: [_RESULT_SCHEMA.to_frame()])
    reports: list[IngestReport] = field(default_factory=list)

    @property
    def frame(self) -> pl.DataFrame:
        """Every gap of the run, the worst first."""
        return pl.concat(self.gaps).sort("missing_bars", descending=True)


def gap_report_asset(partitions: MultiPartitionsDefinition) -> AssetsDefinition:
    """The asset over ``partitions``."""

    @asset(
        name="gap_report",
        partitions_def=partitions,
        backfill_policy=BackfillPolicy.single_run(),
        deps=["ohlcv"],
        group_name="quality",
        kinds={"polars", "postgres"},
        description=DESCRIPTION,
    )
    def gap_report(
        context: AssetExecutionContext,
        config: GapReportConfig,
        polygon: PolygonResource,
        postgres: PostgresResource,
    ) -> MaterializeResult[None]:
        days = days_by_series(context.partition_keys)
        with postgres.database() as database:
            outcome = report_gaps(
                database,
                polygon if config.repair else None,
                days,
                now=datetime.now(UTC),
                run_id=context.run.run_id,
            )
        return MaterializeResult(metadata=_metadata(outcome))

    return gap_report


def report_gaps(
    database: Database,
    polygon: PolygonResource | None,
    days: dict[Series, list[date]],
    *,
    now: datetime,
    run_id: str | None,
) -> GapOutcome:
    """Find, repair (with ``polygon``) and write down the gaps of each series between its first and last day."""
    wanted, _ = instruments_of(database, days)
    classes = {instrument.symbol: instrument.asset_class for instrument in wanted}
    outcome = GapOutcome()
    for chunk in _chunks(days, classes):
        look = _Look(database, {one: classes[one.symbol] for one in chunk}, chunk, now)
        if polygon is not None:
            for _ in range(MAX_ATTEMPTS):
                if not look.repair(polygon, run_id, outcome):
                    break
        outcome.gaps.append(look.write())
    return outcome


def _chunks(days: dict[Series, list[date]], classes: dict[str, AssetClass]) -> Iterator[dict[Series, Window]]:
    """The window of each series, as many series of one base at a time as fit in memory."""
    for base in (Timeframe.M1, Timeframe.D1):
        chunk: dict[Series, Window] = {}
        slots = 0.0
        for series, chosen in days.items():
            if series.timeframe.base is not base:
                continue
            calendar = calendar_of(classes[series.symbol])
            window = Window(calendar.day_start(min(chosen)), calendar.day_window(max(chosen)).end)
            size = (window.duration + _EVIDENCE[base]) / series.timeframe.duration
            if chunk and slots + size > _SLOTS_AT_ONCE:
                yield chunk
                chunk, slots = {}, 0.0
            chunk[series] = window
            slots += size
        if chunk:
            yield chunk


class _Look:
    """Some series of one base, looked through together."""

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
        evidence = _EVIDENCE[next(iter(windows)).timeframe.base]
        around = {
            one: Window(window.start - evidence, window.end + _BEYOND) for one, window in windows.items()
        }
        self._known = read_gaps(database, around)
        starts = [window.start for window in around.values()] + self._known["gap_start"].to_list()
        ends = [window.end for window in windows.values()] + self._known["gap_end"].to_list()
        context = Window(min(starts).astimezone(UTC), max(ends).astimezone(UTC))
        self._context = context
        slots = expected_by_series(classes, context, now - SETTLING, first_bars(database, windows))
        self._expected = self._connected(slots, read_asked(database, around))
        self._gaps = self._find(inherit_from=self._known)

    def _connected(
        self, slots: dict[Series, Slots], asked: dict[Series, list[Window]]
    ) -> dict[Series, Slots]:
        """The ``slots`` that were asked for around each window; a known gap is known to have been."""
        known = slots_in_gaps(self._known, slots)
        return {
            one: each.connected(self._windows[one], asked.get(one, ()), known[one])
            for one, each in slots.items()
        }

    def _find(self, *, inherit_from: pl.DataFrame) -> pl.DataFrame:
        """Gaps with attempts, failure and state; all of the context, so that they can be judged."""
        self._held = read_held(self._database, dict.fromkeys(self._windows, self._context))
        found = judge(find_gaps(self._held, self._expected), self._held, self._expected)
        return classify(inherited(found, inherit_from).with_columns(arrived=pl.lit(value=False)))

    def _own(self, gaps: pl.DataFrame) -> pl.DataFrame:
        """The ``gaps`` that reach into the window of their series."""
        spans = pl.DataFrame(
            [
                (one.symbol, one.timeframe.value, window.start, window.end)
                for one, window in self._windows.items()
            ],
            schema={**dict.fromkeys(("symbol", "timeframe"), pl.String()), "lo": _TIME, "hi": _TIME},
            orient="row",
        )
        return (
            gaps.join(spans, on=["symbol", "timeframe"])
            .filter(pl.col("gap_start") < pl.col("hi"), pl.col("gap_end") > pl.col("lo"))
            .drop("lo", "hi")
        )

    def repair(self, polygon: PolygonResource, run_id: str | None, outcome: GapOutcome) -> bool:
        """Ask once more for what is missing in open gaps; whether there was anything to ask."""
        due = self._own(self._gaps).filter(pl.col("state") == GapState.OPEN.value)
        planned = plan_again(self._missing(due), now=self._now, tracked=self._tracked())
        if not planned.requests:
            return False
        symbols = sorted({request.symbol for request in planned.requests})
        ingest = Ingest(
            planned, now=self._now, coverage=read_coverage(self._database, symbols), run_id=run_id
        )
        with closing(vendor_events(polygon, planned.requests, self._database)) as events:
            for batch in ingest.batches(events, self._read_bars):
                write_batch(self._database, batch)
        outcome.reports.append(ingest.report)
        failures = {series.symbol: str(error) for series, error in ingest.report.failures}
        made = due.with_columns(
            attempts=pl.col("attempts") + 1,
            failure=pl.col("symbol").replace_strict(failures, default=None, return_dtype=pl.String),
        )
        kept = self._gaps.join(due, on=["symbol", "timeframe", "gap_start"], how="anti")
        self._gaps = self._find(inherit_from=pl.concat([kept, made.select(kept.columns)]))
        return True

    def _missing(self, due: pl.DataFrame) -> dict[Instrument, dict[Timeframe, list[Window]]]:
        missing: dict[Instrument, dict[Timeframe, list[Window]]] = {}
        for symbol, name, start, end in due.select("symbol", "timeframe", "gap_start", "gap_end").iter_rows():
            series = Series(symbol, Timeframe(name))
            # A gap may have begun long before: what was asked for then is not asked for again.
            window = Window(start.astimezone(UTC), end.astimezone(UTC)).intersection(self._windows[series])
            if window is not None:
                instrument = Instrument(symbol, self._classes[series])
                missing.setdefault(instrument, {}).setdefault(series.timeframe, []).append(window)
        return missing

    def _tracked(self) -> dict[Instrument, tuple[Timeframe, ...]]:
        return instruments_of(self._database, self._windows)[1]

    def _read_bars(self, series: Series, window: Window) -> pl.DataFrame:
        return read_rows(self._database, OHLCV, {series: [window]})

    def write(self) -> pl.DataFrame:
        """Write down what was found, and what was filled; returns both."""
        standing = self._own(self._gaps)
        filled = self._own(filled_since(self._known, self._held, self._expected))
        arrived = (
            inherited(filled, self._known)
            .with_columns(
                attempts=pl.col("attempts").clip(1, MAX_ATTEMPTS),
                state=pl.lit(GapState.FILLED.value),
                reason=pl.format("{} bars arrived", "missing_bars"),
            )
            .select(KNOWN_SCHEMA.names())
        )
        gaps = pl.concat(
            [standing.select(KNOWN_SCHEMA.names()).cast(KNOWN_SCHEMA), arrived.cast(KNOWN_SCHEMA)]
        )
        daily = self._own_days(daily_completeness(self._held, self._expected, gaps))
        spans = {}
        for series, window in self._windows.items():
            own = gaps.filter(symbol=series.symbol, timeframe=series.timeframe.value)
            edges = [*own["gap_start"], *own["gap_end"], window.start, window.end]
            spans[series] = Window(min(edges).astimezone(UTC), max(edges).astimezone(UTC))
        write_gaps(self._database, spans, gaps, daily)
        return gaps.select(_RESULT_SCHEMA.names())

    def _own_days(self, daily: pl.DataFrame) -> pl.DataFrame:
        parts = [DAILY_COMPLETENESS_SCHEMA.to_frame()]
        for series, window in self._windows.items():
            calendar = calendar_of(self._classes[series])
            first = calendar.local_day(window.start)
            last = calendar.local_day(window.end - timedelta(microseconds=1))
            parts.append(
                daily.filter(
                    pl.col("day").is_between(first, last),
                    symbol=series.symbol,
                    timeframe=series.timeframe.value,
                )
            )
        return pl.concat(parts)


_TIME: Final = KNOWN_SCHEMA["gap_start"]


def _metadata(outcome: GapOutcome) -> dict[str, MetadataValue]:
    gaps = outcome.frame
    counts = {
        f"gaps_{state.value}": MetadataValue.int(gaps.filter(state=state.value).height) for state in GapState
    }
    lost = gaps.filter(pl.col("state").is_in([GapState.OPEN.value, GapState.UNFILLED.value]))
    total = IngestReport()
    for report in outcome.reports:
        total = replace(
            total,
            requests=total.requests + report.requests,
            pages=total.pages + report.pages,
            retries=total.retries + report.retries,
            rows_fetched=total.rows_fetched + report.rows_fetched,
            waited_seconds=total.waited_seconds + report.waited_seconds,
        )
    return {
        **counts,
        "missing_bars": MetadataValue.int(int(lost["missing_bars"].sum())),
        "worst": MetadataValue.md(gap_table(lost.head(_WORST))),
        **request_metadata(total),
    }


def gap_table(gaps: pl.DataFrame) -> str:
    """``gaps`` as a Markdown table; a sentence when there is none."""
    if gaps.is_empty():
        return "No bar is missing without an explanation."
    lines: Sequence[str] = [
        f"| {symbol} | {timeframe} | {start:%Y-%m-%d %H:%M} | {end:%Y-%m-%d %H:%M} | {bars:,} | {state} | {reason} |"
        for symbol, timeframe, start, end, bars, state, reason in gaps.select(
            "symbol", "timeframe", "gap_start", "gap_end", "missing_bars", "state", "reason"
        ).iter_rows()
    ]
    head = (
        "| symbol | timeframe | from (UTC) | until | bars | state | reason |\n|---|---|---|---|---:|---|---|"
    )
    return "\n".join([head, *lines])
