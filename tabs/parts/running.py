"""A sampling run as the page sees it: live frames, then its film with what belongs to it, and what is said of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from studio.errors import StudioError
from studio.models.device import Waiting
from studio.options import SampleOptions
from studio.process.schedulers import SCHEDULERS
from studio.sampling.events import Finished
from studio.scratch import passing_folder
from tabs.parts.api import SamplingApi, TextApi
from tabs.parts.filmstrip import curve_of, decoded, film, live_frame
from tabs.parts.keeping import save_pictures
from tabs.parts.session import Session
from tabs.parts.stage import to_stage
from tabs.parts.turns import sampled, waiting_line

if TYPE_CHECKING:
    from studio.models.prompts import Tokens
    from studio.sampling.trajectory import Trajectory

__all__ = ["run_shown", "run_for_programs", "recorded_film", "how_it_went", "decoded_step", "FAILED"]

# What becomes of live frames whose run failed: they stay, and say so.
FAILED = to_stage({"kind": "note", "title": "The run failed"})


def run_shown(
    studio: SamplingApi, options: SampleOptions, switch: Event, session: Session, tokens: "Callable[[], Tokens | None]" = lambda: None,
) -> Iterator[dict[str, Any]]:
    """Changes of the page by the names of its parts: live frames, then the film with all that belongs to it.

    tokens: gives those of the prompt, for a film that shows where they were looked at.
    """
    run, since, trajectory, curve = uuid4().hex, monotonic(), None, None
    if not switch.is_set():
        yield {"status": "Preparing the model."}
        for event in sampled(studio, options, switch, session.asker):
            if isinstance(event, Waiting):
                yield {"status": waiting_line(event)}
                continue
            # The model is there from its first step on.
            curve = curve or curve_of(studio.noise_curve(options))
            if isinstance(event, Finished):
                trajectory = event.trajectory
            else:
                yield {"stage": to_stage(live_frame(event, run=run, curve=curve, options=options)), "status": ""}
    if trajectory is None or not trajectory.steps:
        yield {"status": "Stopped before the first step.", "stage": to_stage({"kind": "note", "title": ""})}
        return
    session.keep(trajectory, run)
    shown = film(trajectory, run=run, title=title_of(trajectory), curve=curve, tokens=tokens())
    yield {"stage": to_stage(shown), "status": how_it_went(trajectory, monotonic() - since)}


def run_for_programs(studio: SamplingApi, options: SampleOptions, switch: Event, session: Session) -> Iterator[dict[str, Any]]:
    """The same with everything that is known so far in each change, and at the end the pictures as PNG files, while it is looked at."""
    before, known = session.run, dict[str, Any]()
    for change in run_shown(studio, options, switch, session):
        known |= change
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


def title_of(trajectory: "Trajectory") -> str:
    options = trajectory.options
    label = "" if options.class_label is None else f", {options.class_label}"
    if options.prompt:
        return f"{options.prompt}, seed {options.seed}"
    return f"{Path(options.model).name}{label}, {SCHEDULERS[options.scheduler].label}, seed {options.seed}"


def how_it_went(trajectory: "Trajectory", took_s: float) -> str:
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
