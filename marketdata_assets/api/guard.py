"""Routes that refuse callers without the needed key, and queries that repeat a parameter.

They refuse both before a body is read and before an argument is checked.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar, Final

from fastapi.routing import APIRoute

from marketdata_assets.api.access import HEADER, Caller
from marketdata_assets.api.problems import invalid_arguments
from marketdata_assets.storage.keys import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.requests import Request
    from starlette.responses import Response

SECURITY_SCHEMES: Final = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": HEADER},
    "Bearer": {"type": "http", "scheme": "bearer"},
}
READ: Final[dict[str, Any]] = {"security": [{}, {"ApiKey": []}, {"Bearer": []}]}
"""The security of reads in the OpenAPI document: a key, or none on the machine itself."""
WRITE: Final[dict[str, Any]] = {"security": [{"ApiKey": []}, {"Bearer": []}]}

_READING: Final = frozenset({"GET", "HEAD"})


class GuardedRoute(APIRoute):
    """A route that needs a key: any key to read, an admin's to change something."""

    repeatable: ClassVar[frozenset[str]] = frozenset()
    """The parameters of the query that may be given more than once."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route, with the checks of the caller and the query in front of it."""
        handle = super().get_route_handler()
        needed = Scope.READ if set(self.methods or ()) <= _READING else Scope.ADMIN

        async def handle_guarded(request: Request) -> Response:
            caller: Caller = request.state.caller
            caller.require(needed)
            self._refuse_repeated(request)
            return await handle(request)

        return handle_guarded

    def _refuse_repeated(self, request: Request) -> None:
        # FastAPI would silently take the last of them.
        given = Counter(name for name, _ in request.query_params.multi_items())
        wrong = sorted(name for name, times in given.items() if times > 1 and name not in self.repeatable)
        if wrong:
            errors = [
                {"in": f"query.{name}", "detail": "is given more than once: give it once"} for name in wrong
            ]
            raise invalid_arguments(errors)
