"""Range runs: a rectangle of days x series as the fewest runs of a job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.partitions import Rectangle, islands
from marketdata_assets.domain.series import Series

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


MAX_PARTITIONS: Final = 10_000
"""Partitions of one run: bounds the events and the memory of a run. A single series may exceed it."""

SPARE_PARTITIONS: Final = 1_000
"""Partitions that a run may hold for nothing: recording them costs less than another run."""


def range_runs(
    ordered: Sequence[str],
    wanted: Sequence[Series],
    first: date,
    last: date,
    *,
    max_partitions: int = MAX_PARTITIONS,
) -> list[Rectangle]:
    """The runs for ``wanted`` series over the days ``first`` to ``last``, both inclusive.

    Timeframes of one symbol stay in one run, with the tracked ones in between: they share their requests. A
    run takes all the days, so that a page of the vendor is as full as it can be. Only a single symbol may exceed
    ``max_partitions`` of one run.

    Raises:
        ConfigurationError: A wanted series is no partition: it was taken out of ``tracked_symbols``.
    """
    if absent := {one.key for one in wanted}.difference(ordered):
        message = f"{min(absent)} is not tracked any more: add it with `marketdata symbols add`"
        raise ConfigurationError(message)
    days = (last - first).days + 1
    runs: list[Rectangle] = []
    place = {key: position for position, key in enumerate(ordered)}
    for begin, end in islands(ordered, _without_holes(ordered, wanted)):
        members = [Series.parse(key) for key in ordered[place[begin] : place[end] + 1]]
        chunk: list[Series] = []
        for symbol_members in _by_symbol(members):
            if chunk and (len(chunk) + len(symbol_members)) * days > max_partitions:
                runs.append(Rectangle(first, last, tuple(chunk)))
                chunk = []
            chunk += symbol_members
        runs.append(Rectangle(first, last, tuple(chunk)))
    return runs


def covering_runs(
    ordered: Sequence[str], stretches: Iterable[tuple[Series, date, date]], *, bridge: bool = False
) -> list[Rectangle]:
    """The runs that hold every one of ``stretches``: a series, its first and its last day, both inclusive.

    A run is a rectangle: stretches over much the same days share one. With ``bridge`` it also takes the series
    that lie between, when they are few: for runs that do nothing with a series that needs nothing.

    Raises:
        ConfigurationError: A series is no partition any more.
    """
    groups: list[_Group] = []
    for one, first, last in sorted(stretches, key=lambda item: (item[1], item[2], item[0].key)):
        alone = _Group(first, last, {one: None}, (last - first).days + 1)
        both = groups[-1].joined(alone) if groups else alone
        if groups and both.spare <= SPARE_PARTITIONS:
            groups[-1] = both
        else:
            groups.append(alone)
    if bridge:
        groups = [group.bridged(ordered) for group in groups]
    return [
        run for group in groups for run in range_runs(ordered, list(group.series), group.first, group.last)
    ]


def feature_runs(ordered: Sequence[str], days: Mapping[Series, tuple[date, date]]) -> list[Rectangle]:
    """The runs that compute each series over its ``days``, first and last, both inclusive.

    A run is a rectangle: series that are out of date over much the same days share one.

    Raises:
        ConfigurationError: A series is no partition any more.
    """
    return covering_runs(ordered, ((one, *span) for one, span in days.items()))


@dataclass(frozen=True, slots=True)
class _Group:
    first: date
    last: date
    series: Mapping[Series, None]
    wanted: int
    """How many of its partitions are wanted."""

    @property
    def spare(self) -> int:
        return ((self.last - self.first).days + 1) * len(self.series) - self.wanted

    def joined(self, other: _Group) -> _Group:
        return _Group(
            min(self.first, other.first),
            max(self.last, other.last),
            {**self.series, **other.series},
            self.wanted + other.wanted,
        )

    def bridged(self, ordered: Sequence[str]) -> _Group:
        """With every series between its first and its last, unless these are too many."""
        places = [place for place, key in enumerate(ordered) if Series.parse(key) in self.series]
        between = map(Series.parse, ordered[places[0] : places[-1] + 1]) if places else ()
        wider = replace(self, series={**self.series, **dict.fromkeys(between)})
        return wider if wider.spare <= SPARE_PARTITIONS else self


def _without_holes(ordered: Sequence[str], wanted: Sequence[Series]) -> set[str]:
    """Keys of ``wanted`` and of what lies between the series of one symbol: its bases are asked for anyway."""
    chosen = {one.key for one in wanted}
    filled: set[str] = set()
    for group in _by_symbol([Series.parse(key) for key in ordered]):
        places = [place for place, one in enumerate(group) if one.key in chosen]
        if places:
            filled |= {one.key for one in group[places[0] : places[-1] + 1]}
    return filled


def _by_symbol(series: Sequence[Series]) -> Iterator[list[Series]]:
    group: list[Series] = []
    for one in series:
        if group and group[-1].symbol != one.symbol:
            yield group
            group = []
        group.append(one)
    yield group


def day_window(days: int | None, start: date | None, end: date | None, *, now: datetime) -> tuple[date, date]:
    """First and last day of a backfill, both inclusive: the last ``days`` days, or ``start`` to ``end``."""
    last = end or now.astimezone(UTC).date()
    if start is not None:
        return start, last
    return last - timedelta(days=(days or 1) - 1), last
