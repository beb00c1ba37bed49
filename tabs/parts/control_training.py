"""Training of a ControlNet on the page: a preset, what the maps show, and the run as it is followed until obedience jumps."""

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from studio.errors import StudioError, UnknownName
from studio.models.taught import base_of
from studio.runs.trainers.controlnet import CONTROLNET_PRESETS, PICTURE_MAPS, SCENE_MAPS, STEERABLE
from studio.toybox import WORLDS
from tabs.parts.api import TrainingApi
from tabs.parts.following import POLL_S, buttons_shown, create_buttons, create_follow, estimate_line, follow_value, found, newest, wire_buttons
from tabs.parts.panel import DEVICE
from tabs.parts.showing import tick_while_shown, when_first_shown
from tabs.parts.stage import CHEAP, PRIVATE, full, said_in_a_sentence, unchecked
from tabs.parts.turns import alone
from tabs.parts.visitors import asker_of

__all__ = ["create_training"]

PUBLIC = "Training is off on this public studio; start the studio on your own machine to train a ControlNet."
ABOUT = (
    "A copy of the model's encoder learns to steer it by maps; the model stays as it is. Pictures are good throughout, and at some point "
    "the copy begins to obey: the curve jumps while the loss hardly moves."
)
INVITATION = "No ControlNet was trained here yet: choose a preset and press Train. When it has ended it is in the menu of every unit."
FIRST_PRESET = "toybox-edges"
LABELS = {"toybox-edges": "edges of drawn scenes", "toybox-segmentation": "segmentation of drawn scenes", "toybox-depth": "depth of drawn scenes"}


def create_training(studio: TrainingApi) -> None:
    """The components, handlers and wiring of the area."""
    if studio.public:
        gr.Markdown(PUBLIC, elem_classes="ds-about")
        return
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            preset = gr.Dropdown(
                [(entry.label, name) for name, entry in CONTROLNET_PRESETS.items()], value=FIRST_PRESET, label="Preset",
                info=CONTROLNET_PRESETS[FIRST_PRESET].about, elem_id="ctl-preset",
            )
            options = create_options(studio)
            name = gr.Textbox("edges", label="Name of the run", max_lines=1, info="Letters, digits, - and _.", elem_id="ctl-train-name")
            with gr.Row(elem_classes="ds-press"):
                train = gr.Button("Train", variant="primary", elem_id="ctl-train", scale=2)
                estimate = gr.Button("Estimate", elem_id="ctl-train-estimate", min_width=70, scale=1)
            status = gr.HTML(elem_id="ctl-train-status", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
            gr.Markdown(ABOUT, elem_classes="ds-about")
        with gr.Column(elem_classes="ds-stage-column"):
            buttons = create_buttons("ctl-train")
            stage, address = create_follow("ctl-train-stage")
    wire_training(studio, preset, options, name, train, status, (buttons, stage, address))
    wire_estimate(studio, preset, options, estimate, status)


def create_options(studio: TrainingApi) -> dict[str, Any]:
    """The options that matter most, by name; the rest are those of the preset, and all can be set in the tab Runs."""
    first = CONTROLNET_PRESETS[FIRST_PRESET].options
    bases = [(info.label, name) for name, info in studio.models.items() if info.family in STEERABLE and not base_of(info.source)]
    return {
        "base": unchecked(gr.Dropdown(bases, value=first["base"], label="Model to steer", allow_custom_value=True, elem_id="ctl-train-base")),
        "map": unchecked(gr.Dropdown(
            [(LABELS.get(map, map), map) for map in (*SCENE_MAPS, *PICTURE_MAPS)], value=first["map"], label="What the maps show", elem_id="ctl-train-map",
        )),
        "data": gr.Textbox(
            "toybox", label="Pictures", max_lines=1, info=f"{', '.join(WORLDS)}, a folder of captioned ones, or owner/name of a dataset.",
            elem_id="ctl-train-data",
        ),
        "steps": gr.Number(1600, precision=0, label="Steps", elem_id="ctl-train-steps"),
        **create_more(),
    }


def create_more() -> dict[str, Any]:
    """What is asked for less often."""
    with gr.Accordion("More", open=False, elem_id="ctl-train-more"):
        return {
            "start": gr.Textbox(
                "", label="Go on from", max_lines=1, info="The folder of a ControlNet; empty: a copy of the model's encoder.", elem_id="ctl-train-start",
            ),
            "caption_drop": gr.Slider(
                0.0, 1.0, 0.5, step=0.05, label="Empty captions", info="Higher: more has to be read off the map.", elem_id="ctl-train-drop",
            ),
            "cycle_weight": gr.Slider(
                0.0, 2.0, 0.0, step=0.05, label="Second stage", elem_id="ctl-train-cycle",
                info="Above 0: the map is read off the picture again, and has to agree. For a net that steers already.",
            ),
        }


def wire_training(studio: TrainingApi, preset: Any, options: dict[str, Any], name: Any, train: Any, status: Any, looked_at: tuple[Any, Any, Any]) -> None:
    """The handlers of the area."""
    buttons, stage, address = looked_at
    chosen, seen = gr.State(""), gr.State(0)
    shown = [stage, chosen, buttons.stop, buttons.resume, buttons.delete]

    def show(run: str) -> dict[Any, Any]:
        run = run if found(studio, run) else newest(studio, "controlnet")
        stage_value = follow_value(studio, run, address, invitation=INVITATION)
        return {stage: stage_value, chosen: run, **buttons_shown(studio, run, buttons)}

    def on_tick(run: str, before: int) -> dict[Any, Any]:
        changes = show(run)
        now = hash(repr(changes.values()))
        return full([*shown, seen], {} if now == before else {**changes, seen: now})

    def on_preset(chosen_preset: str) -> dict[Any, Any]:
        if chosen_preset not in CONTROLNET_PRESETS:
            raise UnknownName.of("preset", chosen_preset, CONTROLNET_PRESETS)
        entry = CONTROLNET_PRESETS[chosen_preset]
        values = {part: entry.options[key] for key, part in options.items() if key in entry.options}
        return full([preset, *options.values()], {**values, preset: gr.update(info=entry.about)})

    def on_train(values: dict[Any, Any]) -> dict[Any, Any]:
        with said_in_a_sentence():
            view = studio.runs.start("controlnet", asked_for(preset, options, values), name=(values[name] or "").strip())
        return {**show(view.name), status: f"{escape(view.name)} was started; it goes on when this page is closed."}

    when_first_shown(lambda: show(""), None, shown, **CHEAP)
    tick_while_shown(POLL_S, on_tick, [chosen, seen], [*shown, seen])
    preset.input(on_preset, preset, [preset, *options.values()], **CHEAP)
    train.click(on_train, {preset, name, *options.values()}, [*shown, status], **PRIVATE, concurrency_id="runs")
    wire_buttons(studio, buttons, chosen, shown, show)


def asked_for(preset: Any, options: dict[str, Any], values: dict[Any, Any]) -> dict[str, Any]:
    """The options of the run: those of the form over those of the preset."""
    base = CONTROLNET_PRESETS[values[preset]].options if values[preset] in CONTROLNET_PRESETS else {}
    return {**base, **{key: values[part] for key, part in options.items()}}


def wire_estimate(studio: TrainingApi, preset: Any, options: dict[str, Any], estimate: Any, status: Any) -> None:
    """Time and memory of the run, told before it is started."""
    def on_estimate(values: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield {status: "The model is loaded, and one step is timed."}
        try:
            asked = asked_for(preset, options, values)
            cost = yield from alone(studio.device, asker_of(request), "estimate", lambda: studio.estimate_run("controlnet", asked), status)
            yield {status: estimate_line(cost, asked["steps"])}
        except StudioError as error:
            yield {status: escape(str(error))}

    estimate.click(on_estimate, {preset, *options.values()}, [status], **PRIVATE, **DEVICE)
