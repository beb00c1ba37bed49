"""Networks that take channels beside the state: a mask with what it leaves of a picture, a depth map, a small picture.

    inpainting    concat = [mask (1 = drawn anew) ; E(picture where it is kept, grey elsewhere)]        2C + 1 channels in all

Rombach et al. 2022 (arXiv:2112.10752), section 4.5; the inpainting checkpoints of Stable Diffusion 1, 2 and XL.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from studio.errors import InvalidOption
from studio.media.images import from_images
from studio.models.beginning import Beginning, begun, latent_mask
from studio.models.conditioning import Conditioning

if TYPE_CHECKING:
    from studio.options import SampleOptions

__all__ = ["ToldBeside", "MaskTold", "told_mask"]


def told_mask(pipeline: Any) -> bool:
    """Whether the UNet of a pipeline takes the mask and the masked latents beside the state."""
    return pipeline.unet.config.in_channels == 2 * pipeline.vae.config.latent_channels + 1


class ToldBeside:
    """Mixed into a latent family whose network takes channels beside the state."""

    def condition(self, options: "SampleOptions") -> tuple[Conditioning, Conditioning]:
        """As the family's, with zeros beside the state until a run has begun."""
        model: Any = self
        _, height, width = model.state_shape(options)
        nothing = torch.zeros(1, model.concat_channels, height, width, device=model.device)
        cond, uncond = super().condition(options)  # type: ignore[misc]
        return replace(cond, concat=nothing), replace(uncond, concat=nothing)


class MaskTold(ToldBeside):
    """Mixed into a latent family whose network takes the mask and the masked latents beside the state."""

    def begin(self, options: "SampleOptions", generators: Sequence[torch.Generator]) -> Beginning:
        """With the mask and the masked latents, drawn after the noise. Raises InvalidOption."""
        model: Any = self
        if options.init_image is None or options.init_mask is None:
            missing = "a picture, and a mask of what is to be drawn anew" if options.init_image is None else "a mask of what is to be drawn anew"
            raise InvalidOption(f"{model.info.label} is made for inpainting: give it {missing}, or choose a model for text alone.")
        start = begun(model, options, generators, knows_mask=True)
        assert start.canvas is not None
        picture, mask = from_images([start.canvas.picture]), latent_mask(start.canvas, model.factor).to(model.device)
        kept = picture * (from_images([start.canvas.mask], 1) < 0)
        masked = model.encode(kept.repeat(options.num_images, 1, 1, 1), generators)
        concat = torch.cat([mask.expand(len(masked), -1, -1, -1), masked], dim=1)
        return replace(start.told(concat=concat), shown={"mask": 2 * mask - 1, "masked": masked})
