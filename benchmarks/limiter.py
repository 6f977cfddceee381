"""The shared rate limit: what a reservation costs when eight processes ask at once and nobody waits."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import psycopg

from benchmarks.figures import Figure
from benchmarks.server import fresh_database
from marketdata_assets.polygon.limiter import RateLimiter

_PROCESSES = 8
_REQUESTS_PER_MINUTE = 150


def run(server_url: str, *, quick: bool) -> list[Figure]:
    """Reservations a second, beside empty round trips over the same kind of connection."""
    seconds = 1.0 if quick else 5.0
    with (
        fresh_database(server_url) as url,
        ProcessPoolExecutor(_PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        # The first round starts the processes and their imports.
        _together(pool, url, 0.2, reserve=True)
        reservations = _together(pool, url, seconds, reserve=True)
        round_trips = _together(pool, url, seconds, reserve=False)
    return [
        Figure(
            f"reservations by {_PROCESSES} processes, {_REQUESTS_PER_MINUTE} requests a minute",
            reservations,
            "/s",
            beside={"floor: select 1": round_trips},
        )
    ]


def _together(pool: ProcessPoolExecutor, url: str, seconds: float, *, reserve: bool) -> float:
    # All start at one time, late enough for every process to be there.
    start = time.time() + 1.0
    work = [pool.submit(_ask, url, start, seconds, reserve=reserve) for _ in range(_PROCESSES)]
    return sum(one.result() for one in work) / seconds


def _ask(url: str, start: float, seconds: float, *, reserve: bool) -> int:
    return asyncio.run(_reserve(url, start, seconds) if reserve else _select(url, start, seconds))


async def _reserve(url: str, start: float, seconds: float) -> int:
    count = 0
    async with RateLimiter(url, "benchmark", _REQUESTS_PER_MINUTE) as limiter:
        # Not acquire(): its cost would be the sleep until the slot, which is what a limit is for.
        await limiter._reserve()  # noqa: SLF001 - the round trip alone
        await asyncio.sleep(start - time.time())
        while time.time() < start + seconds:
            await limiter._reserve()  # noqa: SLF001 - same
            count += 1
    return count


async def _select(url: str, start: float, seconds: float) -> int:
    count = 0
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await asyncio.sleep(start - time.time())
        while time.time() < start + seconds:
            await (await connection.execute("select 1")).fetchone()
            count += 1
    return count
