"""Tiny random checkpoints that are told pictures, in the real folder formats: inpainting, depth, upscaling, image variations."""

from pathlib import Path
from typing import Any

import torch

from tests.tiny_families import save_tiny_sdxl
from tests.tiny_sd import save_tiny_sd


def widened(unet: Any, in_channels: int, **changes: Any) -> Any:
    """A random UNet like another one, that takes so many channels."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(1)
    wide = UNet2DConditionModel.from_config({**unet.config, "in_channels": in_channels, **changes})
    wide.conv_out.weight.data *= 3
    return wide


def save_tiny_inpainting(folder: Path, *, unet: dict[str, Any] | None = None, **scheduler: Any) -> str:
    """Write a random StableDiffusionInpaintPipeline of 9 channels: 32x32 pictures, latents 4x8x8. unet: of its config what is otherwise."""
    from diffusers import StableDiffusionInpaintPipeline

    pipeline = StableDiffusionInpaintPipeline.from_pretrained(save_tiny_sd(folder, scheduler=scheduler), safety_checker=None)
    pipeline.unet = widened(pipeline.unet, 9, **(unet or {}))
    pipeline.save_pretrained(folder)
    return str(folder)


def save_tiny_xl_inpainting(folder: Path) -> str:
    """Write a random StableDiffusionXLInpaintPipeline of 9 channels: 32x32 pictures, latents 4x8x8."""
    from diffusers import StableDiffusionXLInpaintPipeline

    pipeline = StableDiffusionXLInpaintPipeline.from_pretrained(save_tiny_sdxl(folder))
    pipeline.unet = widened(pipeline.unet, 9)
    pipeline.save_pretrained(folder)
    return str(folder)


def text_parts(folder: Path, **scheduler: Any) -> Any:
    """The parts of a random StableDiffusionPipeline: 32x32 pictures, latents 4x8x8, words of 32."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(save_tiny_sd(folder, scheduler=scheduler), safety_checker=None, requires_safety_checker=False)


def save_tiny_estimator(folder: Path, seed: int = 0) -> str:
    """Write a random DPTForDepthEstimation with its image processor."""
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(seed)
    network = DPTForDepthEstimation(DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8, backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, reassemble_factors=[4, 2, 1, 0.5], is_hybrid=False, initializer_range=0.3,
    ))
    network.save_pretrained(folder)
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def save_tiny_depth(folder: Path, *, estimator: bool = True) -> str:
    """Write a random StableDiffusionDepth2ImgPipeline; estimator: with its depth estimator."""
    import json
    import shutil

    from diffusers import StableDiffusionDepth2ImgPipeline
    from transformers import DPTForDepthEstimation, DPTImageProcessor

    parts, near = text_parts(folder), save_tiny_estimator(folder.with_name("estimator"))
    StableDiffusionDepth2ImgPipeline(
        vae=parts.vae, text_encoder=parts.text_encoder, tokenizer=parts.tokenizer, unet=widened(parts.unet, 5), scheduler=parts.scheduler,
        depth_estimator=DPTForDepthEstimation.from_pretrained(near), feature_extractor=DPTImageProcessor.from_pretrained(near),
    ).save_pretrained(folder)
    if not estimator:
        shutil.rmtree(folder / "depth_estimator")
        shutil.rmtree(folder / "feature_extractor")
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, "depth_estimator": [None, None], "feature_extractor": [None, None]}))
    return str(folder)


def save_tiny_upscaler(folder: Path) -> str:
    """Write a random StableDiffusionUpscalePipeline that predicts v: 8x8 pictures become 32x32."""
    from diffusers import DDPMScheduler, StableDiffusionUpscalePipeline

    parts = text_parts(folder, prediction_type="v_prediction")
    StableDiffusionUpscalePipeline(
        vae=parts.vae, text_encoder=parts.text_encoder, tokenizer=parts.tokenizer, unet=widened(parts.unet, 7, num_class_embeds=1000),
        scheduler=parts.scheduler, low_res_scheduler=DDPMScheduler(beta_schedule="scaled_linear"), max_noise_level=350,
    ).save_pretrained(folder)
    return str(folder)


def save_tiny_unclip(folder: Path, width: int = 16) -> str:
    """Write a random StableUnCLIPImg2ImgPipeline: 32x32 pictures, embeddings of `width`."""
    from diffusers import DDPMScheduler, StableUnCLIPImg2ImgPipeline
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    parts, normalizer = text_parts(folder), StableUnCLIPImageNormalizer(width)
    torch.manual_seed(2)
    encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8, projection_dim=width,
    ))
    encoder.visual_projection.weight.data *= 20
    normalizer.mean.data.normal_()
    normalizer.std.data.uniform_(0.5, 1.5)
    told = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2 * width}
    StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}), image_encoder=encoder,
        image_normalizer=normalizer, image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"), tokenizer=parts.tokenizer,
        text_encoder=parts.text_encoder, unet=widened(parts.unet, 4, **told), scheduler=parts.scheduler, vae=parts.vae,
    ).save_pretrained(folder)
    return str(folder)
