"""Ctrl-C and SIGTERM: a command ends within two seconds of either, at any moment, with exit code 130 and one line.

Python handles a signal only between two of its own instructions: while a driver or a library runs C code, or during
clean-up, a command would go on. A thread watches instead, and ends the process when that takes too long. This is safe: a
transaction rolls back when its connection ends, files are replaced atomically, and the next command closes the runs.

Belongs here: signals and the deadline. This module imports nothing slow, because an import can be interrupted, too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED: Final = 130
"""The exit code of a command that Ctrl-C or SIGTERM ended, as in shells."""

MESSAGE: Final = "marketdata: interrupted; stored data stays, and the same command continues from there"

_SECONDS_TO_TIDY_UP: Final = 1.5
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_ignored = threading.Event()
_stopped = threading.Event()


def watch_signals() -> None:
    """Make SIGINT and SIGTERM raise :class:`KeyboardInterrupt`, and end the process soon after, or at a second signal.

    The watch goes on when handlers are replaced later, as Dagster does for each run.
    """
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="marketdata signals", daemon=True).start()


def leave_signals_to_the_command() -> None:
    """End the watch, for a command that stops its children in order and has its own deadline."""
    _ignored.set()


def note_stop() -> None:
    """Note that a signal has stopped a command that runs until then, so that its exit is as quick as an interrupt's."""
    _stopped.set()


def exit_with(code: int) -> NoReturn:
    """End the process with ``code``. A signal no longer raises, but still ends an exit that takes too long."""
    for number in _SIGNALS:
        signal.signal(number, _do_nothing)
    if code == INTERRUPTED or _stopped.is_set():
        # Unloading modules takes seconds on a busy machine, and may print errors of threads that are cut off.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def report_interrupt() -> None:
    """Print the line of an interrupted command, which may have left a progress bar behind."""
    print(MESSAGE, file=sys.stderr, flush=True)  # noqa: T201 - typer may not be imported yet


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    pass


def _watch(reading: int) -> None:
    while os.read(reading, 1)[0] not in _SIGNALS:
        continue
    if _ignored.is_set():
        return
    timer = threading.Timer(_SECONDS_TO_TIDY_UP, _end)
    timer.daemon = True
    timer.start()
    while os.read(reading, 1)[0] not in _SIGNALS:
        continue
    _end()


def _end() -> NoReturn:
    # Written to the file descriptor, because another thread may hold the lock of the stream.
    os.write(2, f"\r{MESSAGE}\n".encode())
    os._exit(INTERRUPTED)
