"""A training run as it is followed: in words and numbers, on a stage, and with the buttons that act on it."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from studio.errors import DamagedFile, InvalidOption, UnknownName
from studio.runs import RunView
from studio.runs.examples import DOMINO, example_named
from studio.runs.following import Curves
from studio.runs.refl import GAP, BaseFacts, base_facts
from tabs.parts.api import TrainingApi
from tabs.parts.showing import when_first_shown
from tabs.parts.stage import CHEAP, drawn_by, full, said_in_a_sentence, to_stage, unchecked

__all__ = [
    "Buttons", "Followed", "Measured", "create_buttons", "create_run_menu", "wire_buttons", "buttons_shown", "create_follow", "follow_value", "create_example",
    "state_line", "share_of", "state_of", "duration", "estimate_line", "found", "newest", "required", "POLL_S", "INVITATION",
]

POLL_S = 2.0
INVITATION = "Nothing was trained here yet. The tab DreamBooth teaches a model a subject; “Start a trainer” on the left starts any other."
STATES_THAT_GO_ON = ("stopped", "interrupted", "failed")
PLACES = {1: "next", 2: "2nd", 3: "3rd"}


# --- a run in words and numbers ------------------------------------------------------------------------------

def state_line(view: RunView, place: tuple[int, float | None] = (0, None)) -> str:
    """Where the run stands, in one line."""
    if view.example:
        return f"A recorded example: all {view.steps} steps"
    at = f"step {view.step} of {view.steps}"
    if view.state == "waiting":
        begins = f", begins in about {duration(place[1])}" if place[1] is not None else ""
        return f"Waiting, {PLACES.get(place[0], f'{place[0]}th')} in the queue{begins}"
    if view.stopping:
        return "Stopping: it is saved first"
    if view.state == "starting":
        return "Starting: the libraries are loaded"
    if view.state == "running":
        return running(view)
    if view.state == "damaged":
        return "Damaged: its folder cannot be read"
    if view.state == "finished":
        return f"Finished: all {view.steps} steps"
    return f"{view.state.capitalize()} at {at}"


def running(view: RunView) -> str:
    if view.phase:
        return f"{view.phase.capitalize()}: {view.phase_done} of {view.phase_total} are there"
    if not view.step:
        return "Preparing: the model and the pictures are loaded"
    left = f", about {duration(view.left_s)} left" if view.left_s is not None else ""
    return f"Step {view.step} of {view.steps}{left}"


def share_of(view: RunView) -> float | None:
    """How much of what it does now is done; None where nothing goes on."""
    if not view.live:
        return None
    done, total = (view.phase_done, view.phase_total) if view.phase else (view.step, view.steps)
    return done / total if total else 0.0


def duration(seconds: float) -> str:
    """In seconds, minutes or hours, as it is long."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def estimate_line(cost: Any, steps: Any, beside: str = "all the pictures that are drawn before and on the way") -> str:
    """Time, memory and what is trained, in a sentence. cost: a RunCost; beside: what is counted with the steps."""
    time = f"About {duration(cost.seconds)} on this machine for {steps} steps and {beside}"
    return f"{time}; about {cost.memory_gib:.1f} GiB of memory; {cost.trained_parameters:,} weights learn."


def figures_of(latest: dict[str, Any]) -> list[tuple[str, str]]:
    shown = (
        ("loss", "loss", "{:.4f}"), ("obedience_empty", "obeys without a prompt", "{:.2f}"), ("samples_per_s", "pictures/s", "{:.1f}"),
        ("memory_gib", "GiB of memory", "{:.2f}"),
    )
    return [(label, form.format(latest[name])) for name, label, form in shown if isinstance(latest.get(name), (int, float))]


def prompts_of(view: RunView) -> list[str]:
    """What the rows of its sheets are, where they are prompts."""
    if view.trainer == "refl":
        return list(facts.prompts) if (facts := facts_before(view)) else []
    said = view.options.get("validation_prompts", "") if view.trainer == "dreambooth" else ""
    return [prompt.strip() for prompt in said.split("|") if prompt.strip()]


def facts_before(view: RunView) -> BaseFacts | None:
    """What a tuning wrote down of its sheets before its first step; None where nothing can be read."""
    with suppress(DamagedFile):
        return base_facts(view.path)
    return None


def heads_of(view: RunView) -> list[dict[str, Any]]:
    """What stands over the columns of its sheets, and how wide each is, in pictures and gaps."""
    facts = facts_before(view) if view.trainer == "refl" else None
    if facts is None:
        return [{"label": label, "share": share} for label, share in (("before", 12), ("", 1), ("now", 12))]
    gap = {"label": "", "share": 1 / GAP}
    heads = [{"label": "before", "share": facts.samples}, gap, {"label": "now", "share": facts.samples}]
    return [*heads, gap, *({"label": name, "share": 1} for name in facts.lens)] if facts.lens else heads


def follow_value(studio: TrainingApi, name: str, address: Callable[[Path], str], compare: Iterable[str] = (), invitation: str = INVITATION) -> str:
    """JSON text for Studio.follow: the run as it stands, or the invitation where there is none of that name."""
    view = found(studio, name)
    if view is None:
        return to_stage({"invitation": invitation})
    beside = [curve_beside(studio, other) for other in compare if other != name and found(studio, other)]
    return to_stage({**followed(studio, view, address, studio.runs.position(name)), "compared": beside})


def followed(studio: TrainingApi, view: RunView, address: Callable[[Path], str], place: tuple[int, float | None] = (0, None)) -> dict[str, Any]:
    """The run as it stands, beside no other."""
    view, curves = with_curves(studio, view)
    return {
        "name": view.name, "state": state_of(view), "title": state_line(view, place), "message": view.message, "share": share_of(view),
        "figures": figures_of(curves.latest), "prompts": prompts_of(view), "heads": heads_of(view),
        "curves": {"step": curves.step, "values": rounded(curves.values)}, "jump": curves.jump,
        "samples": addressed(view, address), "compared": [],
        "command": view.command, "log": view.log_tail, "options": [[key, str(value)] for key, value in sorted(view.options.items())],
    }


def state_of(view: RunView) -> str:
    """The run's state, "example" for one that comes with the studio."""
    return "example" if view.example else view.state


def curve_beside(studio: TrainingApi, name: str) -> dict[str, Any]:
    _, curves = with_curves(studio, studio.runs.read(name))
    return {"name": name, "step": curves.step, "smooth": rounded(curves.values)["smooth"]}


def with_curves(studio: TrainingApi, view: RunView) -> tuple[RunView, Curves]:
    """The run and its curves; a run whose events cannot be read is damaged, and has none."""
    try:
        return view, studio.follower.curves(view.path)
    except DamagedFile as error:
        return replace(view, state="damaged", message=view.message if view.state == "damaged" else f"This run cannot be read: {error}"), Curves()


def addressed(view: RunView, address: Callable[[Path], str]) -> list[dict[str, Any]]:
    """The run's pictures with addresses that the page may fetch; one that is gone by now, or cannot be read, is left out."""
    found = []
    for step, path in view.numbered_samples:
        with suppress(OSError):
            found.append({"step": step, "src": address(path)})
    return found


def rounded(values: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    return {name: [None if y is None else float(f"{y:.4g}") for y in points] for name, points in values.items()}


def found(studio: TrainingApi, name: str | None) -> RunView | None:
    """The run of that name; None where there is none."""
    try:
        return studio.runs.read(name) if name else None
    except (UnknownName, InvalidOption):
        return None


def newest(studio: TrainingApi, trainer: str | None = None) -> str:
    """The run that a page opens with: one that goes on, else the last that can be read, else any; "" where there is none."""
    views = [view for view in studio.runs.list() if trainer in (None, view.trainer)]
    going_on = [view for view in views if view.state in ("starting", "running")]
    whole = [view for view in views if view.state != "damaged"]
    return next((view.name for view in [*going_on, *whole, *views]), "")


# --- on the page ---------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Buttons:
    """Stop, Resume and Delete of the chosen run; Delete asks first."""

    stop: gr.Button
    resume: gr.Button
    delete: gr.Button
    ask: gr.Column
    sure: gr.Button
    keep: gr.Button


@dataclass(frozen=True, kw_only=True)
class Followed:
    """The run that is looked at: its menu, its buttons and its stage. address: of a folder's files, for the page."""

    run: gr.Dropdown
    buttons: Buttons
    stage: gr.HTML
    address: Callable[[Path], str]


@dataclass(frozen=True, kw_only=True)
class Measured(Followed):
    """The run that is looked at, and what was measured of what it makes."""

    measured: gr.HTML

    @property
    def shown(self) -> list[Any]:
        return [self.run, self.stage, self.measured, self.buttons.stop, self.buttons.resume, self.buttons.delete]


def create_follow(elem_id: str) -> tuple[gr.HTML, Callable[[Path], str]]:
    """The followed run's stage, and the function that gives a picture of a run an address which its page may fetch."""
    stage = drawn_by("follow", '<div class="ds-stage ds-follow"></div>', elem_id=elem_id)
    known: dict[tuple[str, int], str] = {}

    def address(path: Path) -> str:
        key = str(path), path.stat().st_mtime_ns
        if key not in known:
            known[key] = f"gradio_api/file={stage.move_resource_to_block_cache(path)}"
        return known[key]
    return stage, address


def create_example(studio: TrainingApi, elem_id: str, name: str = DOMINO) -> None:
    """A recorded example alone, for a studio that has no runs."""
    stage, address = create_follow(elem_id)

    def on_open_page() -> str:
        return to_stage(followed(studio, example_named(name), address))

    when_first_shown(on_open_page, None, stage, **CHEAP)


def create_run_menu(prefix: str) -> tuple[gr.Dropdown, Buttons]:
    """The menu of runs, and beside it what is done with the chosen one."""
    with gr.Row(elem_classes="ds-run-row"):
        run = unchecked(gr.Dropdown([], label="Run", elem_id=f"{prefix}-run", scale=0, min_width=220))
        with gr.Column(scale=0, min_width=240):
            buttons = create_buttons(prefix)
    return run, buttons


def create_buttons(prefix: str) -> Buttons:
    """Stop, resume and delete, which asks before it does so."""
    with gr.Row(elem_classes="ds-press"):
        stop = gr.Button("Stop", interactive=False, size="sm", min_width=60, elem_id=f"{prefix}-stop")
        resume = gr.Button("Resume", interactive=False, size="sm", min_width=60, elem_id=f"{prefix}-resume")
        delete = gr.Button("Delete", interactive=False, size="sm", min_width=60, elem_id=f"{prefix}-delete")
    with gr.Column(visible=False, elem_id=f"{prefix}-ask") as ask:
        gr.Markdown("Delete this run, its checkpoints, its pictures and its model? This cannot be undone.")
        with gr.Row(elem_classes="ds-press"):
            sure = gr.Button("Delete it", variant="stop", size="sm", min_width=60, elem_id=f"{prefix}-sure")
            keep = gr.Button("Keep it", size="sm", min_width=60, elem_id=f"{prefix}-keep")
    return Buttons(stop, resume, delete, ask, sure, keep)


def buttons_shown(studio: TrainingApi, name: str | None, buttons: Buttons) -> dict[Any, Any]:
    """Which of them can be pressed for the run."""
    view = found(studio, name)
    return {
        buttons.stop: gr.update(interactive=view is not None and view.live and not view.stopping),
        buttons.resume: gr.update(interactive=view is not None and view.state in STATES_THAT_GO_ON),
        buttons.delete: gr.update(interactive=view is not None and not (view.live or view.busy or view.example)),
    }


def wire_buttons(studio: TrainingApi, buttons: Buttons, chosen: Any, outputs: list[Any], show: Callable[[str], dict[Any, Any]]) -> None:
    """show(name): what the page shows of a run, a value for some of `outputs`; the buttons must be among them."""
    def on_stop(name: str) -> dict[Any, Any]:
        with said_in_a_sentence():
            studio.runs.stop(required(name))
        return full(outputs, show(name))

    def on_resume(name: str) -> dict[Any, Any]:
        with said_in_a_sentence():
            studio.runs.resume(required(name))
        return full(outputs, show(name))

    def on_delete(name: str) -> dict[Any, Any]:
        with said_in_a_sentence():
            studio.delete_run(required(name))
        return {**full(outputs, show("")), buttons.ask: gr.update(visible=False)}

    # Gradio shows an error only of what went through its queue.
    queued: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_id": "runs"}
    at_once: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
    buttons.stop.click(on_stop, chosen, outputs, **queued)
    buttons.resume.click(on_resume, chosen, outputs, **queued)
    buttons.delete.click(lambda: gr.update(visible=True), None, buttons.ask, **at_once)
    buttons.keep.click(lambda: gr.update(visible=False), None, buttons.ask, **at_once)
    buttons.sure.click(on_delete, chosen, [*outputs, buttons.ask], **queued)


def required(name: str | None) -> str:
    """The chosen name. Raises InvalidOption where none is."""
    if not name:
        raise InvalidOption("Choose a run first.")
    return name
