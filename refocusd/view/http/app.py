"""The addresses and what answers them: a Starlette application behind the guard.

====================  ======================================================================
``/``, ``/static``    the page
``/health``           200 once a worker is ready, otherwise 503 with the reason
``/metrics``          Prometheus
``/api/v1``           the API, as ``/api/v1/openapi.json`` describes it: the page uses it, and so
                      does ``refocusd ctl``
``/api``              the same, at the addresses of 0.1.0
====================  ======================================================================
"""

from __future__ import annotations

import logging
import mimetypes
from importlib.resources import files

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
from refocusd.view.http.jobs import job_routes
from refocusd.view.http.options import ViewOptions
from refocusd.view.http.settings import settings_routes
from refocusd.view.http.status import health_routes, status_routes
from refocusd.view.http.streams import Streams
from refocusd.view.state.gpu import GpuMonitor
from refocusd.view.state.jobs import Jobs
from refocusd.view.state.link import DaemonLink
from refocusd.view.state.view_state import ViewState

log = logging.getLogger(__name__)


def view_app(
    options: ViewOptions,
    state: ViewState,
    link: DaemonLink,
    datasets: Datasets,
    gpus: GpuMonitor,
    jobs: Jobs,
) -> ASGIApp:
    """The whole application."""
    streams = Streams()
    api = [
        Route("/openapi.json", _described),
        *status_routes(state, link, gpus),
        *event_routes(state, gpus, jobs, streams),
        *frame_routes(state, datasets),
        *job_routes(state, jobs),
        *settings_routes(options.settings, state, jobs),
    ]
    app = Starlette(
        routes=[
            *_page_routes(),
            *health_routes(state, gpus),
            Mount("/api/v1", routes=api),
            Mount("/api", routes=api),
        ],
        exception_handlers={InputError: _refused, HTTPException: _refused, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return GuardedApp(app, options)


def _page_routes() -> list[BaseRoute]:
    # The registry of Windows may give other types, with which browsers refuse the page's files.
    for media_type, ending in (("text/javascript", ".js"), ("text/css", ".css")):
        mimetypes.add_type(media_type, ending)
    static = StaticFiles(packages=[("refocusd.view", "static")])

    async def index(request: Request) -> Response:
        return await static.get_response("index.html", request.scope)

    return [Route("/", index), Mount("/static", static)]


def _described(_request: Request) -> Response:
    description = files("refocusd.view.http") / "openapi.json"
    return Response(description.read_bytes(), media_type="application/json")


async def _refused(_request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return problem(error.status_code, error.detail)
    return problem(400, str(error))


async def _failed(request: Request, error: Exception) -> Response:
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    return problem(500, "internal error of the view; see its log")
