"""The page that shows the OpenAPI document: Swagger UI, served from this package, so that it needs no other host."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, RedirectResponse, Response

from marketdata_assets.api.guard import GuardedRoute

router = APIRouter(route_class=GuardedRoute)
open_router = APIRouter()

_STATIC: Final = Path(__file__).with_name("static")
_FILES: Final = {
    "start.js": (_STATIC / "start.js", "text/javascript"),
    **{
        name: (_STATIC / "swagger-ui" / name, media_type)
        for name, media_type in (
            ("swagger-ui-bundle.js", "text/javascript"),
            ("swagger-ui.css", "text/css"),
            ("favicon-32x32.png", "image/png"),
        )
    },
}
_POLICY: Final = {
    # Swagger UI writes style attributes, and its icons are data URLs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
_KEPT: Final = {"Cache-Control": "private, max-age=3600"}


@open_router.get("/", include_in_schema=False)
async def root() -> Response:
    """Redirect to the page that describes the API, without naming a host: a proxy may be in front."""
    return RedirectResponse("docs")


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """Return the page that describes the API."""
    return FileResponse(_STATIC / "docs.html", media_type="text/html", headers=_POLICY)


@router.get("/docs/{name}", include_in_schema=False)
async def docs_file(name: str) -> Response:
    """Return the file ``name``, which the page needs."""
    if name not in _FILES:
        raise HTTPException(404)
    path, media_type = _FILES[name]
    return FileResponse(path, media_type=media_type, headers=_KEPT)
