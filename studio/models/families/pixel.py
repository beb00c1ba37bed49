"""A diffusion model whose states are pictures: UNet2DModel with its process, unconditional or of classes."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from studio.models.attention import AttentionRecorder
from studio.models.beginning import Beginning, begun
from studio.models.catalogue import ModelInfo
from studio.models.classes import check_class_guidance, class_index, refuse_words
from studio.models.conditioning import Conditioning, Unit, batched
from studio.models.sizes import size_of
from studio.models.sources import Source, diffusion_of, known_info, load_part
from studio.models.tracing import Traced
from studio.options import SampleOptions
from studio.process.paths import DiscretePath

__all__ = ["PixelModel", "load"]


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelModel:
    """A loaded network with the path that it was trained on.

    network: a UNet2DModel in eval mode, float32. null_class: the label that stands for "none", or None.
    """

    name: str
    info: ModelInfo
    network: torch.nn.Module
    path: DiscretePath
    null_class: int | None
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)

    prompts = None
    factor = 1
    rgb_map = None
    takes_control = False
    takes = ()

    @property
    def parts(self) -> dict[str, Any]:
        """The one network."""
        return {"unet": self.network}

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.network.parameters()).device

    def state_shape(self, options: SampleOptions) -> tuple[int, int, int]:
        """(C, H, W) of one state for these options. Raises InvalidOption with the nearest size that can be made."""
        if options.width is None and options.height is None:
            return self.info.channels, self.info.height, self.info.width
        config: Any = self.network.config
        width, height = size_of(self.info, options, 2 ** (len(config.block_out_channels) - 1))
        return self.info.channels, height, width

    def condition(self, options: SampleOptions) -> tuple[Conditioning, Conditioning | None]:
        """The class, and the null class. Raises InvalidOption, UnknownName."""
        refuse_words(self.info, options)
        index = class_index(self.info, options.class_label, self.null_class)
        check_class_guidance(self.info, options, index, self.null_class)
        return self._told(index), None if self.null_class is None else self._told(self.null_class)

    def begin(self, options: SampleOptions, generators: Sequence[torch.Generator]) -> Beginning:
        """What a run begins with. Raises InvalidOption, UnknownName."""
        return begun(self, options, generators)

    def _told(self, index: int | None) -> Conditioning:
        return Conditioning(label=None if index is None else torch.tensor([index], device=self.device))

    def predict(self, x_t: Tensor, t: float, conditioning: Conditioning) -> Tensor:
        """What the network says at x_t (B, C, H, W): (B, C or 2C, H, W)."""
        return self.traced(x_t, torch.tensor(t), *([] if conditioning.label is None else [conditioning.label]))

    @cached_property
    def traced(self) -> Traced:
        """The network, as graphs where they were made ready."""
        return Traced(self.network, _Ask(self.network))

    def make_ready(self, options: SampleOptions, control: tuple[Unit, ...] = ()) -> None:
        """Graphs for runs of these options."""
        state, (cond, _) = torch.zeros(options.num_images, *self.state_shape(options), device=self.device), self.condition(options)
        told = batched([cond] * (2 if options.guidance_scale != 1 else 1), options.num_images).label
        state = state if told is None or len(told) == len(state) else torch.cat([state, state])
        self.traced.prepare(state, torch.tensor(1.0), *([] if told is None else [told]))

    def encode(self, pictures: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """States are pictures: as they are."""
        return pictures

    def decode(self, x0: Tensor) -> Tensor:
        """States are pictures: (B, C, H, W) as it is."""
        return x0

    def spare_memory(self) -> bool:
        """A pixel model has no smaller pieces."""
        return False

    def decoded_at_once(self, height: int, width: int) -> tuple[int, int]:
        """There is nothing to decode."""
        return height, width

    def word_attention(self, options: SampleOptions) -> AttentionRecorder:
        """It reads no words. Raises InvalidOption."""
        refuse_words(self.info, options)
        raise AssertionError("asked for attention that nobody wants")

    def facts(self) -> dict[str, Any]:
        """What a run file must know of the model to be read without it."""
        return {"name": self.name, "label": self.info.label}


class _Ask(torch.nn.Module):
    """The network as a function of tensors."""

    def __init__(self, unet: torch.nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        classes = {} if label is None else {"class_labels": label}
        return self.unet(x_t, t, **classes, return_dict=False)[0]


# --- loading -------------------------------------------------------------------------------------------------

def load(source: Source) -> PixelModel:
    """From a folder or Hub id with unet/ and scheduler/, or both in its root as the oldest checkpoints have it. Raises ModelUnavailable."""
    what, parts = "pixel diffusion model", "(unet/ and scheduler/)"
    config = load_part(source, "scheduler", _scheduler_config, what, parts)
    network = load_part(source, "unet", _network, what, parts).to(source.device).eval().requires_grad_(False)
    facts = source.facts()
    spacing = config.get("timestep_spacing", "leading")
    return PixelModel(
        name=source.name, info=_info(source.name, network.config, config, facts), network=network, scheduler_config={"timestep_spacing": spacing},
        path=DiscretePath(diffusion=diffusion_of(config, facts), timestep_spacing=spacing, clip_x0=bool(config.get("clip_sample", True))),
        null_class=len(facts["class_names"]) if facts.get("class_names") else None,
    )


def _network(path: str, **where: str) -> Any:
    from diffusers import UNet2DModel

    return UNet2DModel.from_pretrained(path, dtype=torch.float32, use_safetensors=True, **where)


def _scheduler_config(path: str, **where: str) -> dict[str, Any]:
    from diffusers import DDPMScheduler

    config = dict(DDPMScheduler.load_config(path, **where))
    if "num_train_timesteps" not in config:
        raise ValueError("This is no scheduler's configuration: it does not say how many timesteps there are.")
    return config


def _info(name: str, network: Any, config: dict[str, Any], facts: dict[str, Any]) -> ModelInfo:
    size = network.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    known = known_info(name, family="pixel")
    return dataclasses.replace(
        known, width=width, height=height, channels=network.in_channels, class_names=tuple(facts.get("class_names", known.class_names)),
        num_timesteps=config["num_train_timesteps"],
    )
