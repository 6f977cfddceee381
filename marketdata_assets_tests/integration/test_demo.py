from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.embedded import EmbeddedServer
from marketdata_assets_tests.integration.platform import command_environment, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHECKSUM = (
    "select count(*), md5(string_agg(o::text, '|' order by symbol, timeframe, time)) as sum from ohlcv o"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """The demo's own server: under the project's folder, stopped after the test."""
    made = EmbeddedServer(tmp_path / "home")
    yield made
    made.stop()


# slow: an embedded server of its own and twice the whole pipeline, half a minute
@pytest.mark.slow
def test_a_demo_on_a_bare_machine_and_again(tmp_path: Path, server: EmbeddedServer) -> None:
    if os.geteuid() == 0:
        tmp_path.chmod(0o755)
    environment = command_environment(tmp_path, None)
    first = run_command(environment, tmp_path, "demo", seconds=240)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert "Stored bars by series" in first.stdout
    assert "marketdata up" in lines[-1]
    assert "\x1b" not in first.stdout + first.stderr

    with Database(server.ensure_running()) as database:
        series = database.read_frame("select symbol, timeframe, count(*) as bars from ohlcv group by 1, 2")
        assert series.height == 6 * len(Timeframe)
        before = database.read_frame(CHECKSUM).row(0)
        again = run_command(environment, tmp_path, "demo", seconds=240)
        assert again.returncode == 0, again.stderr
        assert database.read_frame(CHECKSUM).row(0) == before
        assert database.read_frame("select count(*) from ohlcv_revision").item() == 0
        runs = database.read_frame("select distinct status from dagster.runs")
        assert runs["status"].to_list() == ["SUCCESS"]
    assert "bars: 0 inserted, 0 changed" in again.stdout
