"""The bases that a ControlNet can be trained for, and what differs from one family to the other; the trainer knows none of them.

    Stable Diffusion 1, 2, XL   a copy of the UNet's encoder          reads the map's pixels through an encoder of its own
    Stable Diffusion 3          a copy of the transformer's first     reads the map's latents, through the base's VAE
                                blocks
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from studio.errors import InvalidOption
from studio.files import read_object
from studio.models.controlnets import joint_hint, joint_residuals, make_controlnet, make_joint_controlnet
from studio.models.families.sd3 import T5_PLACES, joined
from studio.models.latents import factor_of, told_residuals
from studio.models.prompts import penultimate, tokenize
from studio.runs.trainers.controlnet import ControlNetOptions, not_steerable, require_sizes
from trainers.captions import token_ids
from trainers.dreambooth import at_once, own_device
from trainers.latent import encode_texts
from trainers.noising import Betas, Flow, Noising

__all__ = ["BASES", "SteerableBase", "hints", "load_base"]

TEXTS_AT_ONCE = 64


def load_base(name: str) -> "SteerableBase":
    """The base of this name, float32, frozen, on the GPU if there is one. Raises UnknownName, ModelUnavailable, InvalidOption."""
    from studio.models.loading import load_text_model

    model = load_text_model(name, own_device(), dtype=torch.float32)
    if model.info.family not in BASES:
        raise not_steerable(name)
    return BASES[model.info.family](name, model.pipeline)  # type: ignore[attr-defined]


def hints(maps: Tensor) -> Tensor:
    """(B, 3, H, W) float32 in [0, 1] of maps (B, H, W, 3 or 1) uint8."""
    return (maps.movedim(-1, 1).float() / 255).expand(-1, 3, -1, -1)


class SteerableBase(ABC):
    """A base and how it is trained with.

    names: of its parts, the network that is steered first. net_class: the class of diffusers of its ControlNets. encodings: how often the VAE
    encodes for each picture. parts: by name, None for one that its makers left out.
    """

    names: ClassVar[tuple[str, ...]]
    net_class: ClassVar[str]
    encodings: ClassVar[int] = 1

    def __init__(self, name: str, pipeline: Any):
        self.name = name
        self.parts = {part: getattr(pipeline, part) for part in self.names}

    @property
    def network(self) -> Any:
        """The network that is steered."""
        return self.parts[self.names[0]]

    @property
    def vae(self) -> Any:
        """The AutoencoderKL."""
        return self.parts["vae"]

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.network.device

    def require_fit(self, options: ControlNetOptions) -> None:
        """Raises InvalidOption where it takes no pictures of the resolution, or has fewer blocks than are to be copied."""
        require_sizes(options, self.network.config, self.vae.config)

    # --- what is computed once

    @property
    def read_by(self) -> list[Any]:
        """The networks that what is kept depends on."""
        return [part for name, part in self.parts.items() if name.startswith(("vae", "text_encoder")) and part is not None]

    @abstractmethod
    def read_captions(self, texts: list[str]) -> dict[str, Tensor]:
        """What text encoders say of captions as the pipelines feed them, float16 on the CPU: a row a caption."""

    def read_maps(self, maps: Tensor) -> dict[str, Tensor]:
        """What is kept of maps (N, H, W, 3 or 1) uint8 beside them."""
        return {}

    # --- what the networks are told

    @abstractmethod
    def noising(self, options: ControlNetOptions) -> Noising:
        """Its process."""

    @abstractmethod
    def told(self, kept: Mapping[str, Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        """Of the captions `rows` of what is kept: text (B, L, D) and, where it is told one, pooled (B, P), float32."""

    def hint(self, kept: Mapping[str, Tensor], indices: Tensor, net: Any) -> Tensor:
        """Of the maps `indices`: what the ControlNet reads, float32: (B, 3, H, W) in [0, 1], or latents (B, C, h, w)."""
        return hints(kept["maps"][indices])

    # --- the ControlNet

    def steered(self, options: ControlNetOptions) -> "Steered":
        """With a new copy, or the one to go on from. Raises InvalidOption where that was made for another base."""
        older = self.read_net(options.start) if options.start else None
        network, net = self.network.requires_grad_(False), self.new_net(options, older)
        if older is not None:
            try:
                net.load_state_dict(older.state_dict())
            except RuntimeError as error:
                raise made_for_another(options.start, self.name) from error
        if options.gradient_checkpointing:
            network.enable_gradient_checkpointing()
            net.enable_gradient_checkpointing()
        net.requires_grad_(True)
        for part in self.without_effect(net):
            # Several devices would wait for its gradients, which never come.
            part.requires_grad_(False)
        return self.together(net)

    def read_net(self, folder: Path | str) -> Any:
        """The ControlNet in a folder, float32, where the base lies. Raises InvalidOption where it is of another kind."""
        import diffusers

        if (read_object(Path(folder) / "config.json") or {}).get("_class_name") != self.net_class:
            raise made_for_another(str(folder), self.name)
        net = getattr(diffusers, self.net_class).from_pretrained(folder, use_safetensors=True, torch_dtype=torch.float32)
        return net.eval().to(self.device)

    @abstractmethod
    def new_net(self, options: ControlNetOptions, older: Any) -> Any:
        """A copy that adds nothing yet, of the shape of an older one where that is given. Raises InvalidOption."""

    def without_effect(self, net: Any) -> tuple[torch.nn.Module, ...]:
        """The parts of a ControlNet that nothing it adds depends on."""
        return ()

    @abstractmethod
    def together(self, net: Any) -> "Steered":
        """The base and a ControlNet as one network."""

    # --- drawing

    @abstractmethod
    def pipeline(self, net: Any) -> Any:
        """A pipeline of diffusers of the base's parts and a ControlNet, or None for none; nothing is copied."""

    @abstractmethod
    def shown(self, maps: Tensor) -> dict[str, Tensor]:
        """What that pipeline is called with to follow maps (B, 3, H, W) in [0, 1]."""


def made_for_another(net: str, base: str) -> InvalidOption:
    """Why a ControlNet cannot be gone on from."""
    return InvalidOption(f"The ControlNet in {net!r} was made for another model than {base!r}.")


class Steered(torch.nn.Module):
    """A base with the copy that steers it, `net`; only the copy learns. One forward pass, so that accelerate wraps it whole."""

    net: Any

    def forward(self, z_t: Tensor, t: Tensor, text: Tensor, hint: Tensor, pooled: Tensor | None = None) -> Tensor:
        """The base's answer (B, C, h, w) at z_t and t (B,). text, pooled: as SteerableBase.told gives them; hint: as its `hint` does."""
        raise NotImplementedError


# --- Stable Diffusion 1, 2 and XL ----------------------------------------------------------------------------

class SteeredUNet(Steered):
    """A UNet with the copy of its encoder."""

    def __init__(self, unet: Any, net: Any):
        super().__init__()
        self.unet, self.net = unet, net

    def forward(self, z_t: Tensor, t: Tensor, text: Tensor, hint: Tensor, pooled: Tensor | None = None) -> Tensor:
        told: dict[str, Any] = {"encoder_hidden_states": text, "return_dict": False}
        if pooled is not None:
            height, width = hint.shape[-2:]
            ids = torch.tensor([[height, width, 0, 0, height, width]], device=z_t.device, dtype=pooled.dtype)
            told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids.expand(len(z_t), -1)}
        residuals = self.net(z_t, t, controlnet_cond=hint, **told)
        # What the base's encoder makes needs no gradient, so torch builds its graph from the first residual on.
        return self.unet(z_t, t, **told, **told_residuals((*residuals[0], residuals[1])))[0]


class UNetBase(SteerableBase):
    """Stable Diffusion 1 and 2."""

    names = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    net_class = "ControlNetModel"

    def read_captions(self, texts: list[str]) -> dict[str, Tensor]:
        return {"features": encode_texts(self.parts["text_encoder"], self.parts["tokenizer"], texts)}

    def noising(self, options: ControlNetOptions) -> Noising:
        return Betas(self.parts["scheduler"].config, options)

    def told(self, kept: Mapping[str, Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        return (kept["features"][rows].float(),)

    def new_net(self, options: ControlNetOptions, older: Any) -> Any:
        return make_controlnet(self.network, factor_of(self.vae))

    def together(self, net: Any) -> Steered:
        return SteeredUNet(self.network, net)

    def pipeline(self, net: Any) -> Any:
        from diffusers import StableDiffusionControlNetPipeline, StableDiffusionPipeline

        bare = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return StableDiffusionPipeline(**self.parts, **bare) if net is None else StableDiffusionControlNetPipeline(**self.parts, controlnet=net, **bare)

    def shown(self, maps: Tensor) -> dict[str, Tensor]:
        return {"image": maps}


class XLBase(UNetBase):
    """Stable Diffusion XL: two text encoders, a pooled prompt, and the sizes of the picture."""

    names = (*UNetBase.names, "text_encoder_2", "tokenizer_2")

    def read_captions(self, texts: list[str]) -> dict[str, Tensor]:
        def read(some: list[str]) -> dict[str, Tensor]:
            (first, _), (second, pooled) = by_both_clips(self.parts, some)
            return {"features": torch.cat([first, second], dim=-1), "pooled": pooled}

        return in_turn(read, texts)

    def told(self, kept: Mapping[str, Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        return kept["features"][rows].float(), kept["pooled"][rows].float()

    def pipeline(self, net: Any) -> Any:
        from diffusers import StableDiffusionXLControlNetPipeline, StableDiffusionXLPipeline

        if net is None:
            return StableDiffusionXLPipeline(**self.parts, add_watermarker=False)
        return StableDiffusionXLControlNetPipeline(**self.parts, controlnet=net, add_watermarker=False)


def by_both_clips(parts: Mapping[str, Any], texts: list[str]) -> list[tuple[Tensor, Tensor]]:
    """(states of the layer before the last (B, L, D), pooled or projected (B, P)) of captions, of either CLIP."""
    ids = [token_ids(parts[name], texts) for name in ("tokenizer", "tokenizer_2")]
    return [penultimate(parts[name], told, parts[name].device) for name, told in zip(("text_encoder", "text_encoder_2"), ids)]


def in_turn(read: Any, texts: list[str]) -> dict[str, Tensor]:
    """What `read` says of captions, a few at a time, in half precision on the CPU."""
    said = [read(texts[i : i + TEXTS_AT_ONCE]) for i in range(0, len(texts), TEXTS_AT_ONCE)]
    halves = [{name: tensor.to("cpu", torch.float16) for name, tensor in some.items()} for some in said]
    return {name: torch.cat([some[name] for some in halves]) for name in halves[0]}


# --- Stable Diffusion 3 --------------------------------------------------------------------------------------

class SteeredTransformer(Steered):
    """A transformer with the copy of its first blocks."""

    def __init__(self, transformer: Any, net: Any):
        super().__init__()
        self.transformer, self.net = transformer, net

    def forward(self, z_t: Tensor, t: Tensor, text: Tensor, hint: Tensor, pooled: Tensor | None = None) -> Tensor:
        assert pooled is not None
        residuals = joint_residuals(self.net, z_t, t, text, pooled, hint)
        return self.transformer(
            hidden_states=z_t, timestep=t, encoder_hidden_states=text, pooled_projections=pooled, block_controlnet_hidden_states=list(residuals),
            return_dict=False,
        )[0]


class SD3Base(SteerableBase):
    """Stable Diffusion 3 and 3.5, with T5 or without."""

    names = (
        "transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3", "scheduler",
    )
    net_class = "SD3ControlNetModel"
    encodings = 2

    def read_captions(self, texts: list[str]) -> dict[str, Tensor]:
        def read(some: list[str]) -> dict[str, Tensor]:
            (first, pooled), (second, pooled_2) = by_both_clips(self.parts, some)
            return {"features": torch.cat([first, second], dim=-1), "pooled": torch.cat([pooled, pooled_2], dim=-1), **self._by_t5(some)}

        return in_turn(read, texts)

    @torch.no_grad()
    def _by_t5(self, texts: list[str]) -> dict[str, Tensor]:
        """Nothing where its makers left it out: its zeros need not be kept for each caption."""
        encoder = self.parts["text_encoder_3"]
        return {} if encoder is None else {"t5": encoder(tokenize(self.parts["tokenizer_3"], texts, T5_PLACES).input_ids.to(encoder.device))[0]}

    def read_maps(self, maps: Tensor) -> dict[str, Tensor]:
        # The middle of what the VAE says, as the studio's sampling takes it; an empty map has latents too, which are not zeros.
        with torch.no_grad():
            said = [self.vae.encode(2 * hints(some).to(self.device) - 1).latent_dist.mode() for some in maps.split(at_once(maps.shape[1]))]
        return {"map_latents": torch.cat(said).to("cpu", torch.float16).contiguous()}

    def noising(self, options: ControlNetOptions) -> Noising:
        return Flow(self.parts["scheduler"].config, options)

    def told(self, kept: Mapping[str, Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        absent = torch.zeros(1, T5_PLACES, self.network.config.joint_attention_dim).expand(len(rows), -1, -1)
        t5 = kept["t5"][rows].float() if "t5" in kept else absent
        return joined(kept["features"][rows].float(), t5), kept["pooled"][rows].float()

    def hint(self, kept: Mapping[str, Tensor], indices: Tensor, net: Any) -> Tensor:
        return joint_hint(kept["map_latents"][indices].float(), self.vae, net.config)

    def new_net(self, options: ControlNetOptions, older: Any) -> Any:
        if older is None:
            return make_joint_controlnet(self.network, options.layers)
        return make_joint_controlnet(self.network, older.config.num_layers, force_zeros=older.config.force_zeros_for_pooled_projection)

    def without_effect(self, net: Any) -> tuple[torch.nn.Module, ...]:
        # What the last block makes of the words is read by no other.
        last = net.transformer_blocks[-1]
        return last.attn.to_add_out, last.ff_context

    def together(self, net: Any) -> Steered:
        return SteeredTransformer(self.network, net)

    def pipeline(self, net: Any) -> Any:
        from diffusers import StableDiffusion3ControlNetPipeline, StableDiffusion3Pipeline

        return StableDiffusion3Pipeline(**self.parts) if net is None else StableDiffusion3ControlNetPipeline(**self.parts, controlnet=net)

    def shown(self, maps: Tensor) -> dict[str, Tensor]:
        # This pipeline takes tensors as they are, so it has to be given what the VAE reads.
        return {"control_image": 2 * maps - 1}


# By the keys of studio.models.families.FAMILIES.
BASES: Mapping[str, type[SteerableBase]] = MappingProxyType({"stable-diffusion": UNetBase, "sdxl": XLBase, "sd3": SD3Base})
