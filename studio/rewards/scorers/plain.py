"""Scorers that any picture can be computed by hand for: what optimising a number does to pictures is best learned on them.

    sharpness    standard deviation of the Laplacian of the grey picture, levels 0..255
    redness      mean of red less the mean of green and blue, levels 0..255
    jpeg_bits    kB that its coefficients would take, sum of log2(1 + |c / q|): the size as a function that has a gradient
    jpeg_size    kB as a JPEG of quality 95: high for detail and for noise (the "incompressibility" of DDPO, arXiv:2305.13301, section 5.1)
"""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from studio.rewards.contract import RewardInfo, RewardSource, Score

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["OTHERS", "REWARDS", "jpeg_bits", "jpeg_size", "redness", "sharpness"]

# Shares of red, green and blue in what the eye takes for grey (ITU-R BT.601).
GREY = (0.299, 0.587, 0.114)
QUALITY = 95
# Of JPEG: pixels a side of a block, and about how coarsely quality 95 rounds its coefficients.
BLOCK, STEP = 8, 5.0


def sharpness(images: "Tensor", prompts: Sequence[str]) -> "Tensor":
    """(B,) how much neighbouring pixels differ; noise counts as sharpness too."""
    import torch

    grey = (images.float() * torch.tensor(GREY, device=images.device)[:, None, None]).sum(1, keepdim=True) * 127.5
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], device=images.device)[None, None]
    edges = torch.nn.functional.conv2d(torch.nn.functional.pad(grey, (1, 1, 1, 1), mode="replicate"), kernel)
    # Of a picture of one colour the root has no slope.
    return (edges.flatten(1).var(dim=1, correction=0) + 1e-6).sqrt()


def redness(images: "Tensor", prompts: Sequence[str]) -> "Tensor":
    """(B,) how red a picture is on the whole."""
    red, green, blue = (127.5 * images.float().mean(dim=(2, 3))).unbind(1)
    return red - (green + blue) / 2


def jpeg_bits(images: "Tensor", prompts: Sequence[str]) -> "Tensor":
    """(B,) kB of the brightness of each picture as a JPEG, estimated: each coefficient of the cosine transform of 8 x 8 pixels takes as many bits
    as its quantised size has. Pixels beyond the last whole block are left out."""
    import torch

    grey = (images.float() * torch.tensor(GREY, device=images.device)[:, None, None]).sum(1) * 127.5
    blocks = grey.unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK)
    place, wave = torch.arange(BLOCK, device=images.device), torch.arange(BLOCK, device=images.device)[:, None]
    cosines = torch.cos((2 * place + 1) * wave * torch.pi / (2 * BLOCK)) * torch.where(wave == 0, 1 / BLOCK, 2 / BLOCK) ** 0.5
    coefficients = cosines @ blocks @ cosines.T
    return (1 + (coefficients / STEP).abs()).log2().flatten(1).sum(1) / 8000


def jpeg_size(images: "Tensor", prompts: Sequence[str]) -> "Tensor":
    """(B,) kB of each picture as a JPEG. No gradient: it is counted, not computed."""
    import torch

    from studio.media.images import to_images

    return torch.tensor([_kilobytes(image) for image in to_images(images)], device=images.device)


def _kilobytes(image: "Image.Image") -> float:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return len(buffer.getvalue()) / 1000


def _always(score: Score) -> Callable[[RewardSource], Score]:
    return lambda source: score


OTHERS = None
REWARDS: dict[str, RewardInfo] = {
    "sharpness": RewardInfo(
        label="Sharpness", about="Deviation of the Laplacian, in grey levels: edges and noise raise it, blur lowers it.", load=_always(sharpness),
        reads_prompt=False,
    ),
    "redness": RewardInfo(
        label="Redness", about="Red less the mean of green and blue, in levels.", load=_always(redness), reads_prompt=False,
    ),
    "jpeg_bits": RewardInfo(
        label="JPEG size, estimated", about="kB that a JPEG's coefficients would take: detail and noise raise it. Unlike the size itself it has a gradient.",
        load=_always(jpeg_bits), reads_prompt=False,
    ),
    "jpeg_size": RewardInfo(
        label="JPEG size", about="kB as a JPEG of quality 95: detail and noise raise it. It has no gradient.", load=_always(jpeg_size),
        reads_prompt=False, differentiable=False,
    ),
}
