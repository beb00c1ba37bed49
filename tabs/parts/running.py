"""A sampling run as the page sees it: live frames, then its film with what belongs to it, and what is said of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import gradio as gr

from studio.errors import StudioError
from studio.models.device import Waiting
from studio.options import SampleOptions
from studio.process.schedulers import SCHEDULERS
from studio.sampling.events import Finished, StepInfo
from studio.sampling.live import LIVE_EVERY_S
from studio.scratch import passing_folder
from tabs.parts.api import SamplingApi, TextApi
from tabs.parts.filmstrip import begin, curve_of, decoded, film, live_frame
from tabs.parts.keeping import save_pictures
from tabs.parts.live import live_address, live_run
from tabs.parts.session import Session
from tabs.parts.stage import to_stage
from tabs.parts.turns import sampled, waiting_line

if TYPE_CHECKING:
    from studio.models.prompts import Tokens
    from studio.sampling.trajectory import Trajectory

__all__ = ["run_shown", "run_for_programs", "recorded_film", "how_it_went", "decoded_step", "FAILED", "LOADING"]

LOADING = "Loading the model, which takes a few seconds the first time."
# The stage says how far it is; the line below the button is for who does not see it.
STATUS_EVERY_S = 1.0
# What becomes of live frames whose run failed: they stay, and say so.
FAILED = to_stage({"kind": "note", "title": "The run failed"})


def run_shown(
    studio: SamplingApi, options: SampleOptions, switch: Event, session: Session, tokens: "Callable[[], Tokens | None]" = lambda: None,
    *, beside: Callable[[], dict[str, Any]] = dict, frames: bool = False,
) -> Iterator[dict[str, Any]]:
    """Changes of the page by the names of its parts: where the live frames come from, how far it is, then the film.

    Args:
        tokens: gives those of the prompt, for a film that shows where they were looked at.
        beside: what else the page shows of a run that is over. It comes with the film: every change costs the page time.
        frames: put the live frames among the changes, for who does not listen to them elsewhere.
    """
    run, since, trajectory, curve = uuid4().hex, monotonic(), None, None
    if not switch.is_set():
        if options.model not in [one.name for one in studio.residents()]:
            yield {"status": LOADING}
        with live_run(run) as live:
            for event in sampled(studio, options, switch, session.asker, live.see, LIVE_EVERY_S if frames else STATUS_EVERY_S):
                if isinstance(event, Waiting):
                    yield {"status": waiting_line(event)}
                    continue
                if curve is None:
                    # The model is there from its first step on.
                    curve = curve_of(studio.noise_curve(options))
                    yield {"stage": to_stage(begin(options, run=run, curve=curve, address=live_address(run))), "status": ""}
                if isinstance(event, Finished):
                    trajectory = event.trajectory
                elif frames:
                    yield {"stage": to_stage({"kind": "live", "run": run, **live_frame(event)}), "status": step_line(event)}
                elif event.index:
                    # Also so that a visitor who goes is noticed.
                    yield {"status": step_line(event)}
    if trajectory is None or not trajectory.steps:
        yield {"status": "Stopped before the first step.", "stage": to_stage({"kind": "note", "title": ""}), **at_the_end(session)}
        return
    session.keep(trajectory, run)
    shown = film(trajectory, run=run, title=title_of(trajectory), curve=curve, tokens=tokens())
    yield {"stage": to_stage(shown), "status": how_it_went(trajectory, monotonic() - since), **at_the_end(session), **beside()}


def run_for_programs(studio: SamplingApi, options: SampleOptions, switch: Event, session: Session) -> Iterator[dict[str, Any]]:
    """The same with everything that is known so far in each change, and at the end the pictures as PNG files, while it is looked at."""
    before, known = session.run, dict[str, Any]()
    for change in run_shown(studio, options, switch, session, frames=True):
        known |= {name: change[name] for name in change.keys() & {"stage", "status"}}
        yield dict(known)
    if session.run != before and session.trajectory:
        with passing_folder() as folder:
            yield {**known, "pictures": [str(path) for path in save_pictures(session.trajectory, folder)]}


def recorded_film(studio: SamplingApi, options: SampleOptions, tokens: "Callable[[], Tokens | None]" = lambda: None) -> str:
    """A whole run as a stage that opens with it: it plays, and there is nothing of a visitor's to decode later."""
    trajectory = finished(studio, options)
    shown = film(trajectory, run="opening", title=f"A recorded run: {title_of(trajectory)}", autoplay=True, tokens=tokens())
    return to_stage({**shown, "decodes": []})


def finished(studio: SamplingApi, options: SampleOptions) -> "Trajectory":
    """The run to its end."""
    [end] = [event for event in studio.sample(options) if isinstance(event, Finished)]
    return end.trajectory


def step_line(step: StepInfo) -> str:
    return f"Step {step.index + 1} of {step.num_steps}."


def at_the_end(session: Session) -> dict[str, Any]:
    """The stop button at the end of a run: pressable while another one waits."""
    return {"stop": gr.update(interactive=session.waiting is not None)}


def title_of(trajectory: "Trajectory") -> str:
    options = trajectory.options
    label = "" if options.class_label is None else f", {options.class_label}"
    if options.prompt:
        return f"{options.prompt}, seed {options.seed}"
    return f"{Path(options.model).name}{label}, {SCHEDULERS[options.scheduler].label}, seed {options.seed}"


def how_it_went(trajectory: "Trajectory", took_s: float) -> str:
    """The line under the press after a run."""
    done, asked = len(trajectory.steps), trajectory.steps[0].num_steps
    if trajectory.complete:
        return f"Done: {done} steps in {took_s:.1f} s."
    return f"Stopped at step {done} of {asked}. The {done} steps are kept: play them, or keep them as a file."


def decoded_step(studio: TextApi, session: Session, *, run: str, stream: str, index: int) -> str:
    """One step by the real decoder, as the stage takes it; a refusal is a sentence there."""
    answer: dict[str, Any] = {"run": run, "stream": stream, "index": index}
    if run != session.run:
        return to_stage({**answer, "error": "Only the run that was made or opened last can be decoded; press Generate to make it again."})
    try:
        return to_stage({**answer, **decoded(stream, index, studio.decode(session.required("There is no run yet."), stream, index))})
    except (StudioError, KeyError, IndexError) as error:
        return to_stage({**answer, "error": f"This step cannot be decoded: {error}"})
