"""Output to terminals and pipes: colour for people, plain lines for programs."""

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
    """A handler that prints log messages as lines on standard error, above any progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message of ``record``."""
        err.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)


_FORGIVING: Final = "marketdata.forgiving"
_PLAIN: Final = {
    "✓": "v",  # not "?", which in the matrix stands for never scanned
    "✗": "x",
    "…": ".",  # of the same width, for the columns of tables
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
    """Make standard output and error print similar letters for those that their encoding lacks, instead of failing.

    This applies to every encoding: a file name that is not UTF-8 cannot be printed in UTF-8 either.
    """
    codecs.register_error(_FORGIVING, _replace_unprintable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=_FORGIVING)


def _replace_unprintable(error: UnicodeError) -> tuple[str, int]:
    """Return the replacement of the letters that ``error`` is about, and where to continue, as ``codecs`` requires."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = "".join(plain_text(letter) for letter in error.object[error.start : error.end])
    return found, error.end


def plain_text(letter: str) -> str:
    """Return ASCII text for ``letter``: a similar character, its base letter, or else its escape sequence in Python."""
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
