"""``marketdata up`` as a process of its own, on a fresh database and a simulated vendor that tests command."""

from __future__ import annotations

import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import httpx
import psutil
import yaml

from marketdata_assets.domain.tickers import infer_asset_class
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols
from marketdata_assets_tests.integration.platform import (
    command,
    command_environment,
    free_port,
    run_command,
    wait_until,
)
from marketdata_assets_tests.simulator import KEY, SimulatorHandle, running_simulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import LiteralString

_LOCATION: Final = {"repositoryLocationName": "marketdata_assets", "repositoryName": "__repository__"}
_ENDED: Final = {"SUCCESS", "FAILURE", "CANCELED"}


@dataclass
class RunningPlatform:
    """What people work with: a UI at ``url``, its daemon, the command line, and the database behind it all."""

    url: str
    folder: Path
    environment: dict[str, str]
    database: Database
    simulator: SimulatorHandle
    process: subprocess.Popen[str]

    def marketdata(self, *arguments: str, seconds: float = 240) -> str:
        """What the command prints; it has to succeed."""
        done = run_command(self.environment, self.folder, *arguments, seconds=seconds)
        assert done.returncode == 0, f"marketdata {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def execute(self, statement: LiteralString) -> None:
        """A statement, as somebody types it by hand."""
        self.database.transaction(lambda connection: connection.execute(statement))

    def value(self, query: str) -> Any:  # noqa: ANN401 - of whatever type the query's one column has
        """The one value that ``query`` gives."""
        return self.database.read_frame(query).item()

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        """The ``data`` of an answer of Dagster's own API."""
        answer = httpx.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60, trust_env=False
        )
        answer.raise_for_status()
        document = answer.json()
        assert "errors" not in document, document["errors"]
        found: dict[str, Any] = document["data"]
        return found

    def runs(self, **tags: str) -> list[dict[str, Any]]:
        """The runs with all of ``tags``, newest first: id, job, status and tags."""
        found = self.ask(
            "query($tags: [ExecutionTag!]) { runsOrError(filter: {tags: $tags}) { ... on Runs { results"
            " { runId jobName status tags { key value } } } } }",
            tags=[{"key": key, "value": value} for key, value in tags.items()],
        )
        return list(found["runsOrError"]["results"])

    def tick(self, schedule: str, at: datetime) -> list[dict[str, Any]]:
        """The runs that ``schedule`` asks for when it ticks at ``at``."""
        found = self.ask(
            "mutation($selector: ScheduleSelector!, $at: Float) {"
            " scheduleDryRun(selectorData: $selector, timestamp: $at) { __typename ... on DryRunInstigationTick {"
            " evaluationResult { skipReason error { message } runRequests { runConfigYaml tags { key value } } } } } }",
            selector={**_LOCATION, "scheduleName": schedule},
            at=at.timestamp(),
        )
        result = found["scheduleDryRun"]["evaluationResult"]
        assert result["error"] is None, result["error"]
        requests: list[dict[str, Any]] = result["runRequests"] or []
        return requests

    def launch(self, job: str, request: dict[str, Any]) -> None:
        """Start the run that a tick has asked for, as the daemon does."""
        found = self.ask(
            "mutation($run: ExecutionParams!) { launchRun(executionParams: $run) { __typename } }",
            run={
                "selector": {**_LOCATION, "pipelineName": job},
                "mode": "default",
                "runConfigData": request["runConfigYaml"],
                "executionMetadata": {"tags": request["tags"]},
            },
        )
        assert found["launchRun"]["__typename"] == "LaunchRunSuccess", found

    def workers(self) -> list[psutil.Process]:
        """The processes that execute runs."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [one for one in children if "spawn_main" in " ".join(one.cmdline())]

    def wait_for_rest(self, seconds: float = 240) -> None:
        """Until no run is queued or under way."""
        wait_until(
            lambda: all(run["status"] in _ENDED for run in self.runs()), "every run has ended", seconds
        )

    def materialized(self, asset: str) -> set[str]:
        """The keys of the partitions of ``asset`` that are materialized, as ``day|series``."""
        found = self.ask(
            "query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {"
            " assetPartitionStatuses { ... on MultiPartitionStatuses { primaryDimensionName ranges {"
            "  primaryDimStartKey primaryDimEndKey"
            "  secondaryDim { ... on DefaultPartitionStatuses { materializedPartitions } } } } } } } }",
            key={"path": [asset]},
        )
        statuses = found["assetNodeOrError"]["assetPartitionStatuses"]
        assert statuses["primaryDimensionName"] == "day"
        keys = set()
        for span in statuses["ranges"]:
            for day in _days(span["primaryDimStartKey"], span["primaryDimEndKey"]):
                keys |= {f"{day}|{one}" for one in span["secondaryDim"]["materializedPartitions"]}
        return keys


def _days(first: str, last: str) -> list[date]:
    start, end = date.fromisoformat(first), date.fromisoformat(last)
    return [start + timedelta(days=number) for number in range((end - start).days + 1)]


@contextmanager
def running_platform(
    folder: Path,
    database_url: str,
    symbols: dict[str, list[str]],
    *,
    start: date,
    **variables: str,
) -> Iterator[RunningPlatform]:
    """``marketdata up`` with ``symbols`` (timeframes by symbol) tracked, partitions from ``start`` on.

    ``variables`` come into its environment.
    """
    with running_simulator() as simulator, Database(database_url) as database:
        environment = command_environment(
            folder,
            database_url,
            MARKETDATA_START=start.isoformat(),
            POLYGON_API_KEY=KEY,
            POLYGON_BASE_URL=simulator.url,
            POLYGON_REQUESTS_PER_MINUTE="6000",
            **variables,
        )
        settings = yaml.safe_load((folder / "dagster.yaml").read_text())
        settings["run_monitoring"]["poll_interval_seconds"] = 2
        (folder / "dagster.yaml").write_text(yaml.safe_dump(settings))
        database.transaction(lambda connection: connection.execute("delete from tracked_symbols"))
        add_symbols(
            database,
            [
                TrackedSymbol(symbol, infer_asset_class(symbol), timeframes=tuple(map(Timeframe, timeframes)))
                for symbol, timeframes in symbols.items()
            ],
        )
        port = free_port()
        log = folder / "up.log"
        with log.open("w") as written:
            process = subprocess.Popen(
                command("up", "--port", str(port)),
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                text=True,
            )
        try:
            wait_until(
                lambda: process.poll() is not None or "Dagster at" in log.read_text(), "a UI is served", 180
            )
            assert process.poll() is None, log.read_text()[-2000:]
            yield RunningPlatform(
                f"http://127.0.0.1:{port}", folder, environment, database, simulator, process
            )
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
