"""The second stage of a ControlNet: what a picture shows has to be the map again (ControlNet++, arXiv:2404.07987).

    x0_hat -> picture -> extractor -> map'        loss += weight disagreement(map', map)    where t is small

x0_hat is the estimate of a single step, so the gradient runs through one answer of the network, the decoder and the extractor.
Extractors are the soft forms of those that obedience is measured with (studio.control.obedience); a disagreement is 0 for a
picture that obeys and 1 for one that does not.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from studio.control.obedience import NEAR

__all__ = ["DISAGREEMENTS", "outlines", "silhouettes"]

# How steep the soft steps are: a pixel is sure of its side when it is 1 / SURE of the range away from the threshold.
SURE = 40.0
# A difference that sets a place apart, as a share of the range: about half of what an outline has.
APART = 40 / 255
# An edge: the middle of Canny's usual thresholds, as a share of the range.
EDGE = 150 / (4 * 255)


def silhouettes(pictures: Tensor) -> Tensor:
    """(B, H, W) in [0, 1]: how surely each place of pictures (B, 3, H, W) in [0, 1] differs from what the border mostly has."""
    border = torch.cat([pictures[:, :, 0], pictures[:, :, -1], pictures[..., 0], pictures[..., -1]], dim=-1)
    ground = border.detach().median(dim=-1).values[..., None, None]
    return torch.sigmoid(SURE * ((pictures - ground).abs().amax(dim=1) - APART))


def outlines(masks: Tensor) -> Tensor:
    """(B, H, W): what of soft masks (B, H, W) has a neighbour (up, down, left, right) outside them."""
    padded = torch.nn.functional.pad(masks, (1, 1, 1, 1))
    neighbours = torch.stack([padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]])
    return masks * (1 - neighbours.amin(dim=0))


def _edges(pictures: Tensor) -> Tensor:
    """(B, H, W): where a colour of pictures (B, 3, H, W) changes (Sobel, L1)."""
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=pictures.device) / 4
    kernels = torch.stack([across, across.mT])[:, None]
    changes = torch.nn.functional.conv2d(torch.nn.functional.pad(pictures.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate"), kernels)
    return torch.sigmoid(SURE * (changes.abs().sum(dim=1).unflatten(0, pictures.shape[:2]).amax(dim=1) - EDGE))


def _unlike_lines(found: Tensor, wanted: Tensor) -> Tensor:
    """1 - F1 of soft lines (B, H, W), a pixel's shift forgiven."""
    widened = [torch.nn.functional.max_pool2d(lines[:, None], 3, 1, 1)[:, 0] for lines in (found, wanted)]
    precision = (found * widened[1]).sum(dim=(1, 2)) / found.sum(dim=(1, 2)).clamp(min=1e-3)
    recall = (widened[0] * wanted).sum(dim=(1, 2)) / wanted.sum(dim=(1, 2)).clamp(min=1e-3)
    return 1 - (2 * precision * recall / (precision + recall).clamp(min=1e-3)).mean()


def _unlike_masks(found: Tensor, wanted: Tensor) -> Tensor:
    """1 - IoU of soft masks (B, H, W)."""
    both = (found * wanted).sum(dim=(1, 2))
    return 1 - (both / (found.sum(dim=(1, 2)) + wanted.sum(dim=(1, 2)) - both).clamp(min=1e-3)).mean()


# Of pictures (B, 3, H, W) and maps (B, 3, H, W), both in [0, 1], by what the maps show: a number from 0 to 1.
DISAGREEMENTS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType({
    "toybox-edges": lambda pictures, maps: _unlike_lines(outlines(silhouettes(pictures)), (maps.amax(dim=1) > 0.5).float()),
    "toybox-segmentation": lambda pictures, maps: _unlike_masks(silhouettes(pictures), (maps.amax(dim=1) > 0).float()),
    "toybox-depth": lambda pictures, maps: _unlike_masks(silhouettes(pictures), (maps.amax(dim=1) > NEAR / 255).float()),
    "canny": lambda pictures, maps: _unlike_lines(_edges(pictures), (maps.amax(dim=1) > 0.5).float()),
})
