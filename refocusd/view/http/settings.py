"""Settings that are chosen on the page; the daemon restarts with them."""

from __future__ import annotations

from pathlib import Path

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from refocusd.config import SETTINGS, Backend, Settings
from refocusd.errors import InputError
from refocusd.models.library import shipped_bundles, user_bundles
from refocusd.processes.order import tell_parent
from refocusd.view.http.answers import json_response
from refocusd.view.http.query import body_of
from refocusd.view.serve import WantedSettings
from refocusd.view.state.jobs import Jobs
from refocusd.view.state.view_state import ViewState


class _Chosen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings that the page may choose."""

    model: str
    backend: Backend
    follow: list[str]

    def within(self, settings: Settings) -> Settings:
        """All settings, with the chosen ones.

        Raises
        ------
        InputError
            If there is no such model or folder.
        """
        if self.model not in (settings.model, *shipped_bundles(), *user_bundles()):
            raise InputError(f"there is no model {self.model!r}; `refocusd models` lists them")
        for folder in set(self.follow) - set(settings.follow):
            if not (Path(folder).is_absolute() and Path(folder).is_dir()):
                raise InputError(f"{folder!r} is not a folder: give its full path")
        chosen = {"model": self.model, "backend": self.backend, "follow": self.follow}
        return msgspec.structs.replace(settings, **chosen)


def settings_routes(settings: Settings | None, state: ViewState, jobs: Jobs) -> list[Route]:
    """The API's routes for settings."""
    asked: list[_Chosen] = []

    def shown(_request: Request) -> Response:
        names = _Chosen.__struct_fields__
        now = {name: getattr(settings, name) for name in names} if settings else None
        about = {"asked": asked[-1] if asked else None, "after": _open_acquisition(state)}
        return json_response({"settings": now, "backends": SETTINGS["backend"].choices, **about})

    async def choose(request: Request) -> Response:
        chosen = await body_of(request, _Chosen, "no settings")
        if settings is None:
            raise HTTPException(
                409, "only a view that `refocusd run` has started itself can change its settings"
            )
        for job in jobs.summary()["jobs"]:
            if job["ended_at"] is None:
                raise HTTPException(
                    409, f"the job {job['command']} is not done: change settings once it has ended"
                )
        wanted = await run_in_threadpool(chosen.within, settings)
        tell_parent(WantedSettings(wanted))
        asked[:] = [chosen]
        # The daemon waits for open acquisitions, because only it knows exactly which there are.
        return json_response({"asked": chosen, "after": _open_acquisition(state)}, 202)

    return [Route("/settings", shown), Route("/settings", choose, methods=["POST"])]


def _open_acquisition(state: ViewState) -> str:
    """Name of an acquisition that must end before the daemon restarts; empty for none."""
    details = state.status.details if state.status is not None else []
    still = (about for about in details if about.state != "ended" and (about.raw or about.output))
    return next((about.name for about in still), "")
