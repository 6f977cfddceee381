"""What a benchmark reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Best = Callable[[Iterable[float]], float]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure.

    Attributes:
        what: What was measured.
        value: How much of ``unit``.
        unit: Of the figure and of what stands beside it.
        target: What the project aims at, in words; empty without one.
        beside: Floors and peers by name, measured in the same run.
        best: Chooses between repetitions: ``max`` of a rate, ``min`` of a cost.
    """

    what: str
    value: float
    unit: str
    target: str = ""
    beside: dict[str, float] = field(default_factory=dict)
    best: Best = max


def best_of(repetitions: Sequence[Sequence[Figure]]) -> list[Figure]:
    """Each figure, and each of those beside it, at its best over ``repetitions`` of one benchmark."""
    return [
        replace(
            same[0],
            value=same[0].best(one.value for one in same),
            beside={name: same[0].best(one.beside[name] for one in same) for name in same[0].beside},
        )
        for same in zip(*repetitions, strict=True)
    ]


@dataclass(slots=True)
class Stopwatch:
    """Adds up the time spent in its ``with`` blocks."""

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time until the block ends."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started
