"""The API's routes for the state of daemon and view, and for what pages and programs can change."""

from __future__ import annotations

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from refocusd.transport.messages import CatchUp, Pause
from refocusd.view.http.answers import json_response
from refocusd.view.http.metrics import CONTENT_TYPE, metrics_text
from refocusd.view.http.query import body_of
from refocusd.view.state.gpu import GpuMonitor
from refocusd.view.state.link import DaemonLink
from refocusd.view.state.report import acquisitions_of, health, status_json
from refocusd.view.state.view_state import ViewState


class _Switch(msgspec.Struct):
    """Body of an action that is switched on or off."""

    on: bool


# Starlette runs functions that are not asynchronous in threads, so reading the GPUs may block.


def health_routes(state: ViewState, gpus: GpuMonitor) -> list[Route]:
    """``/health`` and ``/metrics``, at the addresses where monitors expect them."""

    def is_ready(_request: Request) -> Response:
        now = health(state)
        return json_response(now, 200 if now.ready else 503)

    def metrics(_request: Request) -> Response:
        return Response(metrics_text(state, gpus.read()), headers={"Content-Type": CONTENT_TYPE})

    return [Route("/health", is_ready), Route("/metrics", metrics)]


def status_routes(state: ViewState, link: DaemonLink, gpus: GpuMonitor) -> list[Route]:
    """The API's routes for the state."""

    def status(_request: Request) -> Response:
        return Response(status_json(state, gpus.read()), media_type="application/json")

    def acquisitions(_request: Request) -> Response:
        return json_response({"acquisitions": acquisitions_of(state)})

    def acquisition(request: Request) -> Response:
        wanted = request.path_params["id"]
        found = next((about for about in acquisitions_of(state) if about["id"] == wanted), None)
        if found is None:
            raise HTTPException(404, f"the daemon knows no acquisition {wanted[:80]!r} (any more)")
        return json_response(found)

    def history(_request: Request) -> Response:
        return json_response({"focus": state.focus})

    async def act(request: Request) -> Response:
        switch = await body_of(request, _Switch, 'say {"on": true} or {"on": false}')
        pauses = request.url.path.endswith("/pause")
        if not link.request(Pause(switch.on) if pauses else CatchUp(switch.on)):
            raise HTTPException(
                503, state.link.reason or "too many actions wait for the daemon; try again"
            )
        return json_response({"asked": switch}, 202)

    return [
        Route("/status", status),
        Route("/acquisitions", acquisitions),
        Route("/acquisitions/{id}", acquisition),
        Route("/history", history),
        Route("/pause", act, methods=["POST"]),
        Route("/catch-up", act, methods=["POST"]),
    ]
