from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

from marketdata_assets.storage import dumps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pytest


def test_the_programs_get_the_settings_of_libpq_that_other_connections_have_but_no_other_service(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = {
        "PGPASSWORD": "secret",
        "PGPASSFILE": "/home/me/.pgpass",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": "/home/me/ca.pem",
        "PGTZ": "UTC",
    }
    for name, value in {**kept, "PGSERVICE": "a", "PGSERVICEFILE": "/b", "PGOPTIONS": "-c"}.items():
        monkeypatch.setenv(name, value)
    seen: list[Mapping[str, str]] = []

    def run(command: Sequence[str], *, env: Mapping[str, str], **_options: Any) -> object:  # noqa: ANN401 - unused
        seen.append(env)
        (file,) = (each.removeprefix("--file=") for each in command if each.startswith("--file="))
        Path(file).touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(dumps, "client_program", Path)
    monkeypatch.setattr(dumps, "connect", Mock())
    assert dumps.dump_database("postgresql://me@localhost/bars", tmp_path / "a.dump") == 0
    (env,) = seen
    assert kept.items() <= env.items()
    assert not {"PGSERVICE", "PGOPTIONS"} & set(env)
    assert env["PGSERVICEFILE"].endswith("service.conf")
