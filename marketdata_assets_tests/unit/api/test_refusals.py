"""Log lines about refusals: few, whole, and on one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.api.refusals import RefusalLog

if TYPE_CHECKING:
    import pytest


def test_an_attack_leaves_few_lines_and_the_count_of_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = RefusalLog(lambda: now)
    for _ in range(10_000):
        log.write("unknown-key", "203.0.113.9", "GET /x")
    assert len(caplog.records) == 5
    log.write("key-needed", "203.0.113.9", "GET /x")  # others are not drowned
    now = 60.0
    for _ in range(10_000):
        log.write("unknown-key", "203.0.113.9", "GET /x")
    assert len(caplog.records) == 11
    assert "(9,995 more since the last such line)" in caplog.messages[6]
    assert "203.0.113.9: unknown-key, GET /x" in caplog.messages[0]


def test_what_a_client_writes_makes_no_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    log = RefusalLog(lambda: 0.0)
    log.write("unknown-key", "::1", "GET /\n2026-01-01 all is well\x1b[2J\u2028" + "x" * 5_000)
    (message,) = caplog.messages
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 300
    for kind in range(1_000):
        log.write(str(kind), "::1", "GET /")
    assert len(caplog.records) < 120
