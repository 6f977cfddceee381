"""Commands without a key beside a running ``marketdata up --simulate``."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import psutil
import pytest

from marketdata_assets.cli.session import Store, require_vendor_of
from marketdata_assets.cli.simulator_address import forget_simulator, publish_simulator
from marketdata_assets.config import load_settings
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.storage.vendor import claim_store

if TYPE_CHECKING:
    from pathlib import Path

    from marketdata_assets.storage.connection import Database

URL = "http://127.0.0.1:9"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Path:
    # Set and unset through the fixture, so that what the code sets is taken back.
    for name in ("POLYGON_API_KEY", "POLYGON_BASE_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    folder = load_settings().home
    folder.mkdir()
    return folder


def vendor(database: Database) -> tuple[str | None, str | None]:
    require_vendor_of(Store(load_settings(), database))
    return os.environ.get("POLYGON_API_KEY"), os.environ.get("POLYGON_BASE_URL")


def test_a_running_simulator_is_found_and_forgotten_with_its_process(
    database: Database, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_store(database, simulated=True)
    with publish_simulator(home, URL):
        assert vendor(database) == ("demo", URL)
        assert capsys.readouterr().err == f"vendor: the simulator of `marketdata up --simulate` at {URL}\n"
    assert list(home.iterdir()) == []
    monkeypatch.delenv("POLYGON_API_KEY")
    monkeypatch.delenv("POLYGON_BASE_URL")
    with pytest.raises(ConfigurationError, match="the real vendor's would mix"):
        vendor(database)


def test_a_store_of_real_bars_and_a_vendor_of_ones_own_never_meet_the_simulator(
    database: Database, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with publish_simulator(home, URL):
        with monkeypatch.context() as patch:
            patch.setenv("POLYGON_API_KEY", "mine")
            assert vendor(database) == ("mine", None)
        with monkeypatch.context() as patch:
            patch.setenv("POLYGON_BASE_URL", "http://127.0.0.1:10")
            assert vendor(database) == (None, "http://127.0.0.1:10")
        claim_store(database, simulated=False)
        assert vendor(database) == (None, None)


def test_the_address_of_a_killed_process_is_one_clear_line(database: Database, home: Path) -> None:
    claim_store(database, simulated=True)
    killed = {"url": URL, "pid": os.getpid(), "started": psutil.Process().create_time() - 1}
    (home / "up.simulator").write_text(json.dumps(killed))
    with pytest.raises(ConfigurationError, match=f"up --simulate` at {URL} is gone: start"):
        vendor(database)
    forget_simulator(home)
    with pytest.raises(ConfigurationError, match="would mix"):
        vendor(database)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"url": "http://192.0.2.1:1", "pid": 1, "started": 1}'])
def test_a_file_with_something_else_is_not_an_address(database: Database, home: Path, text: str) -> None:
    (home / "up.simulator").write_text(text)
    assert vendor(database) == (None, None)
