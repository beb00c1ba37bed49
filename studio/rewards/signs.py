"""Cheap signs that a model serves its reward and nothing else: a few numbers of its pictures, from fixed prompts and seeds.

    edges       share of pixels where grey changes by more than a tenth of the range to the next one
    colours     entropy of the colours of a picture, 4 x 4 x 4 bins, in bits: 0 of one colour, 6 where all are as frequent
    dark        share of pixels darker than a fifth of the range
    diversity   mean distance of two pictures of one prompt, root mean square over 8 x 8 areas, where black to white is 2
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SIGNS", "diversity", "diversity_of_each", "signs_of"]

SIGNS = ("edges", "colours", "dark")
GREY = (0.299, 0.587, 0.114)
EDGE, DARK, BINS, AREAS = 0.2, -0.6, 4, 8


def signs_of(images: "Tensor") -> dict[str, float]:
    """{"edges", "colours", "dark"} of pictures (N, 3, H, W) in [-1, 1], means over them."""
    import torch

    grey = (images.float() * torch.tensor(GREY, device=images.device)[:, None, None]).sum(1)
    steps = torch.maximum((grey[:, 1:, :-1] - grey[:, :-1, :-1]).abs(), (grey[:, :-1, 1:] - grey[:, :-1, :-1]).abs())
    return {"edges": float((steps > EDGE).float().mean()), "colours": _entropy(images), "dark": float((grey < DARK).float().mean())}


def _entropy(images: "Tensor") -> float:
    import torch

    places = ((images.float() + 1) / 2 * BINS).long().clamp(0, BINS - 1)
    bins = ((places[:, 0] * BINS + places[:, 1]) * BINS + places[:, 2]).flatten(1)
    counts = torch.zeros(len(images), BINS**3, device=images.device).scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.float32))
    shares = counts / bins.shape[1]
    return float(-(shares * shares.clamp(min=1e-12).log2()).sum(1).mean())


def diversity(images: "Tensor", prompts: Sequence[str]) -> float:
    """Mean distance of every two pictures of the same prompt; NaN where no prompt has two. images: (N, 3, H, W) in [-1, 1], a prompt each."""
    import torch

    found = _distances(images, prompts)
    return float(torch.cat(found).mean()) if found else float("nan")


def diversity_of_each(images: "Tensor", prompts: Sequence[str]) -> "Tensor":
    """(P,) the same of each prompt by itself that has two pictures, in the order of their first."""
    import torch

    return torch.tensor([float(one.mean()) for one in _distances(images, prompts)])


def _distances(images: "Tensor", prompts: Sequence[str]) -> "list[Tensor]":
    """Those of every two pictures of a prompt, for each that has two."""
    import torch

    # Areas, not pixels: noise must not count as variety.
    areas = torch.nn.functional.adaptive_avg_pool2d(images.float(), AREAS).flatten(1)
    groups = [[i for i, one in enumerate(prompts) if one == prompt] for prompt in dict.fromkeys(prompts)]
    return [torch.pdist(areas[group]) / areas.shape[1] ** 0.5 for group in groups if len(group) > 1]
