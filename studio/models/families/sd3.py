"""Stable Diffusion 3: a transformer on latents and words together (MM-DiT), a rectified flow, three text encoders.

    text = [ [CLIP-L | OpenCLIP-G] padded to T5's width ; T5 ]      pooled = [CLIP-L | OpenCLIP-G] projections

Esser et al. 2024 (arXiv:2403.03206). T5 may be left out of the folder: its places are then zeros.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from studio.conditions import AS_TRAINED, TextsTold
from studio.errors import InvalidOption, ModelUnavailable
from studio.models.attention import JointAttentionRecorder
from studio.models.classes import refuse_class
from studio.models.conditioning import Conditioning
from studio.models.latents import Latent, latent_info, open_pipeline, open_whole, put_on_device, require_fit
from studio.models.prompts import CLIP_G, CLIP_L, Encoded, PromptEncoder, Reading, Token, Tokens, as_array, penultimate
from studio.models.sources import Source, scheduler_config_of
from studio.models.weighting import plain_text
from studio.options import SampleOptions
from studio.process.paths import FlowPath

__all__ = ["T5_PLACES", "StableDiffusion3", "joined", "load"]

PARTS = "(transformer/, vae/, text_encoder/, text_encoder_2/, tokenizers and scheduler/; text_encoder_3/ may be left out)"
T5_PLACES = 256
# How T5's tokenizer writes that a word begins.
NEW_WORD = "▁"
SWITCHED_OFF = "switched off: the network is told zeros in its place"


class ThreeEncoders(PromptEncoder):
    """The encoders of SD 3. The tokens of `tokens` are CLIP's."""

    def __init__(self, pipeline: Any):
        super().__init__(pipeline.tokenizer, pipeline.text_encoder)
        self.pipeline = pipeline

    def encode_afresh(
        self, text: str, device: torch.device, second: str = "", third: str = "", skip: int = 0, encoders: tuple[str, ...] = ("clip_l", "clip_g", "t5"),
        *, chunks: int = 1,
    ) -> Encoded:
        """States (1, L + 256, D) and the pooled prompt (1, P).

        second, third: for these encoders; "" = the same. skip: layers left out of both CLIPs. encoders: those that read; zeros stand for the others.
        """
        pipeline = self.pipeline

        def by(encoder: Any) -> Any:
            return lambda ids, mask: penultimate(encoder, ids, device, skip)

        first, pooled = self.read(text, device, by(pipeline.text_encoder), chunks=chunks)
        states, pooled_2 = self.read(second or text, device, by(pipeline.text_encoder_2), pipeline.tokenizer_2, chunks=chunks)
        assert pooled is not None and pooled_2 is not None
        reads = [1.0 if name in encoders else 0.0 for name in ("clip_l", "clip_g", "t5")]
        clip = torch.cat([first * reads[0], states * reads[1]], dim=-1)
        t5 = self._t5(third or text, device).to(first.dtype) * reads[2]
        return Encoded(joined(clip, t5), torch.cat([pooled * reads[0], pooled_2 * reads[1]], dim=-1))

    def readings(self, text: str, texts: TextsTold = AS_TRAINED, device: torch.device | None = None) -> tuple[Reading, ...]:
        """Of the three encoders, each with its own prompt, and the pooled vectors of both CLIPs."""
        pipeline, second, on = self.pipeline, texts.prompt_2 or text, texts.encoders
        chunks = self.count(text, second)
        states, pooled = self.encoded(
            text, device, second=texts.prompt_2, third=texts.prompt_3, skip=texts.clip_skip or 0, encoders=on, chunks=chunks,
        )
        assert pooled is not None
        places, first = self.limit * chunks, pipeline.text_encoder.config
        of_clip, middle, end = states[:, :places], first.hidden_size, first.hidden_size + pipeline.text_encoder_2.config.hidden_size
        return (
            self._of_clip(CLIP_L, "clip_l" in on, self.tokens(text, least=chunks), of_clip[..., :middle], pooled[..., : first.projection_dim]),
            self._of_clip(
                CLIP_G, "clip_g" in on, self.tokens(second, pipeline.tokenizer_2, chunks), of_clip[..., middle:end], pooled[..., first.projection_dim :],
            ),
            self._of_t5(texts.prompt_3 or text, "t5" in on, states[:, places:]),
        )

    def _of_clip(self, name: str, reads: bool, tokens: Tokens, states: Tensor, pooled: Tensor) -> Reading:
        if not reads:
            return Reading(encoder=name, note=SWITCHED_OFF)
        return Reading(encoder=name, tokens=tokens, states=as_array(states), pooled=as_array(pooled))

    def _of_t5(self, text: str, reads: bool, states: Tensor) -> Reading:
        """The places that T5 fills with words and its mark of the end; what follows them is padding."""
        if self.pipeline.text_encoder_3 is None:
            return Reading(encoder="T5", note=f"left out of this checkpoint: the network is told zeros in its {T5_PLACES} places")
        if not reads:
            return Reading(encoder="T5", note=SWITCHED_OFF)
        tokens = t5_tokens(self.pipeline.tokenizer_3, plain_text(text))
        return Reading(encoder="T5", tokens=tokens, states=as_array(states[:, : len(tokens.tokens)]))

    def _t5(self, text: str, device: torch.device) -> Tensor:
        if self.pipeline.text_encoder_3 is None:
            return torch.zeros(1, T5_PLACES, self.pipeline.transformer.config.joint_attention_dim, device=device)
        # T5 reads the words as they are; weights are CLIP's.
        ids = self.ids(plain_text(text), self.pipeline.tokenizer_3, T5_PLACES)
        with torch.no_grad():
            return self.pipeline.text_encoder_3(ids.to(device))[0]


def joined(clip: Tensor, t5: Tensor) -> Tensor:
    """What the transformer is told of words, (B, L + 256, D): both CLIPs' states (B, L, d) beside each other, widened by zeros, then T5's (B, 256, D)."""
    return torch.cat([pad(clip, (0, t5.shape[-1] - clip.shape[-1])), t5], dim=1)


def t5_tokens(tokenizer: Any, text: str) -> Tokens:
    """A text as T5 is given it, without the padding: pieces whose word begins with a mark of its own, and the mark of the end."""
    ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    kept, beyond = ids[: T5_PLACES - 1], ids[T5_PLACES - 1 :]
    tokens, words = [], list[str]()
    for id_, name in zip(kept, tokenizer.convert_ids_to_tokens(kept)):
        if name.startswith(NEW_WORD) or not words:
            words.append("")
        piece = name.removeprefix(NEW_WORD)
        words[-1] += piece
        tokens.append(Token(id=id_, text=piece or NEW_WORD, word=len(words) - 1))
    end = Token(id=tokenizer.eos_token_id, text=tokenizer.eos_token, word=None)
    return Tokens(tokens=(*tokens, end), words=tuple(words), cut_off=tokenizer.decode(beyond) if beyond else "", limit=T5_PLACES, begins=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class StableDiffusion3(Latent):
    """A loaded StableDiffusion3Pipeline."""

    takes_control = True

    def condition(self, options: SampleOptions) -> tuple[Conditioning, Conditioning]:
        """The prompt, and the negative one. Raises InvalidOption."""
        refuse_class(self.info, options)
        texts = options.texts
        self._check_encoders(texts.encoders, bool(texts.prompt_3 or texts.negative_prompt_3))
        self._check_layers(options)
        chunks = self.prompts.count(options.prompt, options.negative_prompt, texts.prompt_2, texts.negative_prompt_2)
        cond = self.prompts.encoded(
            options.prompt, self.device, second=texts.prompt_2, third=texts.prompt_3, skip=texts.clip_skip or 0, encoders=texts.encoders,
            chunks=chunks,
        )
        # What guidance leads away from is read as the model was trained, as in diffusers' pipeline.
        uncond = self.prompts.encoded(
            options.negative_prompt, self.device, second=texts.negative_prompt_2, third=texts.negative_prompt_3, encoders=texts.encoders,
            chunks=chunks,
        )
        told, avoided = (Conditioning(text=encoded.states, pooled=encoded.pooled) for encoded in (cond, uncond))
        return told, avoided

    def _check_encoders(self, encoders: tuple[str, ...], third: bool) -> None:
        if self.pipeline.text_encoder_3 is None and (third or encoders == ("t5",)):
            raise InvalidOption(f"{self.info.label} was kept without T5: leave the third prompts empty, and let a CLIP read.")

    def _check_layers(self, options: SampleOptions) -> None:
        layers, count = options.skipped.layers, len(self.network.transformer_blocks)
        if layers and max(layers) >= count:
            raise InvalidOption(f"{self.info.label} has the layers 0 to {count - 1}, so it cannot skip {max(layers)}.")
        if layers and options.guidance_scale == 1:
            raise InvalidOption("Skip-layer guidance acts where there is guidance: set guidance_scale above 1, or leave the layers empty.")

    def predict(self, x_t: Tensor, t: float, conditioning: Conditioning) -> Tensor:
        """The flow's velocity at x_t (B, C, h, w), float32."""
        network, dtype = self.network, self.network.dtype
        assert conditioning.text is not None and conditioning.pooled is not None
        timestep = torch.as_tensor(t, dtype=torch.float32, device=x_t.device).expand(len(x_t))
        return network(
            hidden_states=x_t.to(dtype), timestep=timestep, encoder_hidden_states=conditioning.text.to(dtype),
            pooled_projections=conditioning.pooled.to(dtype), return_dict=False, skip_layers=list(conditioning.skipped) or None,
            block_controlnet_hidden_states=list(conditioning.residuals(x_t.to(dtype), t)) or None,
        )[0].float()

    def word_attention(self, options: SampleOptions) -> JointAttentionRecorder:
        """Of the joint attention: how much of what a place gives to words goes to each of CLIP's tokens."""
        _, height, width = self.state_shape(options)
        patch = self.network.config.patch_size
        return JointAttentionRecorder(self.network, options.num_images, height // patch, width // patch, self.prompts.places(options))


# --- loading -------------------------------------------------------------------------------------------------

def load(source: Source) -> StableDiffusion3:
    """From a folder or Hub id; what was taught to a base is put into it. Raises ModelUnavailable."""
    pipeline = open_whole(source, _opened)
    _check(source.name, pipeline)
    put_on_device(pipeline, source)
    config = scheduler_config_of(pipeline)
    path = FlowPath(shift=float(pipeline.scheduler.config.get("shift", 1.0)), num_timesteps=int(config["num_train_timesteps"]))
    info = latent_info(source, pipeline, "sd3", pipeline.transformer.config.sample_size, path.num_timesteps)
    return StableDiffusion3(name=source.name, info=info, pipeline=pipeline, path=path, scheduler_config=config, prompts=ThreeEncoders(pipeline))


def _opened(source: Source) -> Any:
    folder = Path(source.place)
    absent: dict[str, Any] = {"text_encoder_3": None, "tokenizer_3": None} if folder.is_dir() and not (folder / "text_encoder_3").is_dir() else {}
    return open_pipeline(source, "StableDiffusion3Pipeline", "Stable Diffusion 3 model", PARTS, feature_extractor=None, image_encoder=None, **absent)


def _check(name: str, pipeline: Any) -> None:
    network, first, second, third = pipeline.transformer.config, pipeline.text_encoder, pipeline.text_encoder_2, pipeline.text_encoder_3
    if first is None or second is None:
        raise ModelUnavailable(f"{name!r} has no CLIP text encoders: of the three only T5 (text_encoder_3) may be left out.")
    if pipeline.scheduler.config.get("use_dynamic_shifting"):
        raise ModelUnavailable(f"{name!r} shifts its flow by the picture's size, which the studio does not do; choose SD 3 or 3.5 as they were published.")
    require_fit(
        name, ("its VAE has latents of", pipeline.vae.config.latent_channels, "its transformer takes", network.in_channels),
        ("its CLIP encoders project to", first.config.projection_dim + second.config.projection_dim, "its transformer reads", network.pooled_projection_dim),
        ("its T5 gives", None if third is None else third.config.d_model, "its transformer reads", network.joint_attention_dim),
    )
    if first.config.hidden_size + second.config.hidden_size > network.joint_attention_dim:
        raise ModelUnavailable(f"The parts of {name!r} do not belong together: its CLIP encoders are wider than what its transformer reads.")
