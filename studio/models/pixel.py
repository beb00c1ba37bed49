"""A diffusion model whose states are pictures: UNet2DModel with its process, unconditional or of classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from studio.errors import InvalidOption, UnknownName
from studio.media.images import fit, from_images
from studio.models.catalogue import ModelInfo

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from studio.options import SampleOptions
    from studio.process.diffusion import GaussianDiffusion

__all__ = ["PixelModel", "size_of"]


@dataclass(frozen=True, kw_only=True)
class PixelModel:
    """A loaded network with the process that it was trained on.

    network: a UNet2DModel in eval mode, float32. diffusion: all T steps. timestep_spacing: "leading", "trailing" or
    "linspace", how its makers choose fewer steps. null_class: the label that stands for "none", or None.
    """

    name: str
    info: ModelInfo
    network: "torch.nn.Module"
    diffusion: "GaussianDiffusion"
    timestep_spacing: str
    clip_sample: bool
    null_class: int | None
    scheduler_config: dict[str, Any] = field(default_factory=dict)

    kind = "pixel"
    steps_offset = 0
    final_alpha_bar = 1.0
    rgb_map = None
    encode_draws = 0

    @property
    def device(self) -> "torch.device":
        """Where the network lies."""
        return next(self.network.parameters()).device

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture of the model's own size."""
        return self.info.channels, self.info.height, self.info.width

    def state_shape(self, options: "SampleOptions") -> tuple[int, int, int]:
        """(C, H, W) of one state for these options. Raises InvalidOption with the nearest size that can be made."""
        if options.width is None and options.height is None:
            return self.shape
        network: Any = self.network
        width, height = size_of(self.info, options, 2 ** (len(network.config.block_out_channels) - 1))
        return self.info.channels, height, width

    def label_index(self, class_label: str | int | None) -> int | None:
        """The index of a class by name or index; the null class for None. Raises InvalidOption, UnknownName."""
        names = self.info.class_names
        if class_label is None or class_label == "":
            return self.null_class
        if not names:
            raise InvalidOption(f"{self.info.label} was trained without classes; leave the class empty, it is {class_label!r}.")
        if isinstance(class_label, int) and not isinstance(class_label, bool):
            if not 0 <= class_label < len(names):
                raise InvalidOption(f"{self.info.label} has the classes 0 to {len(names) - 1}, but {class_label=}.")
            return class_label
        if class_label not in names:
            raise UnknownName.of("class", class_label, names)
        return names.index(class_label)

    def conditions(self, options: "SampleOptions") -> tuple[Any, Any]:
        """What the network is told, and what guidance leads away from: class indices. Raises InvalidOption."""
        for name in ("prompt", "negative_prompt"):
            if getattr(options, name):
                raise InvalidOption(f"{self.info.label} reads no text; leave {name} empty and choose a class where it has some.")
        if options.record_attention or options.clip_guidance_scale:
            wanted = "attention to words" if options.record_attention else "CLIP guidance"
            raise InvalidOption(f"{self.info.label} reads no text, so it has no {wanted}; choose a text-to-image model.")
        index = self.label_index(options.class_label)
        if options.guidance_scale != 1 and (self.null_class is None or index == self.null_class):
            missing = "it was trained without classes" if self.null_class is None else "no class is chosen"
            raise InvalidOption(f"Guidance leads from no class to a class, but {missing}; set guidance_scale to 1, it is {options.guidance_scale:g}.")
        return index, self.null_class

    def bind(self, conditions: Sequence[Any], num_images: int) -> "Callable[[Tensor, Tensor | int], Tensor]":
        """The network as a function of (x_t (B, C, H, W), timestep) -> raw predictions (K * B, C, H, W), one batch a condition."""
        import torch

        network, repeats = self.network, len(conditions)
        if conditions[0] is None:
            return lambda x_t, timestep: network(x_t, timestep, return_dict=False)[0]
        labels = torch.tensor(conditions, device=self.device).repeat_interleave(num_images)

        def ask(x_t: "Tensor", timestep: "Tensor | int") -> "Tensor":
            return network(x_t.repeat(repeats, 1, 1, 1) if repeats > 1 else x_t, timestep, class_labels=labels, return_dict=False)[0]

        return ask

    def denoiser(self, class_label: str | int | None, num_images: int) -> "Callable[[Tensor, Tensor | int], Tensor]":
        """The network as a function of (x_t (B, C, H, W), timestep), its labels bound; gives the raw prediction."""
        return self.bind([self.label_index(class_label)], num_images)

    def encode(self, picture: "Image.Image", options: "SampleOptions", draw: "Callable[[], Tensor]") -> "Tensor":
        """The clean states (B, C, H, W) of a picture: the picture itself, cut and resized to fit."""
        channels, height, width = self.state_shape(options)
        return from_images([fit(picture.convert("RGB"), width, height)] * options.num_images, channels).to(self.device)

    def decode(self, x0: "Tensor") -> "Tensor":
        """States are pictures: (B, C, H, W) as it is."""
        return x0

    def facts(self) -> dict[str, Any]:
        """What a run file must know of the model to be read without it."""
        return {"name": self.name, "kind": self.kind, "label": self.info.label}


def size_of(info: ModelInfo, options: "SampleOptions", multiple: int) -> tuple[int, int]:
    """(width, height) in pixels that the options ask for. Raises InvalidOption with the nearest size that can be made."""
    sides = []
    for name, own in (("width", info.width), ("height", info.height)):
        side = getattr(options, name) or own
        if side % multiple:
            below = side // multiple * multiple
            near = " or ".join(str(allowed) for allowed in (below, below + multiple) if allowed)
            raise InvalidOption(f"With {info.label} the {name} must be a multiple of {multiple}, but it is {side}; the nearest is {near}.")
        sides.append(side)
    return sides[0], sides[1]
