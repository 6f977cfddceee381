"""A blocking client of a simulator in this process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from starlette.applications import Starlette


class Vendor:
    """Sends requests to an application; any key is sent unless the headers say otherwise."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    def get(
        self, url: str, params: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        return self._send("GET", url, params=params, headers=headers or {})

    def post(self, url: str, json: object = None) -> httpx.Response:
        return self._send("POST", url, json=json, headers={})

    def _send(self, method: str, url: str, *, headers: dict[str, str], **options: Any) -> httpx.Response:  # noqa: ANN401
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://vendor.test") as client:
                return await client.request(
                    method, url, headers={"Authorization": "Bearer any", **headers}, **options
                )

        return asyncio.run(send())
