"""What every check shares: the partitions that it reads, and the report of what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl
from dagster import AssetCheckEvaluation, AssetCheckSeverity, MetadataValue, Output

from marketdata_assets.domain.gates import stops_run
from marketdata_assets.domain.partitions import SERIES, Rectangle
from marketdata_assets.domain.wording import counted, name_first, one_line
from marketdata_assets.storage.partition_windows import partition_windows_of
from marketdata_assets.storage.symbols import list_symbols

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dagster import AssetCheckExecutionContext, AssetCheckSpec

    from marketdata_assets.domain.series import Series
    from marketdata_assets.domain.windows import Window
    from marketdata_assets.storage.connection import Database

ALONE_DAYS: Final = 30
"""How many days a check that runs without an asset reads, up to and including today."""
WORST: Final = 20
"""The number of rows in the table of a verdict."""
_NAMED: Final = 3
_PARTITION: Final = ("symbol", "timeframe", "day")


@dataclass(frozen=True, slots=True)
class Scope:
    """The partitions that a check reads."""

    rectangle: Rectangle
    windows: Mapping[Series, Window]

    @property
    def description(self) -> str:
        """The scope for people: its series or their number, and its days."""
        series = self.rectangle.series
        named = series[0].key if len(series) == 1 else f"{len(series):,} series"
        days = (
            f"{self.rectangle.first}"
            if self.rectangle.first == self.rectangle.last
            else f"{self.rectangle.first} to {self.rectangle.last}"
        )
        return f"{named}, {days}"


def scope_of(context: AssetCheckExecutionContext, database: Database) -> Scope:
    """Return the partitions of the run; when the check runs alone, the last days of every active series.

    Raises:
        ConfigurationError: A series of the run is no longer tracked.
    """
    rectangle = Rectangle.from_tags(context.run.tags, context.instance.get_dynamic_partitions(SERIES))
    if rectangle is None:
        today = datetime.now(UTC).date()
        active = (series for symbol in list_symbols(database, active_only=True) for series in symbol.series)
        rectangle = Rectangle(today - timedelta(days=ALONE_DAYS - 1), today, tuple(active))
    windows = partition_windows_of(database, rectangle.series, rectangle.first, rectangle.last)
    return Scope(rectangle, windows)


def verdict(
    spec: AssetCheckSpec,
    scope: Scope,
    faults: pl.DataFrame,
    *,
    counts: Mapping[str, int],
    only_warns: bool = False,
    listed: pl.DataFrame | None = None,
    blocked: int = 0,
) -> Iterator[Output[None] | AssetCheckEvaluation]:
    """Yield the events of a check that found ``faults`` in ``scope``.

    These are the two events that Dagster makes of an ``AssetCheckResult``. From a result, Dagster would also search for
    the materializations that the check belongs to, and enumerate every partition of the asset: 3 s per run with 250,000.
    Without them Dagster uses the run and the time.

    Args:
        spec: The specification of the check.
        scope: The partitions that were read.
        faults: The faults, as ``FAULT_SCHEMA``.
        counts: How much was read, and how much of it fails, by name.
        only_warns: Whether the severity is never ERROR.
        listed: Faults to show at the end of the table that are not failures.
        blocked: How many of the partitions that do not fail are blocked, so that they have nothing to check.
    """
    partitions = scope.rectangle.size
    failing = faults.select(_PARTITION).unique().height
    worst = faults.sort("score", "rows", *_PARTITION, descending=[True, True, False, False, False])
    shown = worst if listed is None else pl.concat([worst, listed.sort("score", descending=True)])
    stops = stops_run(failing, partitions) and not only_warns
    yield Output(None, output_name=spec.get_python_identifier())
    yield AssetCheckEvaluation(
        asset_key=spec.asset_key,
        check_name=spec.name,
        blocking=spec.blocking,
        passed=failing == 0,
        severity=AssetCheckSeverity.ERROR if stops else AssetCheckSeverity.WARN,
        description=_describe(scope, worst, failing, blocked),
        metadata={
            "looked_at": MetadataValue.text(scope.description),
            "partitions": MetadataValue.int(partitions),
            "failing_partitions": MetadataValue.int(failing),
            **{noun: MetadataValue.int(count) for noun, count in counts.items()},
            "worst": MetadataValue.md(fault_table(shown)),
        },
    )


def _describe(scope: Scope, worst: pl.DataFrame, failing: int, blocked: int) -> str:
    partitions = scope.rectangle.size
    aside = f", {blocked:,} blocked" if blocked else ""
    if not failing:
        return f"{counted(partitions - blocked, 'partition')} pass{aside}."
    named = list(
        dict.fromkeys(
            f"{symbol}:{timeframe} {day}" for symbol, timeframe, day in worst.select(_PARTITION).iter_rows()
        )
    )
    shown = name_first(named, _NAMED, total=failing)
    return f"{failing:,} of {counted(partitions, 'partition')} fail{aside}: {shown}."


def fault_table(faults: pl.DataFrame) -> str:
    """Return the first ``faults`` as a Markdown table, and how many more there are; a sentence when there are none."""
    if faults.is_empty():
        return "Nothing is wrong."
    columns = ("symbol", "timeframe", "day", "what", "rows", "time", "example")
    lines = [
        f"| {symbol}:{timeframe} | {day} | {what} | {rows:,} | {time:%Y-%m-%d %H:%M} | {table_cell(example)} |"
        for symbol, timeframe, day, what, rows, time, example in faults.head(WORST)
        .select(columns)
        .iter_rows()
    ]
    head = "| series | day | what | bars | for example (UTC) | |\n|---|---|---|---:|---|---|"
    more = [f"\n… and {faults.height - WORST:,} more."] if faults.height > WORST else []
    return "\n".join([head, *lines, *more])


def table_cell(text: str) -> str:
    """Return ``text`` as a cell of a Markdown table: on one line, with escaped vertical bars."""
    return one_line(text).replace("|", "\\|")
