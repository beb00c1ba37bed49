"""The Denoising tab: a model turns noise into a picture, x_t and x0_hat at every step."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from threading import Event
from typing import Any

import gradio as gr

from studio.options import SampleOptions
from tabs.parts.api import SamplingApi
from tabs.parts.controls import Controls, control, create_controls, options_from, wire_scheduler
from tabs.parts.openings import UNTIL_SHOWN, Opening, asked_with, recorded
from tabs.parts.panel import Change, RunPanel, Values
from tabs.parts.ready import FirstPress
from tabs.parts.running import FAILED, recorded_film, run_shown
from tabs.parts.session import Session
from tabs.parts.stage import CHEAP, PRIVATE, keep_fresh, menu_of, models_of, said_in_a_sentence, unchecked

__all__ = ["OPENS_WITH", "create_tab", "record"]

ANY_CLASS = ""
# What /sample takes of the tab's controls, in its order.
ENDPOINT = ("model", "class_label", "num_steps", "timesteps", "scheduler", "eta", "clip_x0", "seed", "num_images")
# Measured on toybox-ddpm with DDIM, 200 pictures of each: README.md, Measured.
STEPS = "How often the model looks. Few: quick, and the picture stays a guess. From about 20 on more steps hardly change it. Try 3, 10 and 50 with one seed."
MAIN = ("scheduler", "num_steps", "eta", "seed", "num_images")
OPENS_WITH = SampleOptions(model="toybox-ddpm", class_label="umbrella", seed=11, num_images=4, num_steps=20, clip_x0=True)


# --- the tab -------------------------------------------------------------------------------------------------

def create_tab(studio: SamplingApi) -> FirstPress:
    """The components, handlers and wiring of the tab; gives what its first press asks for.

    Args:
        studio: samples.
    """
    panel = RunPanel(studio, "denoise", "Run")
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            controls = create_model(studio)
            panel.create_press()
            controls |= create_controls("denoise", MAIN, {"num_steps": STEPS}, num_steps=first_of(studio).default_steps, num_images=4)
            controls |= create_of_patches(first_of(studio))
            controls |= create_more()
            panel.create_files()
        with gr.Column(elem_classes="ds-stage-column"):
            panel.create_stage(recorded("denoise", "stage"))
    opened = wire(studio, panel, controls)
    first = options_from({name: control.value for name, control in controls.items()})
    return FirstPress(options=first, changes=partial(shown, studio), opened=opened)


def first_of(studio: SamplingApi) -> Any:
    """The menu entry that the tab opens with."""
    return next(iter(models_of(studio, text=False).values()))


def create_model(studio: SamplingApi) -> Controls:
    """The model, and the class of a model that knows classes."""
    menu, entry = menu_of(studio, text=False), first_of(studio)
    model = control("denoise", "model", menu[0][1], kind=gr.Dropdown, choices=menu, info=entry.about, allow_custom_value=not studio.public)
    label = control("denoise", "class_label", ANY_CLASS, kind=gr.Dropdown, choices=class_choices(entry), visible=bool(entry.class_names))
    return {"model": unchecked(model), "class_label": unchecked(label)}


# What means something to transformers on patches alone.
OF_PATCHES = {
    "guidance_scale": "Higher: more like its class, with less variety. 1 is off.",
    "record_attention": "On: see which patches each patch looked at. Costs a little time.",
}


def create_of_patches(entry: Any) -> Controls:
    """The controls of transformers on patches, hidden for other models."""
    labels: dict[str, dict[str, Any]] = {"record_attention": {"label": "Record attention between patches"}}
    return {name: control("denoise", name, info=info, visible=entry.patches, **labels.get(name, {})) for name, info in OF_PATCHES.items()}


def create_more() -> Controls:
    """The controls that matter less often."""
    with gr.Accordion("More", open=False, elem_id="denoise-more"):
        return {
            "timesteps": control("denoise", "timesteps", ""), "clip_x0": control("denoise", "clip_x0", True),
            **create_controls("denoise", ("init_image", "strength"), strength=0.6),
        }


def wire(studio: SamplingApi, panel: RunPanel, controls: Controls) -> Any:
    """The handlers of the tab; gives the event that shows the recorded run."""
    model, label = controls["model"], controls["class_label"]

    def on_model(name: str) -> dict[Any, Any]:
        with said_in_a_sentence():
            chosen = studio.describe(name)
        own = {model: gr.update(info=chosen.about), controls["num_steps"]: chosen.default_steps, label: class_update(chosen, ANY_CLASS)}
        return {**own, **patches_update(chosen)}

    def of_model(options: SampleOptions) -> dict[Any, Any] | None:
        entry = models_of(studio, text=False).get(options.model)
        own = entry and {model: gr.update(value=options.model, info=entry.about), label: class_update(entry, options.class_label)}
        return own and {**own, **patches_update(entry, options)}

    def patches_update(chosen: Any, options: SampleOptions | None = None) -> dict[Any, Any]:
        said = {name: {} if options is None else {"value": getattr(options, name)} for name in OF_PATCHES}
        return {controls[name]: gr.update(visible=chosen.patches, **said[name]) for name in OF_PATCHES}

    def changes(values: Values, switch: Event) -> Iterator[Change]:
        return shown(studio, options_from({name: values[control] for name, control in controls.items()}), switch, values[panel.session])

    opened = gr.on(None, None, None, None, js=UNTIL_SHOWN, **CHEAP)
    keep_fresh(model, studio, text=False)
    of_its_own = [model, controls["num_steps"], label, *(controls[name] for name in OF_PATCHES)]
    model.input(on_model, model, of_its_own, **PRIVATE, concurrency_id="files", concurrency_limit=2)
    wire_scheduler(controls)
    panel.wire_run(changes, controls.values(), failed=lambda values: {"stage": FAILED})
    panel.wire_files({name: control for name, control in controls.items() if name != "init_image"}, of_model)
    return opened


# --- what the controls say -----------------------------------------------------------------------------------

def class_choices(model: Any) -> list[tuple[str, str]]:
    return [("any", ANY_CLASS), *((name, name) for name in model.class_names)]


def class_update(model: Any, label: str | int | None) -> dict[str, Any]:
    names = model.class_names
    value = names[label] if isinstance(label, int) and 0 <= label < len(names) else label or ANY_CLASS
    return gr.update(choices=class_choices(model), value=value, visible=bool(names))


def shown(studio: SamplingApi, options: SampleOptions, switch: Event, session: Session) -> Iterator[Change]:
    """The run as the page shows it."""
    yield from run_shown(studio, of_kind(studio, options), switch, session)


def record(studio: SamplingApi, options: SampleOptions = OPENS_WITH) -> Opening:
    """The run that the tab opens with."""
    return Opening(made_with=asked_with(options), places={"stage": recorded_film(studio, options)})


def of_kind(studio: SamplingApi, options: SampleOptions) -> SampleOptions:
    """The options as they go with their model. Clipping is for pictures: latents have no bounds of their own."""
    info = studio.describe(options.model)
    changes: dict[str, Any] = {"clip_x0": None} if info.latent else {}
    if not (info.text or info.patches):
        changes |= {"record_attention": False, "guidance_scale": 1.0}
    return dataclasses.replace(options, **changes) if any(getattr(options, name) != value for name, value in changes.items()) else options
