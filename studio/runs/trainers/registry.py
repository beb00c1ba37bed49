"""The menu of trainers: what each is called, its options, what its result is. Data only: no trainer is imported for it."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from studio.checks import quoted
from studio.errors import InvalidOption, UnknownName
from studio.runs.trainers import controlnet, dreambooth, latent, refl, reward
from studio.runs.trainers.clip import ClipOptions
from studio.runs.trainers.ddpm import DDPMOptions
from studio.runs.trainers.options import LoopOptions
from studio.runs.trainers.vae import VaeOptions

__all__ = ["TRAINERS", "OptionRow", "TrainerInfo", "options_table", "require_kinds", "resolve_options", "trainer_info"]

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}


@dataclass(frozen=True, kw_only=True)
class TrainerInfo:
    """A program that the studio can start as `python -m trainers.NAME --config FILE.toml`.

    options: the dataclass of its options. check: raises InvalidOption for what else can be known to go wrong before a run
    begins. result: what its result is called in a menu of models, "" where that is no diffusion model.
    """

    label: str
    options: type[LoopOptions]
    check: Callable[[Any], None] | None = None
    result: str = ""


TRAINERS: dict[str, TrainerInfo] = {
    "ddpm": TrainerInfo(label="Pixel DDPM", options=DDPMOptions, result="pixel DDPM"),
    "clip": TrainerInfo(label="CLIP", options=ClipOptions),
    "vae": TrainerInfo(label="Autoencoder", options=VaeOptions),
    "latent": TrainerInfo(label="Text-to-image", options=latent.LatentOptions, check=latent.check, result="text-to-image"),
    "dreambooth": TrainerInfo(label="DreamBooth", options=dreambooth.DreamBoothOptions, check=dreambooth.check, result="DreamBooth"),
    "controlnet": TrainerInfo(label="ControlNet", options=controlnet.ControlNetOptions, check=controlnet.check, result="ControlNet"),
    "refl": TrainerInfo(label="Tuning by a reward", options=refl.ReFLOptions, check=refl.check, result="tuned"),
    "reward": TrainerInfo(label="Reward", options=reward.RewardOptions, check=reward.check),
}


def trainer_info(name: str) -> TrainerInfo:
    """The entry of a trainer. Raises UnknownName."""
    if name not in TRAINERS:
        raise UnknownName.of("trainer", name, TRAINERS)
    return TRAINERS[name]


def resolve_options(trainer: str, options: Mapping[str, Any]) -> Any:
    """The trainer's options, checked by their kinds, by their dataclass, and by the trainer's `check`.

    Raises:
        UnknownName: no such trainer, option or choice. InvalidOption: a value that makes no sense.
    """
    info = trainer_info(trainer)
    known = {field.name for field in dataclasses.fields(info.options)}
    for key in options:
        if key not in known:
            raise UnknownName.of(f"option of {trainer}", key, sorted(known))
    require_kinds(trainer, options)
    for field in dataclasses.fields(info.options):
        if field.name in options:
            _require_allowed(field, options[field.name])
    resolved = info.options(**options)
    if info.check is not None:
        info.check(resolved)
    return resolved


@cache
def _hints(trainer: str) -> dict[str, Any]:
    return typing.get_type_hints(TRAINERS[trainer].options)


def require_kinds(trainer: str, options: Mapping[str, Any]) -> None:
    """Refuse values of another kind than the trainer's options have; names that it does not know are passed over. Raises InvalidOption."""
    kind, hints = trainer_info(trainer).options, _hints(trainer)
    for field in dataclasses.fields(kind):
        if field.name in options:
            _require_kind(field, hints[field.name], options[field.name])


def _require_kind(field: dataclasses.Field, hint: Any, value: Any) -> None:
    """Refuse a value of another kind than the option has, in a sentence; a whole number is a number too."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if not isinstance(value, (*kinds, int) if float in kinds else kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(KINDS.get(kind, kind.__name__) for kind in kinds if kind is not type(None))
        raise InvalidOption(f"{field.name} must be {wanted}, but it is {quoted(value)}.")


def _require_allowed(field: dataclasses.Field, value: Any) -> None:
    """Refuse a value that is none of the option's choices, in a sentence."""
    if field.metadata.get("choices") and value not in field.metadata["choices"]:
        raise UnknownName.of(field.name, value, field.metadata["choices"])


@dataclass(frozen=True, kw_only=True)
class OptionRow:
    """An option of a trainer in words."""

    name: str
    default: str
    help: str
    choices: str


def options_table(trainer: str) -> list[OptionRow]:
    """What `python -m trainers.NAME --help` documents. Raises UnknownName."""
    return [
        OptionRow(
            name=field.name, default=str(field.default), help=field.metadata["help"].replace("%%", "%"),
            choices=_allowed(field),
        )
        for field in dataclasses.fields(trainer_info(trainer).options) if field.name != "output"
    ]


def _allowed(field: dataclasses.Field) -> str:
    """What an option may be, in words; "" where that is left open."""
    if field.metadata["choices"]:
        return f". One of: {', '.join(field.metadata['choices'])}."
    low, high = field.metadata["low"], field.metadata["high"]
    return "" if low is None else f". From {low:,} to {high:,}."
