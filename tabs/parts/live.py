"""Runs that are looked at while they go on: the newest step of each, told to the page beside Gradio's queue.

For every update that comes through its queue Gradio's page walks over all of its components, which takes as long as
several steps of a small model. So a stage that begins a run listens here, at an address that only who asked for the run
is told:

    data: {...}        tabs.parts.filmstrip.live_frame of the newest step, at most every EVERY_S seconds
    event: over        the run has ended

Nothing is encoded that nobody listens to, and a frame that would come too late is never made.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from studio.sampling.events import StepDone
from tabs.parts.filmstrip import live_frame
from tabs.parts.stage import to_stage

__all__ = ["LiveRun", "live_run", "live_address", "ROUTE", "EVERY_S"]

# Below gradio_api, which every proxy that serves Gradio passes on.
ADDRESS = "gradio_api/studio-live"
EVERY_S = 0.05
# How soon a new step is seen.
LOOK_EVERY_S = 0.01
# Of one run: its own page, and a few more of the same visitor.
MAX_LISTENERS = 4


@dataclass
class LiveRun:
    """A run that goes on. Its thread writes, listeners read; of both only the newest step counts."""

    newest: StepDone | None = None
    over: bool = False
    listeners: int = 0

    def see(self, event: StepDone) -> None:
        """A step was taken."""
        self.newest = event


RUNS: dict[str, LiveRun] = {}
# The last that have ended: a page may begin to listen to a short run only when it is over, and is told so.
ENDED: deque[str] = deque(maxlen=1000)


@contextmanager
def live_run(run: str) -> Iterator[LiveRun]:
    """The run of that name can be listened to for as long as this lasts."""
    RUNS[run] = live = LiveRun()
    try:
        yield live
    finally:
        live.over = True
        ENDED.append(run)
        del RUNS[run]


def live_address(run: str) -> str:
    """Where the page listens to a run, relative to the page."""
    return f"{ADDRESS}/{run}"


async def listen(request: Request) -> Response:
    """The frames of one run, as server-sent events."""
    run = request.path_params["run"]
    live = RUNS.get(run) or (LiveRun(over=True) if run in ENDED else None)
    if live is None:
        return PlainTextResponse("There is no such run under way.", 404)
    if live.listeners >= MAX_LISTENERS:
        return PlainTextResponse("This run has enough listeners.", 429)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(frames(live), media_type="text/event-stream", headers=headers)


async def frames(live: LiveRun) -> AsyncIterator[str]:
    """The newest step whenever there is another, until the run is over."""
    shown: StepDone | None = None
    live.listeners += 1
    try:
        while not live.over:
            event = live.newest
            if event is None or event is shown:
                await asyncio.sleep(LOOK_EVERY_S)
                continue
            shown = event
            # Pixels may have to come from another device.
            yield f"data: {await run_in_threadpool(encoded, event)}\n\n"
            await asyncio.sleep(EVERY_S)
        yield "event: over\ndata:\n\n"
    finally:
        live.listeners -= 1


def encoded(event: StepDone) -> str:
    return to_stage(live_frame(event))


ROUTE = Route(f"/{ADDRESS}/{{run}}", listen)
