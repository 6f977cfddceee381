"""``marketdata simulate`` in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
import typer
from typer.testing import CliRunner

from marketdata_assets.cli.simulate import simulate
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets_tests.simulator import running_simulator

if TYPE_CHECKING:
    from pathlib import Path

APP = typer.Typer()
APP.command()(simulate)
SCRIPT = "import typer; from marketdata_assets.cli.simulate import simulate; typer.run(simulate)"


def test_it_says_where_it_is_serves_and_ends_well_on_ctrl_c() -> None:
    arguments = [
        "--port",
        "0",
        "--requests-per-minute",
        "2",
        "--api-key",
        "k",
        "--fault",
        "server_error:skip=1,status=503",
    ]
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = re.search(r"POLYGON_BASE_URL=(http://127\.0\.0\.1:\d+)", line)
        assert url is not None, line
        path = f"{url[1]}/v2/aggs/ticker/SPY/range/1/day/2024-01-03/2024-01-05"
        statuses = [httpx.get(path, headers={"Authorization": f"Bearer {key}"}).status_code for key in "xkkk"]
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert statuses == [401, 200, 503, 429]
    assert (process.returncode, output, errors) == (0, "", "")


@pytest.mark.parametrize("options", [["--replay", "/nowhere"], ["--fault", "gremlin"]])
def test_wrong_options_are_configuration_errors(options: list[str]) -> None:
    result = CliRunner().invoke(APP, options)
    assert isinstance(result.exception, ConfigurationError)


def test_a_taken_port_and_an_empty_folder_are_configuration_errors(tmp_path: Path) -> None:
    with running_simulator() as vendor:
        taken = CliRunner().invoke(APP, ["--port", vendor.url.rsplit(":", 1)[1]])
    empty = CliRunner().invoke(APP, ["--replay", str(tmp_path)])
    assert isinstance(taken.exception, ConfigurationError)
    assert isinstance(empty.exception, ConfigurationError)
