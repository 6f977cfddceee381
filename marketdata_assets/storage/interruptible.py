"""Waiting for a driver while Ctrl-C still works.

Belongs here: the wait. Does not belong here: how an interrupted command ends (``cli``).
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_CANCEL_SECONDS: Final = 1.0
"""The time in which a cancelled call may end. A command that is interrupted ends within two seconds."""


def call_interruptibly(work: Callable[[], T], cancel: Callable[[], None]) -> T:
    """Return the result of ``work``; when a signal handler raises meanwhile, call ``cancel`` and raise that error.

    A driver that waits in C keeps Python's handlers from running, and ADBC even replaces the handler of SIGINT: an
    interrupt becomes an error of the statement, or is lost between two statements. So ``work`` runs in a thread, and
    the main thread, where handlers run, waits for it. ``cancel`` is called from the main thread while ``work`` runs.

    The objects that ``work`` uses must not be used or closed after an interrupt: a call that cannot be cancelled goes on.
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
