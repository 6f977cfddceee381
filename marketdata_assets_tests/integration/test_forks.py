"""Reading in workers that multiprocessing starts: they answer, or refuse at once."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from marketdata_assets.domain.series import AssetClass
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols

if TYPE_CHECKING:
    from pathlib import Path

    from marketdata_assets.storage.connection import Database

SCRIPT = """
import multiprocessing, os, sys, threading
import polars as pl
from marketdata_assets import bars

def read(_):
    try:
        return bars("BTC-USD", "1d", "2024-01-01", "2024-01-02", adjusted=False).height
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def use_the_pool():
    pl.DataFrame({"a": range(100_000)}).lazy().select(pl.col("a").sum()).collect()

if __name__ == "__main__":
    method, first = sys.argv[1:]
    if first == "bars":
        print("parent", read(0))
    if first in ("bars", "polars"):
        use_the_pool()
    with multiprocessing.get_context(method).Pool(2) as pool:
        for answer in pool.map_async(read, range(2)).get(60):
            print("child", answer)
    print("parent", read(0))
"""


@pytest.mark.parametrize(
    ("method", "first", "answers"),
    [
        ("fork", "bars", False),
        ("fork", "polars", False),
        ("fork", "nothing", True),
        ("spawn", "bars", True),
    ],
)
def test_a_worker_answers_or_refuses_at_once(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    first: str,
    *,
    answers: bool,
) -> None:
    add_symbols(database, [TrackedSymbol("BTC-USD", AssetClass.CRYPTO)])
    script = tmp_path / "workers.py"
    script.write_text(SCRIPT)
    monkeypatch.setenv("DATABASE_URL", database.url)
    done = subprocess.run(
        [sys.executable, str(script), method, first],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    children = [line for line in done.stdout.splitlines() if line.startswith("child ")]
    assert len(children) == 2
    for line in children:
        if answers:
            assert line == "child 0"
        else:
            assert line.startswith("child ConfigurationError: this process was forked")
            assert "spawn" in line
            assert "docs/python.md" in line
    assert "parent 0" in done.stdout
