"""Alerts: what people should hear of without looking at the UI, as a log line and a POST to their webhook.

Belongs here: how an alert is told. Does not belong here: what is worth one (``sensors``, ``checks``).
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import httpx
import stamina

from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.wording import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import SecretStr

_SECONDS: Final = 10.0
_CONNECT_SECONDS: Final = 2.0
_LEAST_SECONDS: Final = 0.1
_WITHIN: Final = timedelta(seconds=30)
_ATTEMPTS: Final = 3
_SERVER_ERROR: Final = 500
_TALKATIVE: Final = (
    "httpx",
    *(f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")),
)
_LOG: Final = logging.getLogger(__name__)


class Severity(StrEnum):
    """How much an alert matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Alert:
    """One line of ``title`` that says what happened, one of ``text`` that says why; ``facts`` for machines."""

    title: str
    text: str
    severity: Severity = Severity.ERROR
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The alert in one line."""
        return one_line(f"{self.title}: {self.text}")

    @property
    def payload(self) -> dict[str, object]:
        """The alert as JSON: ``text`` is the whole line, as chat services want it."""
        return {
            "text": self.line,
            "title": self.title,
            "severity": self.severity.value,
            "facts": dict(self.facts),
        }


class AlertError(MarketDataError):
    """An alert reached the log and not the webhook.

    Attributes:
        answered: Whether the webhook refused it; false when no answer came.
    """

    def __init__(self, message: str, *, answered: bool) -> None:
        super().__init__(message)
        self.answered = answered


def send(
    alert: Alert,
    webhook: SecretStr | None,
    *,
    within: timedelta = _WITHIN,
    log: logging.Logger = _LOG,
) -> None:
    """Log ``alert`` in one line and, when there is a ``webhook``, POST its payload there.

    Asked three times when the webhook cannot be reached or answers with 5xx, and given up ``within`` that time, give or
    take two seconds: Dagster ends a sensor's tick after a minute, and what it told is forgotten. What was sent and not
    answered in time may have arrived, and is not sent again.

    Raises:
        AlertError: The webhook did not take it. Its address is a secret, and stands in no message.
    """
    level = {Severity.INFO: logging.INFO, Severity.WARNING: logging.WARNING}.get(
        alert.severity, logging.ERROR
    )
    log.log(level, "%s", alert.line)
    if webhook is None:
        return
    try:
        _post(webhook.get_secret_value(), alert.payload, within)
    except _RefusedError as error:
        message = f"the webhook answered {error.status}, and `{alert.title}` is in the log alone: check MARKETDATA_WEBHOOK_URL"
        raise AlertError(message, answered=True) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        message = (
            f"the webhook cannot be reached ({type(error).__name__}), and `{alert.title}` is in the log alone:"
            " check MARKETDATA_WEBHOOK_URL"
        )
        raise AlertError(message, answered=False) from None


class _RefusedError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _SilentThread(logging.Filter):
    """Keeps what this thread does from being logged: another may have a request of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread


def _is_worth_another(error: Exception) -> bool:
    if isinstance(error, _RefusedError):
        return error.status >= _SERVER_ERROR
    # What may have arrived is not sent twice.
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)


def _post(url: str, payload: Mapping[str, object], within: timedelta) -> None:
    end = time.monotonic() + within.total_seconds()
    # They log the address of every request, written as they see fit: no comparison with the setting finds them all.
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    silence = _SilentThread()
    for one in loggers:
        one.addFilter(silence)
    try:
        for attempt in stamina.retry_context(
            on=_is_worth_another, attempts=_ATTEMPTS, timeout=within, wait_initial=0.5, wait_max=2.0
        ):
            with attempt:
                left = min(_SECONDS, max(_LEAST_SECONDS, end - time.monotonic()))
                limits = httpx.Timeout(left, connect=min(_CONNECT_SECONDS, left))
                # The status says all; a body could go on for ever.
                with httpx.stream("POST", url, json=payload, timeout=limits) as answer:
                    if not answer.is_success:
                        raise _RefusedError(answer.status_code)
    finally:
        for one in loggers:
            one.removeFilter(silence)
