"""The Runs tab: every training run, what it said and says, and how to start any trainer. Other tabs follow a run with its parts."""

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from time import time
from typing import Any

import gradio as gr

from studio.errors import InvalidOption, UnknownName
from studio.runs import TRAINERS, RunView
from studio.runs.queue import options_table
from tabs.stage import drawn_by, said_in_a_sentence, to_stage, unchecked

__all__ = ["create_tab", "create_follow", "create_buttons", "wire_buttons", "buttons_shown", "follow_value", "newest", "full", "Buttons"]

POLL_S = 2.0
INVITATION = "Nothing was trained here yet. The tab DreamBooth teaches a model a subject; “Start a trainer” on the left starts any other."
STATES_THAT_GO_ON = ("stopped", "interrupted", "failed")
PLACES = {1: "next", 2: "2nd", 3: "3rd"}


# --- a run in words and numbers ------------------------------------------------------------------------------

def title_of(view: RunView, place: tuple[int, float | None] = (0, None)) -> str:
    """Where the run stands, in one line."""
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
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def figures_of(latest: dict[str, Any]) -> list[tuple[str, str]]:
    shown = (("loss", "loss", "{:.4f}"), ("samples_per_s", "pictures/s", "{:.1f}"), ("memory_gib", "GiB of memory", "{:.2f}"))
    return [(label, form.format(latest[name])) for name, label, form in shown if isinstance(latest.get(name), (int, float))]


def prompts_of(view: RunView) -> list[str]:
    """What the rows of its sheets are, where they are prompts."""
    said = view.options.get("validation_prompts", "") if view.trainer == "dreambooth" else ""
    return [prompt.strip() for prompt in said.split("|") if prompt.strip()]


def follow_value(studio: Any, name: str, address: Callable[[Path], str], compare: Iterable[str] = (), invitation: str = INVITATION) -> str:
    """JSON text for Studio.follow: the run as it stands, or the invitation where there is none of that name."""
    view = found(studio, name)
    if view is None:
        return to_stage({"invitation": invitation})
    curves = studio.follower.curves(view.path)
    return to_stage({
        "name": view.name, "state": view.state, "title": title_of(view, studio.runs.position(name)), "message": view.message, "share": share_of(view),
        "figures": figures_of(curves.latest), "prompts": prompts_of(view), "curves": {"step": curves.step, "values": rounded(curves.values)},
        "samples": [{"step": int(path.stem.removeprefix("step-")), "src": address(path)} for path in view.samples],
        "compared": [compared(studio, other) for other in compare if other != name and found(studio, other)],
        "command": view.command, "log": view.log_tail, "options": [[key, str(value)] for key, value in sorted(view.options.items())],
    })


def compared(studio: Any, name: str) -> dict[str, Any]:
    curves = studio.follower.curves(studio.runs.read(name).path)
    return {"name": name, "step": curves.step, "smooth": rounded(curves.values)["smooth"]}


def rounded(values: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    return {name: [None if y is None else float(f"{y:.4g}") for y in points] for name, points in values.items()}


def found(studio: Any, name: str | None) -> RunView | None:
    try:
        return studio.runs.read(name) if name else None
    except (UnknownName, InvalidOption):
        return None


def newest(studio: Any, trainer: str | None = None) -> str:
    """The run that a page opens with: one that goes on, else the last that was asked for; "" where there is none."""
    views = [view for view in studio.runs.list() if trainer in (None, view.trainer)]
    going_on = [view for view in views if view.state in ("starting", "running")]
    return next((view.name for view in [*going_on, *views]), "")


def list_value(studio: Any, chosen: str) -> str:
    """JSON text for Studio.runlist."""
    return to_stage({"runs": [row_of(studio, view) for view in studio.runs.list()], "chosen": chosen or "", "invitation": INVITATION})


def row_of(studio: Any, view: RunView) -> dict[str, Any]:
    done = view.step / view.steps if view.steps else 0.0
    trainer = TRAINERS[view.trainer].label if view.trainer in TRAINERS else view.trainer
    return {
        "name": view.name, "trainer": trainer, "state": view.state, "words": title_of(view, studio.runs.position(view.name)),
        "share": share_of(view) if view.live else done, "when": ago(time() - view.created) if view.created else "",
    }


def ago(seconds: float) -> str:
    if seconds < 60:
        return "just now"
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' * (count > 1)} ago"
    return ""


def status_of(studio: Any, name: str) -> dict[str, Any]:
    """A run in JSON, for programs."""
    view = studio.runs.read(name)
    place, begins_s = studio.runs.position(name)
    model = view.path / "model"
    return {
        "name": view.name, "trainer": view.trainer, "state": view.state, "title": title_of(view, (place, begins_s)), "message": view.message,
        "step": view.step, "steps": view.steps, "saved": view.saved, "left_s": view.left_s, "queue_position": place, "begins_s": begins_s,
        "phase": view.phase, "phase_done": view.phase_done, "phase_total": view.phase_total, "command": view.command,
        "model": str(model) if view.state == "finished" and model.is_dir() else None,
    }


# --- parts that other tabs use -------------------------------------------------------------------------------

@dataclass(frozen=True)
class Buttons:
    """Stop, Resume and Delete of the chosen run; Delete asks first."""

    stop: gr.Button
    resume: gr.Button
    delete: gr.Button
    ask: gr.Column
    sure: gr.Button
    keep: gr.Button


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


def create_buttons(prefix: str) -> Buttons:
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


def buttons_shown(studio: Any, name: str | None, buttons: Buttons) -> dict[Any, Any]:
    """Which of them can be pressed for the run."""
    view = found(studio, name)
    return {
        buttons.stop: gr.update(interactive=view is not None and view.live and not view.stopping),
        buttons.resume: gr.update(interactive=view is not None and view.state in STATES_THAT_GO_ON),
        buttons.delete: gr.update(interactive=view is not None and not view.live),
    }


def wire_buttons(studio: Any, buttons: Buttons, chosen: Any, outputs: list[Any], show: Callable[[str], dict[Any, Any]]) -> None:
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
    if not name:
        raise InvalidOption("Choose a run first.")
    return name


def full(outputs: Iterable[Any], changes: dict[Any, Any]) -> dict[Any, Any]:
    """A value for every output: one that is left out of a dict is drawn anew by Gradio."""
    return {output: changes.get(output, gr.skip()) for output in outputs}


# --- the tab -------------------------------------------------------------------------------------------------

def create_tab(studio: Any) -> None:
    """The components, handlers and wiring of the tab.

    Args:
        studio: gives public, runs, follower and delete_run, as studio.Studio does.
    """
    if studio.public:
        gr.Markdown("Training is off on this public studio. Start the studio on your own machine to train: the README says how.", elem_classes="ds-about")
        return

    chosen, seen = gr.State(""), gr.State(0)
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            buttons = create_buttons("runs")
            compare = gr.Dropdown([], multiselect=True, label="Compare with", info="The running means of their losses, on one chart.", elem_id="runs-compare")
            with gr.Accordion("Start a trainer", open=False, elem_id="runs-new"):
                trainer = gr.Dropdown(
                    [(info.label, name) for name, info in TRAINERS.items()], value="ddpm", label="Trainer", info="Its options are listed on the right.",
                    elem_id="runs-trainer",
                )
                name = gr.Textbox("", label="Name", max_lines=1, placeholder="my-digits", info="Letters, digits, - and _.", elem_id="runs-name")
                toml = gr.Textbox(
                    'data = "digits"\nresolution = 16\nsteps = 500', label="Options (TOML)", lines=8, max_lines=24, elem_id="runs-toml",
                    info="What is not said keeps its default.",
                )
                take = gr.Button("Take those of the chosen run", size="sm", elem_id="runs-take")
                start = gr.Button("Start", variant="primary", elem_id="runs-start")
            status = gr.HTML(elem_id="runs-status", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
        with gr.Column(elem_classes="ds-stage-column"):
            runs = drawn_by("runlist", '<div class="ds-stage ds-runlist"></div>', elem_id="runs-list")
            stage, address = create_follow("runs-stage")
            options = gr.HTML(elem_id="runs-options", elem_classes="ds-help", visible=False, apply_default_css=False, js_on_load=None)

    for control in (compare, trainer):
        unchecked(control)
    shown = [runs, stage, compare, chosen, buttons.stop, buttons.resume, buttons.delete]

    def show(name: str, others: Iterable[str] = ()) -> dict[Any, Any]:
        name = name if found(studio, name) else newest(studio)
        names = [view.name for view in studio.runs.list() if view.name != name]
        kept = [other for other in others if other in names]
        return {
            runs: list_value(studio, name), stage: follow_value(studio, name, address, kept), compare: gr.update(choices=names, value=kept), chosen: name,
            **buttons_shown(studio, name, buttons),
        }

    def on_open_page() -> dict[Any, Any]:
        return show("")

    def on_tick(name: str, others: list[str], before: int) -> dict[Any, Any]:
        # The page may be older than the first run, or the run that it follows was deleted in another.
        if not found(studio, name) and newest(studio):
            return full([*shown, seen], {**show("", others or ()), seen: 0})
        # Most often nothing has changed; then nothing is sent.
        changes = {runs: list_value(studio, name), stage: follow_value(studio, name, address, others or ()), **buttons_shown(studio, name, buttons)}
        now = hash(repr(changes.values()))
        return full([*shown, seen], {} if now == before else {**changes, seen: now})

    def on_choose(others: list[str], asked: gr.EventData) -> dict[Any, Any]:
        return show(asked._data["name"], others or ())

    def on_compare(name: str, others: list[str]) -> str:
        return follow_value(studio, name, address, others or ())

    def on_trainer(name: str) -> Any:
        return gr.update(value=table_of(name), visible=True)

    def on_take(name: str) -> dict[Any, Any]:
        with said_in_a_sentence():
            view = studio.runs.read(required(name))
        return {trainer: view.trainer, toml: toml_of(view)}

    def on_start(trainer: str, name: str, text: str) -> dict[Any, Any]:
        with said_in_a_sentence():
            view = studio.runs.start(trainer, parsed(text), name=(name or "").strip())
        return {**show(view.name), status: f"{escape(view.name)} was started; it goes on when this page is closed."}

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    cheap: dict[str, Any] = {**private, "queue": False}
    queued: dict[str, Any] = {**private, "concurrency_id": "runs"}
    gr.on(None, on_open_page, None, shown, **cheap)
    gr.Timer(POLL_S).tick(on_tick, [chosen, compare, seen], [*shown, seen], **cheap)
    runs.select(on_choose, compare, shown, **cheap)
    compare.input(on_compare, [chosen, compare], stage, **cheap)
    trainer.input(on_trainer, trainer, options, **queued)
    take.click(on_take, chosen, [trainer, toml], **queued)
    start.click(on_start, [trainer, name, toml], [*shown, status], **queued)
    wire_buttons(studio, buttons, chosen, shown, show)
    create_endpoints(studio)


def create_endpoints(studio: Any) -> None:
    """/run_status, /run_stop and /run_resume, for programs."""
    def run_status(name: str) -> dict:
        """How a run stands: state, step, steps, time left, message, the path of its model once it has finished."""
        with said_in_a_sentence():
            return status_of(studio, name)

    def run_stop(name: str) -> dict:
        """Ask a run to save and stop, or take it out of the queue."""
        with said_in_a_sentence():
            studio.runs.stop(name)
            return status_of(studio, name)

    def run_resume(name: str) -> dict:
        """Let a stopped, interrupted or failed run go on from its last checkpoint."""
        with said_in_a_sentence():
            studio.runs.resume(name)
            return status_of(studio, name)

    for function in (run_status, run_stop, run_resume):
        gr.api(function, api_name=function.__name__, concurrency_id="runs")


def parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text or "")
    except tomllib.TOMLDecodeError as error:
        raise InvalidOption(f"The options are not TOML: {error}. Write one `name = value` a line, with text in quotes.") from None


def toml_of(view: RunView) -> str:
    """The options that started the run, but for its folder."""
    path = view.path / "options.toml"
    lines = path.read_text().splitlines() if path.is_file() else []
    return "\n".join(line for line in lines if not line.startswith("output ="))


def table_of(trainer: str) -> str:
    """What `python -m trainers.NAME --help` says, as an HTML table."""
    rows = "".join(
        f"<tr><td><code>{escape(row.name)}</code></td><td>{escape(row.default)}</td><td>{escape(row.help)}{escape(row.choices)}</td></tr>"
        for row in options_table(trainer)
    )
    return f"<table><thead><tr><th>Option</th><th>Default</th><th>Meaning</th></tr></thead><tbody>{rows}</tbody></table>"
