"""The bucket of tokens of each client."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.api.limits import ClientQueue, RateLimiter, retry_after
from marketdata_assets.api.problems import Problem


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_admitted_and_then_the_rate() -> None:
    clock = Clock()
    limiter = RateLimiter(rate=2, burst=4, clock=clock)
    assert [limiter.admit("a") for _ in range(4)] == [0, 0, 0, 0]
    assert limiter.admit("a") == pytest.approx(0.5)
    assert limiter.admit("b") == 0
    clock.now = 0.5
    assert limiter.admit("a") == 0
    assert limiter.admit("a") == pytest.approx(0.5)


def test_rows_are_paid_for_before_they_are_read_and_those_that_were_not_come_back() -> None:
    limiter = RateLimiter(rate=10, burst=20, clock=Clock())
    assert [limiter.admit("a") for _ in range(3)] == [0, 0, 0]
    assert limiter.reserve("a", 100_000) == 0
    assert limiter.reserve("a", 100_000) == pytest.approx(8.4)
    assert limiter.admit("a") == pytest.approx(8.4)
    limiter.settle("a", 100_000, 10_000)
    assert limiter.reserve("a", 7_000) == 0
    assert limiter.admit("a") == pytest.approx(0.1)
    limiter.settle("a", 107_000, 0)
    assert [limiter.admit("a") for _ in range(20)] == [0] * 20
    assert limiter.admit("a") > 0


class Requests:
    """Requests of clients in a :class:`ClientQueue`, answered one by one when the test says so."""

    def __init__(self, queue: ClientQueue) -> None:
        self.queue = queue
        self.running: list[tuple[str, asyncio.Future[str]]] = []

    async def send(self, client: str) -> asyncio.Task[str]:
        """Send a request of ``client``, and return once it has come as far as it can."""

        async def work() -> str:
            done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self.running.append((client, done))
            return await done

        requested = asyncio.create_task(self.queue.run(client, work))
        await self.settle()
        return requested

    async def answer(self) -> None:
        """Answer the oldest of those that run."""
        self.running.pop(0)[1].set_result("answered")
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def clients(self) -> str:
        return "".join(client for client, _ in self.running)


def test_one_client_leaves_room_for_the_others() -> None:
    async def scenario() -> None:
        requested = Requests(ClientQueue(at_once=2, waiting=1))
        mine = [await requested.send("a") for _ in range(3)]
        with pytest.raises(Problem) as refused:
            await (await requested.send("a"))
        assert (refused.value.status, refused.value.code) == (429, "too-many-requests")
        await requested.send("b")
        assert requested.clients == "aab"
        await requested.answer()
        assert requested.clients == "aba"
        assert mine[0].result() == "answered"
        assert not (await requested.send("a")).done()

    asyncio.run(scenario())


def test_a_client_that_goes_away_keeps_its_turn_until_its_request_is_answered() -> None:
    async def scenario() -> None:
        requested = Requests(ClientQueue(at_once=1, waiting=1))
        (await requested.send("a")).cancel()
        await requested.send("a")
        assert requested.clients == "a"
        with pytest.raises(Problem):
            await (await requested.send("a"))
        await requested.answer()
        await requested.answer()
        assert (await requested.send("a")).cancel()

    asyncio.run(scenario())


def test_memory_is_bounded() -> None:
    limiter = RateLimiter(rate=1, burst=1, clock=Clock(), max_clients=3)
    for client in "abcd":
        limiter.admit(client)
    assert limiter.admit("d") > 0
    assert limiter.admit("a") == 0


@given(st.lists(st.floats(0, 3), max_size=60))
def test_no_window_holds_more_than_the_burst_and_the_rate(pauses: list[float]) -> None:
    clock = Clock()
    limiter = RateLimiter(rate=3, burst=5, clock=clock)
    admitted = []
    for pause in pauses:
        clock.now += pause
        if limiter.admit("a") == 0:
            admitted.append(clock.now)
    for place, start in enumerate(admitted):
        for count, end in enumerate(admitted[place:], start=1):
            assert count <= 5 + 3 * (end - start) + 1e-6


@pytest.mark.parametrize(("seconds", "said"), [(0.01, "1"), (1.0, "1"), (1.2, "2")])
def test_retry_after_is_whole_and_enough(seconds: float, said: str) -> None:
    assert retry_after(seconds) == said
