"""The page's files, read once: an address is looked up here and never becomes a path."""

from __future__ import annotations

from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["page_routes"]

#: Not `mimetypes`: on Windows it reads the registry, where ``.js`` may be anything.
_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}


def page_routes() -> list[Route]:
    """``/`` and ``/static/NAME``."""
    contents = {
        item.name: item.read_bytes()
        for item in (files("refocusd.view") / "static").iterdir()
        if item.is_file() and item.name.rpartition(".")[2] in _TYPES
    }

    async def file(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in contents:
            raise HTTPException(404, "there is no such file")
        return Response(contents[name], media_type=_TYPES[name.rpartition(".")[2]])

    return [Route("/", file), Route("/static/{name}", file)]
