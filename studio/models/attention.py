"""Where in the picture each word is looked at: the probabilities of cross-attention, layer by layer, averaged.

    A = softmax(Q K^T / sqrt(d))        (places x tokens); the mean over heads, and over the layers that are small enough

Hertz et al. 2022, arXiv:2208.01626, section 3. The probabilities are worked out beside the layer's own attention, so
the picture is the same to the last bit whether they are recorded or not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["AttentionRecorder", "JointAttentionRecorder", "PatchAttentionRecorder", "smaller_grid"]

# Layers with more places cost more than they tell: the words are told apart in the small ones.
MAX_QUERIES = 32 * 32
MAX_SIDE = 16


class _Recorder:
    """What both kinds of recorder share: layers that report while it is open, and the mean of what they reported."""

    def __init__(self, layers: list[Any], traced: Any = None):
        self._layers, self._traced = layers, traced
        self._sum: Tensor | None = None
        self._count = 0

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Layers report while this is open; what was there before is forgotten."""
        self.clear()
        kept = [layer.processor for layer in self._layers]
        if self._traced is not None:
            self._traced.recorder = self
        try:
            for layer, processor in zip(self._layers, kept):
                layer.processor = _Watched(processor, self)
            yield
        finally:
            for layer, processor in zip(self._layers, kept):
                layer.processor = processor
            if self._traced is not None:
                self._traced.recorder = None

    def clear(self) -> None:
        """Forget what was reported."""
        self._sum, self._count = None, 0

    def take(self, maps: Tensor) -> None:
        """The maps of all layers at once, where a graph has made them."""
        self._sum, self._count = maps, 1

    def maps(self) -> Tensor | None:
        """(B, L, h, w) float32: the share of its attention that each place gave each token, 0 to 1; the tokens add up to 1."""
        return None if self._sum is None else self._sum / self._count

    def add(self, maps: Tensor) -> None:
        """Take in the maps of one layer."""
        self._sum = maps if self._sum is None else self._sum + maps
        self._count += 1

    def see(self, layer: Any, hidden_states: Tensor, states: Tensor) -> None:
        """Take in what goes into one layer."""
        raise NotImplementedError


class AttentionRecorder(_Recorder):
    """Reads the cross-attention of a UNet2DConditionModel for the last `num_images` of a batch, the conditional half.

    height, width: of the latents. traced: of the network, where it has graphs. Maps are resized to one grid, the latents' own halved until it is at most 16x16.
    """

    def __init__(self, unet: Any, num_images: int, height: int, width: int, traced: Any = None):
        super().__init__([module for name, module in unet.named_modules() if name.endswith("attn2") and hasattr(module, "processor")], traced)
        self.num_images, self.size = num_images, (height, width)
        self.grid = next(grid for grid in _grids(height, width) if max(grid) <= MAX_SIDE)
        # Recorders of one key see the same in the same network.
        self.key = (num_images, height, width)

    # Under CLIP guidance the network runs with gradients on: maps that kept them would keep the whole graph alive.
    @torch.no_grad()
    def see(self, layer: Any, hidden_states: Tensor, states: Tensor) -> None:
        """Take in the probabilities of one layer: hidden_states (K B, N, D), states of the text (K B, L, D')."""
        if hidden_states.ndim != 3 or hidden_states.shape[1] > MAX_QUERIES:
            return
        grid = next((grid for grid in _grids(*self.size) if grid[0] * grid[1] == hidden_states.shape[1]), None)
        if grid is None:
            return
        probabilities = _probabilities(layer, hidden_states[-self.num_images :], states[-self.num_images :])
        maps = probabilities.movedim(-1, 1).unflatten(-1, grid)
        if grid != self.grid:
            smaller = grid[0] > self.grid[0]
            how = {"mode": "area"} if smaller else {"mode": "bilinear", "align_corners": False}
            maps = torch.nn.functional.interpolate(maps, self.grid, **how)
        self.add(maps)


class JointAttentionRecorder(_Recorder):
    """Reads the joint attention of an SD3Transformer2DModel for the last `num_images` of a batch, the conditional half.

    height, width: of the patches. tokens: how many of the words' places are reported, the first ones. Of what a place gives
    to all words and patches only the words' share is looked at, so that the tokens add up to 1.
    """

    def __init__(self, transformer: Any, num_images: int, height: int, width: int, tokens: int):
        super().__init__([block.attn for block in transformer.transformer_blocks] if height * width <= MAX_QUERIES else [])
        self.num_images, self.size, self.tokens = num_images, (height, width), tokens

    @torch.no_grad()
    def see(self, layer: Any, hidden_states: Tensor, states: Tensor) -> None:
        """Take in the probabilities of one layer: hidden_states (K B, N, D) of the patches, states (K B, L, D) of the words."""
        query, key = layer.to_q(hidden_states[-self.num_images :]), layer.add_k_proj(states[-self.num_images :, : self.tokens])
        query, key = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for x in (query, key))
        query = query if layer.norm_q is None else layer.norm_q(query)
        key = key if layer.norm_added_k is None else layer.norm_added_k(key)
        probabilities = (query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1).mean(dim=1)
        maps = probabilities.movedim(-1, 1).unflatten(-1, self.size)
        smaller = next((grid for grid in _grids(*self.size) if max(grid) <= MAX_SIDE), self.size)
        self.add(maps if smaller == self.size else torch.nn.functional.interpolate(maps, smaller, mode="area"))


class PatchAttentionRecorder(_Recorder):
    """Reads the self-attention of a transformer on patches for the last `num_images` of a batch, the conditional half.

    height, width: of the patches. Its maps are (B, N, h, w): the share of its attention that patch n, row by row, gave each patch.
    Of more than 16x16 patches neighbours are taken together.
    """

    def __init__(self, transformer: Any, num_images: int, height: int, width: int):
        super().__init__([block.attn1 for block in transformer.transformer_blocks] if height * width <= MAX_QUERIES else [])
        self.num_images, self.size = num_images, (height, width)
        self.grid = smaller_grid(height, width)

    @torch.no_grad()
    def see(self, layer: Any, hidden_states: Tensor, states: Tensor) -> None:
        """Take in the probabilities of one layer: hidden_states (K B, N, D)."""
        seen = hidden_states[-self.num_images :]
        shares = _probabilities(layer, seen, seen)
        if self.grid != self.size:
            # Of those that look the mean, of those that are looked at the sum.
            looked_at = _smaller(shares.unflatten(-1, self.size), self.grid) * (len(shares[0]) / (self.grid[0] * self.grid[1]))
            shares = _smaller(looked_at.flatten(2).transpose(1, 2).unflatten(-1, self.size), self.grid).flatten(2).transpose(1, 2)
        self.add(shares.unflatten(-1, self.grid))


def smaller_grid(height: int, width: int) -> tuple[int, int]:
    """The grid on which so many patches are shown: halved until it is at most 16x16."""
    return next(grid for grid in _grids(height, width) if max(grid) <= MAX_SIDE)


def _smaller(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    return torch.nn.functional.interpolate(maps, grid, mode="area")


class _Watched:
    """An attention processor that shows a recorder what goes in, and leaves the work to the layer's own."""

    def __init__(self, inner: Any, recorder: _Recorder):
        self.inner, self.recorder = inner, recorder

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        if encoder_hidden_states is not None or isinstance(self.recorder, PatchAttentionRecorder):
            self.recorder.see(attn, hidden_states, hidden_states if encoder_hidden_states is None else encoder_hidden_states)
        return self.inner(attn, hidden_states, encoder_hidden_states, *args, **kwargs)


def _probabilities(layer: Any, hidden_states: Tensor, states: Tensor) -> Tensor:
    """(B, N, L) float32, the mean over heads."""
    query, key = layer.to_q(hidden_states), layer.to_k(states)
    query, key = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2).float() for x in (query, key))
    return (query @ key.transpose(-1, -2) * layer.scale).softmax(dim=-1).mean(dim=1)


def _grids(height: int, width: int) -> Iterator[tuple[int, int]]:
    """The sizes of a UNet's levels: each halved, rounded up, as its strided convolutions do; down to a single place."""
    while True:
        yield height, width
        if height == width == 1:
            return
        height, width = (height + 1) // 2, (width + 1) // 2
