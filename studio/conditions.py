"""What else a family can be told, in small frozen groups. SampleOptions holds one of each; a family names those that it knows.

Which of them a family takes stands in studio.models.families.FAMILIES, by the dotted names: "size" is the whole group, "texts.prompt_2"
one option of it.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Self

from studio.additions import MAX_EMBEDDINGS, MAX_LORAS, Lora, called
from studio.checks import quoted, require_int, require_text
from studio.errors import InvalidOption
from studio.option_groups import Group, option

__all__ = [
    "AS_TRAINED", "CONDITIONS", "NOTHING_ADDED", "Added", "AestheticTold", "FlowTold", "LayersSkipped", "Refined", "SizeTold", "TextsTold", "ConditionGroup",
    "TEXT_ENCODERS", "group_of", "is_taken",
]

MAX_TOLD_SIDE = 16_384
MAX_PROMPT = 4_000
MAX_LAYERS = 64


@dataclass(frozen=True, kw_only=True)
class ConditionGroup(Group):
    """A group that stands in SampleOptions under a name of its own."""

    def __post_init__(self) -> None:
        self._check_ranges(type(self))
        for field in dataclasses.fields(self):
            _check_kind(field.metadata["option"], field.name, getattr(self, field.name), field.default)
        self._check()

    @property
    def changed(self) -> dict[str, Any]:
        """What is not as by default, by name."""
        return {field.name: value for field in dataclasses.fields(self) if (value := getattr(self, field.name)) != field.default}

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-ready values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.changed.items()}

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """The inverse of `to_dict`. Raises InvalidOption."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) - known:
            raise InvalidOption(f"the options are {', '.join(sorted(known))}, but it is {quoted(values)}.")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _check_kind(info: Any, name: str, value: Any, default: Any) -> None:
    """Refuse what is not of the kind that an option is written in, in a sentence."""
    if value is None and default is None:
        return
    if info.kind == "pair":
        if not isinstance(value, tuple) or len(value) != 2:
            raise InvalidOption(f"{name} must be two whole numbers, but it is {quoted(value)}.")
        for number in value:
            require_int(name, number, info.low, info.high)
    elif info.kind == "numbers":
        if not isinstance(value, tuple) or len(value) > MAX_LAYERS:
            raise InvalidOption(f"{name} must be at most {MAX_LAYERS} whole numbers, but it is {quoted(value)}.")
        for number in value:
            require_int(name, number, info.low, info.high)
    elif info.kind == "many":
        known = [choice for _, choice in info.choices]
        if not isinstance(value, tuple) or not all(isinstance(one, str) and one in known for one in value):
            raise InvalidOption(f"{name} must be some of {', '.join(known)}, but it is {quoted(value)}.")
    elif isinstance(default, str):
        require_text(name, value, MAX_PROMPT)


def _pair(label: str, info: str, low: int, default: tuple[int, int] | None = None) -> Any:
    return option(default, label, info, low, MAX_TOLD_SIDE, kind="pair")


@dataclass(frozen=True, kw_only=True)
class SizeTold(ConditionGroup):
    """The picture's size as SDXL is told it beside the time (Podell et al. 2023, arXiv:2307.01952, section 2.2). Pixels, (width, height).

    Args:
        original: of the picture before it was scaled, small ones looked blurred in training; None = the size of the run.
        crop: (left, top) of what was cut off before the picture, (0, 0): well in the middle.
        target: what it was cut to; None = the size of the run. negative_...: the same for what guidance leads away from; they
            count where one of the two sizes is given, and what is then left out is the size of the run.
    """

    original: tuple[int, int] | None = _pair("Original size", "Larger: more detail, as of a large photograph. Small: blurred. Empty is the picture's.", 1)
    crop: tuple[int, int] = _pair("Crop, left x top", "Larger: the object is cut off on that side. 0x0 is well centred.", 0, (0, 0))
    target: tuple[int, int] | None = _pair("Target size", "Another shape: composed for it. Empty is the picture's.", 1)
    negative_original: tuple[int, int] | None = _pair("Original size to avoid", "Small: away from the blur of small pictures. Empty is the one above.", 1)
    negative_crop: tuple[int, int] = _pair("Crop to avoid", "Counts where a size to avoid is given.", 0, (0, 0))
    negative_target: tuple[int, int] | None = _pair("Target size to avoid", "Empty is the picture's.", 1)


TEXT_ENCODERS = (("CLIP L", "clip_l"), ("OpenCLIP G", "clip_g"), ("T5", "t5"))


@dataclass(frozen=True, kw_only=True)
class TextsTold(ConditionGroup):
    """How several text encoders read.

    Args:
        prompt_2, prompt_3: of the second and the third encoder; "" = the prompt. negative_...: the same of the negative prompt.
        clip_skip: layers of CLIP that are left out, counted from the one that the model was trained with; None = none.
        encoders: those that read; of the others the network is told zeros.
    """

    prompt_2: str = option("", "Second prompt", "For the second text encoder. Empty is the prompt.")
    negative_prompt_2: str = option("", "Second negative prompt", "Empty is the negative prompt.")
    prompt_3: str = option("", "Third prompt", "For T5. Empty is the prompt.")
    negative_prompt_3: str = option("", "Third negative prompt", "Empty is the negative prompt.")
    clip_skip: int | None = option(None, "CLIP layers to skip", "Higher: the prompt is read more coarsely. 0 is as the model was trained.", 0, 23)
    encoders: tuple[str, ...] = option(
        ("clip_l", "clip_g", "t5"), "Text encoders that read", "Off: the network is told zeros in its place, as in part of its training.",
        kind="many", choices=TEXT_ENCODERS,
    )

    def _check(self) -> None:
        if not self.encoders:
            raise InvalidOption("At least one text encoder must read: switch one on.")


# Every encoder reads the prompt, as the model was trained.
AS_TRAINED = TextsTold()


@dataclass(frozen=True, kw_only=True)
class AestheticTold(ConditionGroup):
    """The aesthetic scores that SDXL's refiner is told. score: of the picture wanted; negative: of what guidance leads away from."""

    score: float = option(6.0, "Aesthetic score", "Higher: as pictures that people rated better.", 0.0, 10.0, 0.5)
    negative: float = option(2.5, "Score to avoid", "Lower: further away from poor pictures.", 0.0, 10.0, 0.5)


@dataclass(frozen=True, kw_only=True)
class Refined(ConditionGroup):
    """Base and refiner one after the other (denoising_end and denoising_start of diffusers).

    Args:
        model: the refiner, named as models are; "" = none. start: the share of the noise levels that the base model takes, 0.05
            to 0.95; the refiner goes on from there. It was trained on the last 0.2.
    """

    model: str = option("", "Refiner", "It takes over at a share of the way. Empty is none.", kind="model")
    start: float = option(0.8, "Hand over at", "Higher: the refiner does less. It was trained on what comes after 0.8.", 0.05, 0.95, 0.05)

    def _check(self) -> None:
        require_text("model", self.model, 1_000)


@dataclass(frozen=True, kw_only=True)
class FlowTold(ConditionGroup):
    """How a rectified flow spaces its steps. shift: k in s <- k s / (1 + (k - 1) s), 0.1 to 20; None = the model's own."""

    shift: float | None = option(None, "Shift of the flow", "Higher: more of the steps at the noisy end. 0 is the model's own.", 0.1, 20.0, 0.1)


@dataclass(frozen=True, kw_only=True)
class LayersSkipped(ConditionGroup):
    """Skip-layer guidance: out <- out + scale (cond - cond without some layers), as StableDiffusion3Pipeline has it.

    Args:
        layers: indices of the transformer's blocks that are left out, (7, 8, 9) for SD 3.5 medium; () = off.
        scale: how strongly. start, end: the share of the steps between which it acts: step i of N where start < i/N < end.
    """

    layers: tuple[int, ...] = option((), "Layers to skip", "Blocks of the transformer, such as 7, 8, 9 of SD 3.5 medium. Empty is off.", 0, 200, kind="numbers")
    scale: float = option(2.8, "Skip-layer scale", "Higher: further away from the picture without those layers.", 0.0, 20.0, 0.1)
    start: float = option(0.01, "Skip from", "Share of the steps.", 0.0, 1.0, 0.01)
    end: float = option(0.2, "to", "Share of the steps.", 0.0, 1.0, 0.01)

    def _check(self) -> None:
        if self.start > self.end:
            raise InvalidOption(f"Skip-layer guidance must start before it ends, but start={self.start:g} and end={self.end:g}.")


@dataclass(frozen=True, kw_only=True)
class Added(ConditionGroup):
    """What is put into the model before it draws. Files are .safetensors in the folders that the studio may use, by path or by name.

    Args:
        loras: LoRAs with their weights, at most 8. embeddings: textual inversion embeddings, at most 16; the name of each file is
            its word. vae: a VAE in place of the model's own, a file or a folder in diffusers' format; "" = its own.
    """

    loras: tuple[Lora, ...] = option((), "LoRA", "One a line: the file, and its weight. Higher: more of it; 1 is as it was taught, 0 is none.", kind="loras")
    embeddings: tuple[str, ...] = option((), "Embeddings", "One file a line. Its name, written in the prompt, is its word.", kind="files")
    vae: str = option("", "VAE", "In place of the model's own: a file or a folder. Empty is its own.")

    def _check(self) -> None:
        require_text("vae", self.vae, 1_000)
        if not isinstance(self.loras, tuple) or len(self.loras) > MAX_LORAS or not all(isinstance(lora, Lora) for lora in self.loras):
            raise InvalidOption(f"loras must be at most {MAX_LORAS} of Lora(file=..., weight=...), but it is {quoted(self.loras)}.")
        if not isinstance(self.embeddings, tuple) or len(self.embeddings) > MAX_EMBEDDINGS:
            raise InvalidOption(f"embeddings must be at most {MAX_EMBEDDINGS} files, but it is {quoted(self.embeddings)}.")
        for file in self.embeddings:
            require_text("the file of an embedding", file, 1_000)
        words = [PurePath(file).stem for file in self.embeddings]
        if len(set(words)) < len(words):
            raise InvalidOption(f"Two embeddings have the same word: rename one of the files {quoted(self.embeddings)}.")

    def __str__(self) -> str:
        loras = [f"{called(lora.file)} {lora.weight:g}" for lora in self.loras]
        return ", ".join([*loras, *(PurePath(file).stem for file in self.embeddings), *([called(self.vae)] if self.vae else [])])

    @property
    def files(self) -> tuple[str, ...]:
        """All that is read."""
        return (*(lora.file for lora in self.loras), *self.embeddings, *([self.vae] if self.vae else []))

    def renamed(self, named: Mapping[str, str]) -> "Added":
        """The same with other names of the files; LoRAs whose weight is 0 are left out."""
        return Added(
            loras=tuple(Lora(file=named[lora.file], weight=lora.weight) for lora in self.loras if lora.weight),
            embeddings=tuple(named[file] for file in self.embeddings), vae=named[self.vae] if self.vae else "",
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-ready values."""
        return super().to_dict() | ({"loras": [lora.to_dict() for lora in self.loras]} if self.loras else {})

    @classmethod
    def from_dict(cls, values: object) -> "Added":
        """The inverse of `to_dict`. Raises InvalidOption."""
        loras = values.get("loras", []) if isinstance(values, dict) else []
        if not isinstance(loras, list):
            raise InvalidOption(f"loras must be a list, but it is {quoted(loras)}.")
        return super().from_dict({**values, "loras": [Lora.from_dict(one) for one in loras[: MAX_LORAS + 1]]} if isinstance(values, dict) else values)


NOTHING_ADDED = Added()

# By the names under which SampleOptions holds them.
CONDITIONS: Mapping[str, type[ConditionGroup]] = MappingProxyType({
    "size": SizeTold, "texts": TextsTold, "refined": Refined, "aesthetic": AestheticTold, "flow": FlowTold, "skipped": LayersSkipped,
    "added": Added,
})


def group_of(name: str, values: object) -> ConditionGroup:
    """A group, by its name in SampleOptions, of JSON-ready values by the names of its options. Raises InvalidOption, with the group's name before it."""
    try:
        return CONDITIONS[name].from_dict(values)
    except InvalidOption as error:
        raise InvalidOption(f"{name}: {error}") from None


def is_taken(name: str, takes: tuple[str, ...]) -> bool:
    """Whether an option, by its dotted name, or something of a group is among what a family takes."""
    return any(name == one or name.startswith(f"{one}.") or one.startswith(f"{name}.") for one in takes)
