"""``marketdata up`` as it is measured: a process of its own, asked through Dagster's API."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from benchmarks.server import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROJECT: Final = Path(__file__).resolve().parent.parent
_START_SECONDS: Final = 180
_POLL_SECONDS: Final = 0.1
LOCATION: Final = {"repositoryLocationName": "marketdata_assets", "repositoryName": "__repository__"}
"""Where Dagster's API finds schedules and jobs."""


@dataclass(frozen=True, slots=True)
class Served:
    """A running platform whose UI is at ``url``."""

    url: str

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        """The ``data`` of an answer of Dagster's API."""
        answer = httpx.post(
            f"{self.url}/graphql",
            json={"query": query, "variables": variables},
            timeout=_START_SECONDS,
            trust_env=False,
        )
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()["data"]
        return found


@contextmanager
def served_platform(folder: Path) -> Iterator[Served]:
    """``marketdata up`` with the project's settings in ``folder``, in this process's environment."""
    for name in ("workspace.yaml", "dagster.yaml"):
        shutil.copy(_PROJECT / name, folder)
    port = free_port()
    log = folder / "up.log"
    with log.open("w") as written:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("marketdata"), "up", "--port", str(port)],
            cwd=folder,
            env=os.environ,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
        )
    try:
        end = time.monotonic() + _START_SECONDS
        while "Dagster at" not in log.read_text():
            if process.poll() is not None or time.monotonic() > end:
                message = f"marketdata up does not serve: {log.read_text()[-500:]}"
                raise RuntimeError(message)
            time.sleep(_POLL_SECONDS)
        yield Served(f"http://127.0.0.1:{port}")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
