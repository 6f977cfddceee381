"""Range runs: a rectangle of days x series as few runs of a job; and how a run is executed in this process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

from marketdata_assets.defs.partitions import partition_key
from marketdata_assets.domain.errors import ClockError, ConfigurationError
from marketdata_assets.domain.partitions import RANGE_END, RANGE_START, islands, parse_key
from marketdata_assets.domain.series import Series
from marketdata_assets.polygon.errors import AuthenticationError, RateLimiterUnavailableError
from marketdata_assets.storage.failures import STORE_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dagster import DagsterInstance, Definitions, ExecuteInProcessResult, MetadataValue
    from dagster_shared.error import SerializableErrorInfo

MAX_PARTITIONS: Final = 10_000
"""Partitions of one run: bounds the events and the memory of a run. A single series may exceed it."""

SPARE_PARTITIONS: Final = 1_000
"""Partitions that a run may hold for nothing: recording them costs less than another run."""

_ENDING: Final = {
    kind.__name__
    for kind in (
        ConfigurationError,
        AuthenticationError,
        ClockError,
        RateLimiterUnavailableError,
        *STORE_ERRORS,
    )
}
"""Errors after which every other run would fail like this one."""

_INTERRUPTIONS: Final = {"DagsterExecutionInterruptedError", KeyboardInterrupt.__name__}


@dataclass(frozen=True, slots=True)
class RangeRun:
    """One run: every series from ``first_series`` to ``last_series`` in Dagster's order, over the days."""

    first_day: date
    last_day: date
    series: tuple[Series, ...]

    @property
    def tags(self) -> dict[str, str]:
        """The tags that make a run of the job a range run."""
        return {
            RANGE_START: str(partition_key(self.first_day, self.series[0])),
            RANGE_END: str(partition_key(self.last_day, self.series[-1])),
        }


def tagged_range(tags: Mapping[str, str], ordered: Sequence[str]) -> RangeRun | None:
    """The range that a run with ``tags`` takes, by Dagster's order of the series; None when it is no range run.

    Nor is it one any more when a series that it ends with is no partition any more.
    """
    if RANGE_START not in tags or RANGE_END not in tags:
        return None
    (first_day, begin), (last_day, end) = parse_key(tags[RANGE_START]), parse_key(tags[RANGE_END])
    if not {begin.key, end.key} <= set(ordered):
        return None
    members = ordered[ordered.index(begin.key) : ordered.index(end.key) + 1]
    return RangeRun(first_day, last_day, tuple(map(Series.parse, members)))


def ops_config(config: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """``config`` by asset as the configuration of a run."""
    return {"ops": {name: {"config": dict(values)} for name, values in config.items()}}


def range_runs(ordered: Sequence[str], wanted: Sequence[Series], first: date, last: date) -> list[RangeRun]:
    """The runs for ``wanted`` series over the days ``first`` to ``last``, both inclusive.

    Timeframes of one symbol stay in one run, with the tracked ones in between: they share their requests. A
    run takes all the days, so that a page of the vendor is as full as it can be.

    Raises:
        ConfigurationError: A wanted series is no partition: it was taken out of ``tracked_symbols``.
    """
    if absent := {one.key for one in wanted}.difference(ordered):
        message = f"{min(absent)} is not tracked any more: add it with `marketdata symbols add`"
        raise ConfigurationError(message)
    days = (last - first).days + 1
    runs: list[RangeRun] = []
    place = {key: position for position, key in enumerate(ordered)}
    for begin, end in islands(ordered, _without_holes(ordered, wanted)):
        members = [Series.parse(key) for key in ordered[place[begin] : place[end] + 1]]
        chunk: list[Series] = []
        for symbol_members in _by_symbol(members):
            if chunk and (len(chunk) + len(symbol_members)) * days > MAX_PARTITIONS:
                runs.append(RangeRun(first, last, tuple(chunk)))
                chunk = []
            chunk += symbol_members
        runs.append(RangeRun(first, last, tuple(chunk)))
    return runs


def covering_runs(
    ordered: Sequence[str], stretches: Iterable[tuple[Series, date, date]], *, bridge: bool = False
) -> list[RangeRun]:
    """The runs that hold every one of ``stretches``: a series, its first and its last day, both inclusive.

    A run is a rectangle: stretches over much the same days share one. With ``bridge`` it also takes the series
    that lie between, when they are few: for runs that do nothing with a series that needs nothing.

    Raises:
        ConfigurationError: A series is no partition any more.
    """
    groups: list[_Rectangle] = []
    for one, first, last in sorted(stretches, key=lambda item: (item[1], item[2], item[0].key)):
        alone = _Rectangle(first, last, {one: None}, (last - first).days + 1)
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


@dataclass(frozen=True, slots=True)
class _Rectangle:
    first: date
    last: date
    series: Mapping[Series, None]
    wanted: int
    """How many of its partitions are wanted."""

    @property
    def spare(self) -> int:
        return ((self.last - self.first).days + 1) * len(self.series) - self.wanted

    def joined(self, other: _Rectangle) -> _Rectangle:
        return _Rectangle(
            min(self.first, other.first),
            max(self.last, other.last),
            {**self.series, **other.series},
            self.wanted + other.wanted,
        )

    def bridged(self, ordered: Sequence[str]) -> _Rectangle:
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


def execute_range(
    definitions: Definitions,
    instance: DagsterInstance,
    run: RangeRun,
    *,
    job: str,
    config: Mapping[str, Mapping[str, object]],
    tags: Mapping[str, str],
) -> ExecuteInProcessResult:
    """Execute ``run`` of ``job`` in this process, as :func:`execute_job`."""
    return execute_job(definitions, instance, job=job, config=config, tags={**run.tags, **tags})


def execute_job(
    definitions: Definitions,
    instance: DagsterInstance,
    *,
    job: str,
    config: Mapping[str, Mapping[str, object]],
    tags: Mapping[str, str],
) -> ExecuteInProcessResult:
    """Execute ``job`` in this process; ``config`` by asset.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM: Dagster ends the run, and more is meant than that.
        ConfigurationError: A setting is wrong (the key, say) or the store cannot be used: every other run would fail
            like this one.
    """
    result = definitions.resolve_job_def(job).execute_in_process(
        run_config={
            **ops_config(config),
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
        instance=instance,
        tags=dict(tags),
        raise_on_error=False,
    )
    if any(error.cls_name in _INTERRUPTIONS for error in _causes(result)):
        raise KeyboardInterrupt
    if (problem := _configuration_problem(result)) is not None:
        raise ConfigurationError(problem)
    return result


def reason_of(result: ExecuteInProcessResult) -> str:
    """Why a run failed, in one line."""
    causes = _causes(result)
    return _text_of(causes[-1]) if causes else f"run {result.run_id} failed: see it in the UI"


def reasons_by_step(result: ExecuteInProcessResult) -> dict[str, str]:
    """Why each step of a run failed, in one line; a step that only waited for another is left out."""
    return {
        event.step_key: _text_of(_chain(error)[-1])
        for event in result.all_events
        if event.step_key is not None
        and event.is_step_failure
        and (error := event.step_failure_data.error) is not None
    }


def failure_metadata(result: ExecuteInProcessResult) -> Mapping[str, MetadataValue]:
    """What the asset said when it gave up; empty when the run ended otherwise."""
    for event in result.all_events:
        if event.is_step_failure and (said := event.step_failure_data.user_failure_data) is not None:
            return said.metadata
    return {}


def _configuration_problem(result: ExecuteInProcessResult) -> str | None:
    """What the user has to correct or to start, when that is why the run failed."""
    return next((_text_of(error) for error in _causes(result) if error.cls_name in _ENDING), None)


def _causes(result: ExecuteInProcessResult) -> list[SerializableErrorInfo]:
    """The errors of the step that failed, each followed by its cause."""
    for event in result.all_events:
        if event.is_step_failure and (error := event.step_failure_data.error) is not None:
            return _chain(error)
    return []


def _chain(error: SerializableErrorInfo) -> list[SerializableErrorInfo]:
    chain = [error]
    while (cause := chain[-1].cause) is not None:
        chain.append(cause)
    return chain


def _text_of(error: SerializableErrorInfo) -> str:
    # Dagster keeps an error as text, its class in front.
    return " ".join(error.message.split(": ", 1)[-1].split())


def day_window(days: int | None, start: date | None, end: date | None, *, now: datetime) -> tuple[date, date]:
    """First and last day of a backfill, both inclusive: the last ``days`` days, or ``start`` to ``end``."""
    last = end or now.astimezone(UTC).date()
    if start is not None:
        return start, last
    return last - timedelta(days=(days or 1) - 1), last
