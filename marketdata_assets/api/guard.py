"""Routes that let nobody in who may not, and take no question that says two things at once.

Both before a body is read and before an argument is looked at.
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
"""For the OpenAPI document: a key, or none on the machine itself."""
WRITE: Final[dict[str, Any]] = {"security": [{"ApiKey": []}, {"Bearer": []}]}

_READING: Final = frozenset({"GET", "HEAD"})


class GuardedRoute(APIRoute):
    """A route that needs a key: any to read, an admin's to change something."""

    repeatable: ClassVar[frozenset[str]] = frozenset()
    """Parameters of the query that may be given more than once."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers, once the caller has been looked at."""
        handle = super().get_route_handler()
        needed = Scope.READ if set(self.methods or ()) <= _READING else Scope.ADMIN

        async def guarded(request: Request) -> Response:
            caller: Caller = request.state.caller
            caller.require(needed)
            self._refuse_repeated(request)
            return await handle(request)

        return guarded

    def _refuse_repeated(self, request: Request) -> None:
        # FastAPI would take the last of them and say nothing.
        given = Counter(name for name, _ in request.query_params.multi_items())
        wrong = sorted(name for name, times in given.items() if times > 1 and name not in self.repeatable)
        if wrong:
            errors = [
                {"in": f"query.{name}", "detail": "is given more than once: give it once"} for name in wrong
            ]
            raise invalid_arguments(errors)
