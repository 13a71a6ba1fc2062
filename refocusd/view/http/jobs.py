"""The API's routes for jobs: start, watch and cancel commands, and the models and folders to choose."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from refocusd.errors import BundleError, InputError, OutputError
from refocusd.models.description import read_yaml
from refocusd.models.library import find_bundle, shipped_bundles, user_bundles
from refocusd.view.http.answers import BytesResponse, json_response
from refocusd.view.http.query import Query, body_of
from refocusd.view.state.job_order import JobOrder
from refocusd.view.state.jobs import Job, Jobs
from refocusd.view.state.view_state import ViewState

#: At most this many entries of a folder, and characters of a model's description, are sent.
MAX_ENTRIES, MAX_DESCRIPTION_CHARS = 500, 300
#: A report contains its style and pictures; nothing in it may run or load anything else.
_REPORT_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
}


def job_routes(state: ViewState, jobs: Jobs) -> list[Route]:
    """The API's routes for jobs."""

    def listed(_request: Request) -> Response:
        return json_response(jobs.summary())

    async def start(request: Request) -> Response:
        order = await body_of(request, JobOrder, "no job")
        try:
            # In a thread: looking for a path on a share that does not answer can block.
            job = await run_in_threadpool(jobs.start, order)
        except OutputError as error:
            raise HTTPException(503, str(error)) from error
        return json_response(job.summary(), 202)

    def one(request: Request) -> Response:
        return json_response(_job(request).details())

    def cancel(request: Request) -> Response:
        job = _job(request)
        jobs.cancel(job.id)
        return json_response(job.summary(), 202)

    def report(request: Request) -> Response:
        reports = _job(request).reports
        number = request.path_params["number"]
        if number >= len(reports):
            raise HTTPException(404, "this job wrote no such report")
        try:
            page = reports[number].read_bytes()
        except OSError as error:
            raise HTTPException(404, f"the report is not there any more: {error}") from error
        kind = "image/png" if reports[number].suffix == ".png" else "text/html; charset=utf-8"
        return BytesResponse(page, kind, _REPORT_HEADERS)

    def models(_request: Request) -> Response:
        names = dict.fromkeys((*shipped_bundles(), *user_bundles()))
        return json_response({"models": [_model(name) for name in names]})

    def folder(request: Request) -> Response:
        entries = _entries(Query(request).text("path"))
        return json_response({"entries": entries, "acquired": _acquired(state)})

    def _job(request: Request) -> Job:
        wanted = request.path_params["id"]
        if (job := jobs.get(wanted)) is None:
            raise HTTPException(404, f"there is no job {wanted[:80]!r} (any more)")
        return job

    return [
        Route("/models", models),
        Route("/folder", folder),
        Route("/jobs", listed),
        Route("/jobs", start, methods=["POST"]),
        Route("/jobs/{id}", one),
        Route("/jobs/{id}/cancel", cancel, methods=["POST"]),
        Route("/jobs/{id}/reports/{number:int}", report),
    ]


def _model(name: str) -> dict[str, str]:
    """Name of a model, and its description in one line."""
    try:
        about = read_yaml(find_bundle(name) / "rdf.yaml")[1]
        said = str(about.get("description", "")) if isinstance(about, dict) else ""
    except (BundleError, OSError) as error:
        said = str(error)
    return {"name": name, "description": " ".join(said.split())[:MAX_DESCRIPTION_CHARS]}


def _acquired(state: ViewState) -> list[str]:
    """Datasets of the acquisitions that the daemon knows: raw ones, or refocused ones without raw."""
    details = state.status.details if state.status is not None else []
    places = (detail.raw or detail.output for detail in reversed(details))
    return list(dict.fromkeys(place for place in places if place))[:MAX_ENTRIES]


def _entries(path: str) -> list[str]:
    """Paths of the entries of a folder; by default, of the user's home folder."""
    folder = Path(path) if path else Path.home()
    if not folder.is_absolute():
        raise InputError(f"{path!r}: give the full path of a folder, from the root or drive on")
    try:
        found = (str(entry) for entry in folder.iterdir() if not entry.name.startswith("."))
        return sorted(islice(found, MAX_ENTRIES))
    except (OSError, ValueError) as error:
        raise HTTPException(404, f"{path!r} cannot be listed: {error}") from error
