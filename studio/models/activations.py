"""How much memory a pass through networks takes, found without computing it and without the memory.

The networks run on tensors that have shapes but no content. Counted is what is there at the same time, or what autograd
keeps for a backward pass, each storage once. Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174) keeps the input
of each block instead, and all of one block at a time.
"""

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["kept_for_backward", "live_peak", "without_content"]

# What diffusers computes anew in the backward pass.
BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock")


@contextmanager
def without_content() -> Iterator[None]:
    """Within it, tensors that are made or computed have shapes but no content; networks may be asked as they are."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


# --- what is there at the same time --------------------------------------------------------------------------

def live_peak(work: Callable[[], Any]) -> int:
    """Most bytes that are there at once while `work` makes and computes tensors; what was there before is left out.

    Convolutions are counted with the copy of their input that the kernels make, in the order in which they read it.
    """
    live = _Live()
    # Gradients may be taken; where none are wanted nothing is kept for them, as no weight of a loaded model asks for one.
    with without_content(), live, torch.enable_grad():
        work()
    return live.peak


class _Live(TorchDispatchMode):
    """Watches every operation: bytes of the storages that are there, and the most there ever were."""

    COPIES = {"aten::convolution": 1, "aten::convolution_backward": 2}

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        copied = sum(tensor.nbytes for tensor in args[: self.COPIES.get(func._schema.name, 0)])
        self.peak = max(self.peak, self.live + copied)
        return result

    def _see(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.live += size
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


# --- what is kept for a backward pass ------------------------------------------------------------------------

def kept_for_backward(network: nn.Module, forward: Callable[[], Any], *, checkpointing: bool = False) -> int:
    """Bytes that `forward`, which calls the network, keeps for the backward pass, its weights left out.

    The network is not to have gradient checkpointing turned on; checkpointing says whether to count as if it had.
    """
    count = _Count()
    blocks = [module for module in network.modules() if type(module).__name__ in BLOCKS]
    hooks = [hook for block in blocks for hook in (block.register_forward_pre_hook(count.enter), block.register_forward_hook(count.leave))]
    try:
        with without_content(), torch.autograd.graph.saved_tensors_hooks(count.keep, lambda kept: kept), torch.enable_grad():
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
        self.inputs = 0
        self.block: int | None = None
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
