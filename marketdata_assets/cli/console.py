"""Terminals and pipes: colour for people, plain lines for everything else."""

from __future__ import annotations

import codecs
import logging
import sys
import unicodedata
from io import TextIOWrapper
from typing import Final

from rich.console import Console

out = Console()
err = Console(stderr=True)


class ConsoleHandler(logging.Handler):
    """Log messages as lines on standard error, above the progress bars when there are any."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message of ``record``."""
        err.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)


_FORGIVING: Final = "marketdata.forgiving"
_PLAIN: Final = {
    "✓": "v",  # not "?", which the matrix shows for what was never scanned
    "✗": "x",
    "…": ".",  # as wide as it is, for the columns of tables
    "\u00d7": "x",
    "\u2013": "-",
    "—": "-",
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "\u201c": '"',
    "\u201d": '"',
    "\u2018": "'",
    "\u2019": "'",
}


def make_streams_forgiving() -> None:
    """Print what the terminal's encoding lacks as something near it, instead of ending with a traceback.

    For standard output and error, in every encoding: a file name that is not UTF-8 cannot be printed in UTF-8 either.
    """
    codecs.register_error(_FORGIVING, _replace_unprintable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=_FORGIVING)


def _replace_unprintable(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for the letters that ``error`` is about, and where to go on, as codecs want it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = "".join(plain_text(letter) for letter in error.object[error.start : error.end])
    return found, error.end


def plain_text(letter: str) -> str:
    """Return ASCII that stands for ``letter``: its own look-alike, its base letter, else its number as Python writes it."""
    if letter in _PLAIN:
        return _PLAIN[letter]
    base = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return base or letter.encode("ascii", "backslashreplace").decode()


def can_print(text: str) -> bool:
    """Whether standard output's encoding has every letter of ``text``."""
    try:
        text.encode(out.encoding)
    except UnicodeEncodeError:
        return False
    return True
