"""Tiny random checkpoints of the other families, in the real folder formats: SDXL, Stable Diffusion 3, DiT."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.tiny_sd import make_tokenizer, text_config

VAE_WIDTHS = (16, 16, 32)
T5_WIDTH = 80
CLASSES = {0: "tench, Tinca tinca", 1: "goldfish, Carassius auratus", 2: "cock", 3: "hen"}


def make_vae(seed: int, channels: int = 4, **config: Any) -> Any:
    """An AutoencoderKL of f = 4."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    blocks = len(VAE_WIDTHS)
    return AutoencoderKL(**{
        "block_out_channels": VAE_WIDTHS, "down_block_types": ("DownEncoderBlock2D",) * blocks, "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "latent_channels": channels, "norm_num_groups": 8, "sample_size": 32, "scaling_factor": 0.6, **config,
    })


def encoders(folder: Path, first: int, second: int) -> dict[str, Any]:
    """Two CLIP text encoders of different widths, the second with a projection, and their tokenizers."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    words = folder / "words"
    words.mkdir(parents=True)
    tokenizer = make_tokenizer(words)
    return {
        "tokenizer": tokenizer, "tokenizer_2": make_tokenizer(words),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**text_config(tokenizer, first))),
        "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**text_config(tokenizer, second))),
    }


def save_tiny_sdxl(folder: Path, *, seed: int = 0, second: int = 48, force_zeros: bool = True, text_width: int | None = None) -> str:
    """Write a random StableDiffusionXLPipeline: 32x32 pictures, latents 4x8x8."""
    from diffusers import StableDiffusionXLPipeline

    torch.manual_seed(seed)
    parts = encoders(folder, 32, second)
    unet = sdxl_unet(text_width or 32 + second, 6 * 8 + second)
    return _saved_sdxl(folder, StableDiffusionXLPipeline(unet=unet, vae=make_vae(seed), force_zeros_for_empty_prompt=force_zeros, **_beside(), **parts))


def save_tiny_refiner(folder: Path, *, seed: int = 1, second: int = 48) -> str:
    """Write a random refiner (StableDiffusionXLImg2ImgPipeline with its second encoder alone) for the pictures of `save_tiny_sdxl`."""
    from diffusers import StableDiffusionXLImg2ImgPipeline

    torch.manual_seed(seed)
    parts = {**encoders(folder, 32, second), "text_encoder": None, "tokenizer": None}
    # The VAE is the base model's own, as it is of the published pair.
    pipeline = StableDiffusionXLImg2ImgPipeline(
        unet=sdxl_unet(second, 5 * 8 + second), vae=make_vae(0), force_zeros_for_empty_prompt=False, requires_aesthetics_score=True, **_beside(), **parts,
    )
    return _saved_sdxl(folder, pipeline)


def _beside() -> dict[str, Any]:
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading")
    return {"scheduler": scheduler, "add_watermarker": False, "feature_extractor": None, "image_encoder": None}


def sdxl_unet(text_width: int, told: int) -> Any:
    """SDXL's UNet in small. told: how many numbers go in with the time: pooled prompt, sizes."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=text_width, attention_head_dim=(2, 4), norm_num_groups=16,
        transformer_layers_per_block=(1, 2), use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=told,
    )
    unet.conv_out.weight.data *= 3
    return unet


def _saved_sdxl(folder: Path, pipeline: Any) -> str:
    pipeline.save_pretrained(folder)
    # As published: what Euler does not read is there for the other schedulers.
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True}))
    return str(folder)


def save_tiny_sd3(folder: Path, *, seed: int = 0, t5: bool = True, shift: float = 3.0, qk_norm: str | None = None) -> str:
    """Write a random StableDiffusion3Pipeline: 32x32 pictures, latents 16x8x8, patches of 2."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    parts = encoders(folder, 32, 48)
    parts["text_encoder"] = CLIPTextModelWithProjection(CLIPTextConfig(**text_config(parts["tokenizer"], 32)))
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4, joint_attention_dim=T5_WIDTH,
        caption_projection_dim=32, pooled_projection_dim=32 + 48, out_channels=16, pos_embed_max_size=16, qk_norm=qk_norm,
    )
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.3)
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer, vae=make_vae(seed, 16, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift), text_encoder_3=make_t5() if t5 else None,
        tokenizer_3=make_t5_tokenizer() if t5 else None, **parts,
    )
    pipeline.save_pretrained(folder)
    return str(folder)


def make_t5() -> Any:
    """A T5 encoder of two layers."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=64, d_model=T5_WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4))


def make_t5_tokenizer() -> Any:
    """Letters and a few words."""
    from transformers import T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((f"▁{word}", -1.0) for word in ("a", "red", "star")),
              *((letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz")]
    return T5TokenizerFast(vocab=pieces, extra_ids=0)


def save_tiny_dit(folder: Path, *, seed: int = 0, learns_variance: bool = True) -> str:
    """Write a random DiTPipeline of a thousand classes, four of them named: 32x32 pictures, latents 4x8x8."""
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(seed)
    transformer = DiTTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8 if learns_variance else 4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        num_embeds_ada_norm=1000,
    )
    torch.nn.init.normal_(transformer.proj_out_2.weight, std=0.3)
    names = {index: CLASSES.get(index, f"thing {index}") for index in range(1000)}
    scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False)
    DiTPipeline(transformer=transformer, vae=make_vae(seed), scheduler=scheduler).save_pretrained(folder)
    # The published index names the classes; saving a pipeline leaves them out.
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "id2label": names}))
    return str(folder)
