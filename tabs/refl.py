"""The ReFL tab: a model is tuned by a reward or by rankings, and watched for whether its pictures get better or only its number."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from studio.errors import DamagedFile, StudioError, UnknownName
from studio.models.taught import base_of
from studio.rankings import collections
from studio.runs import RunView
from studio.runs.examples import TUNED, example_named
from studio.runs.refl import SOURCES, alarm_of, base_facts, fields, presets
from studio.runs.trainers.refl import ALGORITHMS, TUNABLE
from tabs.parts.api import TuningApi
from tabs.parts.controls import Controls
from tabs.parts.following import (
    POLL_S,
    Measured,
    buttons_shown,
    create_example,
    create_follow,
    create_run_menu,
    estimate_line,
    follow_value,
    found,
    newest,
    wire_buttons,
    with_curves,
)
from tabs.parts.openings import recorded
from tabs.parts.option_form import option_control, option_values
from tabs.parts.panel import DEVICE
from tabs.parts.sheets import create_sheet
from tabs.parts.showing import tick_while_shown, when_first_shown
from tabs.parts.stage import CHEAP, PRIVATE, drawn_by, full, said_in_a_sentence, to_stage, unchecked
from tabs.parts.turns import alone
from tabs.parts.visitors import asker_of
from tabs.refl_compare import create_compare

__all__ = ["create_tab", "tuning_options", "watched_value"]

INTRO = """## Tune a model by a reward
The model draws, a scorer says how good the picture is, and the gradient of the score changes the model. **Whether it helps** is judged by what is
never trained on: other prompts, another scorer, and how different the pictures still are."""
PUBLIC = (
    "Training is off on this public studio. Start the studio on your own machine to tune a model: the README says how. "
    "Here is a tuning that was recorded."
)
INVITATION = "Choose a preset and a scorer, and press Tune. The same pictures before and now are shown here at every look."
METHODS = (
    "ReFL: the gradient goes through one late step (arXiv:2304.05977). DRaFT-K: through the last steps; DRaFT-LV: through the last one at several noises "
    "(arXiv:2309.17400). Diffusion-DPO: from rankings, without a reward (arXiv:2311.12908)."
)
FIRST_PRESET = "toybox"
SHARED = ("algorithm", "rewards", "judge")
MAIN = ("method", "steps", "lr", "pretrain_weight", "stop_on_alarm", "result")
MORE = (
    "reward_units", "reward_weight", "cap", "kl_weight", "beta", "last_steps", "noises", "num_steps", "stop_low", "stop_high", "eta", "guidance_scale",
    "late_guidance", "pretrain_data", "pretrain_pictures", "pretrain_batch", "caption_drop", "rank", "alpha", "targets", "resolution", "batch_size",
    "accumulation", "lr_plan", "warmup", "weight_decay", "grad_clip", "ema_decay", "mixed_precision", "gradient_checkpointing", "held_out", "prompt_limit",
    "validation_prompts", "validation_samples", "validation_steps", "validation_guidance", "sample_every", "checkpoint_every", "keep_checkpoints", "seed",
)
LABELS = {
    "algorithm": "Method", "rewards": "Follow", "judge": "Held-out scorer", "method": "What learns", "lr": "Learning rate", "steps": "Updates",
    "pretrain_weight": "Pre-training loss", "stop_on_alarm": "Stop at an alarm", "result": "Keep", "kl_weight": "KL weight", "ema_decay": "EMA decay",
    "lr_plan": "Learning rate plan", "num_steps": "Steps of a picture", "stop_low": "Earliest stop", "stop_high": "Latest stop",
}
CHOICES: dict[str, list[tuple[str, str]]] = {
    "algorithm": [(label, name) for name, label in ALGORITHMS.items()], "method": [("All of the network", "full"), ("LoRA", "lora")],
    "result": [("The last weights", "last"), ("The best by the held-out scorer", "best")],
    "reward_units": [("As the scorer says it", "own"), ("Deviations of the base's pictures", "base")],
}
# What is drawn of a run: each chart with its curves, by the names of studio.runs.refl.MEASURED, and what a step says.
CHARTS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Reward that is followed", (
        ("reward_held_out", "Held-out prompts, guided"), ("reward_trained", "Trained prompts, guided"), ("reward", "While training, as it draws there"),
    )),
    ("Held-out scorer", (("judge", "Held-out prompts"),)),
    ("Diversity", (("diversity", "Mean distance of two pictures of a prompt"),)),
    ("Signs of reward hacking", (("edges", "Edges"), ("dark", "Dark pixels"), ("output_norm", "Size of what the network says"))),
    ("Colours, bits", (("colours", "Entropy of the colours"),)),
    ("Distance to the base", (("distance", "Change at the same seeds"),)),
)


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a tuning is started with."""

    preset: gr.Dropdown
    source: gr.Dropdown
    typed: gr.Textbox
    collection: gr.Dropdown
    file: gr.File
    name: gr.Textbox
    train: gr.Button
    estimate: gr.Button
    status: gr.HTML
    controls: Controls


def values_of(options: dict[str, Any]) -> dict[str, Any]:
    """The form's values for these options, the defaults for all others."""
    values = {**{name: field.default for name, field in fields().items()}, **options}
    return {name: values[name] for name in (*SHARED, "base", *MAIN, *MORE)}


def tuning_options(values: dict[str, Any]) -> dict[str, Any]:
    """The trainer's options from the form's values. Raises InvalidOption."""
    return option_values(fields(), values)


# --- what was measured ---------------------------------------------------------------------------------------

def watched_value(studio: TuningApi, view: RunView | None) -> str:
    """JSON text for Studio.tuning: the alarm, and a chart for each of CHARTS with the base at step 0."""
    if view is None:
        return to_stage({})
    try:
        base = base_facts(view.path)
    except DamagedFile as error:
        return to_stage({"note": str(error)})
    if base is None:
        return to_stage({})
    _, curves = with_curves(studio, view)
    charts = []
    for title, lines in CHARTS:
        series = [{"name": name, "label": label, **through(curves.step, curves.values.get(name, []), base.measured.get(name))} for name, label in lines]
        charts.append({"title": title, "series": [one for one in series if one["x"]]})
    alarm = alarm_of(base.measured, curves.latest)
    return to_stage({"alarm": alarm, "charts": [one for one in charts if one["series"]], "judge": base.judge, "follow": base.follow})


def through(steps: list[int], values: list[float | None], before: float | None) -> dict[str, list[Any]]:
    """A curve through the looks, the base first."""
    known = [(step, value) for step, value in zip(steps, values) if value is not None]
    points = known if before is None else [(0, before), *known]
    return {"x": [step for step, _ in points], "y": [float(f"{value:.5g}") for _, value in points]}


# --- the tab -------------------------------------------------------------------------------------------------

def create_tab(studio: TuningApi) -> None:
    """The components, handlers and wiring of the tab.

    Args:
        studio: tunes, scores and ranks.
    """
    gr.Markdown(INTRO, elem_classes="ds-about")
    if studio.public:
        gr.Markdown(PUBLIC, elem_classes="ds-about")
        create_recorded(studio)
        return
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            form = create_form(studio)
        with gr.Column(elem_classes="ds-stage-column"):
            run, buttons = create_run_menu("refl")
            watched = drawn_by("tuning", '<div class="ds-stage ds-tuning"></div>', elem_id="refl-watched")
            stage, address = create_follow("refl-stage")
            create_compare(studio, run)
    followed = Measured(run=run, buttons=buttons, stage=stage, address=address, measured=watched)
    wire_form(form)
    wire_training(studio, form, followed)


def create_recorded(studio: TuningApi) -> None:
    """The recorded example alone, for a studio that tunes nothing."""
    watched = drawn_by("tuning", '<div class="ds-stage ds-tuning"></div>', elem_id="refl-watched")
    create_example(studio, "refl-stage", TUNED)
    create_sheet("refl-sheet", recorded("tuned", "sheet"))

    def on_open_page() -> str:
        return watched_value(studio, example_named(TUNED))

    when_first_shown(on_open_page, None, watched, **CHEAP)


def create_form(studio: TuningApi) -> Form:
    """Base, method, scorers, prompts, and the options of the trainer."""
    menu, known = presets(), fields()
    first = values_of(menu[FIRST_PRESET].options)

    def control(name: str, **told: Any) -> Any:
        more = {"choices": CHOICES[name]} if name in CHOICES else {}
        return option_control(known[name], "refl", first[name], LABELS.get(name, ""), **more, **told)

    preset = gr.Dropdown(
        [(entry.label, name) for name, entry in menu.items()], value=FIRST_PRESET, label="Preset", info=menu[FIRST_PRESET].about, elem_id="refl-preset",
    )
    controls: Controls = {"algorithm": control("algorithm", info=METHODS)}
    scorers = [(info.label, name) for name, info in studio.rewards.items()]
    said = {"rewards": "One, or several with their weights: toybox-clip + sharpness*0.2.", "judge": "Never trained on; says whether it helps."}
    for key, about in said.items():
        controls[key] = unchecked(gr.Dropdown(
            scorers, value=first[key], label=LABELS[key], allow_custom_value=True, info=about, elem_id=f"refl-{key}",
        ))
    source = unchecked(gr.Dropdown([(label, name) for name, label in SOURCES.items()], value="toybox", label="Prompts", elem_id="refl-source"))
    typed = gr.Textbox("", label="Prompts, one a line", lines=4, visible=False, elem_id="refl-typed")
    collection = unchecked(gr.Dropdown([("All", "")], value="", label="Rankings", visible=False, elem_id="refl-collection"))
    file = gr.File(type="filepath", label="Prompts, one a line, or exported rankings", height=110, visible=False, elem_id="refl-file")
    name = gr.Textbox("tuned", label="Name of the run", max_lines=1, info="Letters, digits, - and _.", elem_id="refl-name")
    with gr.Row(elem_classes="ds-press"):
        train = gr.Button("Tune", variant="primary", elem_id="refl-train", min_width=80, scale=2)
        estimate = gr.Button("Estimate", elem_id="refl-estimate", min_width=70, scale=1)
    status = gr.HTML(elem_id="refl-status", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
    controls["base"] = unchecked(gr.Dropdown(
        bases(studio), value=first["base"], label="Model to tune", allow_custom_value=True, info="From the menu, or a folder or a Hub id.", elem_id="refl-base",
    ))
    controls |= {option: control(option) for option in MAIN}
    with gr.Accordion("More", open=False, elem_id="refl-more"):
        controls |= {option: control(option) for option in MORE}
    return Form(
        preset=preset, source=source, typed=typed, collection=collection, file=file, name=name, train=train, estimate=estimate,
        status=status, controls=controls,
    )


def bases(studio: TuningApi) -> list[tuple[str, str]]:
    """The menu of models that can be tuned: whole text-to-image ones."""
    return [(info.label, name) for name, info in studio.models.items() if info.family in TUNABLE and not base_of(info.source)]


def wire_form(form: Form) -> None:
    """What the form shows of itself."""
    menu, controls = presets(), form.controls

    def on_preset(chosen: str) -> dict[Any, Any]:
        if chosen not in menu:
            raise UnknownName.of("preset", chosen, menu)
        values = values_of(menu[chosen].options)
        updates: dict[Any, Any] = {controls[key]: value for key, value in values.items() if key != "seed"}
        return full([form.preset, *controls.values()], {**updates, form.preset: gr.update(info=menu[chosen].about)})

    def on_source(chosen: str) -> dict[Any, Any]:
        return {
            form.typed: gr.update(visible=chosen == "typed"), form.collection: gr.update(visible=chosen == "ranked"),
            form.file: gr.update(visible=chosen == "file"),
        }

    form.preset.input(on_preset, form.preset, [form.preset, *controls.values()], **CHEAP)
    form.source.input(on_source, form.source, [form.typed, form.collection, form.file], **CHEAP)


def wire_training(studio: TuningApi, form: Form, followed: Measured) -> None:
    """What starts a tuning, and what shows it."""
    before = gr.State(0)

    def standing(chosen: str) -> dict[Any, Any]:
        shown = follow_value(studio, chosen, followed.address, invitation=INVITATION)
        return {followed.stage: shown, followed.measured: watched_value(studio, found(studio, chosen)), **buttons_shown(studio, chosen, followed.buttons)}

    def show(chosen: str) -> dict[Any, Any]:
        chosen = chosen if found(studio, chosen) else newest(studio, "refl") or TUNED
        return {followed.run: gr.update(choices=[*runs_of(studio), TUNED], value=chosen), **standing(chosen)}

    def on_open_page() -> dict[Any, Any]:
        return {
            **full(followed.shown, show("")), form.name: free_name(studio, "tuned"), form.controls["base"]: gr.update(choices=bases(studio)),
            form.collection: gr.update(choices=[("All", ""), *ranked(studio)]),
        }

    def on_tick(chosen: str, last: int) -> dict[Any, Any]:
        changes = standing(chosen)
        now = hash(repr(changes.values()))
        return full([*followed.shown, before], {} if now == last else {**changes, before: now})

    def on_train(*values: Any) -> dict[Any, Any]:
        source, typed, collection, file, name, *rest = values
        with said_in_a_sentence():
            options = {**tuning_options(dict(zip(form.controls, rest))), "prompts": "|".join((typed or "").splitlines())}
            view = studio.tune((name or "").strip(), options, source or "", collection or "", file)
        said = f"The run {escape(view.name)} was started; it goes on when this page is closed."
        return {**full(followed.shown, show(view.name)), form.status: said, form.name: free_name(studio, "tuned")}

    def on_estimate(values: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield {form.status: "The base model and the scorers are loaded and timed."}
        try:
            options = tuning_options({name: values[control] for name, control in form.controls.items()})
            cost = yield from alone(studio.device, asker_of(request), "estimate", lambda: studio.estimate_tuning(options), form.status)
            yield {form.status: estimate_line(cost, options.get("steps", fields()["steps"].default))}
        except StudioError as error:
            yield {form.status: escape(str(error))}

    form.estimate.click(on_estimate, {*form.controls.values()}, [form.status], **PRIVATE, **DEVICE)
    when_first_shown(on_open_page, None, [*followed.shown, form.name, form.collection, form.controls["base"]], **CHEAP)
    tick_while_shown(POLL_S, on_tick, [followed.run, before], [*followed.shown, before])
    followed.run.input(show, followed.run, followed.shown, **CHEAP)
    form.train.click(
        on_train, [form.source, form.typed, form.collection, form.file, form.name, *form.controls.values()],
        [form.status, *followed.shown, form.name], api_visibility="private", concurrency_id="runs", show_progress="minimal", show_progress_on=form.status,
    )
    wire_buttons(studio, followed.buttons, followed.run, followed.shown, show)


def runs_of(studio: TuningApi) -> list[str]:
    return [view.name for view in studio.runs.list() if view.trainer == "refl"]


def free_name(studio: TuningApi, wish: str) -> str:
    taken = {view.name for view in studio.runs.list()}
    return next(name for name in (wish, *(f"{wish}-{i}" for i in range(2, len(taken) + 3))) if name not in taken)


def ranked(studio: TuningApi) -> list[tuple[str, str]]:
    """The collections there are; none where they cannot be read."""
    try:
        return [(f"{name} ({count} tasks)", name) for name, count in collections(studio.rankings).items()]
    except StudioError:
        return []
