"""The address of the simulator of a running ``marketdata up --simulate``, for commands in other terminals."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import psutil
import typer

from marketdata_assets.config import is_loopback
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.storage.vendor import read_kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from marketdata_assets.cli.session import Store

_FILE: Final = "up.simulator"


@dataclass(frozen=True, slots=True)
class _Address:
    """A simulator's URL and the process that serves it: its id and, because ids are reused, its start (Unix time)."""

    url: str
    pid: int
    started: float

    @property
    def is_served(self) -> bool:
        """Whether the process still runs."""
        try:
            return psutil.Process(self.pid).create_time() == self.started
        except psutil.Error:
            return False


@contextlib.contextmanager
def publish_simulator(home: Path, url: str) -> Iterator[None]:
    """Publish the address ``url`` of this process's simulator to commands on ``home`` until the ``with`` block ends."""
    address = _Address(url, os.getpid(), psutil.Process().create_time())
    draft = home / f"{_FILE}.{address.pid}"
    draft.write_text(json.dumps(asdict(address)), encoding="utf-8")
    draft.replace(home / _FILE)
    try:
        yield
    finally:
        forget_simulator(home)


def forget_simulator(home: Path) -> None:
    """Remove the address that an earlier ``up`` on ``home`` has left."""
    (home / _FILE).unlink(missing_ok=True)


def use_simulator(store: Store) -> None:
    """Use the simulator of an ``up --simulate`` on the same MARKETDATA_HOME, unless another vendor is set.

    Settings take precedence, and a store of real bars never uses a simulator.

    Raises:
        ConfigurationError: The process of that ``up`` ended without removing its address.
    """
    settings = store.settings
    if settings.polygon_api_key is not None or "polygon_base_url" in settings.model_fields_set:
        return
    address = _read(settings.home / _FILE)
    if address is None or read_kind(store.database) is False:
        return
    if not address.is_served:
        message = (
            f"the simulator of `marketdata up --simulate` at {address.url} is gone: start `marketdata up --simulate`"
            " again, or set POLYGON_API_KEY"
        )
        raise ConfigurationError(message)
    os.environ["POLYGON_API_KEY"], os.environ["POLYGON_BASE_URL"] = "demo", address.url
    typer.echo(f"vendor: the simulator of `marketdata up --simulate` at {address.url}", err=True)


def _read(path: Path) -> _Address | None:
    """Return the address in the file ``path``; None when there is no file or it holds something else."""
    try:
        address = _Address(**json.loads(path.read_text(encoding="utf-8")))
        return address if is_loopback(address.url) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None
