from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import re
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.polygon.errors import RateLimiterUnavailableError
from marketdata_assets.polygon.limiter import SLACK_SECONDS, RateLimiter, bucket_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Barrier

BUCKET = "bucket"
PROCESSES = 8


def hammer(  # noqa: PLR0917  # a process takes its arguments by position
    url: str, requests: int, period: float, length: float, ready: Barrier, arrivals: SimpleQueue[list[float]]
) -> None:
    """Eight callers ask for ``length`` seconds as fast as they may; queues when each was let."""

    async def run() -> list[float]:
        async with RateLimiter(url, BUCKET, requests, period_seconds=period) as limiter:
            arrived: list[float] = []
            until = time.monotonic() + length

            async def ask() -> None:
                while True:
                    await limiter.acquire()
                    arrived.append(time.monotonic())

            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until), asyncio.TaskGroup() as callers:
                    for _ in range(8):
                        callers.create_task(ask())
            return arrived

    ready.wait()
    arrivals.put(asyncio.run(run()))


def arrivals_of(url: str, requests: int, period: float, length: float) -> list[float]:
    """When requests of eight processes arrive, in order, from the first on."""
    context = multiprocessing.get_context("spawn")
    ready, queue = context.Barrier(PROCESSES), context.SimpleQueue()
    workers = [
        context.Process(target=hammer, args=(url, requests, period, length, ready, queue))
        for _ in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    arrived = sorted(moment for _ in workers for moment in queue.get())
    for worker in workers:
        worker.join()
    return [moment - arrived[0] for moment in arrived]


def most_in_a_window(arrived: list[float], period: float) -> int:
    most = first = 0
    for last, moment in enumerate(arrived):
        while moment - arrived[first] >= period:
            first += 1
        most = max(most, last - first + 1)
    return most


# slow: eight processes
@pytest.mark.slow
def test_eight_processes_share_one_limit(database_url: str) -> None:
    period, requests = 2.0, 40
    hold = period + SLACK_SECONDS
    arrived = arrivals_of(database_url, requests, period, 2 * hold)
    assert most_in_a_window(arrived, period) <= requests
    # Half the slack is what a wake-up may be late: a busy machine drops a slot now and then.
    assert len(arrived) >= 0.9 * 2 * requests


@pytest.mark.slow
def test_eight_processes_use_98_percent_of_the_vendors_minute(database_url: str) -> None:
    period, requests = 60.0, 150
    arrived = arrivals_of(database_url, requests, period, 2 * period + 1)
    assert most_in_a_window(arrived, period) <= requests
    for start in (0, period):
        assert sum(start <= moment < start + period for moment in arrived) >= 0.98 * requests
    steady = [later - earlier for earlier, later in pairwise(arrived) if earlier > period]
    assert min(steady) > 0.1 * period / requests


def reserved(url: str, limits: list[int], period: float = 1000.0) -> list[float]:
    """Granted times of one reservation per limit, as seconds after the first, without waiting for any."""

    async def run() -> list[float]:
        async with contextlib.AsyncExitStack() as stack:
            limiters = {
                limit: await stack.enter_async_context(RateLimiter(url, BUCKET, limit, period_seconds=period))
                for limit in set(limits)
            }
            granted = [(await limiters[limit]._reserve()).granted for limit in limits]
        return [moment - granted[0] for moment in granted]

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("truncate rate_limit")
    return asyncio.run(run())


def test_an_allowance_and_then_an_even_pace(database_url: str) -> None:
    granted = reserved(database_url, [20] * 70)
    spacing = (1000 + SLACK_SECONDS) / 20
    assert granted[:3] == pytest.approx([0, 0, 0], abs=5)
    assert granted[3:20] == pytest.approx([(n + 1) * spacing for n in range(17)], abs=5)
    # What was granted ahead is made up for once; from then on the pace is even and no burst comes back.
    assert granted[20] == pytest.approx(20 * spacing, abs=0.01)
    assert [later - earlier for earlier, later in pairwise(granted[20:])] == pytest.approx(
        [spacing] * 49, abs=0.01
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.lists(st.sampled_from([1, 2, 3, 5, 8]), min_size=2, max_size=40))
def test_a_changed_limit_never_grants_too_much(database_url: str, limits: list[int]) -> None:
    granted = reserved(database_url, limits)
    assert granted == sorted(granted)
    for position, limit in enumerate(limits):
        if position >= limit:
            # Even the limits that others use meanwhile count: each grant looks its own limit's places back.
            assert granted[position] >= granted[position - limit] + 1000 + SLACK_SECONDS - 1e-3


def test_a_smaller_limit_is_not_forgotten_by_a_larger_one(database_url: str) -> None:
    granted = reserved(database_url, [10] * 10 + [2] + [10] * 10)
    assert granted[10] >= granted[8] + 1000
    assert all(later >= earlier + 1000 for earlier, later in zip(granted, granted[10:], strict=False))


def test_a_penalty_is_not_called_the_limit(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async def wait() -> None:
        async with RateLimiter(database_url, "penalised", 6_000) as limiter:
            await limiter.penalise(1.3)
            await limiter.acquire()

    caplog.set_level(logging.INFO, logger="marketdata_assets")
    asyncio.run(wait())
    (said,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(
        r"waiting 1\.\d s: the vendor rejected a request with 429, and every process pauses", said
    )


def test_a_waiting_caller_is_told_of(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> float:
        async with RateLimiter(database_url, BUCKET, 1, period_seconds=0.5) as limiter:
            await limiter.acquire()
            return await limiter.acquire()

    caplog.set_level(logging.INFO, logger="marketdata_assets")
    waited = asyncio.run(run())
    assert waited > 0.9
    assert [record.getMessage() for record in caplog.records] == [
        "waiting 1.1 s for the vendor's limit of 1 requests a minute"
    ]


def penalised(
    url: str, retry_after: float, before: Callable[[RateLimiter], Awaitable[None]]
) -> tuple[float, list[float]]:
    """When one limiter's penalty ended, and when the sleepers of another were let; ``before`` comes first."""

    async def run() -> tuple[float, list[float]]:
        async with (
            asyncio.timeout(30),
            RateLimiter(url, BUCKET, 20, period_seconds=5) as sleeping,
            RateLimiter(url, BUCKET, 20, period_seconds=5) as other,
        ):
            arrived: list[float] = []

            async def ask() -> None:
                await sleeping.acquire()
                arrived.append(time.monotonic())

            for _ in range(3):
                await sleeping.acquire()
            callers = [asyncio.create_task(ask()) for _ in range(6)]
            with psycopg.connect(url) as connection:
                while _grants(connection) < 9:  # noqa: ASYNC110  # a row in Postgres sets no event
                    await asyncio.sleep(0.001)
            await before(sleeping)
            await other.penalise(retry_after)
            fallen = time.monotonic()
            await asyncio.gather(*callers)
            return fallen + retry_after, [moment for moment in arrived if moment > fallen]

    return asyncio.run(run())


def _grants(connection: psycopg.Connection) -> int:
    row = connection.execute(
        "select count(*) from rate_limit, unnest(grants) as granted where granted > 'epoch'"
    ).fetchone()
    connection.rollback()
    assert row is not None
    return int(row[0])


async def nothing(_: RateLimiter) -> None:
    """Leave the sleeper as it is."""


def test_a_penalty_pushes_back_those_who_sleep_already_and_no_burst_follows(database_url: str) -> None:
    end, arrived = penalised(database_url, 1.0, nothing)
    assert len(arrived) >= 2
    assert arrived[0] >= end - 0.05
    assert arrived[-1] - arrived[0] >= 0.9 * (len(arrived) - 1) * 5.6 / 20 - 0.05


def test_a_penalty_reaches_a_sleeper_that_could_not_listen(database_url: str) -> None:
    async def cut(sleeping: RateLimiter) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and query like 'listen%'"
            )
        while sleeping._listening:  # noqa: ASYNC110  # the limiter shows no event
            await asyncio.sleep(0.001)

    end, arrived = penalised(database_url, 1.0, cut)
    assert arrived
    assert arrived[0] >= end - 0.05


def test_a_shorter_penalty_does_not_end_a_longer_one(database_url: str) -> None:
    async def run() -> float:
        async with RateLimiter(database_url, BUCKET, 100) as limiter:
            await limiter.penalise(0.6)
            await limiter.penalise(0.1)
            return await limiter.acquire()

    assert asyncio.run(run()) > 0.5


def test_a_cancelled_caller_harms_nobody(database_url: str) -> None:
    async def run() -> None:
        async with RateLimiter(database_url, BUCKET, 5, period_seconds=1) as limiter:
            callers = [asyncio.create_task(limiter.acquire()) for _ in range(6)]
            await asyncio.wait(callers, return_when=asyncio.FIRST_COMPLETED)
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
            await limiter.acquire()

    asyncio.run(run())


def test_a_lost_connection_is_replaced(database_url: str) -> None:
    async def run() -> None:
        async with RateLimiter(database_url, BUCKET, 100) as limiter:
            await limiter.acquire()
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where datname = current_database() and pid <> pg_backend_pid()"
                )
            await limiter.acquire()

    asyncio.run(run())


@pytest.mark.parametrize("ask", ["acquire", "penalise"])
def test_nothing_is_granted_without_the_database(ask: str) -> None:
    async def run() -> None:
        async with RateLimiter("postgresql://user:hunter2@127.0.0.1:1/x", BUCKET, 100) as limiter:
            await (limiter.acquire() if ask == "acquire" else limiter.penalise(1))

    with pytest.raises(RateLimiterUnavailableError, match="marketdata db start") as caught:
        asyncio.run(run())
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_nothing_is_granted_without_the_table(empty_database_url: str) -> None:
    async def run() -> None:
        async with RateLimiter(empty_database_url, BUCKET, 100) as limiter:
            await limiter.acquire()

    with pytest.raises(RateLimiterUnavailableError, match="marketdata migrate"):
        asyncio.run(run())


def test_a_malformed_url_is_not_repeated() -> None:
    async def run() -> None:
        async with RateLimiter("postgres//user:hunter2@host", BUCKET, 100) as limiter:
            await limiter.acquire()

    with pytest.raises(ConfigurationError, match="DATABASE_URL") as caught:
        asyncio.run(run())
    assert "hunter2" not in str(caught.value)


def test_a_bucket_is_the_same_for_the_same_key_and_tells_nothing_of_it() -> None:
    key = SecretStr("a-key-of-the-vendor")
    assert bucket_of(key) == bucket_of(SecretStr(key.get_secret_value()))
    assert bucket_of(key) != bucket_of(SecretStr("another"))
    assert key.get_secret_value() not in bucket_of(key)
