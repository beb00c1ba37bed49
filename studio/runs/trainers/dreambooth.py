"""The knobs of DreamBooth, and what can be known to go wrong with them: data that a form can show before torch is loaded."""

import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from studio.checks import quoted
from studio.errors import InvalidOption
from studio.files import read_object
from studio.media.folders import pictures_in, read_picture
from studio.models.facts import weight_shapes
from studio.models.families import FAMILIES
from studio.models.loading import resolve
from studio.models.sources import is_single_file
from studio.models.taught import base_of
from studio.runs.trainers.options import MOST_STEPS, LoopOptions, option

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "DreamBoothOptions", "METHODS", "RunCost", "USUAL_TARGETS", "check", "check_base", "check_model", "instance_paths", "load_instances", "require_layers",
    "require_whole",
]

MOST_PROMPTS = 64
METHODS = ("full", "full_text", "lora")
USUAL_TARGETS = "the usual targets are to_q,to_k,to_v,to_out.0."


@dataclass(frozen=True, kw_only=True)
class DreamBoothOptions(LoopOptions):
    """The knobs of a run; `python -m trainers.dreambooth --help` prints them."""

    base: str = option("toybox-sd", "the model to teach: a name of the catalogue, a folder or a Hub id", path="name")
    output: str = option("runs/dreambooth", "the run folder; an unfinished run in it is resumed", path="write")
    # the subject
    instances: str = option("assets/examples/domino", "the folder with the subject's pictures, 2 or more; 3 to 5 are usual", path="read")
    instance_prompt: str = option("a sks cat", "names the subject: the token and its class")
    token: str = option("sks", "the rare word that comes to mean the subject; it stands in the instance prompt")
    resolution: int = option(64, "pixels a side that training sees, a multiple of 8", low=16, high=2048)
    crop: str = option("center", "how pictures are brought to a square: from the centre, or at random", ("center", "random"))
    flip: bool = option(False, "mirror half of the pictures; not for subjects whose sides differ")
    # its class
    class_prompt: str = option("a cat", "the class without the token, for prior preservation")
    class_variations: str = option(
        "", "what follows the class prompt in turn when class pictures are drawn, separated by |, such as 'on a red background'; "
        "they keep what such words mean. Empty = none",
    )
    prior_weight: float = option(1.0, "weight of the class half, 0 = no prior preservation (arXiv:2208.12242, equation 2)", low=0, high=100)
    class_images: str = option("", "folder of class pictures, kept and reused; empty = one for this base and prompt under runs/class-images", path="write")
    num_class_images: int = option(64, "class pictures; the missing ones are drawn by the base model first", low=1, high=10_000)
    class_guidance: float = option(4.0, "guidance scale at which class pictures are drawn", low=0, high=100)
    class_steps: int = option(25, "sampling steps at which class pictures are drawn", low=1, high=1000)
    # what is trained
    method: str = option("full", "all of the UNet, the text encoder with it, or LoRA", METHODS)
    rank: int = option(8, "rank of LoRA's additions", low=1, high=1024)
    alpha: float = option(8.0, "LoRA's scale: additions are multiplied by alpha / rank", low=0, high=10_000)
    targets: str = option("to_q,to_k,to_v,to_out.0", "layers that LoRA adds to, comma-separated ends of module names")
    # the loss
    min_snr_gamma: float = option(0.0, "weigh both halves by min(SNR, gamma), 0 = off; 5 in arXiv:2303.09556", low=0, high=1000)
    offset_noise: float = option(0.0, "strength of noise that is the same all over a picture, for very dark or light subjects; 0.1 is usual", low=0, high=10)
    # the optimiser
    steps: int = option(400, "optimiser steps in all", low=1, high=MOST_STEPS)
    batch_size: int = option(2, "pictures of the subject a batch; as many of its class join them", low=1, high=4096)
    lr: float = option(1e-4, "peak learning rate, between 0 and 1; about 1e-4 for LoRA, 1e-6..5e-6 for a full Stable Diffusion", low=0, high=1)
    lr_plan: str = option("constant", "see --help of trainers.ddpm", ("cosine", "trapezoid", "constant"))
    warmup: int = option(0, "steps over which the learning rate rises", low=0, high=MOST_STEPS)
    ema_decay: float = option(0.0, "decay of the averaged weights, which are the ones kept; 0 keeps the last, 0 to 1", low=0, high=1)
    adam_8bit: bool = option(False, "8-bit Adam of bitsandbytes: a quarter of the optimiser's memory")
    gradient_checkpointing: bool = option(False, "compute activations twice instead of keeping them: less memory, a third more time")
    cache: bool = option(True, "encode pictures and prompts once, before training (not with random crops, nor prompts under a trained text encoder)")
    # looking on
    validation_prompts: str = option(
        "a sks cat|a sks cat on a yellow background|a cat", "prompts drawn from fixed seeds during training, separated by |",
    )
    validation_samples: int = option(4, "pictures a prompt, each from its own seed", low=1, high=64)
    validation_steps: int = option(20, "sampling steps of those", low=1, high=1000)
    validation_guidance: float = option(4.0, "guidance scale of those", low=0, high=100)
    sample_every: int = option(100, "steps between them, 0 = none", low=0, high=MOST_STEPS)
    checkpoint_every: int = option(100, "steps between checkpoints", low=1, high=MOST_STEPS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha <= 0:
            raise InvalidOption(f"alpha must be above 0, but it is {self.alpha}.")
        if self.method == "lora" and not self.target_layers:
            raise InvalidOption(f"LoRA needs layers to add to; {USUAL_TARGETS}")
        if self.resolution % 8:
            raise InvalidOption(f"resolution must be a multiple of 8, 16 or more, but it is {self.resolution}.")
        if not self.token.strip() or self.token not in self.instance_prompt.split():
            raise InvalidOption(f"The instance prompt must hold the token {self.token!r} as a word of its own; it is {self.instance_prompt!r}.")
        if len(self.prompts_to_look_at) > MOST_PROMPTS or len(self.class_prompts) > MOST_PROMPTS:
            raise InvalidOption(f"At most {MOST_PROMPTS} prompts are looked at, and as many variations drawn; leave some out.")
        if self.prior_weight and (not self.class_prompt.strip() or self.token in self.class_prompt.split()):
            raise InvalidOption(f"The class prompt must name the class without the token {self.token!r}; it is {self.class_prompt!r}.")

    @property
    def trains_text(self) -> bool:
        """Whether the text encoder learns too."""
        return self.method == "full_text"

    @property
    def target_layers(self) -> list[str]:
        """The ends of the names of the layers that LoRA adds to, one by one."""
        return [end.strip() for end in self.targets.split(",") if end.strip()]

    @property
    def prompts_to_look_at(self) -> list[str]:
        """The validation prompts, one by one."""
        return [prompt.strip() for prompt in self.validation_prompts.split("|") if prompt.strip()]

    @property
    def class_prompts(self) -> list[str]:
        """The prompts of class pictures, taken in turn: the class prompt, then it with each variation."""
        variations = [words.strip() for words in self.class_variations.split("|") if words.strip()]
        return [self.class_prompt, *(f"{self.class_prompt} {words}" for words in variations)]

    @property
    def class_folder(self) -> Path:
        """Where class pictures lie."""
        if self.class_images:
            return Path(self.class_images)
        facts = json.dumps([self.base, self.class_prompts, self.resolution, self.class_guidance, self.class_steps])
        return Path(self.output).parent / "class-images" / hashlib.sha256(facts.encode()).hexdigest()[:12]


def check(options: DreamBoothOptions) -> None:
    """Everything that can be known to go wrong before a run begins. Raises InvalidOption or UnknownName with what to do."""
    check_model(options)
    load_instances(options)
    if options.prior_weight:
        _require_writable(options.class_folder)
    if options.adam_8bit and importlib.util.find_spec("bitsandbytes") is None:
        raise InvalidOption("8-bit Adam needs the package bitsandbytes: `pip install bitsandbytes`, or turn it off.")
    if options.mixed_precision == "fp16" and not _has_cuda():
        raise InvalidOption("fp16 training needs a CUDA GPU; choose mixed precision 'no' on this machine.")


def check_model(options: DreamBoothOptions) -> None:
    """Whether the base is a model that can be taught so, and has the layers. Raises UnknownName, or InvalidOption with what to do."""
    check_base(options.base)
    if options.method == "lora":
        require_layers(options.base, options.target_layers)


def check_base(name: str) -> None:
    """Raises UnknownName, or InvalidOption for a model that cannot be taught so."""
    source = require_whole(name)
    if Path(source).is_dir() and (read_object(Path(source) / "model_index.json") or {}).get("_class_name") not in FAMILIES["stable-diffusion"].pipelines:
        raise InvalidOption(f"{name!r} is no text-to-image model; DreamBooth teaches a StableDiffusionPipeline, such as toybox-sd.")


def require_whole(name: str) -> str:
    """The folder or Hub id of a model that is whole in itself, in diffusers' format. Raises UnknownName, InvalidOption."""
    if not name:
        raise InvalidOption("Choose the model to teach: a name of the menu, a folder or a Hub id.")
    source = resolve(name)
    if base := base_of(source):
        raise InvalidOption(f"{name!r} is a LoRA or a checkpoint; teach a whole text-to-image model, such as its base {base!r}.")
    if is_single_file(source):
        raise InvalidOption("A single .safetensors file cannot be taught; give a folder or a Hub id in diffusers' format.")
    return source


def require_layers(base: str, targets: Sequence[str]) -> None:
    """Refuse targets that are no layers of the network, or none that LoRA can be added to; of a model that is not here nothing is known.

    Raises InvalidOption.
    """
    folder = Path(resolve(base))
    shapes = weight_shapes(folder / "unet") or weight_shapes(folder / "transformer")
    for target in targets if shapes else ():
        found = [shape for name, shape in shapes.items() if name == target or name.endswith(f".{target}")]
        if not found or any(len(shape) not in (2, 4) for shape in found):
            raise InvalidOption(
                f"LoRA cannot be added to {quoted(target)}: no layer has such a name, or one is neither linear nor a convolution; {USUAL_TARGETS}"
            )


def instance_paths(folder: str) -> list[Path]:
    """The pictures in the folder, in order of name. Raises InvalidOption."""
    if not Path(folder).is_dir():
        raise InvalidOption(f"The folder of pictures {folder!r} does not exist; upload 3 to 5 pictures of the subject.")
    paths = pictures_in(Path(folder))
    if not paths:
        raise InvalidOption("There are no pictures of the subject; give 3 to 5 of them.")
    return paths


def load_instances(options: DreamBoothOptions) -> "list[Image.Image]":
    """The subject's pictures, RGB. Raises InvalidOption naming a file that cannot be read, or when there are too few."""
    pictures = [read_picture(path) for path in instance_paths(options.instances)]
    if len(pictures) < 2:
        raise InvalidOption("One picture is not enough to tell the subject from its surroundings; give at least 2, better 3 to 5.")
    return pictures


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A name of its own: several may look at once.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-"):
            pass
    except OSError as error:
        raise InvalidOption(f"The folder for class pictures, {str(folder)!r}, cannot be written to; choose another one.") from error


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """What a run will take: seconds in all, GiB of memory while it trains, and how many weights learn."""

    seconds: float
    memory_gib: float
    trained_parameters: int
