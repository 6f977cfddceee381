"""The database for the API: a few threads, each with connections of its own, and no endless queue before them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from marketdata_assets.api.problems import Problem
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.storage.connection import Database, Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_PATIENCE: Final = timedelta(seconds=2)
"""A client rather hears that the database is away than waits for it."""


class Readers:
    """``size`` threads that work on the database, and ``waiting`` questions at most that wait for one of them.

    A kept connection per thread: opening one takes ten times as long as reading a day of minutes.
    """

    def __init__(self, url: str, *, size: int, waiting: int, statement_timeout: timedelta) -> None:
        self._url = url
        self._size = size
        self._most = size + waiting
        self._timeouts = Timeouts(
            statement=statement_timeout, lock=timedelta(seconds=5), idle_in_transaction=timedelta(seconds=30)
        )
        self._executor = ThreadPoolExecutor(size, thread_name_prefix="api-reader")
        self._local = threading.local()
        self._open: list[Database] = []
        self._pending = 0

    async def run(self, work: Callable[[Database], T]) -> T:
        """What ``work`` returns, run by one of the threads.

        Raises:
            Problem: 503, when too many questions are waiting already.
        """
        if self._pending >= self._most:
            raise Problem(
                503,
                "busy",
                "too many questions are waiting for the database: try again later",
                headers={"Retry-After": "1"},
            )
        self._pending += 1
        loop = asyncio.get_running_loop()
        future = self._executor.submit(self._work, work)
        # Not when the client goes away: its question is still being worked on then.
        future.add_done_callback(lambda done: self._done(loop, done))
        return await asyncio.wrap_future(future)

    async def warm_up(self) -> None:
        """Open every thread's connections, so that nobody's first answer waits for that."""
        together = threading.Barrier(self._size)

        def touch(database: Database) -> None:
            # Each thread takes exactly one of these.
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(5)
            database.open_reader()
            database.require_answer()

        with contextlib.suppress(MarketDataError):  # it starts all the same, and /health says that it is away
            await asyncio.gather(*(self.run(touch) for _ in range(self._size)))

    def close(self) -> None:
        """Wait for what is being worked on, and close the connections."""
        self._executor.shutdown(cancel_futures=True)
        for database in self._open:
            database.close()

    def _work(self, work: Callable[[Database], T]) -> T:
        database: Database | None = getattr(self._local, "database", None)
        if database is None:
            database = self._local.database = Database(
                self._url, application_name="marketdata api", timeouts=self._timeouts, patience=_PATIENCE
            )
            self._open.append(database)
        try:
            return work(database)
        except (MarketDataError, Problem):
            raise
        except BaseException:
            # In what state the connection is nobody knows.
            database.close()
            raise

    def _done(self, loop: asyncio.AbstractEventLoop, _: Future[T]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        self._pending -= 1
