"""The Runs tab: every training run, what it said and says, and how to start any trainer."""

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from time import time
from typing import Any

import gradio as gr

from studio.errors import InvalidOption
from studio.runs import TRAINERS, RunView
from studio.runs.examples import DOMINO, examples
from studio.runs.folder import read_toml
from studio.runs.trainers import options_table
from tabs.parts.api import TrainingApi
from tabs.parts.arguments import event_value
from tabs.parts.following import (
    INVITATION,
    POLL_S,
    Buttons,
    buttons_shown,
    create_buttons,
    create_example,
    create_follow,
    follow_value,
    found,
    newest,
    share_of,
    state_line,
    state_of,
    wire_buttons,
)
from tabs.parts.showing import tick_while_shown, when_first_shown
from tabs.parts.stage import CHEAP, PRIVATE, drawn_by, full, said_in_a_sentence, to_stage, unchecked

__all__ = ["create_tab"]

PUBLIC = "Training is off on this public studio. Start the studio on your own machine to train: the README says how. Here is a run that was recorded."


# --- the list of runs ----------------------------------------------------------------------------------------

def list_value(studio: TrainingApi, chosen: str) -> str:
    """JSON text for Studio.runlist."""
    own = studio.runs.list()
    rows = [row_of(studio, view) for view in (*own, *examples())]
    return to_stage({"runs": rows, "chosen": chosen or "", "invitation": "" if own else INVITATION})


def row_of(studio: TrainingApi, view: RunView) -> dict[str, Any]:
    done = view.step / view.steps if view.steps else 0.0
    trainer = TRAINERS[view.trainer].label if view.trainer in TRAINERS else view.trainer
    return {
        "name": view.name, "trainer": trainer, "state": state_of(view), "words": state_line(view, studio.runs.position(view.name)),
        "share": share_of(view) if view.live else done, "when": ago(time() - view.created) if view.created and not view.example else "",
    }


def ago(seconds: float) -> str:
    if seconds < 60:
        return "just now"
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' * (count > 1)} ago"
    return ""


# --- the tab -------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Starter:
    """What starts any trainer."""

    trainer: gr.Dropdown
    name: gr.Textbox
    toml: gr.Textbox
    take: gr.Button
    start: gr.Button


@dataclass(frozen=True, kw_only=True)
class Board:
    """The list of runs, and the one that is looked at."""

    runs: gr.HTML
    stage: gr.HTML
    address: Callable[[Path], str]
    buttons: Buttons
    compare: gr.Dropdown
    chosen: gr.State

    @property
    def shown(self) -> list[Any]:
        return [self.runs, self.stage, self.compare, self.chosen, self.buttons.stop, self.buttons.resume, self.buttons.delete]


def create_tab(studio: TrainingApi) -> None:
    """The components, handlers and wiring of the tab.

    Args:
        studio: keeps and follows the runs.
    """
    if studio.public:
        gr.Markdown(PUBLIC, elem_classes="ds-about")
        create_example(studio, "runs-stage")
        return
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            buttons = create_buttons("runs")
            compare = unchecked(gr.Dropdown(
                [], multiselect=True, label="Compare with", info="The running means of their losses, on one chart.", elem_id="runs-compare",
            ))
            starter = create_starter()
            status = gr.HTML(elem_id="runs-status", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
        with gr.Column(elem_classes="ds-stage-column"):
            runs = drawn_by("runlist", '<div class="ds-stage ds-runlist"></div>', elem_id="runs-list")
            stage, address = create_follow("runs-stage")
            options = gr.HTML(elem_id="runs-options", elem_classes="ds-help", visible=False, apply_default_css=False, js_on_load=None)
    board = Board(runs=runs, stage=stage, address=address, buttons=buttons, compare=compare, chosen=gr.State(""))
    wire_board(studio, board)
    wire_starter(studio, starter, board, status, options)


def create_starter() -> Starter:
    """Which trainer, under what name, with what options."""
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
    return Starter(trainer=unchecked(trainer), name=name, toml=toml, take=take, start=start)


def show(studio: TrainingApi, board: Board, name: str, others: Iterable[str] = ()) -> dict[Any, Any]:
    """What the page shows with this run chosen, or the newest where it is not there; where there is none, the example unchosen."""
    name = name if found(studio, name) else newest(studio)
    names = [view.name for view in (*studio.runs.list(), *examples()) if view.name != (name or DOMINO)]
    kept = [other for other in others if other in names]
    return {**standing(studio, board, name, kept), board.compare: gr.update(choices=names, value=kept), board.chosen: name}


def standing(studio: TrainingApi, board: Board, name: str, others: Iterable[str]) -> dict[Any, Any]:
    """What changes by itself while the page is looked at."""
    name = name or DOMINO
    stage = follow_value(studio, name, board.address, others)
    return {board.runs: list_value(studio, name), board.stage: stage, **buttons_shown(studio, name, board.buttons)}


def wire_board(studio: TrainingApi, board: Board) -> None:
    """What follows the runs."""
    chosen, compare, seen = board.chosen, board.compare, gr.State(0)

    def on_open_page() -> dict[Any, Any]:
        return show(studio, board, "")

    def on_tick(name: str, others: list[str], before: int) -> dict[Any, Any]:
        # The page may be older than the first run, or the run that it follows was deleted in another.
        if not found(studio, name) and newest(studio):
            return full([*board.shown, seen], {**show(studio, board, "", others or ()), seen: 0})
        # Most often nothing has changed; then nothing is sent.
        changes = standing(studio, board, name, others or ())
        now = hash(repr(changes.values()))
        return full([*board.shown, seen], {} if now == before else {**changes, seen: now})

    def on_choose(others: list[str], asked: gr.EventData) -> dict[Any, Any]:
        return show(studio, board, event_value(asked, name=str)["name"], others or ())

    def on_compare(name: str, others: list[str]) -> str:
        return follow_value(studio, name or DOMINO, board.address, others or ())

    when_first_shown(on_open_page, None, board.shown, **CHEAP)
    tick_while_shown(POLL_S, on_tick, [chosen, compare, seen], [*board.shown, seen])
    board.runs.select(on_choose, compare, board.shown, **CHEAP)
    compare.input(on_compare, [chosen, compare], board.stage, **CHEAP)
    wire_buttons(studio, board.buttons, chosen, board.shown, lambda name: show(studio, board, name))


def wire_starter(studio: TrainingApi, starter: Starter, board: Board, status: gr.HTML, options: gr.HTML) -> None:
    """What starts a trainer."""
    def on_trainer(name: str) -> Any:
        with said_in_a_sentence():
            return gr.update(value=table_of(name), visible=True)

    def on_take(name: str) -> dict[Any, Any]:
        with said_in_a_sentence():
            view = studio.runs.read(name or DOMINO)
            return {starter.trainer: view.trainer, starter.toml: toml_of(view)}

    def on_start(trainer: str, name: str, text: str) -> dict[Any, Any]:
        with said_in_a_sentence():
            view = studio.runs.start(trainer, options_in(text), name=(name or "").strip())
        return {**show(studio, board, view.name), status: f"{escape(view.name)} was started; it goes on when this page is closed."}

    queued: dict[str, Any] = {**PRIVATE, "concurrency_id": "runs"}
    starter.trainer.input(on_trainer, starter.trainer, options, **queued)
    starter.take.click(on_take, board.chosen, [starter.trainer, starter.toml], **queued)
    starter.start.click(on_start, [starter.trainer, starter.name, starter.toml], [*board.shown, status], **queued)


def options_in(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text or "")
    except tomllib.TOMLDecodeError as error:
        raise InvalidOption(f"The options are not TOML: {error}. Write one `name = value` a line, with text in quotes.") from None


def toml_of(view: RunView) -> str:
    """The options that started the run, but for its folder. Raises DamagedFile."""
    lines = read_toml(view.path).splitlines()
    return "\n".join(line for line in lines if not line.startswith("output ="))


def table_of(trainer: str) -> str:
    """What `python -m trainers.NAME --help` says, as an HTML table."""
    rows = "".join(
        f"<tr><td><code>{escape(row.name)}</code></td><td>{escape(row.default)}</td><td>{escape(row.help)}{escape(row.choices)}</td></tr>"
        for row in options_table(trainer)
    )
    return f"<table><thead><tr><th>Option</th><th>Default</th><th>Meaning</th></tr></thead><tbody>{rows}</tbody></table>"
