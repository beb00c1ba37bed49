"""What a caller asks for: frozen, keyword-only options that refuse nonsense with the value in the message."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.errors import InvalidOption, UnknownName
from studio.schedulers import SCHEDULERS
from studio.schedules import MAX_TIMESTEPS, parse_timesteps

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SampleOptions"]

MAX_IMAGES = 64
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """One sampling run.

    Args:
        model: a key of studio.models.MODELS, or a folder in diffusers' format.
        class_label: a class name or index of a class-conditional model; None = unconditional.
        num_steps: steps of the scheduler, 1 to the model's T.
        timesteps: respacing instead of num_steps: "ddim50" or counts a section, "10,15,20" (ddpm and ddim only).
        scheduler: a key of SCHEDULERS.
        eta: DDIM's randomness, 0 to 1.
        clip_x0: clip x0_hat to [-1, 1] at every step (pixel models).
        seed: of the first picture; picture i has seed + i, so it is the same alone and in a batch.
        num_images: 1 to 64.
        init_image: start from this picture, noised, in place of pure noise.
        strength: how far up the noise the start lies, 0 (the picture itself) to 1 (pure noise): the share of the
            steps that is run.
    Raises:
        InvalidOption, UnknownName.
    """

    model: str = "toybox-ddpm"
    class_label: str | int | None = None
    num_steps: int = 50
    timesteps: str | None = None
    scheduler: str = "ddim"
    eta: float = 0.0
    clip_x0: bool = True
    seed: int = 0
    num_images: int = 1
    init_image: "Image.Image | None" = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.scheduler not in SCHEDULERS:
            raise UnknownName.of("scheduler", self.scheduler, SCHEDULERS)
        info = SCHEDULERS[self.scheduler]
        # Options also come out of strangers' files, so their types are not taken on trust.
        if not isinstance(self.model, str) or not self.model:
            raise InvalidOption(f"model must be the name of a model, but it is {self.model!r}.")
        if not isinstance(self.class_label, str | int | None):
            raise InvalidOption(f"class_label must be the name or the index of a class, but it is {self.class_label!r}.")
        if not isinstance(self.clip_x0, bool):
            raise InvalidOption(f"clip_x0 must be true or false, but it is {self.clip_x0!r}.")
        require_int("num_steps", self.num_steps, 1, MAX_TIMESTEPS)
        require_int("num_images", self.num_images, 1, MAX_IMAGES)
        require_int("seed", self.seed, 0, MAX_SEED)
        require_float("eta", self.eta, 0.0, 1.0)
        require_float("strength", self.strength, 0.0, 1.0)
        if self.timesteps is not None:
            if not isinstance(self.timesteps, str):
                raise InvalidOption(f"timesteps is written like 'ddim50' or '10,15,20', but it is {self.timesteps!r}.")
            parse_timesteps(self.timesteps)
            if info.diffusers_class:
                raise InvalidOption(f"Respacing works with ddpm and ddim; with {self.scheduler!r} set num_steps instead.")
        elif self.num_steps < info.min_steps:
            raise InvalidOption(f"{info.label} needs at least {info.min_steps} steps, but {self.num_steps=}.")

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON-ready values; the picture to start from is left out (a run file keeps it as x_t)."""
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


def require_int(name: str, value: object, low: int, high: int) -> None:
    """Refuse anything but a whole number from low to high, in a sentence."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidOption(f"{name} must be a whole number from {low} to {high}, but it is {value!r}.")


def require_float(name: str, value: object, low: float, high: float) -> None:
    """Refuse anything but a number from low to high, in a sentence; NaN is refused too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InvalidOption(f"{name} must be a number from {low:g} to {high:g}, but it is {value!r}.")
