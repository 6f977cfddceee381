"""A vendor simulator on a free loopback port, for tests."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marketdata_assets.simulator import Fault, FaultKind, RunningSimulator, SimulatorConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from marketdata_assets.simulator.log import RequestRecord

KEY = "simulator-key-for-tests"


@dataclass(frozen=True)
class SimulatorHandle:
    """A running simulator: ``url`` for POLYGON_BASE_URL, and its own view of what it was asked."""

    url: str
    running: RunningSimulator

    @property
    def requests(self) -> list[RequestRecord]:
        """The simulator's own log, oldest first."""
        return list(self.running.simulator.requests)

    def set_faults(self, *faults: Fault) -> None:
        """Replace the fault plan; without arguments, nothing goes wrong any more."""
        self.running.simulator.set_faults(faults)

    def fail(self, kind: FaultKind, **options: Any) -> None:  # noqa: ANN401  # the options of Fault
        """Replace the fault plan with one fault."""
        self.set_faults(Fault(kind=kind, **options))

    def wait_for_requests(self, count: int, seconds: float = 30) -> None:
        """Return as soon as ``count`` requests have arrived; raises :class:`TimeoutError` otherwise."""
        end = time.monotonic() + seconds
        while len(self.running.simulator.requests) < count:
            if time.monotonic() > end:
                message = f"the simulator was not asked {count} times within {seconds:g} s"
                raise TimeoutError(message)
            time.sleep(0.005)

    def reset(self) -> None:
        """Clear the log, the rate limit and what the faults have done."""
        self.running.simulator.reset()


@contextmanager
def running_simulator(**options: Any) -> Iterator[SimulatorHandle]:  # noqa: ANN401  # as above
    """A simulator in a thread, with the options of :class:`SimulatorConfig`.

    Only :data:`KEY` is let in, unless ``api_keys`` says otherwise.
    """
    config = SimulatorConfig(**{"api_keys": frozenset({KEY}), **options})
    with RunningSimulator(config) as running:
        yield SimulatorHandle(running.url, running)
