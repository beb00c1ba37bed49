"""What a caller asks for: frozen, keyword-only options that refuse nonsense with the value in the message."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.checks import MAX_SEED, require_float, require_int
from studio.errors import InvalidOption, UnknownName
from studio.process.schedulers import SCHEDULERS, SchedulerInfo
from studio.process.schedules import MAX_TIMESTEPS, parse_timesteps

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SampleOptions"]

MAX_IMAGES = 64
MAX_PROMPT = 4_000
MAX_SIDE = 4_096


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """One sampling run.

    Args:
        model: a key of studio.models.MODELS, a folder in diffusers' format, a .safetensors file, or a Hub id.
        prompt: what the picture is to show (models with a text encoder).
        negative_prompt: what guidance leads away from; it takes the place of the empty prompt.
        class_label: a class name or index of a class-conditional model; None = unconditional.
        num_steps: steps of the scheduler, 1 to the model's T.
        timesteps: respacing instead of num_steps: "ddim50" or counts a section, "10,15,20" (ddpm and ddim only).
        scheduler: a key of SCHEDULERS.
        sigmas: how the scheduler spaces its noise levels, where it offers a choice: "" (its own), "karras",
            "exponential" or "beta".
        eta: DDIM's randomness, 0 to 1.
        guidance_scale: w in uncond + w (cond - uncond), 0 to 100; 1 = off.
        guidance_start, guidance_end: the share of the schedule's steps, 0 to 1, in which guidance acts.
        guidance_rescale: how far the guided prediction is brought back to the deviation of the conditional one,
            0 (not) to 1 (Lin et al. 2023, arXiv:2305.08891, section 3.4).
        clip_guidance_scale: strength of the gradient towards CLIP's idea of the prompt, 0 (off) to 10,000.
        clip_model: the CLIP that guides: a key of COMPANIONS, a folder or a Hub id; "" = the model's own companion.
        clip_x0: clip x0_hat to [-1, 1] at every step; None = the model's own habit (latents are not clipped).
        seed: of the first picture; picture i has seed + i, so it is the same alone and in a batch.
        num_images: 1 to 64.
        width, height: of the pictures in pixels; None = the model's own.
        init_image: start from this picture, noised, in place of pure noise.
        strength: how far up the noise the start lies, 0 (the picture itself) to 1 (pure noise): the share of the
            steps that is run.
        record_attention: keep where in the picture each word of the prompt was looked at (models with a text encoder).
    Raises:
        InvalidOption, UnknownName.
    """

    model: str = "toybox-ddpm"
    prompt: str = ""
    negative_prompt: str = ""
    class_label: str | int | None = None
    num_steps: int = 50
    timesteps: str | None = None
    scheduler: str = "ddim"
    sigmas: str = ""
    eta: float = 0.0
    guidance_scale: float = 1.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    guidance_rescale: float = 0.0
    clip_guidance_scale: float = 0.0
    clip_model: str = ""
    clip_x0: bool | None = None
    seed: int = 0
    num_images: int = 1
    width: int | None = None
    height: int | None = None
    init_image: "Image.Image | None" = None
    strength: float = 1.0
    record_attention: bool = False

    def __post_init__(self) -> None:
        if self.scheduler not in SCHEDULERS:
            raise UnknownName.of("scheduler", self.scheduler, SCHEDULERS)
        self._check_types()
        self._check_numbers()
        self._check_guidance()
        self._check_steps(SCHEDULERS[self.scheduler])

    def _check_types(self) -> None:
        """Options also come out of strangers' files, so their types are not taken on trust."""
        if not isinstance(self.model, str) or not self.model:
            raise InvalidOption(f"model must be the name of a model, but it is {self.model!r}.")
        if not isinstance(self.class_label, str | int | None):
            raise InvalidOption(f"class_label must be the name or the index of a class, but it is {self.class_label!r}.")
        if not isinstance(self.clip_x0, bool | None):
            raise InvalidOption(f"clip_x0 must be true, false or None (the model's own habit), but it is {self.clip_x0!r}.")
        if not isinstance(self.record_attention, bool):
            raise InvalidOption(f"record_attention must be true or false, but it is {self.record_attention!r}.")
        for name in ("prompt", "negative_prompt", "clip_model"):
            text = getattr(self, name)
            if not isinstance(text, str) or len(text) > MAX_PROMPT:
                raise InvalidOption(f"{name} must be a text of at most {MAX_PROMPT} characters, but it is {str(text)[:60]!r}.")

    def _check_numbers(self) -> None:
        require_int("num_steps", self.num_steps, 1, MAX_TIMESTEPS)
        require_int("num_images", self.num_images, 1, MAX_IMAGES)
        require_int("seed", self.seed, 0, MAX_SEED)
        require_float("eta", self.eta, 0.0, 1.0)
        require_float("strength", self.strength, 0.0, 1.0)
        for name in ("width", "height"):
            if getattr(self, name) is not None:
                require_int(name, getattr(self, name), 1, MAX_SIDE)

    def _check_guidance(self) -> None:
        require_float("guidance_scale", self.guidance_scale, 0.0, 100.0)
        require_float("guidance_rescale", self.guidance_rescale, 0.0, 1.0)
        require_float("clip_guidance_scale", self.clip_guidance_scale, 0.0, 10_000.0)
        require_float("guidance_start", self.guidance_start, 0.0, 1.0)
        require_float("guidance_end", self.guidance_end, 0.0, 1.0)
        if self.guidance_start > self.guidance_end:
            raise InvalidOption(f"Guidance must start before it ends, but guidance_start={self.guidance_start:g} and guidance_end={self.guidance_end:g}.")

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

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON-ready values; the picture to start from is left out (a run file keeps it beside them)."""
        values = dataclasses.asdict(dataclasses.replace(self, init_image=None))
        del values["init_image"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SampleOptions":
        """The inverse of `to_dict`; names that this version does not know are an InvalidOption."""
        known = {field.name for field in dataclasses.fields(cls)} - {"init_image"}
        if unknown := sorted(set(values) - known):
            raise InvalidOption(f"These options are not known to this version of the studio: {', '.join(unknown)}.")
        return cls(**values)
