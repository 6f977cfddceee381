"""Files that commands write for people and machines: refused before the work, replaced at once after it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from marketdata_assets.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def check_writable(option: str, path: Path) -> None:
    """Raise before the work, not after it, when the file of ``option`` cannot be written; leaves nothing behind.

    Raises:
        ConfigurationError: Its folder is none, may not be written to, or something other than a file is there.
    """
    if is_stdout(path):
        return
    try:
        if not path.parent.is_dir():
            raise _unwritable(option, path, f"{path.parent} is no folder")
        if path.exists() and not path.is_file():  # replacing it would take away a device or a pipe
            raise _unwritable(option, path, "it is no plain file")
    except OSError as error:
        raise _unwritable(option, path, error.strerror) from None
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise _unwritable(option, path, f"{path.parent} may not be written to")


def write_file(option: str, path: Path, text: str) -> None:
    """Write ``text`` to ``path`` at once: whoever reads it meanwhile sees the old file or the new one.

    Raises:
        ConfigurationError: It cannot be written.
    """
    write_bytes(option, path, text.encode())


def write_bytes(option: str, path: Path, data: bytes) -> None:
    """As :func:`write_file`, of ``data``."""
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
    """The text of ``data``, a file in UTF-8 with or without a byte order mark.

    Raises:
        ConfigurationError: It is not UTF-8; names ``source``, the line and the byte of the line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        message = f"{source}, line {line}, byte {column}: this is not UTF-8; save the file in UTF-8"
        raise ConfigurationError(message) from None


def is_stdout(path: Path | None) -> bool:
    """Whether ``path`` is the ``-`` that stands for standard output."""
    return str(path) == "-"


def _unwritable(option: str, path: Path, why: str | None) -> ConfigurationError:
    return ConfigurationError(
        f"{option} {path} cannot be written ({why}): give a file in a folder that you may write to"
    )
