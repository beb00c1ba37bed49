"""Presets of DreamBooth: sets of its options for a purpose."""

from dataclasses import dataclass
from typing import Any

from studio.toybox import COLOURS, with_article

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A set of options for a purpose."""

    label: str
    about: str
    options: dict[str, Any]


# The toy world's backgrounds, that the words for them keep their meaning beside the subject's.
BACKGROUNDS = "|".join(f"on {with_article(colour)} background" for colour in COLOURS)
# What both presets for the embedded model have.
TOYBOX: dict[str, Any] = {
    "base": "toybox-sd", "resolution": 64, "steps": 600, "batch_size": 8, "ema_decay": 0.98, "num_class_images": 78, "class_variations": BACKGROUNDS,
    "validation_steps": 8, "sample_every": 150, "checkpoint_every": 150, "keep_checkpoints": 4,
}

PRESETS: dict[str, Preset] = {
    "toybox": Preset(
        label="Toybox, CPU, 3 minutes", about="All of the small embedded model, on two cores.",
        options={**TOYBOX, "method": "full_text", "lr": 2e-4},
    ),
    "toybox-lora": Preset(
        label="Toybox LoRA, CPU, 2 minutes", about="A 3 MB addition to attention and convolutions of the small embedded model.",
        options={
            **TOYBOX, "method": "lora", "rank": 16, "alpha": 16.0, "lr": 1e-3,
            # So small a model has little attention to add to.
            "targets": "to_q,to_k,to_v,to_out.0,ff.net.0.proj,ff.net.2,proj_in,proj_out,time_emb_proj,conv1,conv2,conv_shortcut",
        },
    ),
    "sd15-lora": Preset(
        label="SD 1.5 LoRA, 8 GB", about="Half precision, gradient checkpointing: fits a small GPU.",
        options={
            "base": "stable-diffusion-v1-5/stable-diffusion-v1-5", "resolution": 512, "method": "lora", "rank": 16, "alpha": 16.0, "steps": 800,
            "batch_size": 1, "lr": 1e-4, "mixed_precision": "fp16", "gradient_checkpointing": True, "num_class_images": 100, "class_guidance": 7.5,
            "validation_guidance": 7.5, "validation_samples": 1, "sample_every": 400,
        },
    ),
    "sd15-full": Preset(
        label="SD 1.5 full, 24 GB", about="All of the UNet with 8-bit Adam.",
        options={
            "base": "stable-diffusion-v1-5/stable-diffusion-v1-5", "resolution": 512, "method": "full", "steps": 800, "batch_size": 1, "lr": 2e-6,
            "mixed_precision": "bf16", "adam_8bit": True, "gradient_checkpointing": True, "num_class_images": 200, "class_guidance": 7.5,
            "validation_guidance": 7.5, "validation_samples": 1, "sample_every": 400, "checkpoint_every": 400,
        },
    ),
}
