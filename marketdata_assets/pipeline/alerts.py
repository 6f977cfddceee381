"""Alerts: problems that people should learn of without opening the UI, as a log line and a POST to their webhook.

Belongs here: how an alert is sent. Does not belong here: what deserves an alert (``sensors``, ``checks``).
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
_LOGGERS_OF_ADDRESSES: Final = (
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
    """A ``title`` of one line with what happened, a ``text`` of one line with the reason, and ``facts`` for machines."""

    title: str
    text: str
    severity: Severity = Severity.ERROR
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """Return the alert in one line."""
        return one_line(f"{self.title}: {self.text}")

    @property
    def payload(self) -> dict[str, object]:
        """Return the alert as JSON: ``text`` is the whole line, which chat services display."""
        return {
            "text": self.line,
            "title": self.title,
            "severity": self.severity.value,
            "facts": dict(self.facts),
        }


class AlertError(MarketDataError):
    """An alert that reached the log and not the webhook.

    Attributes:
        answered: Whether the webhook answered, with an error; false when no answer came.
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

    A POST is attempted up to three times when the webhook cannot be reached or answers with 5xx. ``within`` limits the
    time for all attempts, give or take two seconds: Dagster ends a sensor's tick after a minute, and the tick then loses
    its record of the alerts that it sent. A POST that was sent and not answered in time may have arrived, so it is not
    sent again.

    Raises:
        AlertError: The webhook did not accept the alert. Its address is a secret, and no message contains it.
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
        message = f"the webhook answered {error.status}, and `{alert.title}` is only in the log: check MARKETDATA_WEBHOOK_URL"
        raise AlertError(message, answered=True) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        message = (
            f"the webhook cannot be reached ({type(error).__name__}), and `{alert.title}` is only in the log:"
            " check MARKETDATA_WEBHOOK_URL"
        )
        raise AlertError(message, answered=False) from None


class _RefusedError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _SilentThread(logging.Filter):
    """A filter of the log records of this thread alone: other threads may be making requests of their own."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread


def _may_retry(error: Exception) -> bool:
    if isinstance(error, _RefusedError):
        return error.status >= _SERVER_ERROR
    # Any other failure may follow a POST that arrived, which must not be sent twice.
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)


def _post(url: str, payload: Mapping[str, object], within: timedelta) -> None:
    end = time.monotonic() + within.total_seconds()
    # These loggers write the address of every request in forms of their own, so comparing with the setting would miss some.
    loggers = [logging.getLogger(name) for name in _LOGGERS_OF_ADDRESSES]
    silence = _SilentThread()
    for logger in loggers:
        logger.addFilter(silence)
    try:
        for attempt in stamina.retry_context(
            on=_may_retry, attempts=_ATTEMPTS, timeout=within, wait_initial=0.5, wait_max=2.0
        ):
            with attempt:
                left = min(_SECONDS, max(_LEAST_SECONDS, end - time.monotonic()))
                limits = httpx.Timeout(left, connect=min(_CONNECT_SECONDS, left))
                # The status is enough; a body could be endless.
                with httpx.stream("POST", url, json=payload, timeout=limits) as answer:
                    if not answer.is_success:
                        raise _RefusedError(answer.status_code)
    finally:
        for logger in loggers:
            logger.removeFilter(silence)
