"""A picture's options in AUTOMATIC1111's form, which its PNG files carry as the text "parameters", both ways.

    a red star <lora:style:0.8>
    Negative prompt: blurred
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x512, Model: name

What stands there and means nothing to the studio (hashes, upscaling, further extensions) is named, not guessed at.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, NamedTuple

from studio.additions import Lora, called
from studio.checks import quoted
from studio.conditions import Added
from studio.errors import InvalidOption
from studio.options import SampleOptions
from studio.process.schedulers import SCHEDULERS

__all__ = ["SAMPLERS", "Parameters", "parameters_text", "read_parameters"]

# How each scheduler is called there; the others by their labels here.
SAMPLERS: Mapping[str, str] = MappingProxyType({
    **{name: info.label for name, info in SCHEDULERS.items()}, "euler_ancestral": "Euler a", "dpm2": "DPM2", "dpm2_ancestral": "DPM2 a", "pndm": "PLMS",
})
SPACINGS: Mapping[str, str] = MappingProxyType({"karras": "Karras", "exponential": "Exponential", "beta": "Beta"})
NEGATIVE = "Negative prompt:"
FIELD = re.compile(r'\s*(\w[\w \-/+]*):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
LORA = re.compile(r"<lora:([^:<>]+)(?::([^:<>]*))?(?::[^<>]*)?>")
# So many fields make a line that of the fields, as there.
LEAST_FIELDS = 3
# Means something there and nothing here, and changes no picture.
SILENT = ("Version", "Model hash", "Lora hashes", "TI hashes", "VAE hash", "Schedule type")


class Parameters(NamedTuple):
    """options: what the text asks for; left_out: the names of what it says besides."""

    options: SampleOptions
    left_out: tuple[str, ...]


def parameters_text(options: SampleOptions, size: tuple[int, int] | None = None) -> str:
    """The options in that form. size: (width, height) of the picture, where the options leave it to the model."""
    loras = "".join(f" <lora:{called(lora.file)}:{lora.weight:g}>" for lora in options.added.loras)
    lines = [options.prompt + loras] + ([f"{NEGATIVE} {options.negative_prompt}"] if options.negative_prompt else [])
    return "\n".join([*lines, ", ".join(f"{name}: {_quoted(value)}" for name, value in _fields(options, size))])


def _fields(options: SampleOptions, size: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    yield "Steps", str(options.num_steps)
    yield "Sampler", SAMPLERS[options.scheduler]
    yield "Schedule type", SPACINGS.get(options.sigmas, "Automatic")
    yield "CFG scale", f"{options.guidance_scale:g}"
    yield "Seed", str(options.seed)
    width, height = options.width or (size or (None, None))[0], options.height or (size or (None, None))[1]
    if width and height:
        yield "Size", f"{width}x{height}"
    yield "Model", PurePath(options.model).stem if options.model.endswith(".safetensors") else PurePath(options.model).name
    if options.added.vae:
        yield "VAE", called(options.added.vae)
    if options.init_image is not None:
        yield "Denoising strength", f"{options.strength:g}"
    if options.eta:
        yield "Eta", f"{options.eta:g}"
    if options.added.embeddings:
        yield "TI hashes", ", ".join(f"{PurePath(file).stem}: " for file in options.added.embeddings)
    yield "Version", "Diffusion Studio"


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:\n"') else value


# --- reading -------------------------------------------------------------------------------------------------

def read_parameters(text: str) -> Parameters:
    """The options that such a text asks for. Raises InvalidOption, UnknownName for values that no run can have."""
    prompt, negative, fields = _parts(text)
    loras = [Lora(file=name.strip(), weight=_number("lora", weight or "1")) for name, weight in LORA.findall(prompt)]
    embeddings = [name.partition(":")[0].strip() for name in fields.get("TI hashes", "").split(",") if name.strip()]
    added = Added(loras=tuple(loras), embeddings=tuple(dict.fromkeys(embeddings)), vae=_vae(fields.get("VAE", "")))
    values: dict[str, Any] = {"prompt": LORA.sub("", prompt).strip(), "negative_prompt": LORA.sub("", negative).strip(), "added": added}
    values |= {"model": fields["Model"]} if fields.get("Model") else {}
    taken = {"Model", "VAE", *SILENT}
    for name, (option, take) in NUMBERS.items():
        if name in fields:
            values[option] = take(name, fields[name])
            taken.add(name)
    if match := re.fullmatch(r"(\d{1,5})x(\d{1,5})", fields.get("Size", "")):
        values |= {"width": int(match[1]), "height": int(match[2])}
        taken.add("Size")
    scheduler, sigmas = _scheduler(fields)
    if scheduler:
        values |= {"scheduler": scheduler, "sigmas": sigmas if sigmas in SCHEDULERS[scheduler].sigmas else ""}
        taken.add("Sampler")
    return Parameters(SampleOptions(**values), tuple(name for name in fields if name not in taken))


def _parts(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt, and the fields of the last line by name."""
    lines = text.strip().splitlines()
    found = FIELD.findall(lines[-1]) if lines else []
    fields: dict[str, str] = {}
    if len(found) >= LEAST_FIELDS:
        lines = lines[:-1]
        fields = {name.strip(): _unquoted(value.strip()) for name, value in found}
    start = next((i for i, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    negative = "\n".join(lines[start:]).removeprefix(NEGATIVE).strip()
    return "\n".join(lines[:start]).strip(), negative, fields


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value[1:-1]


def _number(name: str, said: str) -> float:
    try:
        return float(said)
    except ValueError as error:
        raise InvalidOption(f"{name} must be a number, but in this picture's parameters it is {quoted(said)}.") from error


def _whole(name: str, said: str) -> int:
    number = _number(name, said)
    if number != number or abs(number) == float("inf") or number != int(number):
        raise InvalidOption(f"{name} must be a whole number, but in this picture's parameters it is {quoted(said)}.")
    return int(number)


# The options that fields of numbers are. Strength counts only with a picture to start from, which the text does not hold.
NUMBERS: Mapping[str, tuple[str, Any]] = MappingProxyType({
    "Steps": ("num_steps", _whole), "CFG scale": ("guidance_scale", _number), "Seed": ("seed", _whole), "Denoising strength": ("strength", _number),
    "Eta": ("eta", _number),
})


def _scheduler(fields: Mapping[str, str]) -> tuple[str, str]:
    """The scheduler and its noise levels, "" where there is no such one here. Older texts say both in one: "DPM++ 2M Karras"."""
    said, spacing = fields.get("Sampler", ""), fields.get("Schedule type", "").lower()
    for name in SPACINGS.values():
        if said.endswith(f" {name}"):
            said, spacing = said.removesuffix(f" {name}"), name.lower()
    known = {label.lower(): name for name, label in SAMPLERS.items()}
    return known.get(said.lower(), ""), spacing if spacing in SPACINGS else ""


def _vae(said: str) -> str:
    return "" if said in ("Automatic", "None") else said
