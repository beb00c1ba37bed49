"""Stable Diffusion 2 with depth: the UNet takes a depth map beside the state.

    concat = 2 (d - min d) / (max d - min d) - 1        d: how near each place is, in the size of the latents

The map is given, or made of the picture to start from by the checkpoint's own estimator or any other of transformers.
Rombach et al. 2022 (arXiv:2112.10752); the checkpoint stable-diffusion-2-depth.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from studio.errors import InvalidOption, ModelUnavailable
from studio.media.images import fit, from_images
from studio.models.beginning import Beginning, begun, check_told
from studio.models.beside import ToldBeside
from studio.models.families.stable_diffusion import PARTS, StableDiffusion, built
from studio.models.latents import open_pipeline
from studio.models.sources import READING_FAILS, Source
from studio.options import SampleOptions

__all__ = ["StableDiffusionDepth", "load"]

# A map with less between its nearest and its farthest place says nothing.
FLAT = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class StableDiffusionDepth(ToldBeside, StableDiffusion):
    """A loaded StableDiffusionDepth2ImgPipeline."""

    def begin(self, options: SampleOptions, generators: Sequence[torch.Generator]) -> Beginning:
        """With the depth map. Raises InvalidOption, ModelUnavailable."""
        check_told(self, options)
        depth = self.depth(options)
        start = begun(self, options, generators)
        return replace(start.told(concat=depth), shown={**start.shown, "depth": depth})

    def depth(self, options: SampleOptions) -> Tensor:
        """(1, 1, h, w) in [-1, 1], 1 is nearest. Raises InvalidOption, ModelUnavailable."""
        _, height, width = self.state_shape(options)
        picture = options.cond_image if options.cond_image is not None else options.init_image
        if picture is None:
            raise InvalidOption(f"{self.info.label} is told a depth map: give one, or a picture to start from whose depth is estimated.")
        picture = fit(picture.convert("RGB"), width * self.factor, height * self.factor)
        near = (from_images([picture], 1) + 1)[:, 0].to(self.device) if options.cond_image is not None else self._estimated(picture, options.depth_model)
        near = torch.nn.functional.interpolate(near[:, None], (height, width), mode="bicubic", align_corners=False)
        low, high = near.amin(), near.amax()
        if not float(high - low) > FLAT:
            raise InvalidOption("The depth map is of one value all over, so it says nothing of near and far: give another, or another picture to make it of.")
        return 2 * (near - low) / (high - low) - 1

    def _estimated(self, picture: Image.Image, name: str) -> Tensor:
        """(1, H, W) float32: how near everything in a picture is, by the estimator of that name, "" = the checkpoint's own."""
        network, processor, metric = _estimator(name, self.device) if name else (self.pipeline.depth_estimator, self.pipeline.feature_extractor, False)
        if network is None:
            raise InvalidOption(f"{self.info.label} came without its depth estimator: give a depth map, or name an estimator of transformers.")
        with torch.inference_mode():
            pixels = processor(images=[picture], return_tensors="pt").pixel_values.to(self.device, network.dtype)
            depth = network(pixels).predicted_depth.float()
        # Metric estimators say how far, not how near.
        return 1 / depth.clamp(min=1e-3) if metric else depth


@lru_cache(maxsize=1)
def _estimator(name: str, device: torch.device) -> tuple[Any, Any, bool]:
    """(network, processor, whether it says how far in metres) of a depth estimator of transformers. Raises ModelUnavailable."""
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    try:
        processor = AutoImageProcessor.from_pretrained(name)
        network = AutoModelForDepthEstimation.from_pretrained(name, use_safetensors=True, dtype=torch.float32)
    except READING_FAILS as error:
        raise ModelUnavailable(f"{name!r} is no depth estimator of transformers that can be had here; leave depth_model empty, or give a depth map.") from error
    metric = network.config.model_type == "zoedepth" or getattr(network.config, "depth_estimation_type", "") == "metric"
    return network.to(device).eval().requires_grad_(False), processor, metric


# --- loading -------------------------------------------------------------------------------------------------

def load(source: Source) -> StableDiffusion:
    """From a folder or Hub id; its depth estimator may be left out. Raises ModelUnavailable."""
    folder = Path(source.place)
    absent: dict[str, Any] = {"depth_estimator": None, "feature_extractor": None} if folder.is_dir() and not (folder / "depth_estimator").is_dir() else {}
    pipeline = open_pipeline(source, "StableDiffusionDepth2ImgPipeline", "depth model", f"{PARTS[:-1]}, depth_estimator/, feature_extractor/)", **absent)
    channels, wanted = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels + 1
    if channels != wanted:
        raise ModelUnavailable(f"{source.name!r} takes {channels} channels, and a depth model takes {wanted}: the latents and the map.")
    model = built(StableDiffusionDepth, "sd-depth", source, pipeline)
    if pipeline.depth_estimator is not None:
        # Its batch norms are not made for half precision.
        pipeline.depth_estimator.to(torch.float32)
    return model
