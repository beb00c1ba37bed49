"""Enlarging a state twofold and the convolution after it, as one convolution of the small state.

    nearest neighbour, then 3x3      each of 9 weights meets a place that is one of 4 copies of the same number
    folded                           for each of the 4 places of a copy a 2x2 kernel, whose weights are sums of the 9

Four ninths of the multiplications for the same numbers, to rounding. The sub-pixel convolution of Shi et al. 2016
(arXiv:1609.05158), with kernels made from trained ones (Odena et al. 2016, "Deconvolution and Checkerboard Artifacts").
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

__all__ = ["Fold", "folds_of", "folded"]

# Which of three weights in a row meet the two small places, for the first and the second of two large ones.
SHARES = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])

# An upsampler, and what answers in its place.
Fold = tuple[torch.nn.Module, Callable[..., Tensor]]


def folds_of(network: torch.nn.Module) -> list[Fold]:
    """The upsamplers of a network that can be folded: nearest neighbour, then a float32 convolution of 3x3."""
    from diffusers.models.upsampling import Upsample2D

    return [(module, _folded(module)) for module in network.modules() if isinstance(module, Upsample2D) and _can_be_folded(module)]


def _can_be_folded(upsampler: Any) -> bool:
    conv = getattr(upsampler, "conv", None)
    plain = upsampler.use_conv and upsampler.interpolate and not upsampler.use_conv_transpose and upsampler.norm is None
    if not plain or type(conv) is not torch.nn.Conv2d or conv.weight.dtype != torch.float32:
        return False
    return (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode) == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


def _folded(upsampler: Any) -> Callable[..., Tensor]:
    """(B, C, h, w) -> (B, C', 2 h, 2 w) by one convolution of the small state."""
    conv = upsampler.conv
    with torch.no_grad():
        # (4 C', C, 2, 2): a and b are the row and the column in a twofold place, y and x those of the small kernel.
        weight = torch.einsum("ayk,oikl,bxl->aboiyx", SHARES, conv.weight, SHARES).flatten(0, 2).contiguous()
        bias = None if conv.bias is None else conv.bias.repeat(4)

    def enlarge(state: Tensor, output_size: Any = None, *_: Any, **__: Any) -> Tensor:
        height, width = state.shape[-2:]
        if output_size is not None and tuple(output_size) != (2 * height, 2 * width):
            # To other sizes places are copied unevenly.
            return type(upsampler).forward(upsampler, state, output_size)
        parts = conv2d(state, weight, bias, padding=1).unflatten(1, (2, 2, -1))
        rows = [torch.stack([parts[:, a, b, :, a : a + height, b : b + width] for b in (0, 1)], dim=-1) for a in (0, 1)]
        return torch.stack(rows, dim=-3).flatten(-2).flatten(-3, -2)

    return enlarge


@contextmanager
def folded(folds: Sequence[Fold]) -> Iterator[None]:
    """While this is open the upsamplers answer by their folded convolutions."""
    for upsampler, enlarge in folds:
        upsampler.forward = enlarge  # type: ignore[method-assign]
    try:
        yield
    finally:
        for upsampler, _ in folds:
            vars(upsampler).pop("forward", None)
