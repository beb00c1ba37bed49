"""Stable unCLIP: variations of a picture. The UNet is told the picture's CLIP embedding, noised, beside the time.

    e = E(picture)      e_l = unscale(sqrt(ab_l) scale(e) + sqrt(1 - ab_l) eps)      class = [e_l ; sinusoid(l)]      zeros lead away
    two pictures: e = sin((1 - m) w) / sin(w) e_1 + sin(m w) / sin(w) e_2, w the angle between them (Shoemake 1985)

Ramesh et al. 2022 (arXiv:2204.06125); the checkpoints stable-diffusion-2-1-unclip.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from studio.errors import InvalidOption
from studio.media.images import fit, from_images
from studio.models.attention import AttentionRecorder
from studio.models.beginning import Beginning, begun, check_told
from studio.models.conditioning import Conditioning
from studio.models.families.stable_diffusion import PARTS, StableDiffusion, built
from studio.models.latents import open_pipeline, require_fit
from studio.models.sources import Source
from studio.options import SampleOptions
from studio.process.noise import draw_noise

__all__ = ["UnCLIP", "load", "slerp"]

# Between nearly parallel vectors the arc is a line.
PARALLEL = 0.9995
SHOWN_SIDE = 96


@dataclass(frozen=True, kw_only=True, eq=False)
class UnCLIP(StableDiffusion):
    """A loaded StableUnCLIPImg2ImgPipeline."""

    takes_control = False

    def condition(self, options: SampleOptions) -> tuple[Conditioning, Conditioning]:
        """The prompt, and the negative one; zeros in place of the picture until a run has begun."""
        nothing = torch.zeros(1, self.network.config.projection_class_embeddings_input_dim, device=self.device)
        cond, uncond = super().condition(options)
        return replace(cond, image_embeds=nothing), replace(uncond, image_embeds=nothing)

    def begin(self, options: SampleOptions, generators: Sequence[torch.Generator]) -> Beginning:
        """With the picture's embedding, whose noise is drawn first. Raises InvalidOption."""
        check_told(self, options)
        if options.cond_image is None:
            raise InvalidOption(f"{self.info.label} draws variations of a picture: give it one.")
        level, most = options.noise_level or 0, int(self.pipeline.image_noising_scheduler.config.num_train_timesteps) - 1
        if level > most:
            raise InvalidOption(f"{self.info.label} knows noise levels from 0 to {most}, but noise_level={level}.")
        pictures = [picture.convert("RGB") for picture in (options.cond_image, options.cond_image_2) if picture is not None]
        embedding = self.embedding(pictures, options.cond_mix)
        noise = draw_noise(generators, embedding.shape[1:], self.device).to(embedding.dtype)
        told = self.pipeline.noise_image_embeddings(embedding.expand(len(noise), -1), level, noise=noise).float()
        start = begun(self, options, generators)
        shown = {"varied": from_images([fit(picture, SHOWN_SIDE, SHOWN_SIDE) for picture in pictures])}
        return replace(start, cond=replace(start.cond, image_embeds=told), shown={**start.shown, **shown})

    def embedding(self, pictures: Sequence[Image.Image], mix: float) -> Tensor:
        """(1, D): the CLIP embedding of a picture, or what lies at `mix` on the arc between those of two."""
        encoder = self.pipeline.image_encoder
        with torch.no_grad():
            pixels = self.pipeline.feature_extractor(images=list(pictures), return_tensors="pt").pixel_values.to(self.device, encoder.dtype)
            embeds = encoder(pixels).image_embeds
        return embeds if len(pictures) == 1 else slerp(embeds[:1], embeds[1:], mix)

    def predict(self, x_t: Tensor, t: float, conditioning: Conditioning) -> Tensor:
        """What the UNet says at x_t (B, C, h, w), float32."""
        assert conditioning.text is not None and conditioning.image_embeds is not None
        told = {"encoder_hidden_states": conditioning.text.to(self.dtype), "class_labels": conditioning.image_embeds.to(self.dtype)}
        return self.network(x_t.to(self.dtype), torch.as_tensor(t), return_dict=False, **told)[0].float()

    def word_attention(self, options: SampleOptions) -> AttentionRecorder:
        """Of the UNet's cross-attention."""
        _, height, width = self.state_shape(options)
        return AttentionRecorder(self.network, options.num_images, height, width)

    def make_ready(self, options: SampleOptions, control: Any = ()) -> None:
        """Nothing to be made."""


def slerp(first: Tensor, second: Tensor, mix: float) -> Tensor:
    """Spherical interpolation of vectors (B, D): the first at 0, the second at 1."""
    a, b = first.float(), second.float()
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1)[:, None]
    angle = cosine.arccos()
    arc = (((1 - mix) * angle).sin() * a + (mix * angle).sin() * b) / angle.sin().clamp(min=1e-6)
    return torch.where(cosine.abs() > PARALLEL, torch.lerp(a, b, mix), arc).to(first.dtype)


# --- loading -------------------------------------------------------------------------------------------------

def load(source: Source) -> StableDiffusion:
    """From a folder or Hub id. Raises ModelUnavailable."""
    more = "feature_extractor/, image_encoder/, image_normalizer/, image_noising_scheduler/"
    pipeline = open_pipeline(source, "StableUnCLIPImg2ImgPipeline", "model of image variations", f"{PARTS[:-1]}, {more})")
    unet, encoder = pipeline.unet.config, pipeline.image_encoder.config
    require_fit(
        source.name, ("its image encoder projects to", encoder.projection_dim, "its normalizer takes", pipeline.image_normalizer.config.embedding_dim),
        ("its image encoder gives with the noise level", 2 * encoder.projection_dim, "its UNet reads", unet.projection_class_embeddings_input_dim or 0),
    )
    return built(UnCLIP, "unclip", source, pipeline)
