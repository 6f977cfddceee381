"""``marketdata up``: the webserver and the daemon as one command, and what Dagster's own commands find."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from marketdata_assets_tests.conftest import REPOSITORY
from marketdata_assets_tests.integration.platform import (
    command,
    command_environment,
    free_port,
    run_command,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTITIONS = "{ assetNodes { assetKey { path } partitionKeysByDimension { name partitionKeys } } }"


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def environment(tmp_path: Path, database_url: str) -> dict[str, str]:
    return command_environment(tmp_path, database_url)


@pytest.fixture
def running(environment: dict[str, str], tmp_path: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command("up", "--simulate", "--port", str(port)),
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "up.log").open("w"),
        text=True,
    )
    try:
        for line in process.stdout or ():
            if line.startswith("Dagster at"):
                break
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


# slow: Dagster's processes take some ten seconds to start and to stop
@pytest.mark.slow
def test_up_serves_the_ui_until_it_is_told_to_stop(
    running: subprocess.Popen[str], environment: dict[str, str], tmp_path: Path, port: int
) -> None:
    assert running.poll() is None, (tmp_path / "up.log").read_text()
    children = psutil.Process(running.pid).children(recursive=True)
    answer = httpx.post(f"http://127.0.0.1:{port}/graphql", json={"query": PARTITIONS}, timeout=30)
    (node,) = [one for one in answer.json()["data"]["assetNodes"] if one["assetKey"]["path"] == ["ohlcv"]]
    dimensions = {one["name"]: one["partitionKeys"] for one in node["partitionKeysByDimension"]}
    assert dimensions["day"][0] == "2020-01-01"
    assert dimensions["series"][:2] == ["AAPL:1h", "AAPL:1d"]
    second = run_command(environment, tmp_path, "up")
    assert second.returncode == 2
    (line,) = second.stderr.splitlines()
    assert "already runs" in line

    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 0
    assert children
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, [process.cmdline() for process in alive]
    assert len(gone) == len(children)


def test_a_port_in_use_is_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run_command(environment, tmp_path, "up", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--port" in line


def test_definitions_are_valid_without_any_setting_or_database(tmp_path: Path) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "DATABASE_URL" and not name.startswith(("DAGSTER_", "MARKETDATA_", "POLYGON_"))
    }
    program = Path(sys.executable).with_name("dagster")
    done = subprocess.run(
        [program, "definitions", "validate", "-w", str(REPOSITORY / "workspace.yaml")],
        env={**environment, "MARKETDATA_HOME": str(tmp_path / "home")},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "home").exists()
