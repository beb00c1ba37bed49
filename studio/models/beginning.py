"""What a run has before its first step: its noise, the picture that it starts from, and all that the network is told.

Whatever is drawn comes from each picture's own generator in the order in which diffusers' pipelines draw it: first the noise of
conditions that are noised themselves, then the encoded picture to start from, then the noise of the states, then what else is
encoded. So the same seed gives the pipeline's picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from studio.errors import InvalidOption
from studio.media.images import fit, from_images
from studio.media.inpainting import Canvas, canvas_of
from studio.models.conditioning import Conditioning
from studio.process.noise import draw_noise

if TYPE_CHECKING:
    from studio.options import SampleOptions

__all__ = ["Beginning", "begun", "canvas_for", "check_told", "latent_mask"]

Generators = Sequence[torch.Generator]
# The options of pictures that only models made for them know.
TOLD = ("cond_image", "cond_image_2", "noise_level", "depth_model")


@dataclass(frozen=True, kw_only=True, eq=False)
class Beginning:
    """What a run of B pictures begins with.

    noise: (B, C, h, w). x0: of the picture to start from, None: from pure noise. cond, uncond: what the network is told of one picture
    or of B, and what guidance leads away from. anew: (1, 1, h, w), 1 where the states are drawn anew and 0 where they are kept, None:
    nothing is put back. canvas: of inpainting, to put the result back into its picture. shown: what the network is told in
    pictures, by the names of studio.sampling.streams.TOLD, (1 or B, C, h, w).
    """

    noise: Tensor
    x0: Tensor | None
    cond: Conditioning
    uncond: Conditioning | None
    anew: Tensor | None = None
    canvas: Canvas | None = None
    shown: Mapping[str, Tensor] = field(default_factory=dict)

    def told(self, **more: Any) -> "Beginning":
        """The same with more told to both, with guidance and without."""
        return replace(self, cond=replace(self.cond, **more), uncond=None if self.uncond is None else replace(self.uncond, **more))


def begun(model: Any, options: "SampleOptions", generators: Generators, *, knows_mask: bool = False) -> Beginning:
    """The beginning of a run whose network is told nothing in pictures; a mask is put back into the states at every step.

    knows_mask: the network is told the mask itself, so nothing is put back, and of a picture drawn wholly anew nothing is encoded.
    Raises InvalidOption, UnknownName.
    """
    check_told(model, options)
    cond, uncond = model.condition(options)
    shape, canvas = model.state_shape(options), canvas_for(model, options)
    encodes = options.init_image is not None and not (knows_mask and options.strength == 1)
    x0 = model.encode(start_pictures(model, options, shape, canvas), generators) if encodes else None
    noise = draw_noise(generators, shape, model.device)
    if canvas is None or knows_mask:
        return Beginning(noise=noise, x0=x0, cond=cond, uncond=uncond, canvas=canvas)
    anew = latent_mask(canvas, model.factor).to(noise)
    shown = {"mask": 2 * anew - 1}
    return Beginning(noise=noise, x0=x0, cond=cond, uncond=uncond, anew=anew, canvas=canvas, shown=shown)


def check_told(model: Any, options: "SampleOptions") -> None:
    """What is told in pictures must be what the model was made for. Raises InvalidOption."""
    for name in TOLD:
        if getattr(options, name) not in (None, "") and name not in model.takes:
            made_for = "takes no such picture" if "image" in name else "was not made for it"
            raise InvalidOption(f"{name} is set, but {model.info.label} {made_for}: clear it, or choose a model for depth, upscaling or variations.")


def canvas_for(model: Any, options: "SampleOptions") -> Canvas | None:
    """Where a run of inpainting works; None where there is no mask. Raises InvalidOption."""
    if options.init_mask is None:
        return None
    _, height, width = model.state_shape(options)
    return canvas_of(options, width * model.factor, height * model.factor)


def start_pictures(model: Any, options: "SampleOptions", shape: tuple[int, int, int], canvas: Canvas | None) -> Tensor:
    """(B, C, H, W) in [-1, 1]: the picture to start from, cut and resized to fit, once for every seed."""
    assert options.init_image is not None
    _, height, width = shape
    picture = canvas.picture if canvas is not None else fit(options.init_image.convert("RGB"), width * model.factor, height * model.factor)
    return from_images([picture] * options.num_images, model.info.channels).to(model.device)


def latent_mask(canvas: Canvas, factor: int) -> Tensor:
    """(1, 1, h, w): 1 where a latent is drawn anew; each takes the pixel at its top left, as diffusers' pipelines do."""
    return (from_images([canvas.mask], 1)[..., ::factor, ::factor] >= 0).float()
