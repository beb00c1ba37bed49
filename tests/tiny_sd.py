"""Tiny random checkpoints in Stable Diffusion's real folder format: for tests, and for benchmarks without a trained model."""

import json
from pathlib import Path
from typing import Any

import torch

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ("a", "red", "blue", "star", "on", "butter", "fly", "background", "the")
TOKENS = 16


def make_tokenizer(folder: Path) -> Any:
    """A CLIPTokenizer with every byte and a few words; whatever else falls into pieces."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    alphabet = sorted(ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        end = "" if word == "butter" else "</w>"
        for i in range(1, len(word)):
            pair = (word[:i], word[i] + (end if i == len(word) - 1 else ""))
            merges.append(pair)
    merges.append(("butter", "fly</w>"))
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges[:-1]), START, END]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    merges = list(dict.fromkeys(merges[:-1]))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges))
    return CLIPTokenizer.from_pretrained(
        folder, unk_token=END, bos_token=START, eos_token=END, pad_token=END, model_max_length=TOKENS,
    )


def text_config(tokenizer: Any, width: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": TOKENS, "projection_dim": width, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def save_tiny_sd(
    folder: Path, *, widths: tuple[int, ...] = (32, 64), vae_widths: tuple[int, ...] = (16, 16, 32), sample_size: int = 8, text_width: int = 32,
    head_dim: int = 8, layers: int = 1, seed: int = 0, scheduler: dict[str, Any] | None = None,
) -> str:
    """Write a random StableDiffusionPipeline (f = 4, latents of 4 channels); returns its folder."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    words = folder / "words"
    words.mkdir(parents=True)
    tokenizer = make_tokenizer(words)
    down = ("DownBlock2D", *["CrossAttnDownBlock2D"] * (len(widths) - 1))
    unet = UNet2DConditionModel(
        sample_size=sample_size, block_out_channels=widths, layers_per_block=layers, down_block_types=down,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)), cross_attention_dim=text_width,
        attention_head_dim=head_dim, norm_num_groups=16,
    )
    # A fresh UNet says nearly nothing; larger weights make prompt and prediction matter.
    unet.conv_out.weight.data *= 3
    blocks = len(vae_widths)
    vae = AutoencoderKL(
        block_out_channels=vae_widths, down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=4, norm_num_groups=8, sample_size=sample_size * 2 ** (blocks - 1), scaling_factor=0.6,
    )
    pipeline = StableDiffusionPipeline(
        unet=unet, vae=vae, tokenizer=tokenizer, text_encoder=CLIPTextModel(CLIPTextConfig(**text_config(tokenizer, text_width))),
        scheduler=DDIMScheduler(**{
            "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False,
            "steps_offset": 1, **(scheduler or {}),
        }),
        safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return str(folder)


def save_tiny_clip(folder: Path, *, width: int = 32, size: int = 32) -> str:
    """Write a random CLIPModel with its tokenizer and image processor; returns its folder."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(1)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(folder)
    vision = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": size, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text_config(tokenizer, width), vision_config=vision, projection_dim=width)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(folder)
    return str(folder)
