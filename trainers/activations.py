"""How much memory a forward pass keeps for its backward pass, found without computing it and without the memory.

The network runs on tensors that have shapes but no content; what autograd would keep is counted, each storage once.
Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174) keeps the input of each block instead, and all of one block at a time.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["kept_for_backward"]

# What diffusers computes anew in the backward pass.
BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock")


def kept_for_backward(network: nn.Module, forward: Callable[[], Any], *, checkpointing: bool = False) -> int:
    """Bytes that `forward`, which calls the network, keeps for the backward pass, its weights left out.

    The network is not to have gradient checkpointing turned on; checkpointing says whether to count as if it had.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    count = _Count()
    blocks = [module for module in network.modules() if type(module).__name__ in BLOCKS]
    hooks = [hook for block in blocks for hook in (block.register_forward_pre_hook(count.enter), block.register_forward_hook(count.leave))]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.autograd.graph.saved_tensors_hooks(count.keep, lambda kept: kept), torch.enable_grad():
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    inside = [size for block, size in count.sizes.items() if block is not None]
    if not checkpointing:
        return sum(count.sizes.values())
    return count.sizes[None] + count.inputs + max(inside, default=0)


class _Count:
    """Bytes kept in each block, and outside of them all under None; and those of the inputs of blocks."""

    def __init__(self) -> None:
        self.sizes: dict[int | None, int] = defaultdict(int)
        self.inputs, self.block = 0, None
        # Held to the end: a storage that is let go may be taken for the next one.
        self.storages: dict[int, Tensor] = {}

    def enter(self, block: nn.Module, given: tuple[Any, ...]) -> None:
        self.block = id(block)
        self.inputs += given[0].untyped_storage().nbytes()

    def leave(self, *_: Any) -> None:
        self.block = None

    def keep(self, kept: Tensor) -> Tensor:
        storage = kept.untyped_storage()
        # Leaves are weights, or inputs that are there anyhow.
        if not kept.is_leaf and storage._cdata not in self.storages:
            self.storages[storage._cdata] = kept
            self.sizes[self.block] += storage.nbytes()
        return kept
