"""What a caller asks for: frozen, keyword-only options that refuse nonsense with the value in the message.

SampleOptions is nine groups of options in one: what to draw, how to sample, how to guide, what to start from, what of it to draw
anew, what to be told in pictures, what to follow, what else a family can be told, what to record. Each group is a dataclass that
checks itself; each option carries what a form needs to know of it.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from studio.checks import MAX_SEED, quoted
from studio.conditions import CONDITIONS, Added, AestheticTold, FlowTold, LayersSkipped, Refined, SizeTold, TextsTold, group_of
from studio.errors import InvalidOption, UnknownName
from studio.option_groups import Group, OptionInfo, option, picture_option
from studio.process.schedulers import SCHEDULERS, SchedulerInfo
from studio.process.schedules import MAX_TIMESTEPS, parse_timesteps
from studio.units import MAX_UNITS, ControlUnit

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "GROUPS", "PICTURES", "SampleOptions", "Drawing", "Sampling", "Guidance", "Start", "Inpainting", "Told", "Following", "Conditioned", "Recording",
    "OptionInfo", "option_info",
]

MAX_IMAGES = 64
MAX_PROMPT = 4_000
MAX_SIDE = 4_096


def option_info(name: str) -> OptionInfo:
    """What a form needs to know of one option of SampleOptions, "size.crop" of one that is told in a group of its own. Raises UnknownName."""
    group, _, own = name.rpartition(".")
    fields = {field.name: field for field in dataclasses.fields(CONDITIONS.get(group, SampleOptions))}
    if own not in fields or group and group not in CONDITIONS:
        raise UnknownName.of("option", name, fields)
    return fields[own].metadata["option"]


@dataclass(frozen=True, kw_only=True)
class Drawing(Group):
    """What to draw.

    Args:
        model: a key of studio.models.MODELS, a folder in diffusers' format, a .safetensors file, or a Hub id.
        prompt: what the picture is to show (models with a text encoder).
        negative_prompt: what guidance leads away from; it takes the place of the empty prompt.
        class_label: a class name or index of a class-conditional model; None = unconditional.
        seed: of the first picture; picture i has seed + i, so it is the same alone and in a batch.
        num_images: 1 to 64.
        width, height: of the pictures in pixels; None = the model's own.
    """

    model: str = option("toybox-ddpm", "Model")
    prompt: str = option("", "Prompt")
    negative_prompt: str = option("", "Negative prompt")
    class_label: str | int | None = option(None, "Class", "What the picture is to show; any leaves it to the model.")
    seed: int = option(0, "Seed", "Another number: other noise to start.", 0, MAX_SEED)
    num_images: int = option(1, "Images", "More: several seeds side by side, and slower.", 1, MAX_IMAGES)
    width: int | None = option(None, "Width", "Pixels; 0 is its own.", 1, MAX_SIDE)
    height: int | None = option(None, "Height", "Pixels; 0 is its own.", 1, MAX_SIDE)

    def _check(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise InvalidOption(f"model must be the name of a model, but it is {self.model!r}.")
        if not isinstance(self.class_label, str | int | None):
            raise InvalidOption(f"class_label must be the name or the index of a class, but it is {self.class_label!r}.")
        # The page's JSON knows no larger whole number; which classes there are is for the model to say.
        if isinstance(self.class_label, int) and abs(self.class_label) >= 2**63:
            raise InvalidOption("class_label must be the name or the index of a class, but it has more than 18 digits.")
        for name in ("prompt", "negative_prompt"):
            _require_text(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Sampling(Group):
    """How to sample.

    Args:
        num_steps: steps of the scheduler, 1 to the model's T.
        timesteps: respacing instead of num_steps: "ddim50" or counts a section, "10,15,20" (ddpm and ddim only).
        scheduler: a key of SCHEDULERS.
        sigmas: how the scheduler spaces its noise levels, where it offers a choice: "" (its own), "karras",
            "exponential" or "beta".
        eta: DDIM's randomness, 0 to 1.
        clip_x0: clip x0_hat to [-1, 1] at every step; None = the model's own habit (latents are not clipped).
    """

    num_steps: int = option(50, "Steps", "More: slower, with finer steps.", 1, MAX_TIMESTEPS)
    timesteps: str | None = option(
        None, "Respacing",
        "In place of Steps: how many to take of each part, least noise first. A larger count walks through its part more slowly.",
    )
    scheduler: str = option("ddim", "Scheduler")
    sigmas: str = option("", "Noise levels", "How the steps are spaced.")
    eta: float = option(0.0, "eta", "Higher: more fresh noise at every step. 0 draws none, 1 is DDPM.", 0.0, 1.0, 0.05)
    clip_x0: bool | None = option(None, "Clip x0_hat", "On: the belief never leaves the range of a picture.")

    def _check(self) -> None:
        for name in ("scheduler", "sigmas"):
            if not isinstance(getattr(self, name), str):
                raise InvalidOption(f"{name} must be a name, but it is {getattr(self, name)!r:.60}.")
        if self.scheduler not in SCHEDULERS:
            raise UnknownName.of("scheduler", self.scheduler, SCHEDULERS)
        if not isinstance(self.clip_x0, bool | None):
            raise InvalidOption(f"clip_x0 must be true, false or None (the model's own habit), but it is {self.clip_x0!r}.")
        self._check_steps(SCHEDULERS[self.scheduler])

    def _check_steps(self, info: SchedulerInfo) -> None:
        if self.sigmas and self.sigmas not in info.sigmas:
            offered = f"choose one of {', '.join(info.sigmas)}, or leave it empty" if info.sigmas else "it has no choice of noise levels, leave it empty"
            raise InvalidOption(f"sigmas={self.sigmas!r} does not go with {info.label}: {offered}.")
        if self.timesteps is not None:
            if not isinstance(self.timesteps, str):
                raise InvalidOption(f"timesteps is written like 'ddim50' or '10,15,20', but it is {self.timesteps!r}.")
            parse_timesteps(self.timesteps)
            if info.diffusers_class:
                raise InvalidOption(f"Respacing works with ddpm and ddim; with {self.scheduler!r} set num_steps instead.")
        elif self.num_steps < info.min_steps:
            raise InvalidOption(f"{info.label} needs at least {info.min_steps} steps, but {self.num_steps=}.")


@dataclass(frozen=True, kw_only=True)
class Guidance(Group):
    """How to guide.

    Args:
        guidance_scale: w in uncond + w (cond - uncond), 0 to 100; 1 = off.
        guidance_start, guidance_end: the share of the schedule's steps, 0 to 1, in which guidance acts.
        guidance_rescale: how far the guided prediction is brought back to the deviation of the conditional one,
            0 (not) to 1 (Lin et al. 2023, arXiv:2305.08891, section 3.4).
        clip_guidance_scale: strength of the gradient towards CLIP's idea of the prompt, 0 (off) to 10,000.
        clip_model: the CLIP that guides: a key of COMPANIONS, a folder or a Hub id; "" = the model's own companion.
    """

    guidance_scale: float = option(1.0, "Guidance scale", "Higher: closer to the prompt, with less variety. 1 is off.", 0.0, 100.0, 0.1)
    guidance_start: float = option(0.0, "Guide from", "Share of the steps.", 0.0, 1.0, 0.05)
    guidance_end: float = option(1.0, "to", "1 is the last one.", 0.0, 1.0, 0.05)
    guidance_rescale: float = option(0.0, "Guidance rescale", "Higher: tames the glaring contrast of strong guidance.", 0.0, 1.0, 0.05)
    clip_guidance_scale: float = option(
        0.0, "CLIP guidance scale",
        "Higher: CLIP's own idea of the prompt pulls harder. Slow: the decoder and CLIP run at every step. 0 is off.",
        0.0, 10_000.0, 10.0,
    )
    clip_model: str = option("", "CLIP", "Empty: the model's own companion.")

    def _check(self) -> None:
        _require_text("clip_model", self.clip_model)
        if self.guidance_start > self.guidance_end:
            raise InvalidOption(f"Guidance must start before it ends, but guidance_start={self.guidance_start:g} and guidance_end={self.guidance_end:g}.")


@dataclass(frozen=True, kw_only=True)
class Start(Group):
    """What to start from.

    Args:
        init_image: start from this picture, noised, in place of pure noise.
        strength: how far up the noise the start lies, 0 (the picture itself) to 1 (pure noise): the share of the
            steps that is run.
    """

    init_image: "Image.Image | None" = picture_option("Start from a picture")
    strength: float = option(1.0, "Strength", "Higher: less of that picture is left to start from. 1 is pure noise.", 0.0, 1.0, 0.05)

    def _check(self) -> None:
        _require_picture("init_image", self.init_image)


@dataclass(frozen=True, kw_only=True)
class Inpainting(Group):
    """What of the picture to start from is drawn anew (Lugmayr et al. 2022, arXiv:2201.09865; inpainting models know the mask themselves).

    Args:
        init_mask: what is white in it is drawn anew, what is black stays that picture's; of that picture's shape, or of the run's.
        mask_blur: how soft the mask's edge is where old and new meet, 0 to 64 pixels of the picture (the radius of a Gaussian).
        mask_padding: work only on the masked part, enlarged to the size of the run, with so many pixels of the picture around it,
            and put it back into the whole picture; None = work on the whole picture.
        mask_overlay: put the picture's own pixels back over all that is kept, so that it stays as it is to the last digit.
    """

    init_mask: "Image.Image | None" = picture_option("Draw anew")
    mask_blur: float = option(0.0, "Feather", "Pixels. Higher: old and new run into each other more softly.", 0.0, 64.0, 1.0)
    mask_padding: int | None = option(None, "Only the masked part, and so much around it", "Pixels. 0 works on the whole picture.", 0, MAX_SIDE)
    mask_overlay: bool = option(True, "Keep the rest exactly", "Off: what is kept goes through the decoder too, and changes a little.")

    def _check(self) -> None:
        if not isinstance(self.mask_overlay, bool):
            raise InvalidOption(f"mask_overlay must be true or false, but it is {quoted(self.mask_overlay)}.")
        if self.init_mask is None:
            return
        if getattr(self, "init_image", None) is None:
            raise InvalidOption("A mask says which part of a picture is drawn anew: give the picture to start from, or clear the mask.")
        if not hasattr(self.init_mask, "convert") or not self.init_mask.convert("L").getbbox():
            raise InvalidOption("init_mask must be a picture with something white, which is drawn anew; paint there, or clear the mask.")
        if self.init_mask.convert("L").getextrema()[0] == 255:
            raise InvalidOption("The mask is white all over, so nothing of the picture would be kept: leave some of it black, or clear the mask.")


@dataclass(frozen=True, kw_only=True)
class Told(Group):
    """What else the model is told in pictures, by models made for it.

    Args:
        cond_image: the depth map of a depth model (bright is near; None = made of the picture to start from), the small picture
            of an upscaler, the picture that an image-variation model varies.
        cond_image_2: a second picture to vary; cond_mix: its share, 0 (the first alone) to 1, by spherical interpolation.
        noise_level: noise added to that condition, as a timestep of its own schedule: more frees the model from it. None = as the
            model's own pipeline has it.
        depth_model: what makes the depth map: a depth estimator of transformers, folder or Hub id; "" = the model's own.
    """

    cond_image: "Image.Image | None" = picture_option("Told in a picture")
    cond_image_2: "Image.Image | None" = picture_option("A second picture, to mix in")
    cond_mix: float = option(0.5, "Mix", "0 is the first picture, 1 the second; between them along the arc of their embeddings.", 0.0, 1.0, 0.05)
    noise_level: int | None = option(None, "Noise on what it is told", "Higher: the model keeps less to the picture and invents more.", 0, MAX_TIMESTEPS)
    depth_model: str = option(
        "", "Depth estimator",
        "Makes the map of the picture to start from where none is given: a folder or Hub id of transformers; empty: the model's own.",
    )

    def _check(self) -> None:
        _require_text("depth_model", self.depth_model)
        for name in ("cond_image", "cond_image_2"):
            _require_picture(name, getattr(self, name))
        if self.cond_image_2 is not None and self.cond_image is None:
            raise InvalidOption("A second picture is mixed into a first one: give that too, or clear the second.")


@dataclass(frozen=True, kw_only=True)
class Following(Group):
    """What to follow.

    Args:
        control: ControlNets with the maps that the picture is to follow, at most three; one that is muted is left out.
    """

    control: tuple[ControlUnit, ...] = option((), "ControlNets", "Each adds what it sees in its map to the model's own states.")

    def _check(self) -> None:
        if not isinstance(self.control, tuple) or not all(isinstance(unit, ControlUnit) for unit in self.control):
            raise InvalidOption(f"control must be a tuple of ControlUnit, but it is {quoted(self.control)}.")
        if len(self.control) > MAX_UNITS:
            raise InvalidOption(f"A run follows at most {MAX_UNITS} ControlNets, but these are {len(self.control)}.")

    @property
    def units(self) -> tuple[ControlUnit, ...]:
        """Those that are not muted."""
        return tuple(unit for unit in self.control if not unit.muted)


@dataclass(frozen=True, kw_only=True)
class Conditioned(Group):
    """What else some families can be told, each in a small group of its own (studio.conditions). What a family does not know it refuses.

    Args:
        size: the picture's size and crop as SDXL is told them. texts: second and third prompts, and how the text encoders read.
        aesthetic: the scores that SDXL's refiner is told. refined: a refiner that takes over at a share of the steps.
        flow: how a flow spaces its steps. skipped: guidance away from what the network says without some of its layers.
        added: LoRAs, embeddings and a VAE that are put into the model.
    """

    size: SizeTold = option(SizeTold(), "Size as the model is told it")
    texts: TextsTold = option(TextsTold(), "Text encoders")
    aesthetic: AestheticTold = option(AestheticTold(), "Aesthetic score")
    refined: Refined = option(Refined(), "Refiner")
    flow: FlowTold = option(FlowTold(), "Flow")
    skipped: LayersSkipped = option(LayersSkipped(), "Skip-layer guidance")
    added: Added = option(Added(), "LoRA, embeddings, VAE")

    def _check(self) -> None:
        for name, group in CONDITIONS.items():
            if not isinstance(getattr(self, name), group):
                raise InvalidOption(f"{name} must be {group.__name__}(...), but it is {quoted(getattr(self, name))}.")

    @property
    def conditions(self) -> dict[str, Any]:
        """What is told, that is, not as by default, by dotted names such as "size.crop"."""
        return {f"{name}.{own}": value for name in CONDITIONS for own, value in getattr(self, name).changed.items()}


@dataclass(frozen=True, kw_only=True)
class Recording(Group):
    """What to record beside the states.

    Args:
        record_attention: keep where in the picture each word of the prompt was looked at (models with a text encoder).
    """

    record_attention: bool = option(False, "Record word attention", "On: see where in the picture each word was looked at. Costs a little time.")

    def _check(self) -> None:
        if not isinstance(self.record_attention, bool):
            raise InvalidOption(f"record_attention must be true or false, but it is {self.record_attention!r}.")


# In the order in which a form shows them.
GROUPS: Mapping[str, type[Group]] = MappingProxyType({
    "What to draw": Drawing, "How to sample": Sampling, "How to guide": Guidance, "What to start from": Start, "What to draw anew": Inpainting,
    "What to be told in pictures": Told, "What to follow": Following, "What else it is told": Conditioned, "What to record": Recording,
})


@dataclass(frozen=True, kw_only=True)
class SampleOptions(Recording, Conditioned, Following, Told, Inpainting, Start, Guidance, Sampling, Drawing):
    """One sampling run: the options of every group in GROUPS, where each is described.

    Raises:
        InvalidOption, UnknownName.
    """

    def __post_init__(self) -> None:
        # Options also come out of strangers' files, so their types are not taken on trust.
        for group in GROUPS.values():
            self._check_ranges(group)
            group._check(self)

    def value(self, name: str) -> Any:
        """An option by its name, "size.crop" of one in a group of its own."""
        group, _, own = name.rpartition(".")
        return getattr(getattr(self, group) if group else self, own)

    def replaced(self, changes: Mapping[str, Any]) -> "SampleOptions":
        """The same with some options changed, by such names. Raises InvalidOption, UnknownName."""
        options = self
        for name, value in changes.items():
            group, _, own = name.rpartition(".")
            options = dataclasses.replace(options, **({group: dataclasses.replace(getattr(options, group), **{own: value})} if group else {own: value}))
        return options

    def to_dict(self, *, maps: bool = True) -> dict[str, Any]:
        """The options as JSON-ready values; PICTURES are left out (a run file keeps them beside them).

        maps: with the maps and masks of ControlNets.
        """
        left = (*PICTURES, *CONDITIONS, "control")
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in left}
        values |= {name: changed for name in CONDITIONS if (changed := getattr(self, name).to_dict())}
        return values | ({"control": [unit.to_dict(pictures=maps) for unit in self.control]} if self.control else {})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SampleOptions":
        """The inverse of `to_dict`; names that this version does not know are an InvalidOption."""
        if not isinstance(values, dict):
            raise InvalidOption(f"Options must be an object, but they are {quoted(values)}.")
        known = {field.name for field in dataclasses.fields(cls)} - set(PICTURES)
        if unknown := sorted(set(values) - known):
            raise InvalidOption(f"These options are not known to this version of the studio: {', '.join(unknown)}.")
        units = values.get("control", [])
        if not isinstance(units, list):
            raise InvalidOption(f"control must be a list of units, but it is {quoted(units)}.")
        told = {name: group_of(name, values[name]) for name in CONDITIONS if name in values}
        return cls(**{**values, **told, "control": tuple(map(ControlUnit.from_dict, units[: MAX_UNITS + 1]))})


# The options that are pictures.
PICTURES: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(SampleOptions) if field.metadata["option"].kind == "picture")


def _require_picture(name: str, picture: object) -> None:
    if picture is not None and not hasattr(picture, "convert"):
        raise InvalidOption(f"{name} must be a picture, but it is {quoted(picture)}.")


def _require_text(name: str, text: object) -> None:
    if not isinstance(text, str) or len(text) > MAX_PROMPT:
        raise InvalidOption(f"{name} must be a text of at most {MAX_PROMPT} characters, but it is {str(text)[:60]!r}.")
