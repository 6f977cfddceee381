"""One benchmark in a process of its own: imports, caches and peak memory of one are not another's."""

from __future__ import annotations

import importlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.figures import Figure


def measured(name: str, server_url: str, *, quick: bool) -> list[Figure]:
    """The figures of the module ``benchmarks.<name>``."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, name, server_url, quick=quick).result()


def _run(name: str, server_url: str, *, quick: bool) -> list[Figure]:
    figures: list[Figure] = importlib.import_module(f"benchmarks.{name}").run(server_url, quick=quick)
    return figures
