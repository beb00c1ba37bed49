"""Noise, drawn so that a seed means one picture: alone, in a batch, and on every device."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["draw_noise"]


def draw_noise(generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device) -> Tensor:
    """(B, *shape) standard normal, each picture from its own generator on the CPU."""
    return torch.cat([torch.randn((1, *shape), generator=generator) for generator in generators]).to(device)
