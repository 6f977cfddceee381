"""Dagster's IO manager: Polars frames into Postgres tables and back, partition keys as WHERE windows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import polars as pl
from dagster import (
    ConfigurableIOManager,
    Failure,
    InputContext,
    MetadataValue,
    OutputContext,
    TableColumn,
    TableColumnConstraints,
    TableConstraints,
    TableSchema,
)

from marketdata_assets.defs.instance.internals import add_partition_metadata, record_only
from marketdata_assets.defs.metadata import integer_of
from marketdata_assets.defs.partitions import partition_key
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.defs.run_totals import to_metadata
from marketdata_assets.domain.bars import KEY
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.partitions import parse_key
from marketdata_assets.domain.totals import BarTotals, WrittenTotals
from marketdata_assets.storage.bars import BarBatch, count_by_day, count_rows, read_rows, write_batch
from marketdata_assets.storage.features import FeatureBatch, ReplaceCounts, write_features
from marketdata_assets.storage.merge import MergeCounts
from marketdata_assets.storage.partition_windows import (
    calendars_of,
    partition_windows,
)
from marketdata_assets.storage.tables import FEATURES, TABLES, Table

if TYPE_CHECKING:
    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.series import Series
    from marketdata_assets.domain.windows import Window
    from marketdata_assets.storage.connection import Database

LOOKBACK_BARS = "lookback_bars"
"""Input metadata: how many bars before each window come with it."""

ROW_COUNT: Final = "dagster/partition_row_count"
BLOCKED: Final = "blocked"
"""Metadata of a partition that a check keeps from features, or that lacks what they need: why."""

COLUMNS = "columns"
"""Input metadata: which columns to read; default all."""


@dataclass(frozen=True)
class Recording:
    """What Dagster records of a run, beside its batches: an asset yields it as the last item.

    Attributes:
        metadata: Metadata that hold for the run: Dagster shows them with the latest partition.
        unrecorded: Keys of partitions that are not recorded, whatever was stored.
        blocked: The partitions that a check blocks, or that lack what they need, each with the reason.
        shown: Returns more metadata of the latest partition, for its series.
    """

    metadata: Mapping[str, object] = field(default_factory=dict)
    unrecorded: Collection[str] = ()
    blocked: Mapping[str, str] = field(default_factory=dict)
    shown: Callable[[Series], Mapping[str, object]] = lambda _: {}


class PostgresIOManager(ConfigurableIOManager):
    """Stores what an asset returns in the table of the asset's name.

    An output is a frame, a :class:`BarBatch`, a :class:`FeatureBatch`, or an iterable of these, with a
    :class:`Recording` among them: each batch is committed in a transaction of its own, so that memory stays bounded
    whatever the range. An input is the frame of the rows of its partitions; input metadata ``columns`` and
    ``lookback_bars`` narrow and widen it.
    """

    postgres: PostgresResource

    def handle_output(
        self, context: OutputContext, obj: pl.DataFrame | BarBatch | FeatureBatch | Iterable[Any]
    ) -> None:
        """Commit ``obj`` batch by batch and attach what was done as metadata."""
        table = _table(context.asset_key.path[-1])
        with self.postgres.database() as database:
            written = _Written(database)
            try:
                for batch in _batches(obj):
                    written.add(batch)
            except Failure as failure:
                # What was committed before the asset gave up is stored all the same.
                raise Failure(
                    description=failure.description,
                    metadata={**failure.metadata, **written.metadata(table)},
                    allow_retries=failure.allow_retries,
                ) from failure
            if context.has_asset_partitions:
                self._record_partitions(context, database, table, written)
            else:
                context.add_output_metadata(written.metadata(table))

    def _record_partitions(
        self, context: OutputContext, database: Database, table: Table, written: _Written
    ) -> None:
        recording = written.recording
        if recording.unrecorded:
            record_only(
                context, [key for key in context.asset_partition_keys if key not in recording.unrecorded]
            )
        keys = context.asset_partition_keys
        rows = _partition_rows(database, table, keys)
        metadata: dict[str, dict[str, object]] = {
            key: {ROW_COUNT: rows.get(key, 0)}
            | ({BLOCKED: recording.blocked[key]} if key in recording.blocked else {})
            for key in keys
        }
        # What holds for the run stands with two partitions alone, since the event log keeps the metadata of each. Dagster
        # writes their events in this order: a sensor reads the first, and the UI shows the last as the asset's latest.
        first, latest = keys[0], keys[-1]
        metadata[first] |= recording.metadata
        metadata[latest] |= {
            **written.metadata(table),
            **recording.metadata,
            **recording.shown(parse_key(latest)[1]),
        }
        add_partition_metadata(context, metadata)

    def load_input(self, context: InputContext) -> pl.DataFrame:
        """Read the rows of the input's partitions, sorted by (symbol, timeframe, time)."""
        table = _table(context.asset_key.path[-1])
        metadata = context.definition_metadata or {}
        columns = metadata.get(COLUMNS)
        with self.postgres.database() as database:
            windows = partition_windows(database, context.asset_partition_keys)
            return read_rows(
                database,
                table,
                windows,
                columns=None if columns is None else [str(name) for name in _sequence(columns)],
                lookback_bars=integer_of(metadata.get(LOOKBACK_BARS, 0)),
            )


class _Written:
    """What the batches of an output did."""

    def __init__(self, database: Database) -> None:
        self.recording = Recording()
        self._database = database
        self._bars = MergeCounts()
        self._quarantined = 0
        self._features = ReplaceCounts()

    def add(self, item: BarBatch | FeatureBatch | Recording) -> None:
        """Commit ``item`` if it is a batch; else keep it for when the partitions are recorded."""
        if isinstance(item, Recording):
            self.recording = item
        elif isinstance(item, BarBatch):
            self._bars += write_batch(self._database, item)
            self._quarantined += item.quarantined.height
        else:
            self._features += write_features(self._database, item)

    def metadata(self, table: Table) -> dict[str, int]:
        """Return the counts of rows: the totals of the run, and how many bars are stored."""
        if table is FEATURES:
            return to_metadata(WrittenTotals(self._features.written, self._features.deleted))
        bars = BarTotals(
            self._bars.inserted, self._bars.changed, self._bars.unchanged, rows_quarantined=self._quarantined
        )
        return {"dagster/row_count": count_rows(self._database), **to_metadata(bars)}


def _partition_rows(database: Database, table: Table, keys: Sequence[str]) -> dict[str, int]:
    windows = partition_windows(database, keys)
    by_zone: dict[TradingCalendar, dict[Series, list[Window]]] = defaultdict(dict)
    for series, calendar in calendars_of(database, windows).items():
        by_zone[calendar][series] = windows[series]
    return {
        partition_key(day, series): rows
        for calendar, zone_windows in by_zone.items()
        for (day, series), rows in count_by_day(database, table, zone_windows, calendar.timezone).items()
    }


def _batches(obj: object) -> Iterator[BarBatch | FeatureBatch | Recording]:
    if isinstance(obj, BarBatch | FeatureBatch | Recording):
        yield obj
    elif isinstance(obj, pl.DataFrame):
        yield BarBatch(obj)
    elif isinstance(obj, Iterable):
        for item in obj:
            yield from _batches(item)
    else:
        message = f"an asset returned {type(obj).__name__}: PostgresIOManager stores Polars frames, batches or iterables of them"
        raise MarketDataError(message)


def _table(asset_name: str) -> Table:
    if asset_name not in TABLES:
        message = f"asset {asset_name} has no table: PostgresIOManager stores {', '.join(TABLES)}"
        raise MarketDataError(message)
    return TABLES[asset_name]


def table_metadata(table: Table) -> Mapping[str, Any]:
    """Return the metadata that Dagster's UI knows about a table: its name and its columns."""
    return {
        "dagster/table_name": f"public.{table.name}",
        "dagster/column_schema": MetadataValue.table_schema(
            TableSchema(
                columns=[
                    TableColumn(
                        name,
                        type=kind,
                        description=table.descriptions[name],
                        constraints=TableColumnConstraints(nullable=name not in table.required),
                    )
                    for name, kind in table.column_types()
                ]
                + [
                    TableColumn(
                        name,
                        type=kind,
                        description=text,
                        constraints=TableColumnConstraints(nullable=False),
                    )
                    for name, (kind, text) in table.kept.items()
                ],
                constraints=TableConstraints(other=[f"primary key ({', '.join(KEY)})"]),
            )
        ),
    }


def _sequence(value: object) -> Sequence[object]:
    if isinstance(value, MetadataValue):
        value = value.value
    if not isinstance(value, list | tuple):
        message = f"input metadata {COLUMNS!r} is a list of column names, not {value!r}"
        raise MarketDataError(message)
    return value
