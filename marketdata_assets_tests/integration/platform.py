"""The platform under test: definitions over a fresh database and a simulated vendor, and the command line."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString
from unittest.mock import patch

from dagster import DagsterInstance

from marketdata_assets.cli.app import run
from marketdata_assets.definitions import build_definitions
from marketdata_assets.defs.instance.environment import BATCHING, sync_series
from marketdata_assets.defs.partitions import partition_key
from marketdata_assets.defs.resources.polygon import PolygonResource
from marketdata_assets.domain.actions import SCHEMAS, ActionKind
from marketdata_assets.domain.jobs import BARS_JOB
from marketdata_assets.domain.partitions import Rectangle
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.tickers import infer_asset_class
from marketdata_assets.storage.actions import store_actions
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols
from marketdata_assets.storage.tables import OHLCV
from marketdata_assets_tests.conftest import REPOSITORY
from marketdata_assets_tests.simulator import KEY, SimulatorHandle, running_simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest
    from dagster import ExecuteInProcessResult

    from marketdata_assets.domain.timeframe import Timeframe

START = "1998-01-01"


@dataclass
class Platform:
    """What a test runs assets on. ``polygon`` holds the options of the vendor's resource."""

    database: Database
    simulator: SimulatorHandle
    instance: DagsterInstance
    polygon: dict[str, Any]

    def track(self, *keys: str) -> None:
        """Track the series ``keys``; the timeframes of a symbol are named together."""
        timeframes: dict[str, list[Timeframe]] = {}
        for one in map(Series.parse, keys):
            timeframes.setdefault(one.symbol, []).append(one.timeframe)
        add_symbols(
            self.database,
            [
                TrackedSymbol(symbol, infer_asset_class(symbol), timeframes=tuple(chosen))
                for symbol, chosen in timeframes.items()
            ],
        )
        sync_series(self.instance, self.database)

    def never_split(self, *symbols: str) -> None:
        """The vendor was asked for the splits of ``symbols``, long ago, and listed none."""
        store_actions(
            self.database,
            ActionKind.SPLITS,
            SCHEMAS[ActionKind.SPLITS].to_frame(),
            symbols=symbols,
            endpoint="/stocks/v1/splits",
            today=date.fromisoformat(START),
        )

    def run_range(
        self, first: date, last: date, *keys: str, sound: bool = True, **config: object
    ) -> ExecuteInProcessResult:
        """One range run over the adjacent series ``keys``, days inclusive."""
        tags = Rectangle(first, last, tuple(map(Series.parse, keys))).tags
        return self._execute(sound, config, tags=tags)

    def run_one(self, day: date, key: str, *, sound: bool = True, **config: object) -> ExecuteInProcessResult:
        """The run of a single partition."""
        return self._execute(sound, config, partition_key=partition_key(day, Series.parse(key)))

    def _execute(self, sound: bool, config: dict[str, object], **how: Any) -> ExecuteInProcessResult:  # noqa: ANN401, FBT001 - handed on as it came
        definitions = build_definitions(resources={"polygon": PolygonResource(**self.polygon)})
        result = definitions.resolve_job_def(BARS_JOB).execute_in_process(
            run_config={
                "ops": {"ohlcv": {"config": config}},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            instance=self.instance,
            raise_on_error=False,
            **how,
        )
        assert result.success is sound, reason_of(result)
        return result

    def bars(self, columns: str = ", ".join(OHLCV.columns), where: str = "true") -> list[dict[str, Any]]:
        """Stored bars in the order of their key, without the time at which they were stored."""
        rows = self.database.read_frame(
            f"select {columns} from market_data where {where} order by symbol, timeframe, time"
        )
        return rows.to_dicts()

    def execute(self, statement: LiteralString) -> None:
        """A statement, as somebody types it by hand."""
        self.database.transaction(lambda connection: connection.execute(statement))

    def count(self, table: str, where: str = "true") -> int:
        """Rows of a table."""
        return int(self.database.read_frame(f"select count(*) as n from {table} where {where}").item())


@contextmanager
def open_platform(
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    instance: DagsterInstance | None = None,
    **vendor: object,
) -> Iterator[Platform]:
    """A platform on ``database_url``, with the options of the simulator's configuration."""
    for name, value in BATCHING.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("MARKETDATA_START", START)
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    with running_simulator(**vendor) as simulator, Database(database_url) as database:
        monkeypatch.setenv("POLYGON_BASE_URL", simulator.url)
        yield Platform(
            database,
            simulator,
            instance or DagsterInstance.ephemeral(),
            {"requests_per_minute": 0, "max_attempts": 2, "retry_first_wait_seconds": 0.01},
        )


def reason_of(result: ExecuteInProcessResult) -> str:
    """Why a run failed, as its step says."""
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            given = data.user_failure_data.description if data.user_failure_data else None
            return str(given or (data.error.to_string() if data.error else ""))
    return ""


def command_environment(folder: Path, database_url: str | None, **variables: str) -> dict[str, str]:
    """The environment of a command whose project is ``folder``: nothing of the developer's own comes in."""
    for name in ("workspace.yaml", "dagster.yaml"):
        shutil.copy(REPOSITORY / name, folder)
    return {
        **os.environ,
        "MARKETDATA_HOME": str(folder / "home"),
        **({"DATABASE_URL": database_url} if database_url else {}),
        **variables,
    }


def command(*arguments: str) -> list[str]:
    """The console script as this interpreter's environment installed it."""
    return [str(Path(sys.executable).with_name("marketdata")), *arguments]


def run_command(
    environment: dict[str, str], folder: Path, *arguments: str, seconds: float = 240
) -> subprocess.CompletedProcess[str]:
    """A finished command, its output captured through pipes."""
    return subprocess.run(
        command(*arguments),
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def run_in_process(
    environment: dict[str, str], folder: Path, capture: pytest.CaptureFixture[str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """As :func:`run_command`, without the seconds that a process of its own needs for its imports.

    The command has the environment, the folder and the logging of a process of its own, and leaves none of them
    changed. What is not an expected error is raised here, where a process would print a traceback.
    """
    root = logging.getLogger()
    handlers, filters, level = root.handlers[:], root.filters[:], root.level
    capture.readouterr()
    try:
        with (
            contextlib.chdir(folder),
            patch.dict(os.environ, environment, clear=True),
            patch.object(sys, "argv", ["marketdata", *arguments]),
            patch.object(sys, "stdin", io.StringIO()),
        ):
            root.handlers[:], root.filters[:] = [], []
            code = run()
    finally:
        root.handlers[:], root.filters[:] = handlers, filters
        root.setLevel(level)
    return subprocess.CompletedProcess(arguments, code, *capture.readouterr())


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Return as soon as ``holds``; the test fails otherwise."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)
