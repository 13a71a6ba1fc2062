"""Jobs: commands that are started, watched and cancelled from the page."""

from __future__ import annotations

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from refocusd.errors import OutputError
from refocusd.view.http.answers import BytesResponse, json_response
from refocusd.view.state.jobs import Job, JobOrder, Jobs

__all__ = ["job_routes"]

#: A report has its own style and pictures within it, and nothing that acts.
_REPORT_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
}


def job_routes(jobs: Jobs) -> list[Route]:
    """What the API says of jobs."""

    def listed(_request: Request) -> Response:
        return json_response(jobs.summary())

    async def start(request: Request) -> Response:
        try:
            order = msgspec.json.decode(await request.body(), type=JobOrder)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise HTTPException(400, f"no job: {error}") from error
        try:
            # A thread: a share that does not answer holds up whoever looks for a path.
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
        return BytesResponse(page, "text/html; charset=utf-8", _REPORT_HEADERS)

    def _job(request: Request) -> Job:
        wanted = request.path_params["id"]
        if (job := jobs.get(wanted)) is None:
            raise HTTPException(404, f"there is no job {wanted[:80]!r} (any more)")
        return job

    return [
        Route("/jobs", listed),
        Route("/jobs", start, methods=["POST"]),
        Route("/jobs/{id}", one),
        Route("/jobs/{id}/cancel", cancel, methods=["POST"]),
        Route("/jobs/{id}/reports/{number:int}", report),
    ]
