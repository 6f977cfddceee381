"""What an alert says, and where it goes."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import stamina
from pydantic import SecretStr

from marketdata_assets.pipeline.alerts import Alert, AlertError, Severity, send

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/hooks/token-that-nobody-may-see"
ALERT = Alert("run of bars failed", "AAPL\nfailed", Severity.WARNING, {"run_id": "1"})


@contextmanager
def webhook(*statuses: int) -> Iterator[tuple[SecretStr, list[Any]]]:
    """A server that answers with ``statuses`` in turn; its address and what it was sent."""
    answers, sent = iter(statuses), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(next(answers))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield SecretStr(f"http://127.0.0.1:{server.server_port}{PATH}"), sent
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3):
        yield


def test_an_alert_is_one_line_in_the_log_and_json_at_the_webhook(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "httpx")
    with webhook(204) as (url, sent):
        send(ALERT, url)
        assert sent == [
            {
                "text": "run of bars failed: AAPL failed",
                "title": "run of bars failed",
                "severity": "warning",
                "facts": {"run_id": "1"},
            }
        ]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "run of bars failed: AAPL failed"
    ]
    assert PATH not in caplog.text


@pytest.mark.parametrize("tail", ["", "?token=a secret of two words"])
def test_no_way_to_write_its_address_brings_it_into_the_log(
    tail: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with webhook(204) as (url, sent):
        send(ALERT, SecretStr(url.get_secret_value().replace("127.0.0.1", "LOCALHOST") + tail))
        assert len(sent) == 1
    assert ALERT.line in caplog.text
    assert PATH not in caplog.text
    assert "two" not in caplog.text
    logging.getLogger("httpx").warning("a later request")
    assert "a later request" in caplog.text


def test_a_webhook_that_stumbles_is_asked_again() -> None:
    with webhook(503, 500, 200) as (url, sent):
        send(ALERT, url)
    assert len(sent) == 3


@pytest.mark.parametrize("statuses", [(500, 500, 500), (404,), (302,)])
def test_a_webhook_that_refuses_is_an_error_that_keeps_its_address_secret(
    statuses: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with webhook(*statuses) as (url, sent):
        with pytest.raises(AlertError, match=f"answered {statuses[-1]}") as caught:
            send(ALERT, url)
        assert len(sent) == len(statuses)
    assert "run of bars failed: AAPL failed" in caplog.text
    assert PATH not in caplog.text + str(caught.value)


def test_a_webhook_that_hangs_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = SecretStr(f"http://127.0.0.1:{silent.getsockname()[1]}{PATH}")
        began = time.monotonic()
        with pytest.raises(AlertError, match="ReadTimeout"):
            send(ALERT, url, within=timedelta(seconds=0.5))
        silent.accept()[0].close()
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):  # what may have arrived was not sent again
            silent.accept()
    assert time.monotonic() - began < 2


def test_a_webhook_that_is_gone_is_an_error_and_none_is_none() -> None:
    with webhook() as (url, _):
        pass
    with pytest.raises(AlertError, match="cannot be reached") as caught:
        send(ALERT, url)
    assert PATH not in str(caught.value)
    send(ALERT, None)
