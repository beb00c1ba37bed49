"""The Text to image tab: a prompt becomes a picture, with what the model reads, believes and looks at on the way."""

from collections.abc import Iterator, Mapping
from functools import partial
from html import escape
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import gradio as gr

from studio.conditions import AS_TRAINED, is_taken
from studio.errors import InvalidOption
from studio.options import PICTURES, SampleOptions
from tabs.anatomy import create_area as create_anatomy
from tabs.compare import create_grid, create_pair
from tabs.parts.api import TextApi
from tabs.parts.conditions import Conditions, create_conditions
from tabs.parts.controls import Controls, conditions_from, control, create_controls, wire_scheduler
from tabs.parts.openings import Opening, asked_with, recorded
from tabs.parts.panel import Change, RunPanel, Values
from tabs.parts.ready import FirstPress
from tabs.parts.repainting import Start, create_start, restored_start, wire_start
from tabs.parts.running import FAILED, LOADING, recorded_film, run_shown
from tabs.parts.session import Session
from tabs.parts.stage import CHEAP, PRIVATE, keep_fresh, menu_of, models_of, to_stage, unchecked
from tabs.parts.told import ToldParts, create_told, restored_told, told_updates
from tabs.parts.units import size_of_run
from tabs.parts.words import create_words, tokens_of, unknown_line, words_of

__all__ = ["OPENS_WITH", "create_tab", "record"]

FIRST_PROMPT = "a purple butterfly on a yellow background"
EXAMPLES = (FIRST_PROMPT, "a large red heart on a white background", "a small green boat on the left on a blue background", "an orange cat")
OPENS_WITH = SampleOptions(model="toybox-sd", prompt=FIRST_PROMPT, num_steps=25, guidance_scale=4.0, record_attention=True)
INVITATION = "Say what the picture is to show, and press Generate."
MAIN = ("negative_prompt", "guidance_scale", "num_steps", "scheduler", "seed", "num_images")


# --- the tab -------------------------------------------------------------------------------------------------

def create_tab(studio: TextApi) -> FirstPress | None:
    """The components, handlers and wiring of the tab; gives what its first press asks for, where there is a model for it.

    Args:
        studio: samples, and says what a prompt is to a model.
    """
    panel = RunPanel(studio, "t2i", "Generate", decoder=studio)
    with gr.Row(elem_classes="ds-model-row"):
        model, resident = create_model(studio)
    controls: Controls = {"model": model}
    with gr.Tabs(elem_classes="ds-areas"):
        with gr.Tab("Picture"), gr.Row(elem_classes="ds-layout ds-prompt-first"):
            with gr.Column(elem_classes="ds-controls"):
                controls["prompt"] = control("t2i", "prompt", FIRST_PROMPT)
                create_unknown(controls)
                panel.create_press()
                create_examples(controls["prompt"])
                told_box, told = create_told("t2i")
                controls |= told | create_main(models_of(studio, text=True).get(model.value))
                with gr.Accordion("Start from a picture", open=False, elem_id="t2i-start") as start_box:
                    start = create_start("t2i")
                controls |= start.controls | create_more()
                conditions = create_conditions(studio, "t2i", model.value)
                controls |= conditions.controls
                panel.create_files()
            with gr.Column(elem_classes="ds-stage-column"):
                panel.create_stage(recorded("text", "stage"), INVITATION)
                words = create_words("t2i-words", recorded("text", "words"))
        panel.places |= {"resident": resident, "words": words}
        others = create_areas(studio, controls, conditions)
    wire_start(start, [model, controls["width"], controls["height"]], partial(size_of_run, studio))
    wire(studio, panel, controls, conditions, start, ToldParts(controls=told, box=told_box, start=start_box))
    for other in others:
        other.success(lambda name: model_line(studio, name), model, resident, **CHEAP)
    if not model.value:
        return None
    first = conditions.options({name: control.value for name, control in controls.items()})
    return FirstPress(options=first, changes=partial(generated, studio))


def create_model(studio: TextApi) -> tuple[gr.Dropdown, gr.HTML]:
    """The menu of models, and what is said of the chosen one and of memory."""
    menu = models_of(studio, text=True)
    first = next((name for name, entry in menu.items() if entry.embedded), None)
    model = unchecked(gr.Dropdown(
        menu_of(studio, text=True), value=first, label="Model" if studio.public else "Model, or any folder, file or Hub id",
        allow_custom_value=not studio.public, elem_id="t2i-model", scale=0, min_width=288,
    ))
    resident = gr.HTML(model_line(studio, first), elem_id="t2i-resident", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
    return model, resident


def create_unknown(controls: Controls) -> None:
    """The line beneath the prompt that names the words which the model's world does not hold."""
    asked = [controls["model"], controls["prompt"]]
    line = gr.HTML(elem_id="t2i-unknown", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
    gr.on([control.change for control in asked], unknown_line, asked, line, trigger_mode="always_last", **CHEAP)


def create_examples(prompt: gr.Textbox) -> None:
    """Prompts to take, one click away."""
    examples = gr.Dataset(
        components=[prompt], samples=[[text] for text in EXAMPLES], label="Or take one of these", type="values", layout="gallery", elem_id="t2i-examples",
    )
    examples.click(lambda sample: sample[0] if sample else gr.skip(), examples, prompt, **CHEAP)


def create_main(entry: Any) -> Controls:
    """The controls that matter most."""
    return create_controls("t2i", MAIN, guidance_scale=default_guidance(entry), num_steps=default_steps(entry))


def create_more() -> Controls:
    """The controls that matter less often."""
    with gr.Accordion("More", open=False, elem_id="t2i-more"):
        with gr.Row():
            controls = {name: control("t2i", name, min_width=110) for name in ("guidance_start", "guidance_end")}
        controls |= create_controls("t2i", ("guidance_rescale", "clip_guidance_scale", "sigmas", "eta"))
        with gr.Row():
            controls |= {name: control("t2i", name, 0, min_width=100) for name in ("width", "height")}
        return controls | create_controls("t2i", ("record_attention",), record_attention=True)


def create_areas(studio: TextApi, controls: Controls, conditions: Conditions) -> list[Any]:
    """The further areas of the tab; gives the events after which memory has changed."""
    model, prompt = controls["model"], controls["prompt"]
    with gr.Tab("Compare"):
        compared = create_pair(studio, controls, conditions)
    with gr.Tab("Grid"):
        gridded = create_grid(studio, controls, conditions)
    with gr.Tab("Anatomy"):
        looked = create_anatomy(studio, model, prompt)
    return [compared, gridded, looked]


def wire(studio: TextApi, panel: RunPanel, controls: Controls, conditions: Conditions, start: Start, told: ToldParts) -> None:
    """The handlers of the tab."""
    model, prompt, words, resident = controls["model"], controls["prompt"], panel.places["words"], panel.places["resident"]
    reading: dict[str, Any] = {**PRIVATE, "concurrency_id": "words", "concurrency_limit": 1, "trigger_mode": "always_last"}

    def on_model(name: str) -> dict[Any, Any]:
        entry = models_of(studio, text=True).get(name)
        own = {controls["num_steps"]: default_steps(entry), controls["guidance_scale"]: default_guidance(entry)}
        return {resident: model_line(studio, name), **own, **conditions.updates(name), **told_updates(told, studio.models, name)}

    def of_model(options: SampleOptions) -> dict[Any, Any] | None:
        name = named_model(studio, options.model)
        if name is None:
            return None
        pictures = restored_start(start, options, size_of_run(studio, name, options.width, options.height))
        return {model: name, **conditions.updates(name, options), **pictures, **restored_told(told, studio.models, options)}

    def changes(values: Values, switch: Event) -> Iterator[Change]:
        return generated(studio, conditions.options({name: values[control] for name, control in controls.items()}), switch, values[panel.session])

    keep_fresh(model, studio, text=True)
    changed = [resident, controls["num_steps"], controls["guidance_scale"], *conditions.components, *told.outputs]
    model.input(on_model, model, changed, **CHEAP)
    # What a model can be told is known of some only once they are loaded. Not with the run: Gradio tells each part that a run may change of every frame.
    resident.change(conditions.updates, model, conditions.components, **CHEAP)
    # Also when the prompt is about to be changed: the model is loaded by the time that it is written.
    of_texts = {name: one for name, one in controls.items() if name.startswith("texts.")}
    gr.on(
        [prompt.focus, prompt.change, model.change, *(one.change for one in of_texts.values())],
        lambda name, text, *said: words_as_told(studio, name, text, dict(zip(of_texts, said))), [model, prompt, *of_texts.values()], words, **reading,
    )
    wire_scheduler(controls)
    panel.wire_run(
        changes, controls.values(), [panel.run.click, prompt.submit],
        failed=lambda values: {"stage": FAILED, "resident": model_line(studio, values[model])},
    )
    panel.wire_files(
        {name: control for name, control in controls.items() if name not in PICTURES}, of_model,
        beside=[*conditions.folds.values(), *start.restorable, *told.restorable],
    )


# --- the recorded run that the tab opens with -----------------------------------------------------------------

def record(studio: TextApi, options: SampleOptions = OPENS_WITH) -> Opening:
    """The run that the tab opens with, and the words of its prompt."""
    stage = recorded_film(studio, options, tokens=lambda: tokens_of(studio, options))
    return Opening(made_with=asked_with(options), places={"stage": stage, "words": words_of(studio, options.model, options.prompt)})


def words_as_told(studio: TextApi, model: str | None, prompt: str, said: Mapping[str, Any]) -> str:
    """What the encoders make of the prompts as the controls say them; said: by dotted names of studio.conditions."""
    try:
        texts = conditions_from({name: value for name, value in said.items() if is_taken(name, studio.takes(model or ""))}).get("texts", AS_TRAINED)
    except InvalidOption as error:
        return to_stage({"note": str(error)})
    return words_of(studio, model, prompt, texts)


# --- what the controls say -----------------------------------------------------------------------------------

def model_line(studio: TextApi, name: str | None) -> str:
    """What the chosen model is, and what is in memory at what cost."""
    about = about_of(models_of(studio, text=True).get(name or ""), name)
    return f"{escape(about)}<br>{escape(resident_line(studio))}"


def named_model(studio: TextApi, name: str) -> str | None:
    """The text-to-image model of that name: of the menu, a file in the studio's folders by its name alone, a folder or Hub id; None where it is none."""
    if name in models_of(studio, text=True):
        return name
    if studio.public or name in studio.models:
        return None
    on_shelf = {Path(file.path).stem: file.path for file in studio.shelf("model")}
    return on_shelf.get(name) or (name if "/" in name or "\\" in name else None)


def about_of(entry: Any, name: str | None) -> str:
    if entry is not None:
        size = "" if entry.embedded else f" {entry.size_mib / 1024:.1f} GiB to fetch, {entry.memory_gib:.1f} GiB of memory, licence {entry.licence}."
        return entry.about + size
    if name:
        return f"{name}: loaded when you press Generate."
    return "No text-to-image model is embedded here yet: choose one, or type a folder, a .safetensors file or a Hub id."


def default_steps(entry: Any) -> int:
    return entry.default_steps if entry else 25


def default_guidance(entry: Any) -> float:
    return entry.default_guidance if entry else 7.5


def resident_line(studio: TextApi) -> str:
    """What is in memory and what it costs."""
    residents = studio.residents()
    if not residents:
        return "No model is in memory."
    held = ", ".join(
        f"{Path(one.name).name}{f' with {one.added}' if one.added else ''} {one.memory_gib:.2f} GiB{f' ({one.about})' if one.about else ''}"
        for one in residents
    )
    return f"In memory: {held}; room for {studio.memory_gib():.1f} GiB."


# --- a run, as the page sees it ------------------------------------------------------------------------------

def generated(studio: TextApi, options: SampleOptions, switch: Event, session: Session) -> Iterator[dict[str, Any]]:
    """Changes of the page by the names of its parts: the download, then the run, and with its film what is said of memory and words."""
    if options.model not in [one.name for one in studio.residents()]:
        yield {"status": LOADING}
    yield from fetched(studio, options.model, switch)

    def beside() -> dict[str, Any]:
        return {"resident": model_line(studio, options.model), "words": words_of(studio, options.model, options.prompt, options.texts, options.added)}

    yield from run_shown(studio, options, switch, session, lambda: tokens_of(studio, options), beside=beside)


def fetched(studio: TextApi, model: str, switch: Event) -> Iterator[dict[str, Any]]:
    """The download of a model that is not here yet, in megabytes and time left."""
    since = monotonic()
    for progress in studio.download(model) if not switch.is_set() else ():
        if switch.is_set():
            return
        yield {"status": download_line(progress, monotonic() - since)}


def download_line(progress: Any, took_s: float) -> str:
    done, total = progress.done_bytes / 1e6, progress.total_bytes / 1e6
    if not total:
        return f"Fetching {progress.name}."
    left = f", about {took_s * (total - done) / done:.0f} s left" if 0 < done < total and took_s > 2 else ""
    return f"Fetching {progress.name}: {done:.0f} of {total:.0f} MB{left}."
