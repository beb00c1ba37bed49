"""The DreamBooth tab: a handful of pictures teach a model a new subject, seen while it learns, and tried out at once."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, replace
from functools import cache
from html import escape
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
from PIL import Image

from studio.errors import BadImage, InvalidOption, StudioError, UnknownName
from studio.media.uploads import open_picture
from studio.models.device import Work
from studio.models.taught import base_of
from studio.runs import RunView
from studio.runs.dreambooth import EXAMPLE, MOST_PICTURES, fields, presets, seen
from studio.runs.examples import DOMINO
from studio.runs.probes import Sheet, before_and_after, checkpoint_matrix, forgotten
from tabs.parts.api import TrainingApi
from tabs.parts.controls import Controls
from tabs.parts.following import (
    POLL_S,
    Followed,
    buttons_shown,
    create_example,
    create_follow,
    create_run_menu,
    estimate_line,
    follow_value,
    found,
    newest,
    required,
    wire_buttons,
)
from tabs.parts.openings import Opening, recorded
from tabs.parts.panel import DEVICE, FILES, Change, Changes, RunPanel, Values
from tabs.parts.sheets import create_sheet, sheet_value, sheets_shown
from tabs.parts.showing import tick_while_shown, when_first_shown
from tabs.parts.stage import CHEAP, PRIVATE, full, said_in_a_sentence, unchecked
from tabs.parts.turns import alone, shared
from tabs.parts.visitors import asker_of

__all__ = ["create_tab", "record"]

INTRO = """## DreamBooth
Three to five pictures, and a word that means nothing yet: train until the word **is** the subject. The class pictures keep the
model from forgetting what else the class can be."""
PUBLIC = (
    "Training is off on this public studio. Start the studio on your own machine to teach it a subject: the README says how. "
    "Here is a training that was recorded, and what the model drew before and after."
)
INVITATION = "Give 3 to 5 pictures of one subject, or take the example, and press Train. What the model learns is shown here, step by step."
FIRST_PRESET = "toybox"
EXAMPLE_WORDS = {"instance_prompt": "a sks cat", "class_prompt": "a cat", "token": "sks"}

# Options in the order of the form: what matters first, then what is under More. The rest has no control.
WORDS = ("instance_prompt", "class_prompt", "token")
MAIN = ("method", "rank", "alpha", "steps", "lr", "prior", "prior_weight", "num_class_images")
MORE = (
    "resolution", "batch_size", "accumulation", "crop", "flip", "min_snr_gamma", "offset_noise", "ema_decay", "gradient_checkpointing", "mixed_precision",
    "adam_8bit", "cache", "lr_plan", "warmup", "weight_decay", "grad_clip", "targets", "class_variations", "class_images", "class_guidance", "class_steps",
    "validation_prompts", "validation_samples", "validation_steps", "validation_guidance", "sample_every", "checkpoint_every", "keep_checkpoints", "seed",
)
LABELS = {
    "instance_prompt": "Instance prompt", "class_prompt": "Class prompt", "token": "Token", "method": "What learns", "rank": "Rank", "alpha": "Alpha",
    "steps": "Steps", "lr": "Learning rate", "prior": "Prior preservation", "prior_weight": "Prior weight", "num_class_images": "Class pictures",
    "min_snr_gamma": "Min-SNR gamma", "ema_decay": "EMA decay", "adam_8bit": "8-bit Adam", "lr_plan": "Learning rate plan", "class_images": "Class folder",
}
CHOICES = {"method": [("All of the UNet", "full"), ("UNet and text encoder", "full_text"), ("LoRA", "lora")]}
PROBES = {"after": "Before and after", "matrix": "Checkpoints x steps", "forgetting": "What was forgotten"}
OF_LORA = ("rank", "alpha")
OF_PRIOR = ("prior_weight", "num_class_images", "class_variations")
PRIOR_ABOUT = "On: pictures of the class, drawn by the base model first, are learned beside the subject's, so that the class keeps its meaning."


# --- the form ------------------------------------------------------------------------------------------------

def defaults() -> dict[str, Any]:
    """What the form says at first: the options' defaults, those of the first preset, prompts made up from the others."""
    return {**values_of({}), **values_of(presets()[FIRST_PRESET].options)}


def values_of(options: dict[str, Any]) -> dict[str, Any]:
    """The form's values for these options, the defaults for all others."""
    values: dict[str, Any] = {**{name: field.default for name, field in fields().items()}, "validation_prompts": "", **options}
    values["prior"] = values["prior_weight"] > 0
    return {name: values[name] for name in (*WORDS, "base", *MAIN, *MORE)}


def trainer_options(values: dict[str, Any]) -> dict[str, Any]:
    """The trainer's options from the form's values."""
    options = dict(values)
    if not options.pop("prior"):
        options["prior_weight"] = 0.0
    return {name: number(fields()[name], value) for name, value in options.items()}


def number(field: Field, value: Any) -> Any:
    """Whole numbers come from the page as they are; where parts are allowed they count as numbers with parts."""
    return float(value) if isinstance(field.default, float) and isinstance(value, int) and not isinstance(value, bool) else value


def control_of(name: str, values: dict[str, Any]) -> Any:
    """The component for an option, by the kind of its default."""
    label, value = LABELS.get(name, name.replace("_", " ").capitalize()), values[name]
    if name == "prior":
        return gr.Checkbox(value, label=label, info=PRIOR_ABOUT, elem_id="dreambooth-prior")
    field = fields()[name]
    shared: dict[str, Any] = {
        "label": label, "info": sentence(field.metadata["help"]), "elem_id": f"dreambooth-{name.replace('_', '-')}", "visible": needed(name, values),
    }
    if isinstance(field.default, bool):
        return gr.Checkbox(value, **shared)
    if field.metadata["choices"]:
        return unchecked(gr.Dropdown(CHOICES.get(name) or field.metadata["choices"], value=value, **shared))
    if isinstance(field.default, (int, float)):
        return gr.Number(value, precision=0 if isinstance(field.default, int) else None, min_width=110, **shared)
    return gr.Textbox(value, max_lines=3, placeholder="made up from the prompts" if name == "validation_prompts" else None, **shared)


def needed(name: str, values: dict[str, Any]) -> bool:
    """Whether the option means something beside the others."""
    if name in OF_LORA:
        return values["method"] == "lora"
    return name not in OF_PRIOR or bool(values["prior"])


def sentence(text: str) -> str:
    text = text.replace("%%", "%")
    return f"{text[0].upper()}{text[1:]}."


def teachable(studio: TrainingApi) -> list[tuple[str, str]]:
    """The menu of models that can be taught: whole text-to-image ones."""
    return [(info.label, name) for name, info in studio.models.items() if info.family == "stable-diffusion" and not base_of(info.source)]


def free_name(studio: TrainingApi, wish: str) -> str:
    taken = {view.name for view in studio.runs.list()}
    return next(name for name in (wish, *(f"{wish}-{i}" for i in range(2, len(taken) + 3))) if name not in taken)


def subject_runs(studio: TrainingApi) -> list[str]:
    return [view.name for view in studio.runs.list() if view.trainer == "dreambooth"]


# --- the subject's pictures ----------------------------------------------------------------------------------

@cache
def example_files() -> list[str]:
    """Copies of the example's pictures where Gradio may hand them out."""
    folder = Path(tempfile.mkdtemp(prefix="studio-domino-"))
    return [str(shutil.copy(path, folder)) for path in sorted(EXAMPLE.glob("*.png"))]


def crops(paths: Sequence[str] | None, resolution: int, crop: str) -> tuple[list[tuple[Image.Image, str]], str]:
    """((square as training sees it, file name) of each that can be read, a sentence on those that cannot)."""
    shown, said = [], []
    for path in (paths or ())[:MOST_PICTURES]:
        try:
            shown.append((seen(open_picture(path), int(resolution or 64), crop), Path(path).name))
        except InvalidOption as error:  # of the size, and so of every picture
            return [], str(error)
        except BadImage as error:
            said.append(f"{Path(path).name}: {error}")
    if shown and not said:
        said.append(f"{len(shown)} picture{'s' * (len(shown) > 1)}, shown as training will see {'them' if len(shown) > 1 else 'it'}.")
    return shown, " ".join(said)


# --- what was learned ----------------------------------------------------------------------------------------

def record(studio: TrainingApi, view: RunView) -> Opening:
    """What the tab opens with beside the recorded run: the same seeds before it and after."""
    said = view.options
    *_, last = before_and_after(studio, view, said["instance_prompt"])
    sheet = replace(last, title=f"A recorded example: {last.title}")
    return Opening(made_with={"base": said["base"], "prompt": said["instance_prompt"]}, places={"sheet": sheet_value(sheet)})


# --- the tab -------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Form:
    """What a training is started with."""

    pictures: gr.File
    example: gr.Button
    preset: gr.Dropdown
    name: gr.Textbox
    train: gr.Button
    estimate: gr.Button
    status: gr.HTML
    # By the names of the trainer's options.
    controls: Controls


@dataclass(frozen=True, kw_only=True)
class Compared(Followed):
    """The run that is looked at, and the menu of runs to set beside it."""

    others: gr.Dropdown

    @property
    def shown(self) -> list[Any]:
        return [self.run, self.others, self.stage, self.buttons.stop, self.buttons.resume, self.buttons.delete]


def create_tab(studio: TrainingApi) -> None:
    """The components, handlers and wiring of the tab.

    Args:
        studio: teaches, and samples from what was taught.
    """
    if studio.public:
        gr.Markdown(PUBLIC, elem_classes="ds-about")
        create_example(studio, "dreambooth-stage")
        create_sheet("dreambooth-sheet", recorded("domino", "sheet"))
        return
    gr.Markdown(INTRO, elem_id="dreambooth-intro", elem_classes="ds-about")
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            form = create_form(studio)
        with gr.Column(elem_classes="ds-stage-column"):
            gallery = gr.Gallery(
                label="What training will see", visible=False, columns=8, height="auto", object_fit="contain", format="png", interactive=False,
                elem_id="dreambooth-seen",
            )
            run, buttons = create_run_menu("dreambooth")
            stage, address = create_follow("dreambooth-stage")
            others = create_results(studio, run)
    followed = Compared(run=run, buttons=buttons, stage=stage, address=address, others=others)
    wire_form(studio, form, gallery)
    wire_training(studio, form, followed)


def create_form(studio: TrainingApi) -> Form:
    """The subject's pictures, its words, and the options of the trainer."""
    first, preset_menu = defaults(), presets()
    pictures = gr.File(file_count="multiple", type="filepath", label="Pictures of the subject", height=150, elem_id="dreambooth-pictures")
    example = gr.Button("Example: Domino", size="sm", elem_id="dreambooth-example")
    preset = gr.Dropdown(
        [(entry.label, name) for name, entry in preset_menu.items()], value=FIRST_PRESET, label="Preset", info=preset_menu[FIRST_PRESET].about,
        elem_id="dreambooth-preset",
    )
    controls: Controls = {name: control_of(name, first) for name in WORDS}
    name = gr.Textbox("subject", label="Name of the run", max_lines=1, info="Letters, digits, - and _.", elem_id="dreambooth-name")
    with gr.Row(elem_classes="ds-press"):
        train = gr.Button("Train", variant="primary", elem_id="dreambooth-train", min_width=80, scale=2)
        estimate = gr.Button("Estimate", elem_id="dreambooth-estimate", min_width=70, scale=1)
    status = gr.HTML(elem_id="dreambooth-status", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
    controls["base"] = unchecked(gr.Dropdown(
        teachable(studio), value=first["base"], label="Model to teach", allow_custom_value=True, info="From the menu, or a folder or a Hub id.",
        elem_id="dreambooth-base",
    ))
    controls |= {option: control_of(option, first) for option in MAIN}
    with gr.Accordion("More", open=False, elem_id="dreambooth-more"):
        controls |= {option: control_of(option, first) for option in MORE}
    return Form(pictures=pictures, example=example, preset=preset, name=name, train=train, estimate=estimate, status=status, controls=controls)


def create_results(studio: TrainingApi, run: gr.Dropdown) -> gr.Dropdown:
    """What the chosen run has learned, drawn when asked; gives the menu of runs to set beside it."""
    panel = RunPanel(studio, "probe", "Draw")
    with gr.Accordion("What it has learned", open=True, elem_id="dreambooth-results"):
        with gr.Row():
            prompt = gr.Textbox("", label="Prompt", placeholder="the instance prompt of the run", max_lines=2, elem_id="dreambooth-prompt", scale=2)
            others = unchecked(gr.Dropdown(
                [], multiselect=True, label="Beside it", info="Further finished runs, such as one without prior preservation.",
                elem_id="dreambooth-others", scale=1,
            ))
        starts = panel.create_presses(PROBES)
        panel.places["sheet"] = create_sheet("dreambooth-sheet", recorded("domino", "sheet"))

    def changes_of(kind: str) -> Changes:
        def changes(values: Values, switch: Event) -> Iterator[Change]:
            drawing = sheets(studio, kind, required(values[run]), values[prompt], values[others] or [], switch)
            return sheets_shown(shared(studio.device, values[panel.session].asker, Work(name=f"probe {kind}"), drawing, switch))
        return changes

    for kind, start in starts.items():
        panel.wire_run(changes_of(kind), [run, prompt, others], [start.click])
    return others


def wire_form(studio: TrainingApi, form: Form, gallery: gr.Gallery) -> None:
    """What the form shows of itself: squares of the pictures, the example, presets, and which options mean something."""
    controls, preset_menu = form.controls, presets()
    shape = [controls[key] for key in (*OF_LORA, *OF_PRIOR)]

    def on_pictures(paths: list[str] | None, resolution: int, crop: str) -> dict[Any, Any]:
        squares, said = crops(paths, resolution, crop)
        return {gallery: gr.update(value=squares, visible=bool(squares)), form.status: escape(said)}

    def on_example() -> dict[Any, Any]:
        return {form.pictures: example_files(), form.name: free_name(studio, "domino"), **{controls[key]: value for key, value in EXAMPLE_WORDS.items()}}

    def on_preset(chosen: str) -> dict[Any, Any]:
        if chosen not in preset_menu:
            raise UnknownName.of("preset", chosen, preset_menu)
        entry = preset_menu[chosen]
        # What names the subject is the person's, not the preset's.
        values = {key: value for key, value in values_of(entry.options).items() if key not in (*EXAMPLE_WORDS, "validation_prompts", "class_images", "seed")}
        updates: dict[Any, Any] = {controls[key]: value for key, value in values.items()}
        for key in (*OF_LORA, *OF_PRIOR):
            updates[controls[key]] = gr.update(value=values[key], visible=needed(key, values))
        return full([form.preset, *controls.values()], {**updates, form.preset: gr.update(info=entry.about)})

    def on_shape(method: str, prior: bool) -> dict[Any, Any]:
        values = {"method": method, "prior": prior}
        return {controls[key]: gr.update(visible=needed(key, values)) for key in (*OF_LORA, *OF_PRIOR)}

    form.example.click(on_example, None, [form.pictures, form.name, *(controls[key] for key in EXAMPLE_WORDS)], **CHEAP)
    looked_at = [controls["resolution"], controls["crop"]]
    gr.on(
        [form.pictures.change, *(control.change for control in looked_at)], on_pictures, [form.pictures, *looked_at], [gallery, form.status],
        trigger_mode="always_last", **PRIVATE, **FILES,
    )
    form.preset.input(on_preset, form.preset, [form.preset, *controls.values()], **CHEAP)
    gr.on([controls["method"].input, controls["prior"].input], on_shape, [controls["method"], controls["prior"]], shape, **CHEAP)


def wire_training(studio: TrainingApi, form: Form, followed: Compared) -> None:
    """What starts a training, and what shows it."""
    controls, stage, before = form.controls, followed.stage, gr.State(0)

    def standing(chosen: str) -> dict[Any, Any]:
        followed_now = follow_value(studio, chosen, followed.address, invitation=INVITATION)
        return {stage: followed_now, **buttons_shown(studio, chosen, followed.buttons)}

    def show(chosen: str) -> dict[Any, Any]:
        chosen = chosen if found(studio, chosen) else newest(studio, "dreambooth") or DOMINO
        names = subject_runs(studio)
        others = gr.update(choices=[name for name in names if name != chosen])
        return {followed.run: gr.update(choices=[*names, DOMINO], value=chosen), followed.others: others, **standing(chosen)}

    def on_open_page() -> dict[Any, Any]:
        return {**show(""), form.name: free_name(studio, "subject"), controls["base"]: gr.update(choices=teachable(studio))}

    def on_tick(chosen: str, last: int) -> dict[Any, Any]:
        # Most often nothing has changed; then nothing is sent.
        changes = standing(chosen)
        now = hash(repr(changes.values()))
        return full([*followed.shown, before], {} if now == last else {**changes, before: now})

    def on_estimate(values: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield {form.status: "The base model is loaded and one step of it is timed."}
        try:
            options = trainer_options({name: values[control] for name, control in controls.items()})
            found = yield from alone(studio.device, asker_of(request), "estimate", lambda: studio.estimate_subject(options), form.status)
            yield {form.status: estimate_line(found, options['steps'])}
        except StudioError as error:
            yield {form.status: escape(str(error))}

    def on_train(*values: Any) -> dict[Any, Any]:
        given, asked, *rest = values
        with said_in_a_sentence():
            view = studio.train_subject((asked or "").strip(), given or [], trainer_options(dict(zip(controls, rest))))
        said = f"The run {escape(view.name)} was started; it goes on when this page is closed."
        return {**show(view.name), form.status: said, form.name: free_name(studio, view.name)}

    when_first_shown(on_open_page, None, [*followed.shown, form.name, controls["base"]], **CHEAP)
    tick_while_shown(POLL_S, on_tick, [followed.run, before], [*followed.shown, before])
    followed.run.input(show, followed.run, followed.shown, **CHEAP)
    form.estimate.click(on_estimate, {*controls.values()}, [form.status], **PRIVATE, **DEVICE)
    form.train.click(
        on_train, [form.pictures, form.name, *controls.values()], [form.status, *followed.shown, form.name], api_visibility="private",
        concurrency_id="runs", show_progress="minimal", show_progress_on=form.status,
    )
    wire_buttons(studio, followed.buttons, followed.run, followed.shown, show)


def sheets(studio: TrainingApi, kind: str, name: str, prompt: str, beside: list[str], stop: Event) -> Iterator[Sheet]:
    """The sheets of a probe: a key of PROBES. Raises at once what keeps them from being drawn."""
    view = studio.runs.read(name)
    others = [studio.runs.read(other) for other in beside]
    if kind == "forgetting":
        return forgotten(studio, view, others=others, stop=stop)
    text = (prompt or "").strip() or view.options.get("instance_prompt", "")
    if kind == "matrix":
        return checkpoint_matrix(studio, view, text, stop=stop)
    return before_and_after(studio, view, text, others=others, stop=stop)
