"""Checkpoints in one .safetensors file as their authors published them: what each is, told by its keys and shapes.

    model.diffusion_model.*                         the UNet, or the transformer of Stable Diffusion 3
    first_stage_model.*                             the VAE
    cond_stage_model.transformer.* | .model.*       CLIP of Stable Diffusion 1 | OpenCLIP of 2
    conditioner.embedders.0.*, .1.*                 the two encoders of SDXL; the refiner has one
    text_encoders.clip_l | clip_g | t5xxl.*         those of Stable Diffusion 3

diffusers' single-file loaders convert the weights; the configs that they would fetch are made here from the shapes
(studio.models.original_configs), and CLIP's vocabulary lies in assets/tokenizers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from studio.errors import ModelUnavailable

__all__ = ["Header", "Original", "ORIGINALS", "read_header", "recognised"]

UNET = "model.diffusion_model."
FIRST = f"{UNET}input_blocks.0.0.weight"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a .safetensors file says before its numbers. shapes: by the names of the tensors; metadata: texts by name."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    def has(self, start: str) -> bool:
        """Whether the name of any tensor begins so."""
        return any(name.startswith(start) for name in self.shapes)

    def said(self, name: str) -> str:
        """A text of the metadata, "" where there is none."""
        return self.metadata.get(name, "")


def read_header(path: str | Path) -> Header:
    """The header of a file; no weights are read. Raises ModelUnavailable."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return Header(shapes={name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}, metadata=file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelUnavailable(f"The file {str(path)!r} cannot be read ({error}): it is cut short or no .safetensors file; fetch it again.") from error


@dataclass(frozen=True, kw_only=True)
class Original:
    """A kind of checkpoint. label: in words; pipeline: the class of diffusers that it becomes; is_it: by its header."""

    label: str
    pipeline: str
    is_it: Callable[[Header], bool]


def _channels(header: Header) -> int:
    return header.shapes[FIRST][1] if FIRST in header.shapes else 0


def _reads_clip(header: Header) -> bool:
    return header.has("cond_stage_model.transformer.text_model.")


def _reads_open_clip(header: Header) -> bool:
    return header.has("cond_stage_model.model.")


def _plain(header: Header) -> bool:
    return not header.has(f"{UNET}label_emb")


def _is_sd3(header: Header) -> bool:
    return header.has(f"{UNET}joint_blocks.0.context_block.") and header.has("text_encoders.clip_l.") and header.has("text_encoders.clip_g.")


# In the order in which they are tried.
ORIGINALS: Mapping[str, Original] = MappingProxyType({
    "sd3": Original(label="Stable Diffusion 3", pipeline="StableDiffusion3Pipeline", is_it=_is_sd3),
    "sdxl-inpainting": Original(
        label="Stable Diffusion XL for inpainting", pipeline="StableDiffusionXLInpaintPipeline",
        is_it=lambda header: header.has("conditioner.embedders.1.model.") and _channels(header) == 9,
    ),
    "sdxl": Original(
        label="Stable Diffusion XL", pipeline="StableDiffusionXLPipeline",
        is_it=lambda header: header.has("conditioner.embedders.1.model.") and _channels(header) == 4,
    ),
    "sdxl-refiner": Original(
        label="SDXL's refiner", pipeline="StableDiffusionXLImg2ImgPipeline",
        is_it=lambda header: header.has("conditioner.embedders.0.model.") and not header.has("conditioner.embedders.1.") and _channels(header) == 4,
    ),
    "upscaler": Original(
        label="Stable Diffusion's x4 upscaler", pipeline="StableDiffusionUpscalePipeline",
        is_it=lambda header: _reads_open_clip(header) and f"{UNET}label_emb.weight" in header.shapes and _channels(header) == 7,
    ),
    "sd2-inpainting": Original(
        label="Stable Diffusion 2 for inpainting", pipeline="StableDiffusionInpaintPipeline",
        is_it=lambda header: _reads_open_clip(header) and _plain(header) and _channels(header) == 9,
    ),
    "sd2": Original(
        label="Stable Diffusion 2", pipeline="StableDiffusionPipeline",
        is_it=lambda header: _reads_open_clip(header) and _plain(header) and _channels(header) == 4,
    ),
    "sd1-inpainting": Original(
        label="Stable Diffusion 1 for inpainting", pipeline="StableDiffusionInpaintPipeline",
        is_it=lambda header: _reads_clip(header) and _plain(header) and _channels(header) == 9,
    ),
    "sd1": Original(
        label="Stable Diffusion 1", pipeline="StableDiffusionPipeline",
        is_it=lambda header: _reads_clip(header) and _plain(header) and _channels(header) == 4,
    ),
})

# What other files are, by what some of their keys begin with or hold, and what to do.
OTHERS: tuple[tuple[str, str], ...] = (
    ("lora_", "is a LoRA, which adds to a model: choose the model, and name the file under LoRA"),
    (".lora", "is a LoRA, which adds to a model: choose the model, and name the file under LoRA"),
    ("emb_params", "is a textual inversion embedding: choose a model, and name the file under Embeddings"),
    ("control_model.", "is a ControlNet: add it in the ControlNet tab, as a folder in diffusers' format"),
    ("double_blocks.", "is a Flux model, which the studio does not take"),
    ("joint_blocks.", "holds the transformer of Stable Diffusion 3 without its CLIP encoders: take the file that includes them"),
    ("depth_model.", "is Stable Diffusion with depth, which diffusers does not read from one file: take the folder in diffusers' format"),
    ("noise_augmentor.", "is Stable unCLIP, which diffusers does not read from one file: take the folder in diffusers' format"),
    (UNET, "holds a network that the studio does not know, or one without its text encoder"),
    ("down_blocks.", "is one network in diffusers' format: choose the whole model's folder"),
    ("encoder.down", "is a VAE: choose a model, and name the file under VAE"),
)


def recognised(header: Header, name: str) -> str:
    """The key in ORIGINALS of what a file holds. Raises ModelUnavailable with what it is instead, where that can be told."""
    for kind, original in ORIGINALS.items():
        if original.is_it(header):
            return kind
    known = "Stable Diffusion 1, 2, XL and 3"
    for part, said in OTHERS:
        if any(part in key for key in header.shapes):
            raise ModelUnavailable(f"The file {name!r} {said}; in one file the studio takes {known}.")
    raise ModelUnavailable(f"The file {name!r} holds no model that the studio knows by its keys; in one file it takes {known}, in their original layout.")
