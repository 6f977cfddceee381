"""Files that commands write: checked before the work, and replaced atomically after it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from marketdata_assets.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def check_writable(option: str, path: Path) -> None:
    """Check that the file ``path`` of ``option`` can be written, without writing it, so that a command fails early.

    Raises:
        ConfigurationError: The folder does not exist or may not be written to, or ``path`` is not a regular file.
    """
    if is_stdout(path):
        return
    try:
        if not path.parent.is_dir():
            raise _unwritable(option, path, f"{path.parent} is not a folder")
        if path.exists() and not path.is_file():  # replacing it would remove a device or a pipe
            raise _unwritable(option, path, "it is not a regular file")
    except OSError as error:
        raise _unwritable(option, path, error.strerror) from None
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise _unwritable(option, path, f"{path.parent} may not be written to")


def write_file(option: str, path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically: a reader sees either the old file or the new one.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    write_bytes(option, path, text.encode())


def write_bytes(option: str, path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` as :func:`write_file` does."""
    if is_stdout(path):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            draft.write_bytes(data)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(option, path, error.strerror) from None


def decode_text(data: bytes, source: str) -> str:
    """Return the text of ``data``, a file in UTF-8 with or without a byte order mark.

    Raises:
        ConfigurationError: ``data`` is not UTF-8; the message names ``source``, the line and the byte in the line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        message = f"{source}, line {line}, byte {column}: this is not UTF-8: save the file in UTF-8"
        raise ConfigurationError(message) from None


def is_stdout(path: Path | None) -> bool:
    """Whether ``path`` is ``-``, which stands for standard output."""
    return str(path) == "-"


def _unwritable(option: str, path: Path, why: str | None) -> ConfigurationError:
    return ConfigurationError(
        f"{option} {path} cannot be written ({why}): give a file in a folder that you may write to"
    )
