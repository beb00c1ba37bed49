"""Stable Diffusion 1 and 2: a text encoder, a UNet with cross-attention, and the VAE between latents and pictures.

Rombach et al. 2022 (arXiv:2112.10752); version 2 predicts v and reads with OpenCLIP.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from studio.errors import ModelUnavailable
from studio.models.attention import AttentionRecorder
from studio.models.beside import MaskTold, told_mask
from studio.models.classes import refuse_class
from studio.models.conditioning import Conditioning, Unit, batched
from studio.models.latents import Latent, discrete_path, latent_info, open_pipeline, open_whole, put_on_device, require_fit, told_residuals
from studio.models.prompts import PromptEncoder
from studio.models.sources import Source, diffusion_of, scheduler_config_of
from studio.models.tracing import Traced
from studio.options import SampleOptions

__all__ = ["StableDiffusion", "StableDiffusionInpainting", "PARTS", "built", "load"]

PARTS = "(unet/, vae/, text_encoder/, tokenizer/ and scheduler/)"


@dataclass(frozen=True, kw_only=True, eq=False)
class StableDiffusion(Latent):
    """A loaded StableDiffusionPipeline."""

    takes_control = True

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of the UNet: to look it up takes a walk over all its parts."""
        return self.network.dtype

    @cached_property
    def traced(self) -> Traced:
        """The UNet, as graphs where they were made ready."""
        return Traced(self.network, _Ask(self.network), steady=(2,))

    def condition(self, options: SampleOptions) -> tuple[Conditioning, Conditioning]:
        """The states of the prompt, and of the negative one: (1, L, D) each. Raises InvalidOption."""
        refuse_class(self.info, options)
        chunks = self.prompts.count(options.prompt, options.negative_prompt)
        cond, uncond = (Conditioning(text=self.prompts.encode(text, self.device, chunks=chunks)) for text in (options.prompt, options.negative_prompt))
        return cond, uncond

    def predict(self, x_t: Tensor, t: float, conditioning: Conditioning) -> Tensor:
        """What the UNet says at x_t (B, C, h, w), float32."""
        assert conditioning.text is not None
        x_t = x_t.to(self.dtype)
        text, residuals = conditioning.text.to(self.dtype), conditioning.residuals(x_t, t)
        return self.traced(conditioning.beside(x_t), torch.as_tensor(t), text, *residuals).float()

    def make_ready(self, options: SampleOptions, control: tuple[Unit, ...] = ()) -> None:
        """Graphs for runs of these options: alone and guided, watched where they ask for it, and for the decoder."""
        state = torch.zeros(options.num_images, *self.state_shape(options), device=self.device, dtype=self.dtype)
        cond, _ = self.condition(options)
        for copies in (1,) if options.guidance_scale == 1 else (1, 2) if options.guidance_end - options.guidance_start < 1 else (2,):
            told, states = batched([cond] * copies, len(state)), state.repeat(copies, 1, 1, 1)
            assert told.text is not None
            inputs = told.beside(states), torch.tensor(1.0), told.text.to(self.dtype)
            with self.word_attention(options).recording() if options.record_attention else nullcontext():
                self.traced.prepare(*inputs)
                if control:
                    residuals = Conditioning(text=inputs[2], control=control).make_units_ready(states)
                    self.traced.prepare(*inputs, *residuals)
        self.make_decoder_ready(options)

    def word_attention(self, options: SampleOptions) -> AttentionRecorder:
        """Of the UNet's cross-attention."""
        _, height, width = self.state_shape(options)
        return AttentionRecorder(self.network, options.num_images, height, width, self.traced)


class StableDiffusionInpainting(MaskTold, StableDiffusion):
    """A loaded StableDiffusionInpaintPipeline whose UNet is told the mask."""


class _Ask(torch.nn.Module):
    """The UNet as a function of tensors."""

    def __init__(self, unet: torch.nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor, *residuals: Tensor) -> Tensor:
        return self.unet(x_t, t, encoder_hidden_states=text, return_dict=False, **told_residuals(residuals))[0]


# --- loading -------------------------------------------------------------------------------------------------

def load(source: Source) -> StableDiffusion:
    """From a folder, Hub id or single file; what was taught to a base is put into it. Raises ModelUnavailable."""
    pipeline = open_whole(source, _opened)
    _check(source.name, pipeline)
    kind, family = (StableDiffusionInpainting, "sd-inpainting") if told_mask(pipeline) else (StableDiffusion, "stable-diffusion")
    return built(kind, family, source, pipeline)


def built(kind: type[StableDiffusion], family: str, source: Source, pipeline: Any) -> StableDiffusion:
    """The model of an opened pipeline, as that class and family. Raises ModelUnavailable where its parts do not fit."""
    unet = pipeline.unet.config
    require_fit(
        source.name, ("its text encoder gives", pipeline.text_encoder.config.hidden_size, "its UNet reads", _width(unet)),
        ("its VAE has latents of", pipeline.vae.config.latent_channels, "its UNet makes", unet.out_channels),
    )
    put_on_device(pipeline, source)
    path, config = discrete_path(pipeline, diffusion_of(scheduler_config_of(pipeline), {"var_type": "fixed_small"}))
    info = latent_info(source, pipeline, family, pipeline.unet.config.sample_size, path.num_timesteps)
    prompts = PromptEncoder(pipeline.tokenizer, pipeline.text_encoder)
    return kind(name=source.name, info=info, pipeline=pipeline, path=path, scheduler_config=config, prompts=prompts)


def _opened(source: Source) -> Any:
    return open_pipeline(
        source, "StableDiffusionPipeline", "Stable Diffusion model", PARTS, safety_checker=None, requires_safety_checker=False,
        feature_extractor=None, image_encoder=None,
    )


def _check(name: str, pipeline: Any) -> None:
    unet, latents = pipeline.unet.config, pipeline.vae.config.latent_channels
    if unet.in_channels != latents and not told_mask(pipeline):
        raise ModelUnavailable(
            f"{name!r} takes {unet.in_channels} channels for latents of {latents}, which is neither for text alone nor for inpainting "
            f"({2 * latents + 1}); a depth model or an upscaler is read where its model_index.json names its own pipeline."
        )
    # "text" pools the prompt's own features into the time embedding, so it wants nothing more than the prompt.
    if unet.addition_embed_type not in (None, "text") or unet.class_embed_type or unet.time_cond_proj_dim:
        raise ModelUnavailable(f"{name!r} wants more than a prompt (a size, a class or a guidance scale); the studio takes Stable Diffusion 1 and 2.")


def _width(unet: Any) -> int | None:
    return unet.cross_attention_dim if isinstance(unet.cross_attention_dim, int) else None
