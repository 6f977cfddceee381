"""The bucket of tokens of each client."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.api import limits
from marketdata_assets.api.limits import RateLimiter, retry_after


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


def test_rows_are_paid_for_afterwards_and_debt_is_bounded() -> None:
    clock = Clock()
    limiter = RateLimiter(rate=10, burst=20, clock=clock)
    assert limiter.admit("a") == 0
    limiter.charge("a", 25_000)
    assert limiter.admit("a") == pytest.approx(0.7)
    limiter.charge("a", 10_000_000)
    assert limiter.admit("a") == pytest.approx(2.1)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MOST_CLIENTS", 3)
    limiter = RateLimiter(rate=1, burst=1, clock=Clock())
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
