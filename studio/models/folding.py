"""Enlarging a state twofold and the convolution after it, as one convolution of the small state.

    nearest neighbour, then 3x3      each of 9 weights meets a place that is one of 4 copies of the same number
    folded                           for each of the 4 places of a copy a 2x2 kernel, whose weights are sums of the 9

Four ninths of the multiplications for the same numbers, to rounding, and of those of their gradients. The sub-pixel convolution of Shi et al. 2016
(arXiv:1609.05158), with kernels made from trained ones (Odena et al. 2016, "Deconvolution and Checkerboard Artifacts").
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

__all__ = ["Fold", "folds_of", "folded", "learning_folds_of"]

# Which of three weights in a row meet the two small places, for the first and the second of two large ones.
SHARES = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])

# An upsampler, and what answers in its place.
Fold = tuple[torch.nn.Module, Callable[..., Tensor]]


def folds_of(network: torch.nn.Module) -> list[Fold]:
    """The upsamplers of a network that can be folded: nearest neighbour, then a float32 convolution of 3x3."""
    return [(module, _folded(module)) for module in _foldable(network)]


def learning_folds_of(network: torch.nn.Module) -> list[Fold]:
    """The same while the weights change: the small kernels are made anew at each call, and gradients go through them."""
    # Methods: those of a copy of the network are the copy's.
    return [(module, MethodType(_enlarge, module)) for module in _foldable(network)]


def _foldable(network: torch.nn.Module) -> list[Any]:
    from diffusers.models.upsampling import Upsample2D

    return [module for module in network.modules() if isinstance(module, Upsample2D) and _can_be_folded(module)]


def _can_be_folded(upsampler: Any) -> bool:
    conv = getattr(upsampler, "conv", None)
    plain = upsampler.use_conv and upsampler.interpolate and not upsampler.use_conv_transpose and upsampler.norm is None
    if not plain or type(conv) is not torch.nn.Conv2d or conv.weight.dtype != torch.float32:
        return False
    return (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode) == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


def _folded(upsampler: Any) -> Callable[..., Tensor]:
    """(B, C, h, w) -> (B, C', 2 h, 2 w) by one convolution of the small state."""
    with torch.no_grad():
        weight, bias = _small_kernels(upsampler.conv)
        weight = weight.contiguous()

    def enlarge(state: Tensor, output_size: Any = None, *_: Any, **__: Any) -> Tensor:
        height, width = state.shape[-2:]
        if not _is_twofold(state, output_size):
            return type(upsampler).forward(upsampler, state, output_size)  # type: ignore[no-any-return]
        parts = conv2d(state, weight, bias, padding=1).unflatten(1, (2, 2, -1))
        rows = [torch.stack([parts[:, a, b, :, a : a + height, b : b + width] for b in (0, 1)], dim=-1) for a in (0, 1)]
        return torch.stack(rows, dim=-3).flatten(-2).flatten(-3, -2)

    return enlarge


def _enlarge(upsampler: Any, state: Tensor, output_size: Any = None, *_: Any, **__: Any) -> Tensor:
    if not _is_twofold(state, output_size):
        return type(upsampler).forward(upsampler, state, output_size)  # type: ignore[no-any-return]
    weight, bias = _small_kernels(upsampler.conv)
    return _Interleaved.apply(conv2d(state, weight.contiguous(memory_format=_format_of(state)), bias, padding=1))  # type: ignore[no-any-return]


def _small_kernels(conv: torch.nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    """(4 C', C, 2, 2) and (4 C',): a and b are the row and the column in a twofold place, y and x those of the small kernel."""
    shares = SHARES.to(conv.weight.device)
    weight = torch.einsum("ayk,oikl,bxl->aboiyx", shares, conv.weight, shares).flatten(0, 2)
    return weight, None if conv.bias is None else conv.bias.repeat(4)


def _is_twofold(state: Tensor, output_size: Any) -> bool:
    """To other sizes places are copied unevenly."""
    return output_size is None or tuple(output_size) == (2 * state.shape[-2], 2 * state.shape[-1])


def _format_of(state: Tensor) -> torch.memory_format:
    return torch.channels_last if state.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


class _Interleaved(torch.autograd.Function):
    """(B, 4 C, h + 1, w + 1) -> (B, C, 2 h, 2 w): each of four parts to its place, in the memory format that it had.

    Backward each number is moved once; through slices, as where nothing is learned, the whole would be written for each of the four parts.
    """

    @staticmethod
    def forward(ctx: Any, parts: Tensor) -> Tensor:
        _, channels, height, width = parts.shape
        size = (len(parts), channels // 4, 2 * (height - 1), 2 * (width - 1))
        whole = torch.empty(size, dtype=parts.dtype, device=parts.device, memory_format=_format_of(parts))
        for place, part in _places(whole, parts):
            place.copy_(part)
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        _, channels, height, width = grad.shape
        size = (len(grad), 4 * channels, height // 2 + 1, width // 2 + 1)
        # Of each part a row and a column are not used.
        parts = torch.zeros(size, dtype=grad.dtype, device=grad.device).contiguous(memory_format=_format_of(grad))
        for place, part in _places(grad, parts):
            part.copy_(place)
        return parts


def _places(whole: Tensor, parts: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(the places of the large state that a part fills, that part)."""
    height, width = whole.shape[-2] // 2, whole.shape[-1] // 2
    split = parts.unflatten(1, (2, 2, -1))
    for a in (0, 1):
        for b in (0, 1):
            yield whole[:, :, a::2, b::2], split[:, a, b, :, a : a + height, b : b + width]


@contextmanager
def folded(folds: Sequence[Fold]) -> Iterator[None]:
    """While this is open the upsamplers answer by their folded convolutions."""
    before = [vars(upsampler).get("forward") for upsampler, _ in folds]
    for upsampler, enlarge in folds:
        upsampler.forward = enlarge  # type: ignore[method-assign]
    try:
        yield
    finally:
        for (upsampler, _), forward in zip(folds, before):
            vars(upsampler).pop("forward", None)
            if forward is not None:
                upsampler.forward = forward  # type: ignore[method-assign]
