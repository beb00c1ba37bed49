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


def save_tiny_sd3_controlnet(folder: Path, base: str, *, seed: int = 5, layers: int = 1, large: bool = False, **config: Any) -> str:
    """Write a random SD3ControlNetModel for the pipeline in `base`; returns its folder. large: without words and patches, as those of the 8B model."""
    from diffusers import SD3ControlNetModel, SD3Transformer2DModel

    torch.manual_seed(seed)
    shape = dict(SD3Transformer2DModel.load_config(Path(base) / "transformer"))
    names = ("sample_size", "patch_size", "in_channels", "attention_head_dim", "num_attention_heads", "pooled_projection_dim", "pos_embed_max_size")
    told = {name: shape[name] for name in (*names, "joint_attention_dim", "caption_projection_dim")}
    if large:
        told |= {"joint_attention_dim": None, "use_pos_embed": False}
    net = SD3ControlNetModel(num_layers=layers, **{**told, **config})
    for name, weight in net.named_parameters():
        if "controlnet_blocks" in name or "pos_embed_input" in name:
            torch.nn.init.normal_(weight, std=0.2)
    net.save_pretrained(folder)
    return str(folder)
