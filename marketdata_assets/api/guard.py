"""Routes that let nobody in who may not: before a body is read and before an argument is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastapi.routing import APIRoute

from marketdata_assets.api.access import HEADER, Caller
from marketdata_assets.storage.keys import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.requests import Request
    from starlette.responses import Response

SECURITY_SCHEME: Final = {"ApiKey": {"type": "apiKey", "in": "header", "name": HEADER}}
READ: Final[dict[str, Any]] = {"security": [{}, {"ApiKey": []}]}
"""For the OpenAPI document: a key, or none on the machine itself."""
WRITE: Final[dict[str, Any]] = {"security": [{"ApiKey": []}]}

_READING: Final = frozenset({"GET", "HEAD"})


class GuardedRoute(APIRoute):
    """A route that needs a key: any to read, an admin's to change something."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers, once the caller has been looked at."""
        handle = super().get_route_handler()
        needed = Scope.READ if set(self.methods or ()) <= _READING else Scope.ADMIN

        async def guarded(request: Request) -> Response:
            caller: Caller = request.state.caller
            caller.require(needed)
            return await handle(request)

        return guarded
