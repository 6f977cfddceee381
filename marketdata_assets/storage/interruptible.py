"""Waiting for a driver so that Ctrl-C is heard.

Belongs here: the wait. Does not belong here: what becomes of an interrupted command (``cli``).
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_CANCEL_SECONDS: Final = 1.0
"""How long a cancelled call is given to end. A command that is interrupted ends within two seconds."""


def call_interruptibly(work: Callable[[], T], cancel: Callable[[], None]) -> T:
    """Return what ``work`` returns; when a signal's handler raises meanwhile, call ``cancel`` and let that through.

    A driver that waits in C keeps Python's handlers from running, and ADBC even replaces the one of SIGINT: an
    interrupt becomes an error of the statement, or is lost between two statements. So ``work`` runs in a thread, and
    the main thread, where handlers run, waits for it. ``cancel`` is called from the main thread while ``work`` runs.

    Whatever ``work`` uses must not be used or closed after an interrupt: a call that cannot be cancelled goes on.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()  # handlers never run here
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            future.set_exception(error)

    threading.Thread(target=run, name="marketdata read", daemon=True).start()
    try:
        return future.result()
    except BaseException:
        if not future.done():
            cancel()
            wait([future], _CANCEL_SECONDS)
        raise
