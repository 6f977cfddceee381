"""Every command in README.md and docs/ runs as it stands there, on one simulated store."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from marketdata_assets.storage.embedded import EmbeddedServer
from marketdata_assets_tests.conftest import REPOSITORY
from marketdata_assets_tests.docs_commands import PAGES, blocks_of
from marketdata_assets_tests.integration.platform import free_port
from marketdata_assets_tests.simulator import running_simulator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.slow

LEFT_OUT: Final = {
    r"make\b": "installs or runs this suite",
    r"\. \.venv/bin/activate": "the suite runs in its environment",
    r"(cd deploy/compose|cp \.env\.example|docker|kubectl|helm)\b": "needs a container runtime or a cluster: test_deploy",
    r"(export CELERY|dagster-celery|dagster code-server)": "needs a broker: test_celery",
    r"curl .*bars\.example\.com": "a host of the reader's own",
}
"""Commands that are not run, and why."""
ENDLESS: Final = {"marketdata up": 3000, "marketdata serve": 8000, "marketdata simulate": 8765}
"""Commands that run until Ctrl-C, and the port that says that they are ready: started, and stopped after their page."""
SHORTER: Final = {"--end 2024-12-31": "--end 2024-01-12"}
"""The same command over fewer days: a year of minutes says no more than two weeks."""
NOT_ALL_WELL: Final = re.compile(r"marketdata (gaps|backfill)\b")
"""Commands that may end with 1: they found a gap without an explanation."""
LAST: Final = "retention.md"
"""Removes bars."""
COLLECTED: Final = ("AAPL", "SPY", "DBB")
"""What is tracked: a command over every symbol means these."""


def ordered_pages() -> list[Path]:
    return sorted(PAGES, key=lambda page: page.name == LAST)


COMMANDS: Final = {
    page.name: [command for block in blocks_of(page) for command in block.commands]
    for page in ordered_pages()
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A folder with the project's files, and an environment in which a store with a few symbols is simulated."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("workspace.yaml", "dagster.yaml", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MARKETDATA_", "DAGSTER_", "POLYGON_", "MASSIVE_", "PG"))
        and name != "DATABASE_URL"
    }
    with running_simulator(api_keys=None) as simulator:
        ready = {
            **kept,
            "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
            "HOME": str(folder),
            "MARKETDATA_HOME": str(folder / "marketdata"),
            "POLYGON_BASE_URL": simulator.url,
            "POLYGON_API_KEY": "any_key",
            "POLYGON_REQUESTS_PER_MINUTE": "6000",
        }
        try:
            run(
                ready,
                "marketdata symbols list | cut -f1 | grep -vxE '{}' | xargs marketdata symbols deactivate".format(
                    "|".join(COLLECTED)
                ),
                f"marketdata backfill --symbols {','.join(COLLECTED)} --timeframes 1h,1d --days 10",
            )
            yield ready
        finally:
            for home in folder.glob("*/postgres.json"):
                EmbeddedServer(home.parent).stop()


def run(environment: dict[str, str], *commands: str) -> None:
    """Run ``commands`` in one shell, each of which must succeed."""
    script = "\n".join(["set -o pipefail", *commands])
    done = subprocess.run(
        [shutil.which("bash") or "/bin/bash", "-c", script],
        env=environment,
        cwd=environment["HOME"],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def script_of(commands: Sequence[str]) -> list[str]:
    """``commands`` for a shell that stops at the first one that fails; ports are free ones."""
    ports = {str(port): str(free_port()) for port in ENDLESS.values()}
    lines = ['started=""']
    for command in commands:
        if any(re.match(pattern, command) for pattern in LEFT_OUT):
            continue
        text = re.sub(r"(?<=[:\s])(3000|8000|8765)\b", lambda found: ports[found[1]], command)
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        quoted = shlex.quote(command)
        endless = next((name for name in ENDLESS if command.startswith(name)), None)
        if endless is not None:
            port = ports[str(ENDLESS[endless])]
            bare = text.split("#")[0].rstrip()
            option = "" if "--port" in bare else f" --port {port}"
            lines += [
                f'{bare}{option} > endless.log 2>&1 & started="$started $!"',
                f"for _ in $(seq 600); do (: > /dev/tcp/127.0.0.1/{port}) 2>/dev/null && break; sleep 0.2; done",
                f"(: > /dev/tcp/127.0.0.1/{port}) || {{ echo {quoted}; cat endless.log; exit 1; }}",
            ]
            if endless == "marketdata up":
                # Nothing after it asks for it, and its daemon would compete with what follows.
                lines.append('for each in $started; do kill $each; wait $each; done; started=""')
            continue
        allowed = "[01]" if NOT_ALL_WELL.match(command) else "0"
        # curl succeeds whatever the server answers, unless it is asked not to.
        text = re.sub(r"^curl ", "curl --fail ", text)
        lines += [text, f'case $? in {allowed}) ;; *) echo "failed: "{quoted}; kill $started; exit 1;; esac']
    return [*lines, "for each in $started; do kill $each; wait $each; done", "true"]


@pytest.mark.parametrize("page", [name for name, commands in COMMANDS.items() if commands])
def test_the_commands_of_a_page_run_as_written(page: str, environment: dict[str, str]) -> None:
    has_psql = shutil.which("psql") is not None
    run(environment, *script_of([one for one in COMMANDS[page] if has_psql or not one.startswith("psql")]))


def test_the_blocks_are_found_and_few_commands_are_left_out() -> None:
    commands = [command for page in COMMANDS.values() for command in page]
    left_out = [command for command in commands if any(re.match(pattern, command) for pattern in LEFT_OUT)]
    assert len(commands) > 35
    assert not [command for command in left_out if command.startswith("marketdata ")]
    unused = [pattern for pattern in LEFT_OUT if not any(re.match(pattern, command) for command in commands)]
    assert unused == []
