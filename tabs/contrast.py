"""The tab "One step or many?": a denoiser asked once, beside a DDPM asked many times, trained before one's eyes."""

import json
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.media.data_uris import data_uri
from studio.media.images import grid, to_pixels
from studio.models.device import Waiting, Work
from studio.runs.trainers.contrast import ContrastEvent, ContrastFinished, ContrastOptions, ContrastSamples, ContrastStep
from tabs.parts.api import SamplingApi
from tabs.parts.openings import Opening, asked_with, recorded, recorded_text
from tabs.parts.panel import Change, RunPanel, Values
from tabs.parts.stage import drawn_by, unchecked
from tabs.parts.turns import shared, waiting_line

if TYPE_CHECKING:
    import numpy as np

__all__ = ["OPENS_WITH", "create_tab", "record"]

Train = Callable[[ContrastOptions, Event], Generator[ContrastEvent | Waiting, None, None]]
# A number of updates, so that it comes out the same on every machine.
OPENS_WITH = ContrastOptions(num_steps=1200)

TRAINING = Work(name="contrast")
UPDATE_EVERY_S = 0.25
MAX_POINTS = 400
INFOS = {option.name: option.metadata["option"] for option in fields(ContrastOptions)}
SLIDERS = {"seconds": (2, 180), "sample_steps": (2, 250), "width": (8, 32), "batch_size": (8, 256)}
SMOOTHING = 20  # updates that the running mean of the losses looks back on

INTRO = """## One step or many?
If a network can clean a noisy picture, why not ask it **once** to clean pure noise? Train that network beside a DDPM,
same weights to start from, same digits, same number of updates, and see what each makes of the same noise."""

NAMES = {"one_step": "One step, asked once", "ddpm": "DDPM", "repeated": "One step, asked often", "real": "Real digits"}


# --- what the stage is shown ---------------------------------------------------------------------------------

@dataclass
class TrainingSoFar:
    """The training so far, in the words and numbers of the page. `stage` is what assets/ui/contrast.js draws."""

    times: int
    step: int = 0
    num_steps: int = 0
    title: str = "Preparing the digits and both networks."
    state: str = "training"
    losses: dict[str, list[float]] = field(default_factory=lambda: {"step": [], "one_step": [], "ddpm": []})
    drawings: list[dict[str, Any]] = field(default_factory=list)
    table: list[dict[str, Any]] | None = None
    finished: ContrastFinished | None = None

    def take(self, event: ContrastEvent) -> None:
        """Take in one event."""
        if isinstance(event, ContrastStep):
            self._take_step(event)
        elif isinstance(event, ContrastSamples):
            self.draw(event.step, one_step=event.one_step, ddpm=event.ddpm)
        else:
            self.draw(event.step, **{name: getattr(event, name) for name in NAMES})
            self.table = [{"name": NAMES[name], **vars(figures)} for name, figures in event.figures.items()]
            self.state, self.num_steps, self.finished = "done", event.step, event
            self.title = f"Done: {event.step} updates of each network in {event.seconds:.0f} s of training."

    def _take_step(self, event: ContrastStep) -> None:
        self.step, self.num_steps = event.index + 1, event.num_steps
        self.losses["step"].append(self.step)
        for name in ("one_step", "ddpm"):
            means, loss = self.losses[name], getattr(event, f"loss_{name}")
            weight = 1 / min(self.step, SMOOTHING)
            means.append(means[-1] + weight * (loss - means[-1]) if means else loss)
        self.title = f"Update {self.step} of about {self.num_steps}, {seconds(event.seconds_left)} left, {event.samples_per_s:.0f} digits/s"

    def draw(self, step: int, **pictures: Any) -> None:
        self.drawings.append({"step": step, "pictures": {name: picture(drawn) for name, drawn in pictures.items()}})

    def stop(self) -> None:
        """The user pressed Stop."""
        self.state = "stopped"
        self.title = "Stopped before the first update."
        if self.step:
            self.title = f"Stopped after update {self.step} of about {self.num_steps}; the curves and its pictures stay."

    def stage(self) -> str:
        """JSON text for the stage."""
        share = self.step / self.num_steps if self.num_steps else 0.0
        shown = {name: getattr(self, name) for name in ("state", "title", "times", "table")}
        # While it goes on only the last pictures are looked at; afterwards one can walk through all of them.
        drawings = self.drawings[-1:] if self.state == "training" else self.drawings
        return json.dumps({**shown, "share": share, "losses": thinned(self.losses), "drawings": drawings}, allow_nan=False)


def thinned(losses: dict[str, list[float]]) -> dict[str, list[float | None]]:
    """At most about 400 points of each curve, the last kept; what is not finite becomes null."""
    stride = max(1, math.ceil(len(losses["step"]) / MAX_POINTS))
    kept = {name: [*values[:-1][::stride], *values[-1:]] for name, values in losses.items()}
    return {name: [round(value, 5) if math.isfinite(value) else None for value in values] for name, values in kept.items()}


def seconds(s: float) -> str:
    return f"{max(1, round(s))} s" if s < 90 else f"{round(s / 60)} min"


def picture(x: Any) -> str:
    """(n, 1, H, W) in [-1, 1] as one near-square grid with clear gaps, a PNG in a data URI."""
    return data_uri(grid(with_alpha(to_pixels(x)), columns=math.ceil(math.sqrt(len(x))), gap=1, fill=0), thorough=True)


def with_alpha(pixels: "np.ndarray") -> "np.ndarray":
    return pixels.repeat(2, axis=-1) | [0, 255]


def explanation(event: ContrastFinished, times: int) -> str:
    """One paragraph of Markdown with what was measured; too short a training is called that."""
    one_step, ddpm, repeated, real = (event.figures[name] for name in NAMES)
    average = (
        r"Squared error is smallest for the mean of all clean pictures that could lie behind what a network sees, "
        r"$\mathbb{E}[x_0 \mid x_t]$. Pure noise says nothing of the digit, so $\mathbb{E}[x_0 \mid x_T]$ is the average of all digits"
    )
    if one_step.variety > 0.5 * real.variety:
        return f"{average}. After {event.step} updates the one-step network does not know that yet: give both more seconds and train again."
    return (
        f"{average}: the same blur whatever the noise "
        f"(variety {one_step.variety:.3f}, real digits {real.variety:.3f}; {one_step.sharpness / real.sharpness:.0%} of their sharpness). "
        f"DDPM guesses no better, but goes only a little of the way and asks again: each of its {times} answers settles a little more of which digit "
        f"it is to be (variety {ddpm.variety:.3f}, {ddpm.sharpness / real.sharpness:.0%} of the sharpness). It is the asking and not the network: "
        f"the one-step network itself, asked {times} times, reaches variety {repeated.variety:.3f}."
    )


# --- the recorded training that the tab opens with -----------------------------------------------------------

def record(train_contrast: Train, options: ContrastOptions = OPENS_WITH) -> Opening:
    """The training that the tab opens with: its stage, and "why" in Markdown."""
    progress = TrainingSoFar(times=options.sample_steps)
    for event in train_contrast(options, Event()):
        if not isinstance(event, Waiting):
            progress.take(event)
    assert progress.finished is not None
    progress.state, progress.title = "recorded", f"A recorded training: {progress.step} updates of each network. Press Train for your own."
    return Opening(made_with=asked_with(options), places={"stage": progress.stage(), "why": explanation(progress.finished, options.sample_steps)})


# --- the tab -------------------------------------------------------------------------------------------------

def create_tab(studio: SamplingApi, train_contrast: Train) -> None:
    """The components, handlers and wiring of the tab.

    Args:
        studio: keeps what visitors left.
        train_contrast: trains both networks, telling its ContrastEvents; ends when the Event is set, is freed when closed.
    """
    panel = RunPanel(studio, "contrast", "Train")
    gr.Markdown(INTRO, elem_id="contrast-intro", elem_classes="ds-about")
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            panel.create_press()
            controls: dict[str, Any] = {"seconds": slider("seconds")}
            with gr.Accordion("More", open=False):
                controls |= {name: slider(name) for name in ("sample_steps", "width", "batch_size")}
                controls["seed"] = gr.Number(ContrastOptions().seed, precision=0, **texts_of("seed"))
        with gr.Column(elem_classes="ds-stage-column"):
            stage = drawn_by("contrast", '<div class="ds-stage ds-contrast"></div>', elem_id="contrast-stage", value=recorded("contrast", "stage"))
            why = gr.Markdown(recorded_text("contrast", "why"), elem_id="contrast-why", latex_delimiters=[{"left": "$", "right": "$", "display": False}])
    panel.places |= {"stage": stage, "why": why}

    def changes(values: Values, switch: Event) -> Iterator[Change]:
        options = ContrastOptions(**{name: values[control] for name, control in controls.items()})

        def in_turns(options: ContrastOptions, switch: Event) -> Generator[ContrastEvent | Waiting, None, None]:
            return shared(studio.device, values[panel.session].asker, TRAINING, train_contrast(options, switch), switch)

        return shown(in_turns, options, switch)

    panel.wire_run(changes, controls.values())


def slider(name: str) -> gr.Slider:
    """The control of a number, over what a hand wants of its range."""
    low, high = SLIDERS[name]
    return unchecked(gr.Slider(low, high, getattr(ContrastOptions(), name), step=INFOS[name].step, **texts_of(name)))


def texts_of(name: str) -> dict[str, Any]:
    return {"label": INFOS[name].label, "info": INFOS[name].info, "elem_id": f"contrast-{name.replace('_', '-')}"}


def shown(train_contrast: Train, options: ContrastOptions, switch: Event) -> Iterator[dict[str, Any]]:
    """What the page shows while both networks learn: {"stage": JSON text, "status": words, "why": Markdown}."""
    progress, due = TrainingSoFar(times=options.sample_steps), 0.0
    yield {"stage": progress.stage(), "status": "", "why": gr.update(visible=False)}
    # Closing frees both networks at once when the page is left.
    with closing(train_contrast(options, switch)) as events:
        for event in events:
            if isinstance(event, Waiting):
                yield {"status": waiting_line(event)}
                continue
            progress.take(event)
            if not isinstance(event, ContrastStep) or monotonic() >= due:
                due = monotonic() + UPDATE_EVERY_S
                yield {"stage": progress.stage(), "status": ""}
    if progress.finished:
        yield {"status": "", "why": gr.update(value=explanation(progress.finished, options.sample_steps), visible=True)}
    else:
        progress.stop()
        yield {"status": "", "stage": progress.stage()}
