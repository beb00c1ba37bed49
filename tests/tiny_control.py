"""Tiny random ControlNets in the real folder format, for the tiny models of tests.tiny_sd and tests.tiny_families."""

from pathlib import Path
from typing import Any

import torch


def save_tiny_controlnet(folder: Path, base: str, *, seed: int = 5, **config: Any) -> str:
    """Write a random ControlNetModel for the pipeline in `base` (pictures of four pixels a latent); returns its folder."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel.from_pretrained(Path(base) / "unet")
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64))
    # Fresh ones add nothing; these do.
    for name, weight in net.named_parameters():
        if "controlnet_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    net.register_to_config(**config)
    net.save_pretrained(folder)
    return str(folder)
