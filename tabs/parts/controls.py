"""Controls of SampleOptions, each made from what its option says of itself, and how they hang together."""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

import gradio as gr

from studio.additions import Lora
from studio.checks import require_choice
from studio.conditions import CONDITIONS
from studio.errors import InvalidOption
from studio.media.maps import map_from_text
from studio.media.uploads import open_picture
from studio.option_groups import OptionInfo
from studio.options import PICTURES, SampleOptions, option_info
from studio.process.schedulers import SCHEDULERS, SchedulerInfo
from tabs.parts.stage import CHEAP, picture_input, unchecked

__all__ = ["Controls", "control", "create_controls", "create_seed", "wire_scheduler", "restored", "conditions_from", "options_from", "read", "written"]

Controls = dict[str, Any]

SEED_END = 2**31
OWN_SIGMAS = ("the scheduler's own", "")
# Of a range that is wider than a hand can aim at, what its slider offers: from, to, step.
SLIDERS: Mapping[str, tuple[float, float, float]] = MappingProxyType({
    "guidance_scale": (1, 15, 0.5), "clip_guidance_scale": (0, 1000, 10), "mask_blur": (0, 32, 1), "noise_level": (0, 999, 1),
})
# Numbers that are written although their range is short: they stand in pairs.
WRITTEN = ("guidance_start", "guidance_end")
# The short names by which the page knows its controls.
IDS = {
    "class_label": "class", "negative_prompt": "negative", "num_steps": "steps", "num_images": "images", "timesteps": "respacing", "clip_x0": "clip-x0",
    "init_image": "init", "guidance_scale": "guidance", "guidance_start": "guide-from", "guidance_end": "guide-to", "guidance_rescale": "rescale",
    "clip_guidance_scale": "clip", "record_attention": "attention", "cond_image": "told-picture", "cond_image_2": "told-second", "cond_mix": "told-mix",
    "noise_level": "told-noise", "depth_model": "told-estimator", "mask_blur": "feather", "mask_padding": "padding", "mask_overlay": "exactly",
}
# What the written ones say while they are empty, and how large they are.
TEXTS: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "prompt": {"placeholder": "What the picture is to show", "lines": 2, "max_lines": 6},
    "negative_prompt": {"placeholder": "What it is not to show", "max_lines": 3},
    "timesteps": {"placeholder": "ddim50 or 10,15,20", "max_lines": 1},
})
# Options that are written one a line, by their kind: what stands there while nothing is written.
LINES: Mapping[str, str] = MappingProxyType({"loras": "style.safetensors 0.8", "files": "word.safetensors"})
# Which schedulers an option means something to; the others hide it.
OF_SCHEDULER: Mapping[str, Callable[[SchedulerInfo], bool]] = MappingProxyType({
    "eta": lambda scheduler: scheduler.takes_eta, "timesteps": lambda scheduler: scheduler.diffusers_class is None,
    "sigmas": lambda scheduler: bool(scheduler.sigmas),
})


# --- making them ---------------------------------------------------------------------------------------------

def control(prefix: str, name: str, value: Any = None, *, kind: Callable[..., Any] | None = None, **changes: Any) -> Any:
    """The component for an option, with the label, the explanation and the range that the option itself has.

    Args:
        prefix: of its elem_id. value: what it says at first; None is the option's own default.
        kind: another component than the one that goes by the default; changes: of what the component is told.
    """
    first = value if value is not None else DEFAULTS[name]
    make, own = _kind_of(name, first, kind)
    info = option_info(name)
    elem_id = f"{prefix}-{IDS.get(name, name).replace('.', '-').replace('_', '-')}"
    return make(**{"value": written(name, first), "label": info.label, "info": info.info or None, "elem_id": elem_id, **own, **changes})


def _kind_of(name: str, first: Any, kind: Callable[..., Any] | None) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What makes the component of an option, and what it is told beside label and value."""
    if (info := option_info(name)).kind:
        return _written_kind(info)
    # Where None is the default it says nothing of the kind; the first value does.
    like = DEFAULTS[name] if DEFAULTS[name] is not None else first
    if name in CHOSEN:
        return _dropdown, CHOSEN[name](first)
    if isinstance(like, bool):
        return gr.Checkbox, {}
    if name in SLIDERS or isinstance(like, float) and name not in WRITTEN and kind is None:
        return _slider, _range_of(name)
    if isinstance(like, int | float):
        return gr.Number, {"precision": 0} if isinstance(like, int) else {"step": option_info(name).step}
    if like is None and option_info(name).low is not None:
        return gr.Number, {"precision": 0} if isinstance(option_info(name).low, int) else {"step": option_info(name).step}
    return kind or gr.Textbox, dict(TEXTS.get(name, {}))


def _written_kind(info: OptionInfo) -> tuple[Callable[..., Any], dict[str, Any]]:
    if info.kind == "picture":
        return _picture, {"sources": ["upload", "webcam", "clipboard"], "height": 190, "format": "png"}
    if info.kind == "many":
        return gr.CheckboxGroup, {"choices": list(info.choices)}
    if info.kind == "model":
        return _dropdown, {"allow_custom_value": True}
    if info.kind in LINES:
        return gr.Textbox, {"placeholder": LINES[info.kind], "lines": 2, "max_lines": 8, "min_width": 120}
    return gr.Textbox, {"placeholder": {"pair": "1024x1024", "numbers": "7, 8, 9"}[info.kind], "max_lines": 1, "min_width": 120}


def _range_of(name: str) -> dict[str, Any]:
    info = option_info(name)
    low, high, step = SLIDERS.get(name, (info.low, info.high, info.step))
    return {"minimum": low, "maximum": high, "step": step}


def _picture(*, value: Any, info: Any, **told: Any) -> gr.Image:
    return picture_input(**told)


def _dropdown(**told: Any) -> gr.Dropdown:
    return unchecked(gr.Dropdown(**told))


def _slider(**told: Any) -> gr.Slider:
    return unchecked(gr.Slider(**told))


def create_seed(prefix: str) -> gr.Number:
    """The seed, and a button that takes another."""
    with gr.Row(elem_classes="ds-seed"):
        seed = control(prefix, "seed", min_width=120, scale=4)
        dice = gr.Button("New seed", elem_id=f"{prefix}-dice", size="sm", min_width=72, scale=1)
    dice.click(lambda: random.randrange(SEED_END), None, seed, **CHEAP)
    return seed


def create_controls(prefix: str, names: Iterable[str], infos: Mapping[str, str] = MappingProxyType({}), **first: Any) -> Controls:
    """The controls of several options, one below the other; infos: what is said below some of them in place of the option's
    own explanation; first: what some of them say at first."""
    told: dict[str, dict[str, Any]] = {name: {"info": info} for name, info in infos.items()}
    return {name: create_seed(prefix) if name == "seed" else control(prefix, name, first.get(name), **told.get(name, {})) for name in names}


# --- how they hang together ----------------------------------------------------------------------------------

def scheduler_updates(controls: Controls, scheduler: str, options: SampleOptions | None = None) -> dict[Any, Any]:
    """What the controls say of a scheduler: what it is, and what means something to it; values of `options`, or the defaults."""
    require_choice("scheduler", scheduler, SCHEDULERS)
    about = SCHEDULERS[scheduler]
    updates = {controls["scheduler"]: gr.update(value=scheduler, info=about.about)}
    for name in (name for name in OF_SCHEDULER if name in controls):
        more: dict[str, Any] = {"choices": _sigmas(scheduler)} if name == "sigmas" else {}
        value = getattr(options, name) if options else DEFAULTS[name]
        updates[controls[name]] = gr.update(value="" if value is None else value, visible=OF_SCHEDULER[name](about), **more)
    return updates


def wire_scheduler(controls: Controls) -> None:
    """Another scheduler explains itself and hides what means nothing to it."""
    outputs = [controls["scheduler"], *(controls[name] for name in OF_SCHEDULER if name in controls)]
    controls["scheduler"].input(lambda name: scheduler_updates(controls, name), controls["scheduler"], outputs, **CHEAP)


def restored(controls: Controls, options: SampleOptions) -> dict[Any, Any]:
    """The controls' values for these options; those of the model are the tab's."""
    left = ("model", "class_label", *PICTURES)
    values = {control: getattr(options, name) for name, control in controls.items() if name not in left and "." not in name}
    return {**values, **scheduler_updates(controls, options.scheduler, options)}


def options_from(values: Mapping[str, Any]) -> SampleOptions:
    """The one SampleOptions that a tab builds from its controls, by name; what is left empty is the model's own. Raises InvalidOption.

    Strength and mask count only where there is a picture to start from; pictures are the paths of their files, the mask a PNG in a data URI.
    """
    given = dict(values)
    model, picture, strength, mask = given.pop("model"), given.pop("init_image", None), given.pop("strength", 1.0), given.pop("init_mask", "")
    feathered: dict[str, Any] = {name: given.pop(name) for name in ("mask_blur", "mask_padding", "mask_overlay") if name in given}
    # 0 is no padding at all only for programs: on the page it stands for the whole picture.
    feathered["mask_padding"] = feathered.get("mask_padding") or None
    told: dict[str, Any] = {name: open_picture(path) for name in ("cond_image", "cond_image_2") if (path := given.pop(name, None))}
    if not model:
        raise InvalidOption("Choose a model first: type a folder, a .safetensors file or a Hub id.")
    for name in ("class_label", "timesteps", "width", "height"):
        if name in given:
            given[name] = (given[name].strip() if isinstance(given[name], str) else given[name]) or None
    start = {"init_image": open_picture(picture), "strength": strength} if picture else {}
    start |= {"init_mask": map_from_text(mask), **feathered} if picture and mask else {}
    conditions = conditions_from({name: given.pop(name) for name in list(given) if "." in name})
    return SampleOptions(model=model.strip(), **start, **told, **given, **conditions)


# --- what only some families can be told ---------------------------------------------------------------------

def conditions_from(values: Mapping[str, Any]) -> dict[str, Any]:
    """The groups of studio.conditions of what their controls say, by dotted names. Raises InvalidOption."""
    told: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        group, _, own = name.partition(".")
        told.setdefault(group, {})[own] = read(name, value)
    return {group: CONDITIONS[group](**options) for group, options in told.items()}


def written(name: str, value: Any) -> Any:
    """A value as its control shows it."""
    kind = option_info(name).kind
    if kind in ("pair", "numbers"):
        return "" if value is None else ("x" if kind == "pair" else ", ").join(map(str, value))
    if kind in LINES:
        return "\n".join(f"{one.file} {one.weight:g}" if isinstance(one, Lora) else one for one in value)
    return list(value) if kind == "many" else "" if value is None and option_info(name).low is None else value


def read(name: str, said: Any) -> Any:
    """The value of what a control of a condition says; what is left empty is as by default. Raises InvalidOption."""
    info, default = option_info(name), DEFAULTS[name]
    if info.kind in ("pair", "numbers"):
        return _numbers(info, said) if said else default
    if info.kind == "many":
        return tuple(said or ())
    if info.kind in LINES:
        lines = [line.strip() for line in str(said or "").splitlines() if line.strip()]
        return tuple(map(_lora, lines)) if info.kind == "loras" else tuple(lines)
    if isinstance(said, str):
        return said.strip()
    # Where the model has its own, 0 stands for it.
    return default if said is None or said == 0 and default is None else said


def _lora(line: str) -> Lora:
    """A LoRA of a line: its file, and its weight where the last word is a number."""
    file, _, weight = line.rpartition(" ")
    try:
        return Lora(file=file.strip(), weight=float(weight)) if file.strip() else Lora(file=line)
    except ValueError as error:
        if isinstance(error, InvalidOption):
            raise
        return Lora(file=line)


def _numbers(info: OptionInfo, said: str) -> tuple[int, ...]:
    parts = said.lower().replace("×", "x").replace("x" if info.kind == "pair" else ";", ",").split(",")
    if not all(part.strip().isdecimal() for part in parts) or info.kind == "pair" and len(parts) != 2:
        how = "two whole numbers such as 1024x768" if info.kind == "pair" else "whole numbers with commas between them"
        raise InvalidOption(f"Write {how} for {info.label!r}, or leave it empty; it is {said!r:.60}.")
    return tuple(int(part) for part in parts)


# --- data ----------------------------------------------------------------------------------------------------

DEFAULTS: Mapping[str, Any] = MappingProxyType({
    **{field.name: field.default for field in fields(SampleOptions)},
    **{f"{name}.{field.name}": field.default for name, group in CONDITIONS.items() for field in fields(group)},
})


def _sigmas(scheduler: str) -> list[tuple[str, str]]:
    return [OWN_SIGMAS, *((name, name) for name in SCHEDULERS[scheduler].sigmas)]


def _schedulers(value: str) -> dict[str, Any]:
    return {"choices": [(scheduler.label, name) for name, scheduler in SCHEDULERS.items()], "info": SCHEDULERS[value].about}


CHOSEN: Mapping[str, Callable[[Any], dict[str, Any]]] = MappingProxyType({
    "scheduler": _schedulers, "sigmas": lambda value: {"choices": _sigmas(DEFAULTS["scheduler"]), "visible": False},
})
