"""One call for all who need its result."""

from __future__ import annotations

import asyncio

import pytest

from marketdata_assets.api.single_flight import FAILURE_SECONDS, SingleFlight


class Source:
    """A call that takes as long as the test wants, and a clock that it moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.requested = 0
        self.fails = False
        self.open = asyncio.Event()
        self.shared = SingleFlight(self._call, 5.0, lambda: self.now)

    async def _call(self) -> int:
        self.requested += 1
        answer = self.requested
        await self.open.wait()
        if self.fails:
            message = "away"
            raise ConnectionError(message)
        return answer


def test_concurrent_callers_share_one_call() -> None:
    async def scenario() -> None:
        source = Source()
        waiting = [asyncio.create_task(source.shared.get()) for _ in range(9)]
        await asyncio.sleep(0)
        waiting.pop().cancel()
        await asyncio.sleep(0)
        source.now = 3.0
        source.open.set()
        assert await asyncio.gather(*waiting) == [1] * 8
        source.now = 5.0
        assert await source.shared.get() == 1
        source.now = 5.1
        assert await source.shared.get() == 2

    asyncio.run(scenario())


def test_a_failure_is_reused_for_a_moment() -> None:
    async def scenario() -> None:
        source = Source()
        source.fails = True
        waiting = [asyncio.create_task(source.shared.get()) for _ in range(3)]
        await asyncio.sleep(0)
        source.now = 9.0
        source.open.set()
        failed = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in failed] == [ConnectionError] * 3
        source.fails = False
        source.now += FAILURE_SECONDS
        with pytest.raises(ConnectionError):
            await source.shared.get()
        assert source.requested == 1
        source.now += 0.1
        assert await source.shared.get() == 2

    asyncio.run(scenario())
