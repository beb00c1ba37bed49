"""The x4 upscaler: the UNet takes the small picture beside the state, noised, and how noisy it is as a class.

    concat = sqrt(ab_l) small + sqrt(1 - ab_l) eps        label = l, the noise level        latents as large as the small picture

Rombach et al. 2022 (arXiv:2112.10752); noise on the condition as in Ho et al. 2021 (arXiv:2106.15282). A large picture is asked
about in overlapping tiles at every step, whose answers are blended (as MultiDiffusion, arXiv:2302.08113).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from studio.errors import InvalidOption, ModelUnavailable
from studio.media.images import fit, from_images
from studio.models.attention import AttentionRecorder
from studio.models.beginning import Beginning, begun, check_told
from studio.models.beside import ToldBeside
from studio.models.conditioning import Conditioning
from studio.models.families.stable_diffusion import PARTS, StableDiffusion, built
from studio.models.latents import open_pipeline
from studio.models.sources import Source
from studio.options import MAX_SIDE, SampleOptions
from studio.process.noise import draw_noise

__all__ = ["Upscaler", "load", "tiles_of"]

# Latents a side, which are pixels of the small picture, that are asked about at once; and how far two tiles overlap.
TILE, OVERLAP = 192, 32
# How often the result's side is that of the small picture.
TIMES = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Upscaler(ToldBeside, StableDiffusion):
    """A loaded StableDiffusionUpscalePipeline."""

    takes_control = False

    def state_shape(self, options: SampleOptions) -> tuple[int, int, int]:
        """(C, h, w): a latent for each pixel of the small picture. Raises InvalidOption for one that is too large."""
        if options.cond_image is None or options.width is not None or options.height is not None:
            return super().state_shape(options)
        width, height = options.cond_image.size
        multiple = self.multiple
        if max(width, height) * TIMES > MAX_SIDE:
            raise InvalidOption(
                f"The small picture is {width}x{height} pixels, and {TIMES} times as large it would be more than {MAX_SIDE} a side: "
                f"give one of at most {MAX_SIDE // TIMES} a side."
            )
        if min(width, height) < multiple:
            raise InvalidOption(f"The small picture is {width}x{height} pixels: give one of at least {multiple} a side.")
        return self.vae.config.latent_channels, height // multiple * multiple, width // multiple * multiple

    def condition(self, options: SampleOptions) -> tuple[Conditioning, Conditioning]:
        """The prompt, and the negative one, with the noise level. Raises InvalidOption."""
        label = torch.tensor([noise_level(self, options)], device=self.device)
        cond, uncond = super().condition(options)
        return replace(cond, label=label), replace(uncond, label=label)

    def begin(self, options: SampleOptions, generators: Sequence[torch.Generator]) -> Beginning:
        """With the small picture, whose noise is drawn first. Raises InvalidOption."""
        check_told(self, options)
        if options.cond_image is None:
            raise InvalidOption(f"{self.info.label} enlarges a picture: give it a small one.")
        _, height, width = self.state_shape(options)
        small = from_images([fit(options.cond_image.convert("RGB"), width, height)]).to(self.device)
        noise = draw_noise(generators, small.shape[1:], self.device)
        level = torch.tensor([noise_level(self, options)] * len(noise), device=self.device)
        low_res = self.pipeline.low_res_scheduler.add_noise(small.expand(len(noise), -1, -1, -1), noise, level)
        start = begun(self, options, generators)
        return replace(start.told(concat=low_res), shown={**start.shown, "low_res": low_res[:1]})

    def predict(self, x_t: Tensor, t: float, conditioning: Conditioning) -> Tensor:
        """What the UNet says at x_t (B, C, h, w), float32; of a large one tile by tile."""
        x_t, text = conditioning.beside(x_t.to(self.dtype)), conditioning.text
        assert text is not None and conditioning.label is not None
        told: dict[str, Any] = {"encoder_hidden_states": text.to(self.dtype), "class_labels": conditioning.label, "return_dict": False}
        (rows, columns), timestep = map(tiles_of, x_t.shape[-2:]), torch.as_tensor(t)
        if len(rows) == len(columns) == 1:
            return self.network(x_t, timestep, **told)[0].float()
        answer = torch.zeros(len(x_t), self.vae.config.latent_channels, *x_t.shape[-2:], device=x_t.device)
        weights = torch.zeros(x_t.shape[-2:], device=x_t.device)
        for row in rows:
            for column in columns:
                said = self.network(x_t[..., row, column], timestep, **told)[0].float()
                weight = _ramp(said.shape[-2]).to(x_t.device)[:, None] * _ramp(said.shape[-1]).to(x_t.device)
                answer[..., row, column] += weight * said
                weights[row, column] += weight
        return answer / weights

    def make_ready(self, options: SampleOptions, control: Any = ()) -> None:
        """Nothing to be made."""

    def word_attention(self, options: SampleOptions) -> AttentionRecorder:
        """Of the UNet's cross-attention, where it is asked about the whole picture at once. Raises InvalidOption."""
        _, height, width = self.state_shape(options)
        if len(tiles_of(height)) * len(tiles_of(width)) > 1:
            raise InvalidOption("This picture is drawn in tiles, so where its words are looked at cannot be recorded; switch off Record word attention.")
        return AttentionRecorder(self.network, options.num_images, height, width)


def noise_level(model: Any, options: SampleOptions) -> int:
    """How noisy the small picture is. Raises InvalidOption."""
    most, own = int(model.pipeline.config.max_noise_level), 20
    level = own if options.noise_level is None else options.noise_level
    if level > most:
        raise InvalidOption(f"{model.info.label} knows noise levels from 0 to {most}, but noise_level={level}.")
    return level


def tiles_of(side: int) -> list[slice]:
    """Where tiles of a side of so many latents lie: all of it in one, or TILE each with at least OVERLAP shared, evenly spread."""
    if side <= TILE:
        return [slice(0, side)]
    count = -(-(side - OVERLAP) // (TILE - OVERLAP))
    return [slice(first, first + TILE) for first in (round(i * (side - TILE) / (count - 1)) for i in range(count))]


def _ramp(length: int) -> Tensor:
    """Weights of a tile's places, rising from its edges over what it shares with others."""
    place = torch.arange(length, dtype=torch.float32)
    return torch.minimum(place + 1, length - place).clamp(max=OVERLAP)


# --- loading -------------------------------------------------------------------------------------------------

def load(source: Source) -> StableDiffusion:
    """From a folder or Hub id. Raises ModelUnavailable."""
    pipeline = open_pipeline(
        source, "StableDiffusionUpscalePipeline", "upscaler", f"{PARTS[:-1]}, low_res_scheduler/)", safety_checker=None, feature_extractor=None,
        watermarker=None,
    )
    unet, wanted = pipeline.unet.config, pipeline.vae.config.latent_channels + 3
    if unet.in_channels != wanted or not unet.num_class_embeds:
        raise ModelUnavailable(f"{source.name!r} is no upscaler: that takes {wanted} channels, the latents and a picture, and is told a noise level.")
    if unet.num_class_embeds <= pipeline.config.max_noise_level:
        raise ModelUnavailable(f"The parts of {source.name!r} do not belong together: its UNet knows {unet.num_class_embeds} noise levels, its index more.")
    model = built(Upscaler, "sd-upscaler", source, pipeline)
    if pipeline.vae.config.force_upcast and pipeline.vae.dtype == torch.float16:
        # This VAE overflows in half precision.
        pipeline.vae.to(torch.float32)
    return model
