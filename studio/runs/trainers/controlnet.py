"""The knobs of the ControlNet trainer, its presets, and what can be known to go wrong with them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.errors import InvalidOption
from studio.files import read_object
from studio.models.controlnet_menu import is_controlnet
from studio.models.families import FAMILIES
from studio.models.loading import known_family, resolve
from studio.models.sources import is_single_file
from studio.models.taught import base_of
from studio.runs.trainers.options import MOST_STEPS, LoopOptions, option, require_room_for_data
from studio.runs.trainers.presets import Preset
from studio.toybox import WORLDS

__all__ = [
    "CONTROLNET_PRESETS", "CYCLE_MAPS", "PICTURE_MAPS", "SCENE_MAPS", "STEERABLE", "ControlNetOptions", "check", "not_steerable", "require_sizes",
]

# Maps that can be read off a picture again by something that has gradients.
CYCLE_MAPS = ("toybox-edges", "toybox-segmentation", "toybox-depth", "canny")
SCENE_MAPS = ("toybox-edges", "toybox-segmentation", "toybox-depth")
# Families whose networks are copied.
STEERABLE = ("stable-diffusion", "sdxl", "sd3")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PICTURE_MAPS = ("canny", "scribble", "lineart-standard", "given")


@dataclass(frozen=True, kw_only=True)
class ControlNetOptions(LoopOptions):
    """The knobs of a run; `python -m trainers.controlnet --help` prints them."""

    base: str = option(
        "toybox-sd", "the model that is to be steered, which stays as it is, a Stable Diffusion 1, 2, XL, 3 or 3.5: a name of the catalogue, a folder or a "
        "Hub id", path="name",
    )
    output: str = option("runs/controlnet", "the run folder; an unfinished run in it is resumed", path="write")
    start: str = option("", "the folder of a ControlNet for this base to go on from; empty = a copy of the base's own encoder", path="read")
    layers: int = option(
        0, "Stable Diffusion 3: how many of the base's blocks are copied, from the first on; 0 = half of them, or as many as `start` has", low=0, high=200,
    )
    data: str = option(
        "toybox", "toybox, toybox-pairs, toybox-world, a folder of captioned pictures, whose metadata.jsonl may name a conditioning picture besides, or an "
        "id of the datasets library, owner/name", path="name",
    )
    image_column: str = option("image", "the column of pictures, of an id; in a metadata.jsonl file_name stands for it")
    conditioning_column: str = option("conditioning_image", "the column of conditioning pictures, where map is given")
    caption_column: str = option("text", "the column of captions")
    map: str = option(
        "toybox-edges", "what the maps show: exact maps of drawn scenes, or an annotator of pictures; given = conditioning pictures that lie beside them",
        (*SCENE_MAPS, *PICTURE_MAPS),
    )
    resolution: int = option(64, "pixels a side, a multiple of 8; for Stable Diffusion 3 of 16", low=16, high=2048)
    data_limit: int = option(8_000, "the most pictures taken; for toybox, how many scenes are drawn", low=1, high=10_000_000)
    caption_drop: float = option(0.5, "share of captions replaced by the empty one: what is not said has to be read off the map", low=0, high=1)
    timestep_sampling: str = option(
        "logit_normal", "which timesteps of a flow (Stable Diffusion 3) are trained on, before the base's shift: logit_normal = more of the middle, where the "
        "answer is hardest, than of the ends, where it is almost the mean of all pictures or of noise (arXiv:2403.03206); uniform = all alike",
        ("logit_normal", "uniform"),
    )
    logit_mean: float = option(0.0, "of logit_normal: above 0 more noise, below 0 less", low=-10, high=10)
    logit_std: float = option(1.0, "of logit_normal: its width; more gives the ends more", low=0.01, high=10)
    min_snr_gamma: float = option(
        5.0, "eps and v: weigh the error of x0 by min(SNR, gamma) + the offset, 0 = off (arXiv:2303.09556); a flow is weighed by timestep_sampling", low=0,
        high=1000,
    )
    min_snr_offset: float = option(1.0, "1 keeps the noisiest steps, which decide what stands where, at their full weight", low=0, high=1000)
    cycle_weight: float = option(
        0.0, "second stage after ControlNet++ (arXiv:2404.07987): weight of the disagreement between the map and what is read off the picture again; 0 = off",
        low=0, high=100,
    )
    cycle_end: float = option(0.2, "share of the timesteps, from the least noise on, in which that is asked", low=0.001, high=1)
    gradient_checkpointing: bool = option(False, "compute activations twice instead of keeping them: less memory, a third more time")
    # the optimiser
    steps: int = option(1600, "optimiser steps in all", low=1, high=MOST_STEPS)
    batch_size: int = option(16, "pictures a step", low=1, high=4096)
    lr: float = option(1e-3, "peak learning rate of AdamW; about 1e-5 for Stable Diffusion", low=0, high=1)
    lr_plan: str = option("cosine", "see --help of trainers.ddpm", ("cosine", "trapezoid", "constant"))
    warmup: int = option(50, "steps over which the learning rate rises", low=0, high=MOST_STEPS)
    ema_decay: float = option(0.99, "decay of the averaged weights, which are the ones kept, 0 to 1", low=0, high=1)
    # looking on
    validation_samples: int = option(12, "held-out maps that are drawn at every sample point, with their prompt and with an empty one", low=1, high=200)
    validation_steps: int = option(12, "sampling steps of those", low=1, high=1000)
    validation_guidance: float = option(4.0, "guidance scale of those with a prompt", low=0, high=100)
    sample_every: int = option(100, "steps between them, 0 = none", low=0, high=MOST_STEPS)
    checkpoint_every: int = option(100, "steps between checkpoints", low=1, high=MOST_STEPS)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_room_for_data(2 * self.data_limit, self.resolution)
        if self.resolution % 8:
            raise InvalidOption(f"resolution must be a multiple of 8, but it is {self.resolution}.")
        if self.map in SCENE_MAPS and self.data not in WORLDS:
            raise InvalidOption(f"{self.map} is drawn from scenes, so data must be one of {', '.join(WORLDS)}; for pictures take {', '.join(PICTURE_MAPS)}.")
        if self.map == "given" and self.data in WORLDS:
            raise InvalidOption(f"Drawn scenes have exact maps of their own: set map to one of {', '.join(SCENE_MAPS)}.")
        if self.cycle_weight and self.map not in CYCLE_MAPS:
            raise InvalidOption(f"The second stage reads maps off pictures again, which works for {', '.join(CYCLE_MAPS)}; set cycle_weight to 0.")


def check(options: ControlNetOptions) -> None:
    """Everything that can be known to go wrong before a run begins. Raises InvalidOption or UnknownName with what to do."""
    check_steerable(options.base)
    check_sizes(options)
    if options.start and not (Path(options.start).is_dir() and is_controlnet(Path(options.start))):
        raise InvalidOption(f"start must name the folder of a ControlNetModel or SD3ControlNetModel, but {options.start!r} is none.")
    if options.data not in WORLDS and not Path(options.data).is_dir() and not HUB_ID.fullmatch(options.data):
        raise InvalidOption(f"data must be one of {', '.join(WORLDS)}, a folder, or an id of the datasets library (owner/name), but {options.data!r} is none.")


def check_steerable(name: str) -> None:
    """Whether a ControlNet can be trained for the model of this name. Raises UnknownName, or InvalidOption with what to do."""
    if not name:
        raise InvalidOption("Choose the model to steer: a name of the menu, a folder or a Hub id.")
    source = resolve(name)
    if base_of(source):
        raise InvalidOption("A ControlNet is trained for a whole model; choose the base that the LoRA was taught to.")
    if is_single_file(source):
        raise InvalidOption("For a single .safetensors file none can be trained; give a folder or a Hub id in diffusers' format.")
    family = known_family(name)
    # Of a Hub id that is not in the cache nothing is known yet.
    if family not in [FAMILIES[key] for key in STEERABLE] and (family is not None or Path(source).is_dir()):
        raise not_steerable(name)


def not_steerable(name: str) -> InvalidOption:
    """Why no ControlNet can be trained for a model of another kind."""
    return InvalidOption(f"{name!r} is no text-to-image model that takes a ControlNet; choose a Stable Diffusion 1, 2, XL or 3 model, such as toybox-sd.")


def check_sizes(options: ControlNetOptions) -> None:
    """`require_sizes` of a base that lies in a folder. Raises InvalidOption."""
    folder = Path(resolve(options.base))
    transformer, vae = (read_object(folder / part / "config.json") for part in ("transformer", "vae"))
    if transformer and vae:
        require_sizes(options, transformer, vae)


def require_sizes(options: ControlNetOptions, network: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    """Refuse pictures that are no whole patches of a base, or more than it has places for, and more copied blocks than it has.

    network, vae: their configurations; a UNet has no patches, and no places to run out of. Raises InvalidOption.
    """
    patch = 2 ** (len(vae["block_out_channels"]) - 1) * network.get("patch_size", 1)
    most, blocks = patch * (network.get("pos_embed_max_size") or math.inf), network.get("num_layers") or math.inf
    if options.resolution % patch or options.resolution > most:
        upto = "" if math.isinf(most) else f", at most {most}"
        raise InvalidOption(f"For {options.base!r} resolution must be a multiple of {patch}{upto}, but it is {options.resolution}.")
    if options.layers >= blocks:
        raise InvalidOption(f"{options.base!r} has {blocks} blocks, of which all but the last can be copied: layers can be at most {blocks - 1}.")


CONTROLNET_PRESETS: dict[str, Preset] = {
    "toybox-edges": Preset(
        label="Toybox edges, CPU, 6 minutes", about="A ControlNet of 2 million parameters for the small embedded model, on two cores.",
        options={"base": "toybox-sd", "map": "toybox-edges"},
    ),
    "sd15": Preset(
        label="SD 1.5, 16 GB", about="Canny edges of your own pictures in half precision.",
        options={
            "base": "stable-diffusion-v1-5/stable-diffusion-v1-5", "map": "canny", "data": "pictures", "resolution": 512, "batch_size": 4, "lr": 1e-5,
            "lr_plan": "constant", "steps": 20_000, "mixed_precision": "fp16", "validation_samples": 4, "validation_steps": 20, "validation_guidance": 7.5,
            "sample_every": 1000, "checkpoint_every": 1000, "min_snr_offset": 0.0, "ema_decay": 0.0,
        },
    ),
    "sd15-small": Preset(
        label="SD 1.5, 8 GB with checkpointing", about="The same, one picture a time and four batches a step, activations computed twice.",
        options={
            "base": "stable-diffusion-v1-5/stable-diffusion-v1-5", "map": "canny", "data": "pictures", "resolution": 512, "batch_size": 1, "accumulation": 4,
            "lr": 1e-5, "lr_plan": "constant", "steps": 20_000, "mixed_precision": "fp16", "gradient_checkpointing": True, "validation_samples": 2,
            "validation_steps": 20, "validation_guidance": 7.5, "sample_every": 1000, "checkpoint_every": 1000, "min_snr_offset": 0.0, "ema_decay": 0.0,
        },
    ),
    "sd3": Preset(
        label="SD 3 medium, 80 GB", about="Canny edges of your own pictures for a flow: half of the transformer's blocks are copied.",
        options={
            "base": "stabilityai/stable-diffusion-3-medium-diffusers", "map": "canny", "data": "pictures", "resolution": 1024, "data_limit": 4_000,
            "batch_size": 1, "accumulation": 4, "lr": 1e-5, "lr_plan": "constant", "steps": 20_000, "mixed_precision": "bf16", "gradient_checkpointing": True,
            "validation_samples": 2, "validation_steps": 28, "validation_guidance": 7.0, "sample_every": 1000, "checkpoint_every": 1000, "ema_decay": 0.0,
        },
    ),
}
