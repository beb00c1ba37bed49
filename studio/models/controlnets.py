"""ControlNets: a trainable copy of a UNet's encoder that reads a map and adds to the UNet's states (Zhang et al. 2023, arXiv:2302.05543).

    states_k <- states_k + r_k        r = net(x_t, t, text, hint)        hint = encoder(map), once a run

There is one r_k for each skip connection and one for the middle, 12 + 1 in Stable Diffusion 1.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from studio.errors import InvalidOption, ModelUnavailable, StudioError
from studio.importing import one_at_a_time
from studio.models.conditioning import Conditioning
from studio.models.controlnet_menu import CONTROLNETS, NET_CLASSES, ControlNetInfo, control_info
from studio.models.loading import pick_device, pick_dtype, resolve
from studio.models.memory import estimate_gib
from studio.models.sources import READING_FAILS, is_single_file, why_not
from studio.models.tracing import Traced

__all__ = [
    "ControlNet", "JointControlNet", "estimated_control_gib", "joint_hint", "joint_residuals", "load_controlnet", "make_controlnet", "make_joint_controlnet",
    "require_fit_for",
]

# What a ControlNet and the UNet that it adds to must have in common, and how a sentence calls it.
SHARED = {
    "block_out_channels": "the widths of its blocks", "layers_per_block": "its layers a block", "in_channels": "its channels",
    "cross_attention_dim": "the width of its text states", "addition_embed_type": "what it is told beside the text",
    "projection_class_embeddings_input_dim": "the size of what it is told beside the text",
}

JOINT_SHARED = MappingProxyType({
    "num_attention_heads": "its attention heads", "attention_head_dim": "the width of its heads", "patch_size": "its patches", "in_channels": "its channels",
    "pooled_projection_dim": "the width of its pooled prompt",
})


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlNet:
    """A loaded ControlNetModel. network: it, without its encoder of maps, which is `encoder`.

    shared: what it and the network that it adds to must have in common, and how a sentence calls it. adds_to: the class of that network.
    """

    name: str
    info: ControlNetInfo
    network: Any
    encoder: torch.nn.Module

    adds_to = "UNet2DConditionModel"
    shared = MappingProxyType(SHARED)

    @property
    def parts(self) -> dict[str, Any]:
        """The networks by name."""
        return {"controlnet": self.network, "encoder": self.encoder}

    @property
    def num_blocks(self) -> int:
        """Residuals: one a skip connection, then the middle."""
        return len(self.network.controlnet_down_blocks) + 1

    @property
    def pooled(self) -> bool:
        """Whether its residuals say nothing of places, as those of shuffled content."""
        return bool(self.network.config.global_pool_conditions)

    @cached_property
    def traced(self) -> Traced:
        """The network, as graphs where they were made ready."""
        return Traced(self.network, _Ask(self.network), steady=(2, 3))

    def hint(self, maps: Tensor, model: Any = None) -> Tensor:
        """Maps (B, 3, H, W) in [0, 1] as the network reads them: (B, C, h, w). model: the one that it adds to, where that has to be known."""
        weight = next(self.encoder.parameters())
        with torch.no_grad():
            return self.encoder(maps.to(weight.device, weight.dtype))

    def residuals(self, x_t: Tensor, t: float, hint: Tensor, told: Conditioning) -> tuple[Tensor, ...]:
        """What it adds at x_t (B, C, h, w) and t: one a skip connection, then the middle. hint: (B, C, h, w)."""
        answer: Any = self.traced(*self._inputs(x_t, t, hint, told))
        return answer

    def make_ready(self, x_t: Tensor, hint: Tensor, told: Conditioning) -> None:
        """A graph for such questions, where one is worth it."""
        self.traced.prepare(*self._inputs(x_t, 1.0, hint, told))

    def _inputs(self, x_t: Tensor, t: float, hint: Tensor, told: Conditioning) -> tuple[Tensor, ...]:
        assert told.text is not None
        dtype = hint.dtype
        added = () if told.pooled is None or told.added_ids is None else (told.pooled.to(dtype), told.added_ids.to(dtype))
        return x_t.to(dtype), torch.tensor(t), told.text.to(dtype), hint, *added


class _Ask(torch.nn.Module):
    """The network as a function of tensors."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor, hint: Tensor, *added: Tensor) -> tuple[Tensor, ...]:
        beside = {"added_cond_kwargs": {"text_embeds": added[0], "time_ids": added[1]}} if added else {}
        down, middle = self.network(x_t, t, encoder_hidden_states=text, controlnet_cond=hint, return_dict=False, **beside)
        return (*down, middle)


@dataclass(frozen=True, kw_only=True, eq=False)
class JointControlNet(ControlNet):
    """A loaded SD3ControlNetModel: some of a transformer's blocks, copied. Its residuals are of patches, (B, N, D); its hint is
    the map through the model's own VAE.

    Published ones differ in what they are told: InstantX's get no pooled prompt and unshifted latents, those of Stability AI for
    the 8B model no words, and they take the model's own patches (diffusers' StableDiffusion3ControlNetPipeline).
    """

    adds_to = "SD3Transformer2DModel"
    shared = JOINT_SHARED

    @property
    def parts(self) -> dict[str, Any]:
        """The networks by name."""
        return {"controlnet": self.network}

    @property
    def num_blocks(self) -> int:
        """Residuals, one a block of its own."""
        return len(self.network.controlnet_blocks)

    @property
    def pooled(self) -> bool:
        """Its residuals are of places."""
        return False

    def hint(self, maps: Tensor, model: Any = None) -> Tensor:
        """Maps (B, 3, H, W) in [0, 1] as latents (B, C, h, w) of the model that it adds to.

        The middle of what the VAE says of the map, not a draw from it: the same seed gives the same picture. Raises ModelUnavailable.
        """
        config = self.network.config
        if config.extra_conditioning_channels:
            raise ModelUnavailable(f"The ControlNet {self.info.label!r} wants more than a map (it is for inpainting); choose another.")
        if self.network.pos_embed is None or not config.use_pos_embed:
            # It was made without patches of its own, and is lent the model's.
            self.network.pos_embed = self.network._get_pos_embed_from_transformer(model.network).to(self.network.device, self.network.dtype)
        z, _ = model.posterior(2 * maps - 1)
        return joint_hint(z, model.vae, config).to(self.network.device, self.network.dtype)

    def residuals(self, x_t: Tensor, t: float, hint: Tensor, told: Conditioning) -> tuple[Tensor, ...]:
        """What it adds at x_t (B, C, h, w) and t: (B, N, D) each. hint: (B, C, h, w)."""
        assert told.text is not None and told.pooled is not None
        dtype, times = hint.dtype, torch.full((len(x_t),), t, device=x_t.device)
        return joint_residuals(self.network, x_t.to(dtype), times, told.text.to(dtype), told.pooled.to(dtype), hint)

    def make_ready(self, x_t: Tensor, hint: Tensor, told: Conditioning) -> None:
        """Nothing to be made: it has no graphs."""


def joint_hint(latents: Tensor, vae: Any, config: Any) -> Tensor:
    """Latents (B, C, h, w) of maps, not yet scaled, as the SD3ControlNetModel of this config is told them. Inference and training alike.

    Those that get no pooled prompt, InstantX's, get latents without the VAE's shift too: one entry of the config says both, in
    diffusers' StableDiffusion3ControlNetPipeline as here.
    """
    shift = 0.0 if config.force_zeros_for_pooled_projection else vae.config.shift_factor or 0.0
    return (latents - shift) * vae.config.scaling_factor


def joint_residuals(network: Any, x_t: Tensor, t: Tensor, text: Tensor, pooled: Tensor, hint: Tensor) -> tuple[Tensor, ...]:
    """What a SD3ControlNetModel adds, (B, N, D) a block of its own, told as its config wants it. Inference and training alike.

    Args:
        x_t, hint: (B, C, h, w). t: (B,), 0 to 1000. text: (B, L, D). pooled: (B, P).
    """
    config = network.config
    answers: Any = network(
        hidden_states=x_t, controlnet_cond=hint, timestep=t, encoder_hidden_states=None if config.joint_attention_dim is None else text,
        pooled_projections=torch.zeros_like(pooled) if config.force_zeros_for_pooled_projection else pooled, return_dict=False,
    )[0]
    return tuple(answers)


def require_fit_for(net: ControlNet, model: Any) -> None:
    """Refuse a ControlNet that was made for another kind of model. Raises ModelUnavailable."""
    if not model.takes_control:
        raise ModelUnavailable(f"{model.info.label} takes no ControlNet; choose a Stable Diffusion model, or leave the units out.")
    base = f", it is for {net.info.base}" if net.info.base else ""
    if type(model.network).__name__ != net.adds_to:
        raise ModelUnavailable(
            f"The ControlNet {net.info.label!r} does not fit {model.info.label}{base}: they are networks of different kinds. Choose one of the same base model."
        )
    for key, words in net.shared.items():
        ours, its = _plain(net.network.config.get(key)), _plain(model.network.config.get(key))
        if ours != its:
            raise ModelUnavailable(
                f"The ControlNet {net.info.label!r} does not fit {model.info.label}{base}: {words}, {ours}, differ from the model's, {its}. "
                "Choose one of the same base model."
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


# --- a new one -----------------------------------------------------------------------------------------------

# What of a UNet is copied.
COPIED = ("conv_in", "time_embedding", "class_embedding", "encoder_hid_proj", "add_embedding", "down_blocks", "mid_block")
# Channels of the encoder of maps: it halves a side between one and the next.
ENCODERS = {1: (16,), 2: (16, 32), 4: (16, 32, 64), 8: (16, 32, 96, 256)}


def make_controlnet(unet: Any, factor: int) -> Any:
    """A ControlNetModel that begins as the encoder of a UNet2DConditionModel, and adds nothing yet.

    factor: pixels of a map for one of the UNet's states each way. Unlike diffusers' `from_unet` it takes over every option that
    both have: without `addition_embed_type_num_heads` a pooled prompt would silently be read in another way.
    """
    import inspect

    from diffusers import ControlNetModel

    known = inspect.signature(ControlNetModel.__init__).parameters
    config = {name: value for name, value in unet.config.items() if name in known and not name.startswith("_")}
    net = ControlNetModel(**config, conditioning_embedding_out_channels=ENCODERS[factor])
    for name in COPIED:
        part = getattr(net, name, None)
        if part is not None:
            part.load_state_dict(getattr(unet, name).state_dict())
    return net


# What of a SD3Transformer2DModel is copied, beside its first blocks.
JOINT_COPIED = ("pos_embed", "time_text_embed", "context_embedder")


def make_joint_controlnet(transformer: Any, num_layers: int = 0, *, force_zeros: bool = False) -> Any:
    """An SD3ControlNetModel that begins as the first blocks of a SD3Transformer2DModel, and adds nothing yet.

    It differs from diffusers' `from_transformer`, which writes the copy's number of layers into the transformer's own config, asks for one more
    channel beside the map, as inpainting wants, and leaves an entry on by which pipelines tell zeros for the pooled prompt and unshifted maps,
    however the copy was trained.

    Args:
        num_layers: blocks copied, from the first on; 0 = half of them. The last has no way on for the words, so it cannot be one of them.
        force_zeros: whether the copy is told zeros for the pooled prompt, and maps without the VAE's shift, as InstantX's are.

    Raises:
        InvalidOption.
    """
    import inspect

    from diffusers import SD3ControlNetModel

    blocks = len(transformer.transformer_blocks)
    copied = num_layers or blocks // 2
    if not 0 < copied < blocks:
        raise InvalidOption(f"Of the {blocks} blocks of this Stable Diffusion 3 model all but the last can be copied, so not {copied}.")
    known = inspect.signature(SD3ControlNetModel.__init__).parameters
    config = {name: value for name, value in transformer.config.items() if name in known and not name.startswith("_")}
    dual = tuple(layer for layer in config.get("dual_attention_layers", ()) if layer < copied)
    net: Any = SD3ControlNetModel(**{
        **config, "num_layers": copied, "dual_attention_layers": dual, "extra_conditioning_channels": 0, "force_zeros_for_pooled_projection": force_zeros,
    })
    for name in JOINT_COPIED:
        getattr(net, name).load_state_dict(getattr(transformer, name).state_dict())
    net.transformer_blocks.load_state_dict(transformer.transformer_blocks[:copied].state_dict())
    return net


# --- loading -------------------------------------------------------------------------------------------------

@one_at_a_time
def load_controlnet(name: str, device: "torch.device | None" = None, dtype: "torch.dtype | None" = None) -> ControlNet:
    """Load a ControlNet by menu name, folder, .safetensors file or Hub id. Raises UnknownName, ModelUnavailable.

    device, dtype: as those of studio.models.load_model.
    """
    place = resolve(name, CONTROLNETS, "ControlNet")
    device = device or pick_device()
    try:
        network = _read(place, dtype or pick_dtype(device))
    except StudioError:
        raise
    except READING_FAILS as error:
        raise ModelUnavailable(_why_not(name, place, error)) from error
    joint = type(network).__name__ == "SD3ControlNetModel"
    encoder = torch.nn.Identity() if joint else _taken_out(network)
    for part in (network, encoder):
        part.to(device).eval().requires_grad_(False)
    return (JointControlNet if joint else ControlNet)(name=name, info=control_info(name), network=network, encoder=encoder)


def _read(place: str, dtype: torch.dtype) -> Any:
    import diffusers
    from diffusers import ControlNetModel

    if is_single_file(place):
        beside = Path(place).with_suffix("")
        return ControlNetModel.from_single_file(place, dtype=dtype, **({"config": str(beside)} if beside.is_dir() else {}))
    config = ControlNetModel.load_config(place)
    kind = config.get("_class_name")
    if kind not in NET_CLASSES:
        raise ModelUnavailable(f"{place!r} holds a {kind or 'model of another kind'}, not a {' or '.join(NET_CLASSES)}; choose another.")
    return getattr(diffusers, kind).from_pretrained(place, use_safetensors=True, dtype=dtype)


def _why_not(name: str, place: str, error: Exception) -> str:
    if is_single_file(place):
        return (
            f"The file {name!r} is no ControlNet in the original layout or in that of diffusers, or its configuration is not in the cache and the Hub "
            "cannot be reached; a folder of the same name beside it with its config.json takes its place."
        )
    return why_not(name, error, "ControlNetModel", "(config.json and diffusion_pytorch_model.safetensors)")


def _taken_out(network: Any) -> torch.nn.Module:
    """The network's encoder of maps; from now on the network is given what that made. Colours in the order that it learned."""
    encoder = network.controlnet_cond_embedding
    network.controlnet_cond_embedding = torch.nn.Identity()
    if network.config.controlnet_conditioning_channel_order == "bgr":
        encoder = torch.nn.Sequential(_Flipped(), encoder)
        network.register_to_config(controlnet_conditioning_channel_order="rgb")
    return encoder


class _Flipped(torch.nn.Module):
    """Red for blue."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.flip(1)


def estimated_control_gib(name: str) -> float:
    """GiB that a ControlNet will take on the device, before it is loaded. Raises UnknownName."""
    known = CONTROLNETS[name].memory_gib if name in CONTROLNETS and not CONTROLNETS[name].embedded else None
    return estimate_gib(resolve(name, CONTROLNETS, "ControlNet"), known, pick_device().type == "cuda")
