"""The database for the API: a few threads, each with its own connections, and a bounded queue in front of them."""

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
"""How long to wait for a database that does not answer: a client should get an error rather than wait."""


class ReaderPool:
    """A pool of ``size`` threads that read the database, and at most ``waiting`` requests that wait for one of them.

    Each thread keeps its connection: opening one takes ten times as long as reading a day of minutes.
    """

    def __init__(self, url: str, *, size: int, waiting: int, statement_timeout: timedelta) -> None:
        self._url = url
        self._size = size
        self._max_pending = size + waiting
        self._timeouts = Timeouts(
            statement=statement_timeout, lock=timedelta(seconds=5), idle_in_transaction=timedelta(seconds=30)
        )
        self._executor = ThreadPoolExecutor(size, thread_name_prefix="api-reader")
        self._local = threading.local()
        self._open: list[Database] = []
        self._pending = 0

    async def run(self, work: Callable[[Database], T]) -> T:
        """Call ``work`` in one of the threads, and return its result.

        Raises:
            Problem: 503, when too many requests are waiting already.
        """
        if self._pending >= self._max_pending:
            raise Problem(
                503,
                "busy",
                "too many requests are waiting for the database: try again later",
                headers={"Retry-After": "1"},
            )
        self._pending += 1
        loop = asyncio.get_running_loop()
        future = self._executor.submit(self._work, work)
        # Not when the client goes away: the database is still working on its request then.
        future.add_done_callback(lambda done: self._done(loop, done))
        return await asyncio.wrap_future(future)

    async def warm_up(self) -> None:
        """Open every thread's connections, so that no first response waits for that."""
        together = threading.Barrier(self._size)

        def touch(database: Database) -> None:
            # The barrier makes each thread take exactly one of these calls.
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(5)
            database.open_reader()
            database.require_answer()

        with contextlib.suppress(
            MarketDataError
        ):  # the server starts anyway, and /health reports the failure
            await asyncio.gather(*(self.run(touch) for _ in range(self._size)))

    def close(self) -> None:
        """Wait for the calls that are running, and close the connections."""
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
            # The state of the connection is unknown.
            database.close()
            raise

    def _done(self, loop: asyncio.AbstractEventLoop, _: Future[T]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        self._pending -= 1
