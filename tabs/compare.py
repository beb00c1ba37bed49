"""Runs beside each other: one seed under two settings on a common log-SNR axis, and grids of pictures."""

import dataclasses
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from studio.conditions import is_taken
from studio.control.obedience import obedience
from studio.errors import InvalidOption
from studio.media.data_uris import data_uri, small_uri
from studio.media.images import grid
from studio.media.maps import aligned
from studio.models.controlnet_menu import CONTROLNETS
from studio.models.device import Waiting
from studio.options import SampleOptions, option_info
from studio.process.schedulers import SCHEDULERS
from studio.sampling.compare import (
    GRIDS,
    LORAS,
    MAX_CELLS,
    STRIPS,
    Cell,
    GridInfo,
    Meeting,
    common_axis,
    difference_maps,
    foretold_s,
    plan_grid,
    time_a_call,
    with_weights,
)
from studio.sampling.events import Finished
from studio.sampling.export import labelled_grid, require_room_for_grid, save_png
from studio.scratch import passing_folder
from tabs.parts.api import TextApi
from tabs.parts.conditions import Conditions
from tabs.parts.controls import Controls, control, options_from, read, written
from tabs.parts.filmstrip import decoded, film
from tabs.parts.openings import Opening, asked_with, recorded
from tabs.parts.panel import DEVICE, Change, RunPanel, Values
from tabs.parts.running import finished
from tabs.parts.stage import CHEAP, drawn_by, menu_of, said_in_a_sentence, to_stage, unchecked
from tabs.parts.told import TOLD
from tabs.parts.turns import Either, alone, sampled, waiting_line
from tabs.parts.visitors import NOBODY, Asker, asker_of

if TYPE_CHECKING:
    from PIL import Image

    from studio.sampling.trajectory import Trajectory

__all__ = ["compared", "create_pair", "create_grid", "drawn", "record_grid", "record_pair"]

STREAMS = ("x0_hat", "x_t")
IDS = {"model": "model", "prompt": "prompt", "scheduler": "scheduler", "num_steps": "steps", "guidance_scale": "scale"}
# Small, as the whole grid is sent with every new cell.
THUMBNAIL = 160
SCHEDULER_CHOICES = [(entry.label, name) for name, entry in SCHEDULERS.items()]
# What the two sides are at first.
FIRST_SIDES: dict[str, dict[str, Any]] = {
    "a": {"model": "", "prompt": "", "scheduler": "dpm++_2m", "num_steps": 10, "guidance_scale": 4.0},
    "b": {"model": "", "prompt": "", "scheduler": "ddim", "num_steps": 25, "guidance_scale": 4.0},
}
# Of the tab, for what neither a side nor a grid changes: with these, all that only some families can be told.
OF_PICTURE = (
    "negative_prompt", "width", "height", "init_image", "strength", "init_mask", "mask_blur", "mask_padding", "mask_overlay", *TOLD,
)
# And what only a grid takes from there.
OF_TAB = ("model", "prompt", "guidance_scale", "num_steps", "scheduler")
FIRST_GRID = "seed_scale"
FIRST_VALUES: dict[str, Any] = {
    "seed": "0, 1, 2, 3", "guidance_scale": "1, 2, 4, 8", "scheduler": ["ddim", "euler", "dpm++_2m"], "num_steps": "5, 10, 25",
    "prompt": "a red star on a white background\na blue boat on a yellow background\na green cat on a pink background",
}


# What a condition takes along a row at first, with commas between.
FIRST_TOLD: dict[str, str] = {
    "size.original": "256x256, 512x512, 1024x1024, 2048x2048", "size.crop": "0x0, 256x0, 0x256, 512x512", "size.target": "1024x1024, 1536x640, 640x1536",
    "texts.clip_skip": "0, 1, 2, 4", "texts.encoders": "clip_l clip_g t5, clip_l clip_g, t5", "refined.start": "0.6, 0.7, 0.8, 0.9",
    "aesthetic.score": "2, 4, 6, 8", "flow.shift": "1, 2, 3, 6", "skipped.scale": "0, 1.5, 3, 5",
    "cond_mix": "0, 0.25, 0.5, 0.75, 1", "noise_level": "0, 20, 100, 300", LORAS: "0, 0.5, 1",
}
FIRST_VALUES |= FIRST_TOLD
# What is written is not the option itself.
WRITTEN = {LORAS: "Weights of the first LoRA"}


# --- two settings --------------------------------------------------------------------------------------------

def create_pair(studio: TextApi, controls: Controls, conditions: Conditions) -> Any:
    """The components, handlers and wiring of the comparison of two runs; gives the event of the run, to hang more on.

    Args:
        studio: samples.
        controls, conditions: of the tab, for what a side does not say: the prompt, pictures, and what a family can be told.
    """
    panel = RunPanel(studio, "pair", "Compare")
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            panel.create_press()
            seed = control("pair", "seed", label="Seed of both", info="The same noise to start: what differs is the settings.")
            sides = {name: create_side(studio, name, **first) for name, first in FIRST_SIDES.items()}
            gr.Markdown("What a side does not say is taken from the area Picture, pictures and masks as well.", elem_classes="ds-about")
        with gr.Column(elem_classes="ds-stage-column"):
            panel.places["stage"] = drawn_by("compare", '<div class="ds-stage ds-compare"></div>', elem_id="pair-stage", value=recorded("compare", "stage"))
    of_tab = from_tab(controls, conditions, ("model", "prompt"))

    def changes(values: Values, switch: Event) -> Iterator[Change]:
        said = {name: values[one] for name, one in of_tab.items()}
        chosen = {name: {option: values[one] for option, one in side.items()} for name, side in sides.items()}
        options = {name: conditions.options(side_values(said, values[seed], side)) for name, side in chosen.items()}
        return compared(studio, options["a"], options["b"], switch, values[panel.session].asker)

    return panel.wire_run(changes, [*of_tab.values(), seed, *sides["a"].values(), *sides["b"].values()])


def from_tab(controls: Controls, conditions: Conditions, more: tuple[str, ...]) -> Controls:
    """The controls of the tab that a comparison or a grid takes over."""
    return {name: one for name, one in controls.items() if name in (*more, *OF_PICTURE, *conditions.controls)}


def create_side(studio: TextApi, name: str, **first: Any) -> Controls:
    """What one of the two runs has of its own."""
    def one(option: str, value: Any = None, **told: Any) -> Any:
        return control("pair", option, value, info=None, elem_id=f"pair-{IDS[option]}-{name}", **told)

    with gr.Column(elem_classes=f"ds-side ds-side-{name}"):
        gr.HTML(f"<strong>{name.upper()}</strong>", padding=False)
        models = [("that of the picture", ""), *menu_of(studio, text=True)]
        side = {"model": unchecked(one("model", first["model"], kind=gr.Dropdown, choices=models, allow_custom_value=not studio.public))}
        side["prompt"] = one("prompt", first["prompt"], placeholder="that of the picture", lines=1, max_lines=3)
        side["scheduler"] = one("scheduler", first["scheduler"])
        with gr.Row():
            side["num_steps"] = one("num_steps", first["num_steps"], min_width=90)
            side["guidance_scale"] = one("guidance_scale", first["guidance_scale"], kind=gr.Number, min_width=110)
    return side


def side_values(of_tab: Mapping[str, Any], seed: int, side: Mapping[str, Any]) -> dict[str, Any]:
    """What the controls say of one side, by names of options; an empty prompt or model is that of the tab. Raises InvalidOption."""
    chosen = (side.get("model") or "").strip() or of_tab["model"]
    if not chosen:
        raise InvalidOption("Choose a model first.")
    # A noise level counts on the schedule of the model that it was chosen for.
    said = {name: value for name, value in of_tab.items() if name != "noise_level" or chosen == of_tab["model"]}
    return {**said, "seed": seed, **side, "model": chosen, "prompt": side["prompt"].strip() or of_tab["prompt"]}


def compared(studio: TextApi, a: SampleOptions, b: SampleOptions, switch: Event, asker: Asker = NOBODY) -> Iterator[dict[str, Any]]:
    """Both runs, one after the other, then the two on their common axis. A stop leaves the page as it was."""
    runs: list[Trajectory] = []
    yield {"status": "Preparing."}
    yield from alone(studio.device, asker, "weigh runs", lambda: studio.require_room(a, b), "status")
    for name, options in (("A", a), ("B", b)):
        if switch.is_set():
            break
        yield {"status": f"{name}: preparing."}
        for event in sampled(studio, options, Either(switch), asker):
            if isinstance(event, Waiting):
                yield {"status": f"{name}: {waiting_line(event)}"}
            elif isinstance(event, Finished):
                runs.append(event.trajectory)
            else:
                yield {"status": f"{name}: step {event.index + 1} of {event.num_steps}."}
    if len(runs) < 2 or not all(one.complete for one in runs):
        yield {"status": "Stopped: a comparison needs both runs to their end."}
        return
    yield {"stage": to_stage(pair(*runs)), "status": f"Compared {len(runs[0].steps)} with {len(runs[1].steps)} steps."}


def record_pair(studio: TextApi, model: str, prompt: str) -> Opening:
    """The comparison that the area opens with: what the first values of its controls give."""
    a, b = (options_from(side_values({"model": model, "prompt": prompt}, 0, side)) for side in FIRST_SIDES.values())
    title = f"A recorded comparison: {prompt}, seed {a.seed}"
    shown = pair(finished(studio, a), finished(studio, b))
    return Opening(made_with={"a": asked_with(a), "b": asked_with(b)}, places={"stage": to_stage({**shown, "title": title})})


def pair(a: "Trajectory", b: "Trajectory") -> dict[str, Any]:
    """Two films, the places where they meet, and their difference there as grey sprites of one byte a place."""
    meetings = common_axis(a.steps, b.steps)
    maps = {stream: difference_maps(a, b, stream, meetings).numpy() for stream in STREAMS}
    return {
        "a": film(a, run="a", title=told_apart(a.options, b.options), streams=STREAMS),
        "b": film(b, run="b", title=told_apart(b.options, a.options), streams=STREAMS),
        "meetings": [dataclasses.asdict(meeting) for meeting in meetings],
        "differences": {stream: _difference_sprite(levels) for stream, levels in maps.items()}, "end": _end(a, b, meetings),
    }


def told_apart(options: SampleOptions, other: SampleOptions) -> str:
    """What one side has that the other has not; the scheduler where they are the same."""
    words = {
        "model": Path(options.model).name,
        "prompt": options.prompt, "scheduler": SCHEDULERS[options.scheduler].label, "num_steps": f"{options.num_steps} steps",
        "guidance_scale": f"scale {options.guidance_scale:g}", "control": "with control" if options.units else "without control",
    }
    return ", ".join(text for name, text in words.items() if getattr(options, name) != getattr(other, name)) or words["scheduler"]


def _difference_sprite(maps: np.ndarray) -> dict[str, Any]:
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

def create_grid(studio: TextApi, controls: Controls, conditions: Conditions) -> Any:
    """The components, handlers and wiring of the grids; gives the event of the run.

    controls, conditions: of the tab, for what a grid does not change.
    """
    panel = RunPanel(studio, "grid", "Draw the grid")
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            panel.create_press()
            kind = gr.Radio(kinds_for(studio, controls["model"].value), value=FIRST_GRID, label="Grid", elem_id="grid-kind")
            fields = create_fields(GRIDS[FIRST_GRID])
            plan = gr.Button("How long will it take?", size="sm", elem_id="grid-plan")
            gr.Markdown(
                f"At most {MAX_CELLS} pictures. What the grid does not change is taken from the area Picture, pictures and masks as well.",
                elem_classes="ds-about",
            )
        with gr.Column(elem_classes="ds-stage-column"):
            panel.places["stage"] = drawn_by("pictureGrid", '<div class="ds-stage ds-grid-stage"></div>', elem_id="grid-stage", value=recorded("grid", "stage"))
            panel.places["sheet"] = gr.File(label="The grid as one picture", visible=False, interactive=False, height=60, elem_id="grid-sheet")
    return wire_grid(studio, panel, kind, fields, plan, from_tab(controls, conditions, OF_TAB), conditions)


def kinds_for(studio: TextApi, model: str | None) -> list[tuple[str, str]]:
    """The kinds of grids that mean something to a model."""
    takes = studio.takes(model) if model else ()
    return [(entry.label, name) for name, entry in GRIDS.items() if not of_some(entry.columns) or is_taken(entry.columns, takes)]


def of_some(name: str) -> bool:
    """Whether an option is one that only some families can be told."""
    return "." in name or name in TOLD


def create_fields(shown: GridInfo) -> Controls:
    """What each option may take in a grid; those of the first kind of grid are to be seen."""
    def field(make: Any, name: str, label: str, **told: Any) -> Any:
        return make(value=FIRST_VALUES[name], label=label, visible=name in (shown.rows, shown.columns), **told)

    return {
        "seed": field(gr.Textbox, "seed", "Seeds", max_lines=1, elem_id="grid-seeds"),
        "guidance_scale": field(gr.Textbox, "guidance_scale", "Guidance scales", max_lines=1, elem_id="grid-scales"),
        "scheduler": field(gr.Dropdown, "scheduler", "Schedulers", choices=SCHEDULER_CHOICES, multiselect=True, elem_id="grid-schedulers"),
        "num_steps": field(gr.Textbox, "num_steps", "Steps", max_lines=1, elem_id="grid-steps"),
        "prompt": field(gr.Textbox, "prompt", "Prompts, one a line", lines=3, max_lines=8, elem_id="grid-prompts"),
        **{
            name: field(gr.Textbox, name, WRITTEN.get(name) or option_info(name).label, max_lines=1, elem_id=f"grid-{name.replace('.', '-').replace('_', '-')}")
            for name in FIRST_TOLD
        },
    }


def wire_grid(studio: TextApi, panel: RunPanel, kind: gr.Radio, fields: Controls, plan: gr.Button, of_tab: Controls, conditions: Conditions) -> Any:
    """The handlers of the grids; gives the event of the run."""
    stage, status = panel.places["stage"], panel.places["status"]

    def cells_of(values: Values) -> list[Cell]:
        base = conditions.options({name: values[control] for name, control in of_tab.items()})
        chosen = GRIDS[values[kind]]
        said = {name: read_values(name, values[fields[name]]) for name in (chosen.rows, chosen.columns)}
        return plan_grid(values[kind], base, {name: with_weights(base, taken) if name == LORAS else taken for name, taken in said.items()})

    def on_kind(name: str) -> dict[Any, Any]:
        chosen = GRIDS[name]
        return {field: gr.update(visible=option in (chosen.rows, chosen.columns)) for option, field in fields.items()}

    def on_model(name: str | None, chosen: str) -> dict[Any, Any]:
        able = kinds_for(studio, name)
        left = chosen if chosen in [value for _, value in able] else FIRST_GRID
        return {kind: gr.update(choices=able, value=left), **on_kind(left)}

    def on_plan(values: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        with said_in_a_sentence():
            cells = cells_of(values)
            said = yield from alone(studio.device, asker_of(request), "time a cell", lambda: foretold(cells, studio), status)
            yield {status: said, stage: to_stage(grid_shown(values[kind], cells, {}))}

    def changes(values: Values, switch: Event) -> Iterator[Change]:
        return drawn(studio, values[kind], cells_of(values), switch, values[panel.session].asker)

    inputs: set[Any] = {kind, *of_tab.values(), *fields.values()}
    kind.input(on_kind, kind, list(fields.values()), **CHEAP)
    of_tab["model"].change(on_model, [of_tab["model"], kind], [kind, *fields.values()], **CHEAP)
    plan.click(on_plan, inputs, [status, stage], api_visibility="private", show_progress="minimal", show_progress_on=status, **DEVICE)
    return panel.wire_run(changes, inputs)


def read_values(name: str, given: Any) -> list[Any]:
    """What an option takes, from what was written. Raises InvalidOption for what is no number."""
    if isinstance(given, list):
        return given
    if name == "prompt":
        return [line.strip() for line in given.splitlines() if line.strip()]
    if of_some(name) and name != LORAS:
        return [told(name, part.strip()) for part in given.replace(";", ",").split(",") if part.strip()]
    read = float if name in ("guidance_scale", LORAS) else int
    try:
        return [read(part) for part in given.replace(";", ",").split(",") if part.strip()]
    except ValueError:
        kind = "numbers" if read is float else "whole numbers"
        raise InvalidOption(f"Write {kind} with commas between them for {titled(name)}, but it is {given!r}.") from None


def told(name: str, part: str) -> Any:
    """One value of an option of studio.conditions, as it is written in a grid. Raises InvalidOption."""
    info = option_info(name)
    if info.kind:
        return read(name, part.split() if info.kind == "many" else part)
    try:
        return int(part) if isinstance(info.low, int) else float(part)
    except ValueError:
        raise InvalidOption(f"Write numbers with commas between them for {info.label!r}, but it is {part!r:.60}.") from None


def foretold(cells: list[Cell], studio: TextApi) -> str:
    """How many pictures in about what time, by timing a few steps of the first."""
    return f"{len(cells)} pictures, about {time_in_words(foretold_s(cells, timed(studio, cells)))}."


def timed(studio: TextApi, cells: list[Cell]) -> float:
    """Seconds a call of the network, from a trial of the cell with the most steps."""
    longest = max(cells, key=lambda cell: cell.options.num_steps).options
    return time_a_call(studio.sample(longest, stop=Event()), longest)


def time_in_words(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"


def drawn(studio: TextApi, kind: str, cells: list[Cell], switch: Event, asker: Asker = NOBODY) -> Iterator[dict[str, Any]]:
    """The grid, cell by cell: the time it will take first, then what is left, then the whole as one file."""
    pictures: dict[int, Image.Image] = {}
    yield from alone(studio.device, asker, "weigh runs", lambda: studio.require_room(*(cell.options for cell in cells), keep=False), "status")
    info = studio.describe(cells[0].options.model)
    require_room_for_grid(len(cells), info.width, info.height)
    yield {"status": f"{len(cells)} pictures; timing a few steps.", "stage": to_stage(grid_shown(kind, cells, pictures)), "sheet": gr.update(visible=False)}
    call_s = yield from alone(studio.device, asker, "time a cell", lambda: timed(studio, cells), "status")
    since = monotonic()
    yield {"status": f"{len(cells)} pictures, about {time_in_words(foretold_s(cells, call_s))}."}
    for index, cell in enumerate(cells):
        picture = None if switch.is_set() else (yield from picture_of(studio, cell.options, switch, asker))
        if picture is None:
            break
        pictures[index] = picture
        done = foretold_s(cells[: index + 1], call_s)
        left = (monotonic() - since) * (foretold_s(cells, call_s) - done) / done
        yield {"status": f"{index + 1} of {len(cells)}, about {time_in_words(left)} left.", "stage": to_stage(grid_shown(kind, cells, pictures))}
    with passing_folder() as folder:
        # Gradio copies the file before it goes on.
        yield {"status": grid_went(pictures, cells, monotonic() - since), **as_one(kind, pictures, cells, folder)}


def record_grid(studio: TextApi, model: str, prompt: str) -> Opening:
    """The grid that the area opens with: what the first values of its controls give."""
    base, info = SampleOptions(model=model, prompt=prompt, num_steps=25, guidance_scale=4.0), GRIDS[FIRST_GRID]
    cells = plan_grid(FIRST_GRID, base, {name: read_values(name, FIRST_VALUES[name]) for name in (info.rows, info.columns)})
    pictures = {i: finished(studio, cell.options).images[0] for i, cell in enumerate(cells)}
    shown = {**grid_shown(FIRST_GRID, cells, pictures), "title": f"A recorded grid: {prompt}"}
    return Opening(made_with={**asked_with(base), "grid": FIRST_GRID}, places={"stage": to_stage(shown)})


def picture_of(studio: TextApi, options: SampleOptions, switch: Event, asker: Asker = NOBODY) -> "Generator[Change, None, Image.Image | None]":
    """The picture of one cell; None where it was stopped before its end. What is yielded is how it stands while others have their turn."""
    for event in sampled(studio, options, Either(switch), asker):
        if isinstance(event, Waiting):
            yield {"status": waiting_line(event)}
        elif isinstance(event, Finished):
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
    info = (GRIDS | STRIPS)[kind]
    rows = {cell.row: named(info.rows, cell.options.value(info.rows)) for cell in cells}
    columns = {cell.column: named(info.columns, cell.options.value(info.columns)) + obeyed(cell, pictures.get(i)) for i, cell in enumerate(cells)}
    return {
        "rows": list(rows.values()), "columns": list(columns.values()), "row_name": titled(info.rows), "column_name": titled(info.columns),
        "cells": [small_uri(pictures[i], THUMBNAIL) if i in pictures else None for i in range(len(cells))],
        **(curve_of(cells, pictures) if kind in STRIPS else {}),
    }


def obeyed(cell: Cell, picture: "Image.Image | None") -> str:
    """How well the picture of a cell obeys its map, in words, where that can be told."""
    score = score_of(cell, picture)
    return "" if score is None else f" (obeys {score:.2f})"


def score_of(cell: Cell, picture: "Image.Image | None") -> float | None:
    """How well the picture of a cell obeys the map of its first unit, 0 to 1; None where it has none or that cannot be told."""
    if picture is None or not cell.options.units or (unit := cell.options.units[0]).map is None:
        return None
    wanted, pixels = np.asarray(aligned(unit.map, *picture.size, unit.resize)), np.asarray(picture.convert("RGB"))
    # Of a map that was taken as it is, the net says what it shows.
    known = CONTROLNETS[unit.net].annotators[:1] if unit.net in CONTROLNETS else ()
    scores = (obedience(kind, pixels, wanted) for kind in (unit.annotator, *known))
    return next((score for score in scores if np.isfinite(score)), None)


def curve_of(cells: list[Cell], pictures: Mapping[int, "Image.Image"]) -> dict[str, Any]:
    """{"curve": obedience against the scale of the first unit}, in the order of the scales, as far as it is known; {} where nothing can be told."""
    points = sorted((cell.options.units[0].scale, score) for i, cell in enumerate(cells) if (score := score_of(cell, pictures.get(i))) is not None)
    return {"curve": {"x": [x for x, _ in points], "y": [y for _, y in points]}} if points else {}


def titled(option: str) -> str:
    if option == "control":
        return "scale of the unit"
    if option == LORAS:
        return "weight of the LoRA"
    if "." in option:
        return option_info(option).label.lower()
    return option.removeprefix("num_").replace("_", " ")


def named(option: str, value: Any) -> str:
    if option == LORAS:
        return f"{value[0].weight:g}"
    if "." in option and isinstance(value, tuple):
        return " + ".join(value) if option_info(option).kind == "many" else written(option, value)
    if isinstance(value, tuple):
        return " + ".join(f"{unit.scale:g}" for unit in value if not unit.muted)
    return f"{value:g}" if isinstance(value, float) else SCHEDULERS[value].label if value in SCHEDULERS else str(value)
