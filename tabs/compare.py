"""Runs beside each other: one seed under two settings on a common log-SNR axis, and grids of pictures."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from studio.errors import InvalidOption, StudioError
from studio.media.data_uris import data_uri, small_uri
from studio.media.images import grid
from studio.options import SampleOptions
from studio.process.schedulers import SCHEDULERS
from studio.sampling.compare import GRIDS, MAX_CELLS, Cell, Meeting, common_axis, difference_maps, foretold_s, plan_grid, time_a_call
from studio.sampling.events import Finished
from studio.sampling.export import labelled_grid, save_png
from studio.sampling.live import freshest
from studio.scratch import passing_folder
from tabs.denoise import stop_update
from tabs.parts.filmstrip import decoded, film
from tabs.parts.session import Session
from tabs.parts.stage import drawn_by, said_in_a_sentence, to_stage, unchecked

if TYPE_CHECKING:
    from PIL import Image

    from studio.sampling.trajectory import Trajectory

__all__ = ["create_pair", "create_grid"]

STREAMS = ("x0_hat", "x_t")
# Small, as the whole grid is sent with every new cell.
THUMBNAIL = 160
SCHEDULER_CHOICES = [(entry.label, name) for name, entry in SCHEDULERS.items()]
FIRST_VALUES = {
    "seeds": "0, 1, 2, 3", "scales": "1, 2, 4, 8", "schedulers": ["ddim", "euler", "dpm++_2m"], "steps": "5, 10, 25",
    "prompts": "a red star on a white background\na blue boat on a yellow background\na green cat on a pink background",
}


# --- two settings --------------------------------------------------------------------------------------------

def create_pair(studio: Any, model: gr.Dropdown, prompt: gr.Textbox) -> Any:
    """The components, handlers and wiring of the comparison of two runs; gives the event of the run, to hang more on.

    Args:
        studio: gives sample, as studio.Studio does.
        model, prompt: of the tab; the prompt stands for a side that has none of its own.
    """
    session = gr.State(Session(), delete_callback=Session.stop)
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            run, stop, status = create_press("Compare", "pair")
            seed = gr.Number(0, label="Seed of both", precision=0, info="The same noise to start: what differs is the settings.", elem_id="pair-seed")
            sides = {"a": create_side("a", "dpm++_2m", 10), "b": create_side("b", "ddim", 25)}
        with gr.Column(elem_classes="ds-stage-column"):
            stage = drawn_by("compare", '<div class="ds-stage ds-compare"></div>', elem_id="pair-stage")

    def on_run(values: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
        def changes(switch: Event) -> Iterator[dict[str, Any]]:
            chosen = {
                name: side_options(values[model], values[seed], values[prompt], {key: values[control] for key, control in side.items()})
                for name, side in sides.items()
            }
            return compared(studio, chosen["a"], chosen["b"], switch)

        yield from pressed(values[session], changes, {"stage": stage, "status": status, "stop": stop})

    inputs = {session, model, prompt, seed, *sides["a"].values(), *sides["b"].values()}
    return _wire(run, stop, status, session, on_run, inputs, [stage, status, stop])


def create_press(label: str, name: str) -> tuple[gr.Button, gr.Button, gr.HTML]:
    """The button that starts, the one that stops, and the line that says how far it is."""
    with gr.Row(elem_classes="ds-press"):
        run = gr.Button(label, variant="primary", elem_id=f"{name}-run", min_width=80, scale=2)
        stop = gr.Button("Stop", interactive=False, elem_id=f"{name}-stop", min_width=60, scale=1)
    return run, stop, gr.HTML(elem_id=f"{name}-status", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)


def pressed(held: Session, changes: Callable[[Event], Iterator[dict[str, Any]]], place: Mapping[str, Any]) -> Iterator[dict[Any, Any]]:
    """What a press of the starting button shows: the changes, each in its place; then, or after a failure said in a sentence, Stop as it must be."""
    switch = held.begin()
    try:
        for change in changes(switch):
            yield {place[name]: value for name, value in change.items()}
        yield {place["stop"]: stop_update(held)}
    except Exception as error:
        yield {place["status"]: sentence_of(error), place["stop"]: stop_update(held)}
        with said_in_a_sentence():
            raise
    finally:
        held.running.remove(switch)


def create_side(name: str, scheduler: str, num_steps: int) -> dict[str, Any]:
    """What one of the two runs has of its own."""
    with gr.Column(elem_classes=f"ds-side ds-side-{name}"):
        gr.HTML(f"<strong>{name.upper()}</strong>", padding=False)
        side: dict[str, Any] = {
            "prompt": gr.Textbox("", label="Prompt", placeholder="that of the picture", max_lines=3, elem_id=f"pair-prompt-{name}"),
            "scheduler": unchecked(gr.Dropdown(SCHEDULER_CHOICES, value=scheduler, label="Scheduler", elem_id=f"pair-scheduler-{name}")),
        }
        with gr.Row():
            side["num_steps"] = gr.Number(num_steps, label="Steps", precision=0, min_width=90, elem_id=f"pair-steps-{name}")
            side["guidance_scale"] = gr.Number(4, label="Guidance scale", min_width=110, elem_id=f"pair-scale-{name}")
    return side


def side_options(model: str | None, seed: int, prompt: str, side: Mapping[str, Any]) -> SampleOptions:
    """The options of one side; an empty prompt is that of the tab."""
    if not model:
        raise InvalidOption("Choose a model first.")
    return SampleOptions(model=model, seed=seed, **{**side, "prompt": side["prompt"].strip() or prompt})


class Either:
    """Set when the press of Stop is, or when this run alone is to end: its last frame sets that."""

    def __init__(self, switch: Event) -> None:
        self.switch, self.own = switch, Event()

    def is_set(self) -> bool:
        return self.switch.is_set() or self.own.is_set()


def compared(studio: Any, a: SampleOptions, b: SampleOptions, switch: Event) -> Iterator[dict[str, Any]]:
    """Both runs, one after the other, then the two on their common axis. A stop leaves the page as it was."""
    runs: list[Trajectory] = []
    for name, options in (("A", a), ("B", b)):
        if switch.is_set():
            break
        yield {"status": f"{name}: preparing."}
        either = Either(switch)
        for event in freshest(studio.sample(options, stop=either), either.own):
            if isinstance(event, Finished):
                runs.append(event.trajectory)
            else:
                yield {"status": f"{name}: step {event.index + 1} of {event.num_steps}."}
    if len(runs) < 2 or not all(one.complete for one in runs):
        yield {"status": "Stopped: a comparison needs both runs to their end."}
        return
    yield {"stage": to_stage(pair(*runs)), "status": f"Compared {len(runs[0].steps)} with {len(runs[1].steps)} steps."}


def pair(a: "Trajectory", b: "Trajectory") -> dict[str, Any]:
    """Two films, the places where they meet, and their difference there as grey sprites of one byte a place."""
    meetings = common_axis(a.steps, b.steps)
    maps = {stream: difference_maps(a, b, stream, meetings).numpy() for stream in STREAMS}
    return {
        "a": film(a, run="a", title=words_of(a.options, b.options)), "b": film(b, run="b", title=words_of(b.options, a.options)),
        "meetings": [dataclasses.asdict(meeting) for meeting in meetings],
        "differences": {stream: _sprite(levels) for stream, levels in maps.items()}, "end": _end(a, b, meetings),
    }


def words_of(options: SampleOptions, other: SampleOptions) -> str:
    """What one side has that the other has not; the scheduler where they are the same."""
    words = {
        "prompt": options.prompt, "scheduler": SCHEDULERS[options.scheduler].label, "num_steps": f"{options.num_steps} steps",
        "guidance_scale": f"scale {options.guidance_scale:g}",
    }
    return ", ".join(text for name, text in words.items() if getattr(options, name) != getattr(other, name)) or words["scheduler"]


def _sprite(maps: np.ndarray) -> dict[str, Any]:
    """(P, B, h, w) in [0, 1] -> one grey sprite, tile by meeting, and the mean of each."""
    one = maps[:, 0]
    levels, columns = np.rint(255 * one).astype(np.uint8)[..., None], max(1, round(len(one) ** 0.5))
    return {"src": data_uri(grid(levels, columns)), "columns": columns, "tile": [one.shape[2], one.shape[1]], "mean": one.mean(axis=(1, 2)).tolist()}


def _end(a: "Trajectory", b: "Trajectory", meetings: list[Meeting]) -> dict[str, Any]:
    """The pictures that came out, decoded, and their difference: shown where both runs have ended."""
    ours, theirs = a.images[0], b.images[0]
    apart = np.abs(np.asarray(ours, float) - np.asarray(theirs, float)).mean(axis=2, keepdims=True)
    return {
        "a": decoded("x0_hat", 0, [ours]), "b": decoded("x0_hat", 0, [theirs]), "mean": float(apart.mean() / 255),
        "difference": {"src": data_uri(np.rint(apart).astype(np.uint8)), "tile": list(ours.size), "columns": 1}, "from": len(meetings) - 1,
    }


# --- grids ---------------------------------------------------------------------------------------------------

def create_grid(studio: Any, model: gr.Dropdown, prompt: gr.Textbox, scale: gr.Slider, num_steps: gr.Number, scheduler: gr.Dropdown) -> Any:
    """The components, handlers and wiring of the grids; gives the event of the run. model .. scheduler: of the tab, for what the grid does not change."""
    session = gr.State(Session(), delete_callback=Session.stop)
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            run, stop, status = create_press("Draw the grid", "grid")
            kind = gr.Radio([(entry.label, name) for name, entry in GRIDS.items()], value="seed_scale", label="Grid", elem_id="grid-kind")
            fields = {
                "seed": gr.Textbox(FIRST_VALUES["seeds"], label="Seeds", max_lines=1, elem_id="grid-seeds"),
                "guidance_scale": gr.Textbox(FIRST_VALUES["scales"], label="Guidance scales", max_lines=1, elem_id="grid-scales"),
                "scheduler": gr.Dropdown(
                    SCHEDULER_CHOICES, value=FIRST_VALUES["schedulers"], multiselect=True, label="Schedulers", visible=False, elem_id="grid-schedulers",
                ),
                "num_steps": gr.Textbox(FIRST_VALUES["steps"], label="Steps", max_lines=1, visible=False, elem_id="grid-steps"),
                "prompt": gr.Textbox(
                    FIRST_VALUES["prompts"], label="Prompts, one a line", lines=3, max_lines=8, visible=False, elem_id="grid-prompts",
                ),
            }
            plan = gr.Button("How long will it take?", size="sm", elem_id="grid-plan")
            gr.Markdown(f"At most {MAX_CELLS} pictures. What the grid does not change is taken from the area Picture.", elem_classes="ds-about")
        with gr.Column(elem_classes="ds-stage-column"):
            stage = drawn_by("pictureGrid", '<div class="ds-stage ds-grid-stage"></div>', elem_id="grid-stage")
            sheet = gr.File(label="The grid as one picture", visible=False, interactive=False, height=60, elem_id="grid-sheet")

    def cells_of(values: dict[Any, Any]) -> list[Cell]:
        if not values[model]:
            raise InvalidOption("Choose a model first.")
        base = SampleOptions(
            model=values[model], prompt=values[prompt], guidance_scale=values[scale], num_steps=values[num_steps], scheduler=values[scheduler],
        )
        chosen = GRIDS[values[kind]]
        return plan_grid(values[kind], base, {name: read_values(name, values[fields[name]]) for name in (chosen.rows, chosen.columns)})

    def on_kind(name: str) -> dict[Any, Any]:
        chosen = GRIDS[name]
        return {field: gr.update(visible=option in (chosen.rows, chosen.columns)) for option, field in fields.items()}

    def on_plan(values: dict[Any, Any]) -> dict[Any, Any]:
        with said_in_a_sentence():
            cells = cells_of(values)
            return {status: foretold(cells, studio), stage: to_stage(grid_shown(values[kind], cells, {}))}

    def on_run(values: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
        held = values[session]
        yield from pressed(
            held, lambda switch: drawn(studio, values[kind], cells_of(values), switch),
            {"stage": stage, "status": status, "stop": stop, "sheet": sheet},
        )

    inputs = {session, model, prompt, scale, num_steps, scheduler, kind, *fields.values()}
    kind.input(on_kind, kind, list(fields.values()), api_visibility="private", show_progress="hidden", queue=False)
    plan.click(
        on_plan, inputs, [status, stage], api_visibility="private", show_progress="minimal", show_progress_on=status, concurrency_id="gpu",
        concurrency_limit=1,
    )
    return _wire(run, stop, status, session, on_run, inputs, [stage, status, stop, sheet])


def read_values(name: str, given: Any) -> list[Any]:
    """What an option takes, from what was written. Raises InvalidOption for what is no number."""
    if isinstance(given, list):
        return given
    if name == "prompt":
        return [line.strip() for line in given.splitlines() if line.strip()]
    read = float if name == "guidance_scale" else int
    try:
        return [read(part) for part in given.replace(";", ",").split(",") if part.strip()]
    except ValueError:
        kind = "numbers" if read is float else "whole numbers"
        raise InvalidOption(f"Write {kind} with commas between them for {name.replace('_', ' ')}, but it is {given!r}.") from None


def foretold(cells: list[Cell], studio: Any) -> str:
    """How many pictures in about what time, by timing a few steps of the first."""
    return f"{len(cells)} pictures, about {in_words(foretold_s(cells, timed(studio, cells)))}."


def timed(studio: Any, cells: list[Cell]) -> float:
    """Seconds a call of the network, from a trial of the cell with the most steps."""
    longest = max(cells, key=lambda cell: cell.options.num_steps).options
    return time_a_call(studio.sample(longest, stop=Event()), longest)


def in_words(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"


def drawn(studio: Any, kind: str, cells: list[Cell], switch: Event) -> Iterator[dict[str, Any]]:
    """The grid, cell by cell: the time it will take first, then what is left, then the whole as one file."""
    pictures: dict[int, Image.Image] = {}
    yield {"status": f"{len(cells)} pictures; timing a few steps.", "stage": to_stage(grid_shown(kind, cells, pictures)), "sheet": gr.update(visible=False)}
    call_s, since = timed(studio, cells), monotonic()
    yield {"status": f"{len(cells)} pictures, about {in_words(foretold_s(cells, call_s))}."}
    for index, cell in enumerate(cells):
        picture = None if switch.is_set() else picture_of(studio, cell.options, switch)
        if picture is None:
            break
        pictures[index] = picture
        done = foretold_s(cells[: index + 1], call_s)
        left = (monotonic() - since) * (foretold_s(cells, call_s) - done) / done
        yield {"status": f"{index + 1} of {len(cells)}, about {in_words(left)} left.", "stage": to_stage(grid_shown(kind, cells, pictures))}
    with passing_folder() as folder:
        # Gradio copies the file before it goes on.
        yield {"status": grid_went(pictures, cells, monotonic() - since), **as_one(kind, pictures, cells, folder)}


def picture_of(studio: Any, options: SampleOptions, switch: Event) -> "Image.Image | None":
    """The picture of one cell; None where it was stopped before its end."""
    for event in studio.sample(options, stop=switch):
        if isinstance(event, Finished):
            return event.images[0] if event.trajectory.complete else None
    return None


def as_one(kind: str, pictures: Mapping[int, "Image.Image"], cells: list[Cell], folder: Path) -> dict[str, Any]:
    """A whole grid as one PNG file of full-sized pictures, with its rows and columns named."""
    if len(pictures) < len(cells):
        return {}
    names = grid_shown(kind, cells, {})
    sheet = labelled_grid([pictures[i] for i in range(len(cells))], names["rows"], names["columns"], f"{names['row_name']} ↓   {names['column_name']} →")
    path = save_png(sheet, folder / "grid.png", cells[0].options)
    return {"sheet": gr.update(value=str(path), visible=True)}


def grid_went(pictures: Mapping[int, "Image.Image"], cells: list[Cell], took_s: float) -> str:
    if len(pictures) == len(cells):
        return f"Done: {len(cells)} pictures in {took_s:.1f} s."
    return f"Stopped: {len(pictures)} of {len(cells)} pictures are kept on the page."


def grid_shown(kind: str, cells: list[Cell], pictures: Mapping[int, "Image.Image"]) -> dict[str, Any]:
    """The grid as the page draws it: names of rows and columns, and a small picture for each cell that is done."""
    info = GRIDS[kind]
    rows = {cell.row: named(getattr(cell.options, info.rows)) for cell in cells}
    columns = {cell.column: named(getattr(cell.options, info.columns)) for cell in cells}
    return {
        "rows": list(rows.values()), "columns": list(columns.values()), "row_name": titled(info.rows), "column_name": titled(info.columns),
        "cells": [small_uri(pictures[i], THUMBNAIL) if i in pictures else None for i in range(len(cells))],
    }


def titled(option: str) -> str:
    return option.removeprefix("num_").replace("_", " ")


def named(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else SCHEDULERS[value].label if value in SCHEDULERS else str(value)


# --- both ----------------------------------------------------------------------------------------------------

def sentence_of(error: Exception) -> str:
    return str(error) if isinstance(error, StudioError) else "The run failed; the log of the studio says why."


def _wire(run: gr.Button, stop: gr.Button, status: gr.HTML, session: gr.State, on_run: Any, inputs: set[Any], outputs: list[Any]) -> Any:
    """A press asks at once, the run waits for the device, stop ends it after its step; gives the event of the run."""
    def on_ask(held: Session) -> dict[Any, Any]:
        held.ask()
        return {stop: gr.update(interactive=True), status: "Waiting for the device."}

    def on_stop(held: Session) -> dict[Any, Any]:
        return {status: "Stopping after this step." if held.stop() else "Nothing is running."}

    cheap: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
    stop.click(on_stop, session, status, **cheap)
    return run.click(on_ask, session, [stop, status], trigger_mode="multiple", **cheap).then(
        on_run, inputs, outputs, trigger_mode="multiple", api_visibility="private", show_progress="minimal", show_progress_on=status,
        concurrency_id="gpu", concurrency_limit=1,
    )
