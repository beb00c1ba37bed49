"""How a transformer cuts its state into patches: each is a token, and a vector that stands for its place is added to it.

    token k = W patch_k + b + p_k          likeness of places i and j = max(0, cos(p_i, p_j))

Dosovitskiy et al. 2021 (arXiv:2010.11929); of DiT and SD 3 p_k is fixed: sines and cosines of row and column.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from studio.models.attention import smaller_grid
from studio.options import SampleOptions

__all__ = ["Patches", "patches_of"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Patches:
    """The patches of one picture of the model's own size.

    pixels: a side of one; side: the same in the state's own places; channels: of the state. positions: (D, rows, columns) float32, p_k of
    each patch.
    """

    pixels: int
    side: int
    channels: int
    positions: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.positions.shape[1], self.positions.shape[2]

    def alike(self) -> Tensor:
        """(h, w, h, w) uint8: how alike the places are, 255 the same; of more than 16x16 patches neighbours are taken together."""
        grid = smaller_grid(*self.grid)
        vectors = normalize(interpolate(self.positions[None], grid, mode="area")[0].flatten(1).T, dim=1)
        return (255 * (vectors @ vectors.T).clamp(0, 1)).round().to(torch.uint8).reshape(*grid, *grid)


def patches_of(model: Any) -> Patches | None:
    """The patches of a loaded model, where its network works on patches."""
    embed = getattr(model.network, "pos_embed", None)
    if embed is None:
        return None
    channels, height, width = model.state_shape(SampleOptions(model=model.name))
    nothing = torch.zeros(1, channels, height, width, device=model.device, dtype=model.network.dtype)
    with torch.no_grad():
        # Of an empty state the tokens are the places alone, but for what every patch is given.
        places = embed(nothing)[0].float() - embed.proj(nothing)[0].float().flatten(1).T
    side = embed.patch_size
    positions = places.T.reshape(-1, height // side, width // side).cpu()
    return Patches(pixels=side * model.factor, side=side, channels=channels, positions=positions)
