"""A vendor that costs next to nothing: pages recorded from the simulator, replayed from memory.

Both run in processes of their own. ``python -m benchmarks.vendor URL`` serves until it is ended; a page that
it does not have yet is asked of the simulator at URL.
"""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request

_SIMULATE = "from marketdata_assets.cli import main; main()"
_URL = re.compile(r"http://127\.0\.0\.1:\d+")


@contextmanager
def simulator() -> Iterator[str]:
    """The URL of ``marketdata simulate`` on a free port, without a limit."""
    with _process([sys.executable, "-c", _SIMULATE, "simulate", "--port", "0"]) as url:
        yield url


@contextmanager
def recorder(simulator_url: str) -> Iterator[str]:
    """The URL of a vendor that replays what it has recorded of the simulator."""
    with _process([sys.executable, "-m", "benchmarks.vendor", simulator_url]) as url:
        yield url


@contextmanager
def _process(command: list[str]) -> Iterator[str]:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    ) as process:
        try:
            yield _address(process)
        finally:
            process.terminate()


def _address(process: subprocess.Popen[str]) -> str:
    for line in process.stdout or ():
        if found := _URL.search(line):
            return found.group()
    message = f"{process.args!r} ended without saying where it serves"
    raise RuntimeError(message)


def _serve(simulator_url: str) -> None:
    pages: dict[str, bytes] = {}

    async def page(request: Request) -> Response:
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        if target not in pages:
            async with httpx.AsyncClient(timeout=60) as client:
                answer = await client.get(
                    simulator_url + target, headers={"Authorization": request.headers["Authorization"]}
                )
            if answer.status_code != httpx.codes.OK:
                return Response(answer.content, answer.status_code, media_type="application/json")
            pages[target] = answer.content
        return Response(pages[target], media_type="application/json")

    app = Starlette(routes=[Route("/{path:path}", page)])
    config = uvicorn.Config(app, host="127.0.0.1", port=0, access_log=False)
    # uvicorn itself says where: "Uvicorn running on http://127.0.0.1:PORT".
    uvicorn.Server(config).run()


if __name__ == "__main__":
    _serve(sys.argv[1])
