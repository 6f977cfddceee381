"""Range runs: days x series, divided into as few runs of a job as possible."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.gaps import GapState
from marketdata_assets.domain.partitions import Rectangle, islands
from marketdata_assets.domain.series import Series

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import polars as pl

    from marketdata_assets.domain.series import AssetClass


MAX_PARTITIONS: Final = 10_000
"""The largest number of partitions in one run, which bounds its events and memory. A single symbol may exceed it."""

SPARE_PARTITIONS: Final = 1_000
"""How many partitions a run may hold without need: recording them costs less than another run."""


def range_runs(
    ordered: Sequence[str],
    wanted: Sequence[Series],
    first: date,
    last: date,
    *,
    max_partitions: int = MAX_PARTITIONS,
) -> list[Rectangle]:
    """Return the runs for ``wanted`` series over the days ``first`` to ``last``, both inclusive.

    Timeframes of one symbol stay in one run, with the tracked timeframes in between: they share their requests. A
    run takes all the days, so that each page of the vendor is as full as possible. Only a single symbol may exceed
    ``max_partitions`` in one run.

    Raises:
        ConfigurationError: A wanted series is not a partition: it is no longer in ``tracked_symbols``.
    """
    if absent := {series.key for series in wanted}.difference(ordered):
        message = f"{min(absent)} is no longer tracked: add it with `marketdata symbols add`"
        raise ConfigurationError(message)
    days = (last - first).days + 1
    runs: list[Rectangle] = []
    index = {key: position for position, key in enumerate(ordered)}
    for begin, end in islands(ordered, _fill_symbols(ordered, wanted)):
        members = [Series.parse(key) for key in ordered[index[begin] : index[end] + 1]]
        chunk: list[Series] = []
        for symbol_members in _group_by_symbol(members):
            if chunk and (len(chunk) + len(symbol_members)) * days > max_partitions:
                runs.append(Rectangle(first, last, tuple(chunk)))
                chunk = []
            chunk += symbol_members
        runs.append(Rectangle(first, last, tuple(chunk)))
    return runs


def covering_runs(
    ordered: Sequence[str], ranges: Iterable[tuple[Series, date, date]], *, bridge: bool = False
) -> list[Rectangle]:
    """Return the runs that hold each of ``ranges``: a series with its first and its last day, both inclusive.

    A run is a rectangle: ranges over much the same days share a run. With ``bridge`` the run also takes the series
    that lie between them, when these are few: for runs that skip a series that needs nothing.

    Raises:
        ConfigurationError: A series is no longer a partition.
    """
    groups: list[_Group] = []
    for series, first, last in sorted(ranges, key=lambda item: (item[1], item[2], item[0].key)):
        alone = _Group(first, last, {series: None}, (last - first).days + 1)
        both = groups[-1].merge(alone) if groups else alone
        if groups and both.spare <= SPARE_PARTITIONS:
            groups[-1] = both
        else:
            groups.append(alone)
    if bridge:
        groups = [group.bridge(ordered) for group in groups]
    return [
        run for group in groups for run in range_runs(ordered, list(group.series), group.first, group.last)
    ]


def feature_runs(ordered: Sequence[str], days: Mapping[Series, tuple[date, date]]) -> list[Rectangle]:
    """Return the runs that compute each series over its ``days``, first and last, both inclusive.

    A run is a rectangle: series that are stale over much the same days share a run.

    Raises:
        ConfigurationError: A series is no longer a partition.
    """
    return covering_runs(ordered, ((series, *edges) for series, edges in days.items()))


def plan_repairs(
    ordered: Sequence[str],
    gaps: pl.DataFrame,
    classes: Mapping[str, AssetClass],
    first: date,
    last: date,
) -> list[Rectangle]:
    """Plan the runs that refetch the open gaps of ``gaps`` within the days ``first`` to ``last``.

    ``gaps`` has symbol, timeframe, state, day (the local date of the start) and gap_end; ``classes`` has the asset
    class by symbol. A gap outside these days is refetched by the run over the nearest of them, which scans whole weeks.
    The runs cover one rectangle over every series and day with an open gap: they read the bars in between, and
    request only the gaps.
    """
    open_gaps = gaps.filter(state=GapState.OPEN.value)
    if open_gaps.is_empty():
        return []
    series: dict[Series, None] = {}
    days: list[date] = []
    for symbol, timeframe, day, end in open_gaps.select("symbol", "timeframe", "day", "gap_end").iter_rows():
        series[Series.of(symbol, timeframe)] = None
        days += [day, calendar_of(classes[symbol]).last_day_before(end.astimezone(UTC))]
    inside = [min(max(day, first), last) for day in days]
    return range_runs(ordered, list(series), min(inside), max(inside))


@dataclass(frozen=True, slots=True)
class _Group:
    first: date
    last: date
    series: Mapping[Series, None]
    wanted: int
    """How many partitions of the group are wanted."""

    @property
    def spare(self) -> int:
        return ((self.last - self.first).days + 1) * len(self.series) - self.wanted

    def merge(self, other: _Group) -> _Group:
        return _Group(
            min(self.first, other.first),
            max(self.last, other.last),
            {**self.series, **other.series},
            self.wanted + other.wanted,
        )

    def bridge(self, ordered: Sequence[str]) -> _Group:
        """Return the group with every series between its first and its last, unless these are too many."""
        indices = [index for index, key in enumerate(ordered) if Series.parse(key) in self.series]
        between = map(Series.parse, ordered[indices[0] : indices[-1] + 1]) if indices else ()
        wider = replace(self, series={**self.series, **dict.fromkeys(between)})
        return wider if wider.spare <= SPARE_PARTITIONS else self


def _fill_symbols(ordered: Sequence[str], wanted: Sequence[Series]) -> set[str]:
    """Return the keys of ``wanted`` and of what lies between the series of one symbol: its bases are fetched anyway."""
    chosen = {series.key for series in wanted}
    filled: set[str] = set()
    for group in _group_by_symbol([Series.parse(key) for key in ordered]):
        indices = [index for index, series in enumerate(group) if series.key in chosen]
        if indices:
            filled |= {series.key for series in group[indices[0] : indices[-1] + 1]}
    return filled


def _group_by_symbol(series: Sequence[Series]) -> Iterator[list[Series]]:
    group: list[Series] = []
    for member in series:
        if group and group[-1].symbol != member.symbol:
            yield group
            group = []
        group.append(member)
    yield group


def day_window(days: int | None, start: date | None, end: date | None, *, now: datetime) -> tuple[date, date]:
    """Return the first and the last day of a backfill, both inclusive: the last ``days`` days, or ``start`` to ``end``."""
    last = end or now.astimezone(UTC).date()
    if start is not None:
        return start, last
    return last - timedelta(days=(days or 1) - 1), last
