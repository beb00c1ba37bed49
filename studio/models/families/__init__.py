"""One file a family of models. FAMILIES says which file reads which pipeline; nothing else knows one from the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from studio.files import read_object
from studio.models.originals import ORIGINALS, read_header, recognised

__all__ = ["FAMILIES", "Family", "family_in", "family_of_pipeline"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """label: in words. pipelines: the classes of diffusers whose folders it reads. module: its file here, with load(Source).

    text: whether it reads a prompt. takes: what only some families can be told: groups of studio.conditions or single options of them, and
    options of pictures. refines: whether it goes on with what another model began. picture: what cond_image is to it. noise: the highest
    noise_level, and the one of diffusers' pipeline. latent: whether its states are latents. patches: whether it
    is a transformer on patches, told a class: it is guided by that, and its attention between patches can be recorded.
    """

    label: str
    pipelines: tuple[str, ...]
    module: str
    text: bool = False
    takes: tuple[str, ...] = ()
    refines: bool = False
    picture: str = ""
    noise: tuple[int, int] = (0, 0)
    latent: bool = True
    patches: bool = False

    @property
    def words_alone(self) -> bool:
        """Whether it makes pictures out of noise of a prompt and nothing else."""
        return self.text and not self.refines and not {"init_mask", "cond_image"} & set(self.takes)

    def load(self, source: Any) -> Any:
        """The loaded model. Raises ModelUnavailable."""
        return import_module(f"{__name__}.{self.module}").load(source)


FAMILIES: Mapping[str, Family] = MappingProxyType({
    "pixel": Family(label="pixel diffusion", pipelines=("DDPMPipeline", "DDIMPipeline", "PNDMPipeline"), module="pixel", latent=False),
    "stable-diffusion": Family(
        label="Stable Diffusion 1 and 2", pipelines=("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"), module="stable_diffusion", text=True,
        takes=("added",),
    ),
    "sdxl": Family(
        label="Stable Diffusion XL", pipelines=("StableDiffusionXLPipeline",), module="sdxl", text=True,
        takes=("size", "texts.prompt_2", "texts.negative_prompt_2", "texts.clip_skip", "refined", "aesthetic", "added"),
    ),
    # A base model may be kept as this pipeline too: its file says which it is.
    "sdxl-refiner": Family(
        label="Stable Diffusion XL refiner", pipelines=("StableDiffusionXLImg2ImgPipeline",), module="sdxl", text=True, refines=True,
        takes=("size.original", "size.crop", "size.negative_original", "size.negative_crop", "texts.clip_skip", "aesthetic", "added"),
    ),
    "sd-inpainting": Family(
        label="Stable Diffusion inpainting", pipelines=("StableDiffusionInpaintPipeline",), module="stable_diffusion", text=True,
        takes=("init_mask", "added"),
    ),
    "sdxl-inpainting": Family(
        label="Stable Diffusion XL inpainting", pipelines=("StableDiffusionXLInpaintPipeline",), module="sdxl", text=True,
        takes=("init_mask", "size", "texts.prompt_2", "texts.negative_prompt_2", "texts.clip_skip", "added"),
    ),
    "sd-depth": Family(
        label="Stable Diffusion with depth", pipelines=("StableDiffusionDepth2ImgPipeline",), module="depth", text=True,
        takes=("cond_image", "depth_model", "added"),
        picture="Depth map, bright is near",
    ),
    "sd-upscaler": Family(
        label="Stable Diffusion upscaler", pipelines=("StableDiffusionUpscalePipeline",), module="upscaler", text=True,
        takes=("cond_image", "noise_level", "added"),
        picture="Small picture to enlarge", noise=(350, 20),
    ),
    "unclip": Family(
        label="Stable unCLIP image variations", pipelines=("StableUnCLIPImg2ImgPipeline",), module="unclip", text=True,
        takes=("cond_image", "cond_image_2", "cond_mix", "noise_level", "added"), picture="Picture to vary", noise=(999, 0),
    ),
    "sd3": Family(label="Stable Diffusion 3", pipelines=("StableDiffusion3Pipeline",), module="sd3", text=True, takes=("texts", "flow", "skipped", "added")),
    "dit": Family(label="DiT", pipelines=("DiTPipeline",), module="dit", patches=True, takes=("added.vae",)),
})


# Families whose UNet is told a mask, beside those whose is not.
MASKED = (("stable-diffusion", "sd-inpainting"), ("sdxl", "sdxl-inpainting"))


def family_of_pipeline(name: str) -> Family | None:
    """The family that reads a pipeline of this class, None where none does."""
    return next((family for family in FAMILIES.values() if name in family.pipelines), None)


def family_in(folder: Path) -> str | None:
    """The key of the family whose model lies in the folder, by its configs alone, or in the file, by its keys; None where they say nothing.

    Raises DamagedFile, ModelUnavailable.
    """
    if folder.suffix == ".safetensors" and folder.is_file():
        of_file = ORIGINALS[recognised(read_header(folder), str(folder))].pipeline
        return next((name for name, family in FAMILIES.items() if of_file in family.pipelines), None)
    index = read_object(folder / "model_index.json") or {}
    kind = index.get("_class_name")
    # Of the two that are kept as this pipeline the refiner has no first text encoder.
    if kind == "StableDiffusionXLImg2ImgPipeline" and index.get("text_encoder") not in (None, [None, None]):
        kind = "StableDiffusionXLPipeline"
    found = next((name for name, family in FAMILIES.items() if kind in family.pipelines), None)
    plain, masked = next((pair for pair in MASKED if found in pair), (found, found))
    if plain == masked:
        return found
    # Which of the two it is, the UNet says: beside the latents it takes the mask and what it leaves of a picture.
    unet, vae = (read_object(folder / part / "config.json") or {} for part in ("unet", "vae"))
    return masked if unet.get("in_channels") == 2 * vae.get("latent_channels", 4) + 1 else plain
