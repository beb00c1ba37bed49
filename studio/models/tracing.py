"""A small network on a CPU as frozen graphs, one for each shape it is asked in: the same numbers without Python in between.

A traced graph repeats the very operations of the module, so its answers are the module's to the last bit; frozen, its
weights are constants. Upsamplers are folded (studio.models.folding), whether a graph answers or the module. Worth it where
a step takes milliseconds and Python's share of it is large. Whatever changes what the module does (hooks, another forward,
gradients) is answered by the module as it is.
"""

import threading
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from studio.models.folding import Fold, folded, folds_of
from studio.models.graphs import Graph

if TYPE_CHECKING:
    from studio.models.attention import AttentionRecorder

__all__ = ["Traced"]

# Above so many parameters a step takes long enough for Python not to matter.
MAX_PARAMETERS = 50_000_000
# So many shapes are kept; which were used last stay.
MAX_GRAPHS = 12


class Traced:
    """A network asked with tensors only.

    network: the module that does the work. module: asks it; a call takes tensors and gives one.
    steady: positions of the inputs that stay the very same through a run.
    recorder: of words' attention, while one is open on this network; its maps then come out of the graph beside the answer.
    """

    def __init__(self, network: torch.nn.Module, module: torch.nn.Module, steady: Sequence[int] = ()):
        self.network, self.module, self.steady = network, module.eval(), steady
        self.recorder: AttentionRecorder | None = None
        # Whether its weights stay what they are; while they learn the module answers itself.
        self.frozen = True
        self._graphs: dict[Any, Any] = {}
        self._lock = threading.Lock()

    @property
    def able(self) -> bool:
        """Whether graphs may stand for the network now."""
        return self.frozen and "forward" not in vars(self.network) and not self.network._forward_hooks and not torch.is_grad_enabled()

    @cached_property
    def _small(self) -> bool:
        weights = list(self.network.parameters())
        # Weights that are kept in 8 bits are cast by hooks of the layers, which a trace does not see.
        return sum(p.numel() for p in weights) <= MAX_PARAMETERS and all(p.dtype != torch.float8_e4m3fn for p in weights)

    @cached_property
    def _folds(self) -> list[Fold]:
        return folds_of(self.network)

    def _quick(self, inputs: tuple[Tensor, ...]) -> bool:
        """Whether this is a question for which something quicker may stand in."""
        return inputs[0].device.type == "cpu" and self.able and self._small

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The network's answer."""
        if not self._quick(inputs):
            return self.module(*inputs)
        graph = self._graphs.get(self._key(inputs)) if self._graphs else None
        if graph is None:
            with folded(self._folds):
                return self.module(*inputs)
        if self.recorder is None:
            return graph(*inputs)
        output, maps = graph(*inputs)
        self.recorder.take(maps)
        return output

    def prepare(self, *inputs: Tensor) -> None:
        """Make the graph for inputs of these shapes, unless it is there or the network is too large or not on a CPU."""
        with torch.no_grad():
            if not self._quick(inputs):
                return
            with self._lock:
                key = self._key(inputs)
                if key not in self._graphs:
                    graph = self._frozen(inputs)
                    # The first calls of a graph compile it.
                    graph(*inputs), graph(*inputs)
                    kept = dict(list(self._graphs.items())[1 - MAX_GRAPHS :])
                    self._graphs = {**kept, key: graph}

    def _frozen(self, inputs: tuple[Tensor, ...]) -> Graph:
        module = self.module if self.recorder is None else _Watched(self.module, self.recorder)
        with warnings.catch_warnings(), folded(self._folds):
            # A graph is used for its own shapes alone, so what a trace decides by them holds.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            # torch.compile, which is to replace graphs, wants a compiler on the user's machine.
            warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
            return Graph(torch.jit.freeze(torch.jit.trace(module.eval(), inputs, check_trace=False)), self.steady)

    def _key(self, inputs: tuple[Tensor, ...]) -> Any:
        return tuple((tensor.shape, tensor.dtype) for tensor in inputs), self.recorder and self.recorder.key


class _Watched(torch.nn.Module):
    """The module with what a recorder sees in it as a second result."""

    def __init__(self, module: torch.nn.Module, recorder: "AttentionRecorder"):
        super().__init__()
        self.module, self.recorder = module, recorder

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        self.recorder.clear()
        output = self.module(*inputs)
        maps = self.recorder.maps()
        assert maps is not None
        return output, maps
