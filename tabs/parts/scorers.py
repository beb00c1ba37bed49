"""What the areas of the Score tab share: the menu of scorers, what is said of one, and what is drawn before it is scored."""

from collections.abc import Generator
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.errors import InvalidOption
from studio.models.device import Waiting
from studio.options import SampleOptions
from studio.sampling.events import Finished
from tabs.parts.api import SamplingApi, ScoringApi
from tabs.parts.controls import Controls, create_controls
from tabs.parts.panel import Change
from tabs.parts.stage import CHEAP, menu_of, unchecked
from tabs.parts.turns import Either, sampled, waiting_line
from tabs.parts.visitors import Asker

if TYPE_CHECKING:
    from studio.sampling.trajectory import Trajectory

__all__ = ["create_scorer", "create_scorers", "create_sampling", "drawn", "first_options", "first_scorers", "label_of", "last_run", "menu_of_scorers", "number"]

FIRST_SCORERS = ("toybox-reward", "toybox-clip", "toybox-examiner")
FIRST: dict[str, Any] = {"prompt": "a purple butterfly on a yellow background", "num_steps": 25, "guidance_scale": 4.0}
# Places of other tabs in what a session keeps, the one whose run is taken first.
DRAWN_IN = ("t2i", "denoise")
PLACES = "From the menu, or KIND:PLACE such as clip:openai/clip-vit-large-patch14."


def menu_of_scorers(studio: ScoringApi) -> list[tuple[str, str]]:
    """(label, name) of each scorer."""
    return [(info.label, name) for name, info in studio.rewards.items()]


def label_of(studio: ScoringApi, name: str) -> dict[str, str]:
    """What the page calls a scorer, and what it says of it."""
    info = studio.rewards.get(name)
    return {"label": info.label if info else name, "about": info.about if info else ""}


def first_scorers(studio: ScoringApi) -> list[str]:
    """Those that are chosen at first."""
    return [name for name in FIRST_SCORERS if name in studio.rewards]


def create_scorers(studio: ScoringApi, name: str) -> gr.Dropdown:
    """The menu of scorers, several of which may be chosen."""
    return with_new_ones(studio, unchecked(gr.Dropdown(
        menu_of_scorers(studio), value=first_scorers(studio), multiselect=True, label="Scorers", allow_custom_value=not studio.public, info=PLACES,
        elem_id=f"{name}-scorers",
    )))


def create_scorer(studio: ScoringApi, name: str) -> gr.Dropdown:
    """The menu of scorers, of which one is chosen."""
    first = next(iter(first_scorers(studio)), None)
    return with_new_ones(studio, unchecked(gr.Dropdown(
        menu_of_scorers(studio), value=first, label="Scorer", allow_custom_value=not studio.public, elem_id=f"{name}-scorer", info=PLACES,
    )))


def with_new_ones(studio: ScoringApi, scorers: gr.Dropdown) -> gr.Dropdown:
    """The menu, which is read again when it is opened: trainings that have ended since the page was made bring scorers of their own."""
    scorers.focus(lambda: gr.update(choices=menu_of_scorers(studio)), None, scorers, **CHEAP)
    return scorers


def create_sampling(studio: ScoringApi, name: str, **first: Any) -> Controls:
    """Model, prompt and what else is drawn with."""
    menu = menu_of(studio, text=True)
    controls: Controls = {"model": unchecked(gr.Dropdown(menu, value=menu[0][1] if menu else None, label="Model", elem_id=f"{name}-model"))}
    return controls | create_controls(name, ("prompt", "num_steps", "guidance_scale", "seed"), **{**FIRST, **first})


def first_options(studio: ScoringApi) -> SampleOptions:
    """What the first values of those controls give."""
    return SampleOptions(model=menu_of(studio, text=True)[0][1], **FIRST)


def last_run(studio: SamplingApi, page: str) -> "Trajectory":
    """The run that this page drew last in another tab. Raises InvalidOption where there is none."""
    runs = [run for place in DRAWN_IN if (run := studio.kept.get(page, place)) is not None]
    if not runs:
        raise InvalidOption("Nothing was drawn on this page yet: press Generate in Text to image first.")
    return runs[0]


def drawn(studio: ScoringApi, options: SampleOptions, switch: Event, asker: Asker) -> "Generator[Change, None, Trajectory | None]":
    """The run to its end, None where it was stopped; what is yielded is how far it is."""
    trajectory: Trajectory | None = None
    for event in sampled(studio, options, Either(switch), asker):
        if isinstance(event, Waiting):
            yield {"status": waiting_line(event)}
        elif isinstance(event, Finished):
            trajectory = event.trajectory
        else:
            yield {"status": f"Drawing: step {event.index + 1} of {event.num_steps}."}
    return trajectory if trajectory is not None and trajectory.complete else None


def number(value: float | None) -> float | None:
    """As JSON holds it, with as many digits as a page shows."""
    return None if value is None or value != value else float(f"{value:.6g}")
