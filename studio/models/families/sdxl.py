"""Stable Diffusion XL: two text encoders, a pooled prompt and the picture's size told beside the time.

    text = [CLIP-L | OpenCLIP-G], the layer before the last of each      pooled = OpenCLIP-G's projection
    added ids = (height, width, crop top, crop left, target height, target width)

Podell et al. 2023 (arXiv:2307.01952), section 2.2. An empty negative prompt is zeros where the checkpoint says so. The refiner
has the second encoder alone, and an aesthetic score in place of the target size; it goes on where a picture has been begun.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studio.conditions import AS_TRAINED, SizeTold, TextsTold
from studio.errors import InvalidOption, ModelUnavailable
from studio.models.attention import AttentionRecorder
from studio.models.beside import MaskTold, told_mask
from studio.models.classes import refuse_class
from studio.models.conditioning import Conditioning
from studio.models.latents import Latent, discrete_path, latent_info, open_pipeline, open_whole, put_on_device, require_fit, told_residuals
from studio.models.prompts import CLIP_G, CLIP_L, Encoded, PromptEncoder, Reading, as_array, penultimate
from studio.models.sources import Source, diffusion_of, scheduler_config_of
from studio.options import SampleOptions

__all__ = ["StableDiffusionXL", "load"]

PARTS = "(unet/, vae/, text_encoder/, text_encoder_2/, tokenizer/, tokenizer_2/ and scheduler/)"


class TwoEncoders(PromptEncoder):
    """Both encoders of SDXL, or the second one alone of the refiner. The tokens of `tokens` are the first one's."""

    def __init__(self, pipeline: Any):
        super().__init__(pipeline.tokenizer or pipeline.tokenizer_2, pipeline.text_encoder or pipeline.text_encoder_2)
        self.pipeline = pipeline

    def encode_afresh(self, text: str, device: torch.device, second: str = "", skip: int = 0, *, chunks: int = 1) -> Encoded:
        """States (1, L, D1 + D2) and the pooled prompt (1, P). second: for the second encoder; "" = the same. skip: layers left out of both."""
        def by(encoder: Any) -> Any:
            return lambda ids, mask: penultimate(encoder, ids, device, skip)

        alone, last = self.pipeline.text_encoder is None, self.pipeline.tokenizer_2
        states, pooled = self.read(text if alone else second or text, device, by(self.pipeline.text_encoder_2), last, chunks=chunks)
        if not alone:
            first, _ = self.read(text, device, by(self.pipeline.text_encoder), chunks=chunks)
            states = torch.cat([first, states], dim=-1)
        return Encoded(states, pooled)

    def readings(self, text: str, texts: TextsTold = AS_TRAINED, device: torch.device | None = None) -> tuple[Reading, ...]:
        """Of both encoders, or of the refiner's one: each reads its own prompt, and the second one gives the pooled vector."""
        alone, last = self.pipeline.text_encoder is None, self.pipeline.tokenizer_2
        second = text if alone else texts.prompt_2 or text
        chunks = self.count(text, second)
        states, pooled = self.encoded(text, device, second=texts.prompt_2, skip=texts.clip_skip or 0, chunks=chunks)
        width = 0 if alone else self.pipeline.text_encoder.config.hidden_size
        assert pooled is not None
        both = Reading(encoder=CLIP_G, tokens=self.tokens(second, last, chunks), states=as_array(states[..., width:]), pooled=as_array(pooled))
        return (both,) if alone else (Reading(encoder=CLIP_L, tokens=self.tokens(text, least=chunks), states=as_array(states[..., :width])), both)


@dataclass(frozen=True, kw_only=True, eq=False)
class StableDiffusionXL(Latent):
    """A loaded StableDiffusionXLPipeline, or SDXL's refiner."""

    takes_control = True

    @property
    def is_refiner(self) -> bool:
        """Whether it only goes on with pictures that are begun."""
        return self.pipeline.text_encoder is None

    def condition(self, options: SampleOptions) -> tuple[Conditioning, Conditioning]:
        """The prompt, and the negative one, with the size of the picture. Raises InvalidOption."""
        refuse_class(self.info, options)
        self._check_refining(options)
        _, height, width = (side * self.factor for side in self.state_shape(options))
        texts = options.texts
        chunks = self.prompts.count(options.prompt, options.negative_prompt, texts.prompt_2, texts.negative_prompt_2)
        cond = self.prompts.encoded(options.prompt, self.device, second=texts.prompt_2, skip=texts.clip_skip or 0, chunks=chunks)
        # What guidance leads away from is read as the model was trained, as in diffusers' pipeline.
        uncond = self.prompts.encoded(options.negative_prompt, self.device, second=texts.negative_prompt_2, chunks=chunks)
        if not (options.negative_prompt or texts.negative_prompt_2) and self.pipeline.config.force_zeros_for_empty_prompt:
            uncond = Encoded(torch.zeros_like(cond.states), torch.zeros_like(cond.pooled))
        with_size, without = (torch.tensor([ids], device=self.device, dtype=self.network.dtype) for ids in self._added_ids(options, width, height))
        return (
            Conditioning(text=cond.states, pooled=cond.pooled, added_ids=with_size), Conditioning(text=uncond.states, pooled=uncond.pooled, added_ids=without),
        )

    def _added_ids(self, options: SampleOptions, width: int, height: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        # diffusers' pipeline that begins with a picture always tells the sizes to avoid, the one that begins with noise where they are given.
        always = self.is_refiner or options.init_image is not None
        wanted, avoided = told_sizes(options.size, width, height, always)
        if self.is_refiner:
            return (*wanted[:4], options.aesthetic.score), (*avoided[:4], options.aesthetic.negative)
        return wanted, avoided

    def _check_refining(self, options: SampleOptions) -> None:
        if self.is_refiner and options.init_image is None and not options.refined.model:
            raise InvalidOption(
                f"{self.info.label} is SDXL's refiner, which only finishes pictures: give it one to start from (a strength of about 0.3), or choose a base "
                "model and name this one as its refiner."
            )
        if not self.is_refiner and options.aesthetic.changed and not options.refined.model:
            raise InvalidOption(
                f"Of {self.info.label} and its refiner only the refiner is told an aesthetic score: name a refiner, or leave the score as it was."
            )

    def predict(self, x_t: Tensor, t: float, conditioning: Conditioning) -> Tensor:
        """What the UNet says at x_t (B, C, h, w), float32."""
        network, dtype = self.network, self.network.dtype
        assert conditioning.text is not None and conditioning.pooled is not None
        added = {"text_embeds": conditioning.pooled.to(dtype), "time_ids": conditioning.added_ids}
        x_t = x_t.to(dtype)
        told = {"encoder_hidden_states": conditioning.text.to(dtype), "added_cond_kwargs": added, **told_residuals(conditioning.residuals(x_t, t))}
        return network(conditioning.beside(x_t), torch.as_tensor(t), return_dict=False, **told)[0].float()

    def word_attention(self, options: SampleOptions) -> AttentionRecorder:
        """Of the UNet's cross-attention."""
        _, height, width = self.state_shape(options)
        return AttentionRecorder(self.network, options.num_images, height, width)


def told_sizes(size: SizeTold, width: int, height: int, always: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(original height, width, crop top, left, target height, width) for what is wanted, and for what guidance leads away from.

    always: what is to be avoided counts although none of its sizes is given; these are then as in what is wanted.
    """
    def ids(original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> tuple[float, ...]:
        return (*reversed(original), *reversed(crop), *reversed(target))

    own = (width, height)
    wanted = ids(size.original or own, size.crop, size.target or own)
    if size.negative_original is None and size.negative_target is None:
        return wanted, ids(size.original or own, size.negative_crop, size.target or own) if always else wanted
    return wanted, ids(size.negative_original or own, size.negative_crop, size.negative_target or own)


class StableDiffusionXLInpainting(MaskTold, StableDiffusionXL):
    """A loaded StableDiffusionXLInpaintPipeline whose UNet is told the mask."""


# --- loading -------------------------------------------------------------------------------------------------

def load(source: Source) -> StableDiffusionXL:
    """From a folder, Hub id or single file; what was taught to a base is put into it. Raises ModelUnavailable."""
    pipeline = open_whole(source, _opened)
    _check(source.name, pipeline)
    put_on_device(pipeline, source)
    if pipeline.vae.config.force_upcast and pipeline.vae.dtype == torch.float16:
        # This VAE overflows in half precision.
        pipeline.vae.to(torch.float32)
    path, config = discrete_path(pipeline, diffusion_of(scheduler_config_of(pipeline), {"var_type": "fixed_small"}))
    plain = "sdxl" if pipeline.text_encoder is not None else "sdxl-refiner"
    kind, family = (StableDiffusionXLInpainting, "sdxl-inpainting") if told_mask(pipeline) else (StableDiffusionXL, plain)
    info = latent_info(source, pipeline, family, pipeline.unet.config.sample_size, path.num_timesteps)
    return kind(name=source.name, info=info, pipeline=pipeline, path=path, scheduler_config=config, prompts=TwoEncoders(pipeline))


def _opened(source: Source) -> Any:
    return open_pipeline(
        source, "StableDiffusionXLPipeline", "Stable Diffusion XL model", PARTS, feature_extractor=None, image_encoder=None, add_watermarker=False,
    )


def _check(name: str, pipeline: Any) -> None:
    unet, first, second = pipeline.unet.config, pipeline.text_encoder, pipeline.text_encoder_2
    if second is None:
        raise ModelUnavailable(f"{name!r} has no second text encoder (text_encoder_2): base and refiner both read with it. Take all parts from one checkpoint.")
    if unet.in_channels != pipeline.vae.config.latent_channels and not told_mask(pipeline):
        raise ModelUnavailable(f"{name!r} takes {unet.in_channels} channels: it is made neither for text alone nor for inpainting.")
    together = second.config.hidden_size + (0 if first is None else first.config.hidden_size)
    width, ids = unet.cross_attention_dim, 5 if first is None else 6
    pooled = unet.projection_class_embeddings_input_dim - ids * unet.addition_time_embed_dim
    require_fit(
        name, ("its text encoders give", together, "its UNet reads", width if isinstance(width, int) else None),
        ("its second text encoder projects to", second.config.projection_dim, "its UNet reads", pooled),
    )
