"""A latent diffusion model: text encoder, UNet with cross-attention, and the VAE between latents and pictures.

    x0 = (E(picture) - shift) * scaling        picture = D(x0 / scaling + shift)

Rombach et al. 2022 (arXiv:2112.10752). The scaling makes the latents' deviation about 1; it comes from the VAE's config.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from studio.errors import InvalidOption
from studio.media.images import fit, from_images
from studio.models.catalogue import ModelInfo
from studio.models.pixel import size_of
from studio.models.prompts import PromptEncoder

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from studio.media.previews import RgbMap
    from studio.options import SampleOptions
    from studio.process.diffusion import GaussianDiffusion

__all__ = ["LatentModel"]

# Above so many pixels the VAE works in tiles: its activations at full size are what runs out of memory first.
TILING_PIXELS = 1024 * 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentModel:
    """A loaded StableDiffusionPipeline with the process that it was trained on.

    pipeline: diffusers' object with its parts, in eval mode. diffusion: all T steps. scheduler_config: as its folder
    has it. timestep_spacing, steps_offset: how its makers choose fewer steps. final_alpha_bar: of the state after the
    last step (Stable Diffusion's DDIM ends at alpha_bar_0, not at 1).
    """

    name: str
    info: ModelInfo
    pipeline: Any
    prompts: PromptEncoder
    diffusion: "GaussianDiffusion"
    scheduler_config: dict[str, Any]
    timestep_spacing: str
    steps_offset: int
    final_alpha_bar: float

    kind = "latent"
    # Latents have no bounds of their own.
    clip_sample = False
    null_class = None
    # The VAE's posterior is drawn from, as diffusers' pipelines do.
    encode_draws = 1

    @property
    def network(self) -> Any:
        """The UNet2DConditionModel."""
        return self.pipeline.unet

    @property
    def vae(self) -> Any:
        """The AutoencoderKL."""
        return self.pipeline.vae

    @property
    def device(self) -> "torch.device":
        """Where the work is done, also while the weights are offloaded."""
        return self.pipeline._execution_device

    @property
    def factor(self) -> int:
        """Pixels a latent's side: 8 for Stable Diffusion, 4 for Toybox."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one state of the model's own size."""
        return self.network.config.in_channels, self.info.height // self.factor, self.info.width // self.factor

    def state_shape(self, options: "SampleOptions") -> tuple[int, int, int]:
        """(C, h, w) of one state for these options. Raises InvalidOption with the nearest size that can be made."""
        width, height = size_of(self.info, options, self.factor)
        return self.network.config.in_channels, height // self.factor, width // self.factor

    def conditions(self, options: "SampleOptions") -> "tuple[Tensor, Tensor]":
        """What the network is told, and what guidance leads away from: (1, L, D) each. Raises InvalidOption."""
        if options.class_label not in (None, ""):
            raise InvalidOption(f"{self.info.label} is told what to draw by its prompt; leave the class empty, it is {options.class_label!r}.")
        return self.prompts.encode(options.prompt, self.device), self.prompts.encode(options.negative_prompt, self.device)

    def bind(self, conditions: "Sequence[Tensor]", num_images: int) -> "Callable[[Tensor, Tensor | int], Tensor]":
        """The network as a function of (x_t (B, C, h, w), timestep) -> raw predictions (K * B, C, h, w), one batch a condition."""
        import torch

        network, repeats = self.network, len(conditions)
        dtype = network.dtype
        states = torch.cat([condition.expand(num_images, -1, -1) for condition in conditions]).to(dtype)

        def ask(x_t: "Tensor", timestep: "Tensor | int") -> "Tensor":
            x = x_t.to(dtype)
            x = x.repeat(repeats, 1, 1, 1) if repeats > 1 else x
            return network(x, timestep, encoder_hidden_states=states, return_dict=False)[0].float()

        return ask

    def encode(self, picture: "Image.Image", options: "SampleOptions", draw: "Callable[[], Tensor]") -> "Tensor":
        """Clean states (B, C, h, w) of a picture, cut and resized to fit; draw() gives their posterior's noise."""
        _, height, width = self.state_shape(options)
        pictures = from_images([fit(picture.convert("RGB"), width * self.factor, height * self.factor)] * options.num_images)
        mean, std = self.posterior(pictures)
        return self.scaled(mean + std * draw())

    def posterior(self, pictures: "Tensor") -> "tuple[Tensor, Tensor]":
        """Mean and deviation (B, C, h, w) float32 of the VAE's latents of pictures (B, 3, H, W), not yet scaled."""
        import torch

        self._tile(pictures.shape[-1] * pictures.shape[-2])
        with torch.no_grad():
            distribution = self.vae.encode(pictures.to(self.device, self.vae.dtype)).latent_dist
        return distribution.mean.float(), distribution.std.float()

    def scaled(self, latents: "Tensor") -> "Tensor":
        """The VAE's own latents as the network wants them."""
        return (latents - self._shift) * self.vae.config.scaling_factor

    def decode(self, x0: "Tensor") -> "Tensor":
        """(B, C, h, w) latents -> (B, 3, H, W) pictures float32, about [-1, 1]. Gradients flow where they are wanted."""
        self._tile(x0.shape[-1] * x0.shape[-2] * self.factor**2)
        latents = x0 / self.vae.config.scaling_factor + self._shift
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0].float()

    @property
    def _shift(self) -> float:
        return getattr(self.vae.config, "shift_factor", None) or 0.0

    def _tile(self, pixels: int) -> None:
        self.vae.use_tiling = pixels > TILING_PIXELS

    @cached_property
    def rgb_map(self) -> "RgbMap":
        """The linear map from latents to small pictures, fitted at first use."""
        from studio.models.rgb_maps import rgb_map_of

        return rgb_map_of(self)

    def facts(self) -> dict[str, Any]:
        """What a run file must know of the model to be read without it."""
        return {"name": self.name, "kind": self.kind, "label": self.info.label, "factor": self.factor, "rgb_map": self.rgb_map.to_json()}
