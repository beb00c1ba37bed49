"""Pictures as the scorers' networks take them: the shorter side brought to `side`, the middle cut out, colours normalised; gradients flow."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CLIP_MEAN", "CLIP_STD", "normalised", "squared"]

# Of CLIP's training pictures, in [0, 1] (arXiv:2103.00020, released code).
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def squared(images: "Tensor", side: int) -> "Tensor":
    """(B, 3, H, W) -> (B, 3, side, side): the shorter side resized (bicubic, antialiased), the middle of the longer one kept."""
    import torch

    height, width = images.shape[-2:]
    if (height, width) == (side, side):
        return images
    shorter = min(height, width)
    size = (side * height // shorter, side * width // shorter)
    resized = torch.nn.functional.interpolate(images.float(), size, mode="bicubic", align_corners=False, antialias=True)
    top, left = (round((extent - side) / 2) for extent in size)
    return resized[..., top : top + side, left : left + side].clamp(-1, 1)


def normalised(images: "Tensor", mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD) -> "Tensor":
    """(B, 3, H, W) in [-1, 1] -> the same with each colour of [0, 1] less its mean, by its deviation."""
    import torch

    centre, spread = (torch.tensor(values, device=images.device, dtype=torch.float32).reshape(3, 1, 1) for values in (mean, std))
    return ((images.float() + 1) / 2 - centre) / spread
