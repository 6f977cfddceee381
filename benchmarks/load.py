"""A load generator over HTTP, for a process of its own: latencies of requests, one after the other or at a fixed rate."""

from __future__ import annotations

import threading
import time
from http.client import HTTPConnection
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_CONNECTIONS = 16
_OK = 200


def one_by_one(port: int, paths: Sequence[str], accept: str) -> list[float]:
    """Seconds of each request over one kept connection, the next sent when the last is answered."""
    connection = HTTPConnection("127.0.0.1", port)
    seconds = []
    for path in paths:
        started = time.perf_counter()
        _get(connection, path, accept)
        seconds.append(time.perf_counter() - started)
    return seconds


def at_rate(port: int, paths: Sequence[str], accept: str, per_second: float) -> list[float]:
    """Seconds from the moment at which each request was due, whether or not earlier ones are answered.

    So an answer that is late makes those behind it late as well, as it would for people.
    """
    due: SimpleQueue[tuple[float, str]] = SimpleQueue()
    started = time.perf_counter() + 0.5
    for place, path in enumerate(paths):
        due.put((started + place / per_second, path))
    seconds: list[float] = []
    errors: list[Exception] = []

    def work() -> None:
        connection = HTTPConnection("127.0.0.1", port)
        try:
            while True:
                moment, path = due.get_nowait()
                time.sleep(max(0.0, moment - time.perf_counter()))
                _get(connection, path, accept)
                seconds.append(time.perf_counter() - moment)
        except Empty:
            connection.close()
        except Exception as error:  # noqa: BLE001 - raised by the caller's thread, below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return seconds


def _get(connection: HTTPConnection, path: str, accept: str) -> None:
    connection.request("GET", path, headers={"Accept": accept})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != _OK:
        message = f"{path}: {answer.status} {body[:200]!r}"
        raise RuntimeError(message)
