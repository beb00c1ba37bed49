"""Stable Diffusion XL: two text encoders, a pooled prompt and the picture's size told beside the time.

    text = [CLIP-L | OpenCLIP-G], the layer before the last of each      pooled = OpenCLIP-G's projection
    added ids = (height, width, crop top, crop left, target height, target width)

Podell et al. 2023 (arXiv:2307.01952), section 2.2. An empty negative prompt is zeros where the checkpoint says so.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studio.conditions import SizeTold
from studio.errors import ModelUnavailable
from studio.models.attention import AttentionRecorder
from studio.models.classes import refuse_class
from studio.models.conditioning import Conditioning
from studio.models.latents import Latent, discrete_path, latent_info, open_pipeline, put_on_device, require_fit, told_residuals
from studio.models.prompts import Encoded, PromptEncoder, penultimate
from studio.models.sources import Source, diffusion_of, scheduler_config_of
from studio.options import SampleOptions

__all__ = ["StableDiffusionXL", "load"]

PARTS = "(unet/, vae/, text_encoder/, text_encoder_2/, tokenizer/, tokenizer_2/ and scheduler/)"


class TwoEncoders(PromptEncoder):
    """Both encoders of SDXL. The tokens to look at are the first one's."""

    def __init__(self, pipeline: Any):
        super().__init__(pipeline.tokenizer, pipeline.text_encoder)
        self.pipeline = pipeline

    def encode_afresh(self, text: str, device: torch.device, second: str = "", skip: int = 0) -> Encoded:
        """States (1, L, D1 + D2) and the pooled prompt (1, P). second: for the second encoder; "" = the same. skip: layers left out of both."""
        first, _ = penultimate(self.pipeline.text_encoder, self.ids(text), device, skip)
        states, pooled = penultimate(self.pipeline.text_encoder_2, self.ids(second or text, self.pipeline.tokenizer_2), device, skip)
        return Encoded(torch.cat([first, states], dim=-1), pooled)


@dataclass(frozen=True, kw_only=True, eq=False)
class StableDiffusionXL(Latent):
    """A loaded StableDiffusionXLPipeline."""

    takes_control = True

    def condition(self, options: SampleOptions) -> tuple[Conditioning, Conditioning]:
        """The prompt, and the negative one, with the size of the picture. Raises InvalidOption."""
        refuse_class(self.info, options)
        _, height, width = (side * self.factor for side in self.state_shape(options))
        texts = options.texts
        cond = self.prompts.encoded(options.prompt, self.device, second=texts.prompt_2, skip=texts.clip_skip or 0)
        # What guidance leads away from is read as the model was trained, as in diffusers' pipeline.
        uncond = self.prompts.encoded(options.negative_prompt, self.device, second=texts.negative_prompt_2)
        if not (options.negative_prompt or texts.negative_prompt_2) and self.pipeline.config.force_zeros_for_empty_prompt:
            uncond = Encoded(torch.zeros_like(cond.states), torch.zeros_like(cond.pooled))
        with_size, without = (torch.tensor([ids], device=self.device, dtype=self.network.dtype) for ids in told_sizes(options.size, width, height))
        return (
            Conditioning(text=cond.states, pooled=cond.pooled, added_ids=with_size), Conditioning(text=uncond.states, pooled=uncond.pooled, added_ids=without),
        )

    def predict(self, x_t: Tensor, t: float, conditioning: Conditioning) -> Tensor:
        """What the UNet says at x_t (B, C, h, w), float32."""
        network, dtype = self.network, self.network.dtype
        assert conditioning.text is not None and conditioning.pooled is not None
        added = {"text_embeds": conditioning.pooled.to(dtype), "time_ids": conditioning.added_ids}
        told = {"encoder_hidden_states": conditioning.text.to(dtype), "added_cond_kwargs": added, **told_residuals(conditioning.residuals(x_t.to(dtype), t))}
        return network(x_t.to(dtype), torch.as_tensor(t), return_dict=False, **told)[0].float()

    def word_attention(self, options: SampleOptions) -> AttentionRecorder:
        """Of the UNet's cross-attention."""
        _, height, width = self.state_shape(options)
        return AttentionRecorder(self.network, options.num_images, height, width)


def told_sizes(size: SizeTold, width: int, height: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(original height, width, crop top, left, target height, width) for what is wanted, and for what guidance leads away from."""
    def ids(original: tuple[int, int] | None, crop: tuple[int, int], target: tuple[int, int] | None) -> tuple[int, ...]:
        return (*reversed(original or (width, height)), *reversed(crop), *reversed(target or (width, height)))

    wanted = ids(size.original, size.crop, size.target)
    if size.negative_original is None and size.negative_target is None:
        return wanted, wanted
    return wanted, ids(size.negative_original, size.negative_crop, size.negative_target)


# --- loading -------------------------------------------------------------------------------------------------

def load(source: Source) -> StableDiffusionXL:
    """From a folder or Hub id. Raises ModelUnavailable."""
    pipeline = open_pipeline(
        source, "StableDiffusionXLPipeline", "Stable Diffusion XL model", PARTS, feature_extractor=None, image_encoder=None, add_watermarker=False,
    )
    _check(source.name, pipeline)
    put_on_device(pipeline, source)
    if pipeline.vae.config.force_upcast and pipeline.vae.dtype == torch.float16:
        # This VAE overflows in half precision.
        pipeline.vae.to(torch.float32)
    path, config = discrete_path(pipeline, diffusion_of(scheduler_config_of(pipeline), {"var_type": "fixed_small"}))
    info = latent_info(source, pipeline, "sdxl", pipeline.unet.config.sample_size, path.num_timesteps)
    return StableDiffusionXL(name=source.name, info=info, pipeline=pipeline, path=path, scheduler_config=config, prompts=TwoEncoders(pipeline))


def _check(name: str, pipeline: Any) -> None:
    unet, first, second = pipeline.unet.config, pipeline.text_encoder, pipeline.text_encoder_2
    if first is None:
        raise ModelUnavailable(f"{name!r} is SDXL's refiner: it only finishes pictures that the base model has begun; choose a base model.")
    if unet.in_channels != pipeline.vae.config.latent_channels:
        raise ModelUnavailable(f"{name!r} takes {unet.in_channels} channels: it is made for inpainting or the like, not text alone.")
    together = first.config.hidden_size + second.config.hidden_size
    width = unet.cross_attention_dim
    pooled = unet.projection_class_embeddings_input_dim - 6 * unet.addition_time_embed_dim
    require_fit(
        name, ("its text encoders give", together, "its UNet reads", width if isinstance(width, int) else None),
        ("its second text encoder projects to", second.config.projection_dim, "its UNet reads", pooled),
    )
