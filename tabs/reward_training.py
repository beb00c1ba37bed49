"""The area of the Score tab that trains a reward on rankings, and shows what is measured of it beside what people reach."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any, Protocol

import gradio as gr

from studio.checks import is_number
from studio.errors import DamagedFile, StudioError
from studio.files import read_object
from studio.rankings import collections
from studio.rankings.example import add_example
from studio.rankings.formats import FORMATS
from studio.runs import RunView
from studio.runs.trainers.reward import RewardOptions
from tabs.parts.api import RankingApi, ScoringApi, TrainingApi
from tabs.parts.controls import Controls
from tabs.parts.following import POLL_S, Measured, buttons_shown, create_follow, create_run_menu, estimate_line, follow_value, found, newest, wire_buttons
from tabs.parts.option_form import option_control, option_values
from tabs.parts.panel import DEVICE
from tabs.parts.showing import tick_while_shown, when_first_shown
from tabs.parts.stage import CHEAP, PRIVATE, drawn_by, full, said_in_a_sentence, to_stage, unchecked
from tabs.parts.turns import alone
from tabs.parts.visitors import asker_of

__all__ = ["create_training", "measured_value", "training_options"]

PUBLIC = "Training is off on this public studio. Start the studio on your own machine to train a reward on your rankings."
INVITATION = "Choose what was ranked and press Train. A hundred rankings are a beginning; the example of the tab Rank has 180."
MAIN = ("steps", "lr")
MORE = (
    "held_out", "fix_rate", "tie_band", "batch_size", "weight_decay", "warmup", "lr_plan", "ema_decay", "width", "vision_layers", "text_layers", "patch",
    "resolution", "mixed_precision", "accumulation", "grad_clip", "sample_every", "checkpoint_every", "keep_checkpoints", "seed",
)
LEARNS = [("The head alone (seconds)", "head"), ("The whole network", "full")]
# What is measured, by the names in reward.json.
FIGURES = ("accuracy", "low", "high", "human", "pairs", "prompts", "train_pairs")
LABELS = {"lr": "Learning rate", "lr_plan": "Learning rate plan", "ema_decay": "EMA decay", "held_out": "Held-out share"}
NOTHING = "A small network from nothing"
# What one person reaches, and the released models, on the test pairs of the data sets that they are known for.
PUBLISHED = "Published: one person agrees with 65.3 % of ImageReward's test pairs, ImageReward with 65.1 %; of HPDv2's, people with 78.1 %."


class Trains(TrainingApi, RankingApi, ScoringApi, Protocol):
    """What this area asks of the studio."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a training is started with."""

    collection: gr.Dropdown
    file: gr.File
    format: gr.Dropdown
    name: gr.Textbox
    train: gr.Button
    estimate: gr.Button
    status: gr.HTML
    controls: Controls


def fields() -> dict[str, dataclasses.Field]:
    """Every option with its default and its help."""
    return {field.name: field for field in dataclasses.fields(RewardOptions)}


def training_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's options from the form's values. Raises InvalidOption."""
    return option_values(fields(), values)


def starts(studio: Trains) -> list[tuple[str, str]]:
    """What a training can go on from: nothing, the embedded reward, and those that were trained here."""
    known = [(info.label, name) for name, info in studio.rewards.items() if name == "toybox-reward" or info.label.endswith("(reward run)")]
    return [(NOTHING, ""), *known]


def create_training(studio: Trains) -> None:
    """The components, handlers and wiring of the area.

    Args:
        studio: keeps rankings, and trains.
    """
    if studio.public:
        gr.Markdown(PUBLIC, elem_classes="ds-about")
        return
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            form = create_form(studio)
        with gr.Column(elem_classes="ds-stage-column"):
            run, buttons = create_run_menu("reward")
            measured = drawn_by("measured", '<div class="ds-stage ds-measured"></div>', elem_id="reward-measured")
            stage, address = create_follow("reward-stage")
    wire(studio, form, Measured(run=run, buttons=buttons, stage=stage, measured=measured, address=address))


def create_form(studio: Trains) -> Form:
    """What is learned from, and the options of the trainer."""
    first = starts(studio)
    begins_with = "toybox-reward" if "toybox-reward" in studio.rewards else ""
    collection = unchecked(gr.Dropdown([("All", "")], value="", label="Rankings", elem_id="reward-collection", info="As they are now: the run keeps a copy."))
    with gr.Accordion("Or an exported file", open=False, elem_id="reward-export"):
        file = gr.File(type="filepath", label="Export", height=110, elem_id="reward-file")
        format = unchecked(gr.Dropdown([(one.label, name) for name, one in FORMATS.items()], value="studio", label="Format", elem_id="reward-format"))
    name = gr.Textbox("reward", label="Name of the run", max_lines=1, info="Letters, digits, - and _.", elem_id="reward-name")
    with gr.Row(elem_classes="ds-press"):
        train = gr.Button("Train", variant="primary", elem_id="reward-train", min_width=80, scale=2)
        estimate = gr.Button("Estimate", elem_id="reward-estimate", min_width=70, scale=1)
    status = gr.HTML(elem_id="reward-status", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
    known = fields()
    controls: Controls = {"start": unchecked(gr.Dropdown(
        first, value=begins_with, label="Start from", allow_custom_value=True, elem_id="reward-start", info="Or the folder of a reward, or of ImageReward.",
    ))}
    controls["learns"] = option_control(known["learns"], "reward", "head" if begins_with else "full", "What learns", choices=LEARNS)
    controls |= {one: option_control(known[one], "reward", label=LABELS.get(one, "")) for one in MAIN}
    with gr.Accordion("More", open=False, elem_id="reward-more"):
        controls |= {one: option_control(known[one], "reward", label=LABELS.get(one, "")) for one in MORE}
    return Form(collection=collection, file=file, format=format, name=name, train=train, estimate=estimate, status=status, controls=controls)


def wire(studio: Trains, form: Form, followed: Measured) -> None:
    """What starts a training, and what shows it."""
    before = gr.State(0)

    def standing(chosen: str) -> dict[Any, Any]:
        shown = follow_value(studio, chosen, followed.address, invitation=INVITATION)
        return {followed.stage: shown, followed.measured: measured_value(found(studio, chosen)), **buttons_shown(studio, chosen, followed.buttons)}

    def show(chosen: str) -> dict[Any, Any]:
        chosen = chosen if found(studio, chosen) else newest(studio, "reward")
        return {followed.run: gr.update(choices=names(studio), value=chosen or None), **standing(chosen)}

    def on_open_page() -> dict[Any, Any]:
        menu = [("All", ""), *((f"{name} ({count} tasks)", name) for name, count in ranked(studio).items())]
        return {
            **full(followed.shown, show("")), form.collection: gr.update(choices=menu), form.name: free_name(studio, "reward"),
            form.controls["start"]: gr.update(choices=starts(studio)),
        }

    def on_tick(chosen: str, last: int) -> dict[Any, Any]:
        changes = standing(chosen)
        now = hash(repr(changes.values()))
        return full([*followed.shown, before], {} if now == last else {**changes, before: now})

    def on_train(*values: Any) -> dict[Any, Any]:
        collection, file, format, name, *rest = values
        with said_in_a_sentence():
            options = {**training_options(dict(zip(form.controls, rest))), "format": format}
            view = studio.train_reward((name or "").strip(), options, collection or "", file)
        said = f"The run {escape(view.name)} was started; it goes on when this page is closed."
        return {**full(followed.shown, show(view.name)), form.status: said, form.name: free_name(studio, "reward")}

    def on_estimate(values: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield {form.status: "The network is loaded and one step of it is timed."}
        try:
            options = {**training_options({name: values[control] for name, control in form.controls.items()}), "format": values[form.format]}
            work = partial(studio.estimate_reward, options, values[form.collection] or "", values[form.file])
            cost = yield from alone(studio.device, asker_of(request), "estimate", work, form.status)
            yield {form.status: estimate_line(cost, options["steps"], "the looks at held-out prompts")}
        except StudioError as error:
            yield {form.status: escape(str(error))}

    when_first_shown(on_open_page, None, [*followed.shown, form.collection, form.name, form.controls["start"]], **CHEAP)
    tick_while_shown(POLL_S, on_tick, [followed.run, before], [*followed.shown, before])
    followed.run.input(show, followed.run, followed.shown, **CHEAP)
    form.train.click(
        on_train, [form.collection, form.file, form.format, form.name, *form.controls.values()], [form.status, *followed.shown, form.name],
        api_visibility="private", concurrency_id="runs", show_progress="minimal", show_progress_on=form.status,
    )
    form.estimate.click(on_estimate, {form.collection, form.file, form.format, *form.controls.values()}, [form.status], **PRIVATE, **DEVICE)
    wire_buttons(studio, followed.buttons, followed.run, followed.shown, show)


def names(studio: Trains) -> list[str]:
    return [view.name for view in studio.runs.list() if view.trainer == "reward"]


def free_name(studio: Trains, wish: str) -> str:
    taken = {view.name for view in studio.runs.list()}
    return next(name for name in (wish, *(f"{wish}-{i}" for i in range(2, len(taken) + 3))) if name not in taken)


def ranked(studio: Trains) -> dict[str, int]:
    """The collections there are; an empty database begins with the example, as in the tab Rank. None where it cannot be read."""
    try:
        if not (found_now := collections(studio.rankings)):
            add_example(studio.rankings)
            found_now = collections(studio.rankings)
        return found_now
    except StudioError:
        return {}


def measured_value(view: RunView | None) -> str:
    """JSON text for Studio.measured: what was measured of a finished run; nothing of any other."""
    if view is None or view.state != "finished":
        return to_stage({})
    try:
        measured = (read_object(view.path / "model" / "reward.json") or {}).get("measured", {})
    except DamagedFile as error:
        return to_stage({"note": str(error)})
    if not isinstance(measured, dict):
        return to_stage({"note": "reward.json of the run says nothing of what was measured."})
    rows = measured.get("calibration")
    told = [{name: figure(row.get(name)) for name in ("sure", "right", "pairs")} for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    note = measured.get("note")
    return to_stage({
        **{name: figure(measured.get(name)) for name in FIGURES}, "calibration": [row for row in told if None not in row.values()],
        "note": note if isinstance(note, str) else "", "published": PUBLISHED,
    })


def figure(value: Any) -> float | None:
    """A number as JSON holds it, None for anything else."""
    return value if is_number(value) and math.isfinite(value) else None
