"""Which address is answered by what: a Starlette application behind the guard.

====================================  ==================================================
``GET /``, ``/static/NAME``           the page
``GET /health``                       200 once a worker is ready, else 503 and why
``GET /metrics``                      Prometheus
``GET /api/status``                   state of daemon and view, JSON
``GET /api/history``                  focus scores of the frames shown so far
``POST /api/pause``                   ``{"on": true}``: send no frames to workers
``POST /api/catch-up``                ``{"on": true}``: catch up while idle
``GET /api/events``                   the state as it changes, and notices of new frames
                                      (`events`)
``GET /api/frame/latest``             the newest frame reduced: ``side``, ``match``, ``after``
``GET /api/frame``                    any frame from disk: ``acquisition``, ``axes``, and
                                      ``side``, or ``left top width height`` in full
``GET /api/axes``                     what there is to choose from: ``acquisition``
``GET /api/pixel``                    counts of one pixel: ``acquisition axes x y``
``GET /api/snapshot.png``, ``.tif``   both frames as a file: ``acquisition axes low high``
====================================  ==================================================
"""

from __future__ import annotations

import logging
import mimetypes

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from refocusd.errors import InputError
from refocusd.view.frames.datasets import Datasets
from refocusd.view.http.answers import problem
from refocusd.view.http.events import event_routes
from refocusd.view.http.frames import frame_routes
from refocusd.view.http.guard import GuardedApp
from refocusd.view.http.options import ViewOptions
from refocusd.view.http.status import status_routes
from refocusd.view.state.gpu import GpuMonitor
from refocusd.view.state.link import DaemonLink
from refocusd.view.state.view_state import ViewState

__all__ = ["view_app"]

log = logging.getLogger(__name__)


def view_app(
    options: ViewOptions, state: ViewState, link: DaemonLink, datasets: Datasets, gpus: GpuMonitor
) -> ASGIApp:
    """The whole application."""
    app = Starlette(
        routes=[
            *_page_routes(),
            *status_routes(state, link, gpus),
            *event_routes(state, gpus),
            *frame_routes(state, datasets),
        ],
        exception_handlers={InputError: _refused, HTTPException: _refused, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return GuardedApp(app, options)


def _page_routes() -> list[BaseRoute]:
    # Windows' registry may name other types, with which browsers refuse the page's files.
    for media_type, ending in (("text/javascript", ".js"), ("text/css", ".css")):
        mimetypes.add_type(media_type, ending)
    static = StaticFiles(packages=[("refocusd.view", "static")])

    async def index(request: Request) -> Response:
        return await static.get_response("index.html", request.scope)

    return [Route("/", index), Mount("/static", static)]


async def _refused(_request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return problem(error.status_code, error.detail)
    return problem(400, str(error))


async def _failed(request: Request, error: Exception) -> Response:
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    return problem(500, "internal error of the view; see its log")
