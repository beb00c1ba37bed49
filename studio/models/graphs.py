"""Frozen graphs made quicker, with the same numbers to the last bit.

    a division by 1                               is left out
    what hangs only on inputs that stay the same  is a graph of its own, asked once for as long as they do
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Graph"]


class Graph:
    """A frozen module, called with its inputs.

    steady: positions of the inputs that are the very same tensors from call to call of a run, such as the text; keys and
    values of it, for one, do not change from step to step.
    """

    def __init__(self, frozen: Any, steady: Sequence[int] = ()):
        graph = frozen.graph.copy()
        # The module itself: frozen, it has nothing that its graph does not have.
        graph.eraseInput(0)
        _leave_out_divisions_by_one(graph)
        self.steady = tuple(steady)
        first = _split_off(graph, self.steady)
        self._first = None if first is None else _callable(first)
        self._rest = _callable(graph)
        self._kept: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] = (), ()

    def __call__(self, *inputs: Tensor) -> Any:
        """What the module would answer."""
        return self._rest(*inputs) if self._first is None else self._rest(*inputs, *self._known(inputs))

    def _known(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        steady = tuple(inputs[position] for position in self.steady)
        kept, values = self._kept
        if len(kept) == len(steady) and all(one is other for one, other in zip(kept, steady)):
            return values
        assert self._first is not None
        self._kept = steady, (values := self._first(*inputs))
        return values


def _callable(graph: Any) -> Any:
    return torch._C._create_function_from_graph("forward", graph)


def _leave_out_divisions_by_one(graph: Any) -> None:
    for node in graph.findAllNodes("aten::div"):
        divisor = node.inputsAt(1).toIValue()
        if isinstance(divisor, int | float) and divisor == 1 or isinstance(divisor, Tensor) and divisor.numel() == 1 and divisor.item() == 1:
            node.output().replaceAllUsesWith(node.inputsAt(0))
    torch._C._jit_pass_dce(graph)


def _split_off(graph: Any, steady: Sequence[int]) -> Any | None:
    """A graph of what hangs on the steady inputs alone; its answers become further inputs of `graph`. None where there is nothing.

    Values are known by their names: those that they are given here are kept by a copy.
    """
    for index, value in enumerate(value for node in graph.nodes() for value in node.outputs()):
        value.setDebugName(f"value_{index}")
    early = _hanging_on(graph, [value for position, value in enumerate(graph.inputs()) if position in steady])
    wanted = list(_wanted(graph, early))
    if not wanted or any(node.kind().endswith("_") for node in graph.nodes()):
        return None
    first = graph.copy()
    _answer(first, wanted)
    values = {value.debugName(): value for node in graph.nodes() for value in node.outputs()}
    for name in wanted:
        told = graph.addInput()
        told.setType(values[name].type())
        values[name].replaceAllUsesWith(told)
    torch._C._jit_pass_dce(graph)
    return first


def _hanging_on(graph: Any, inputs: Sequence[Any]) -> dict[str, Any]:
    """By their names, the values that hang on these inputs and on constants, and on nothing else; the inputs are not among them."""
    roots = {value.debugName() for value in inputs}
    constant: set[str] = set()
    early: dict[str, Any] = {}
    for node in graph.nodes():
        names = {value.debugName() for value in node.inputs()} - constant
        outputs = {value.debugName(): value for value in node.outputs()}
        if not names:
            constant |= set(outputs)
        elif names <= roots | set(early):
            early |= outputs
    return early


def _wanted(graph: Any, early: dict[str, Any]) -> dict[str, None]:
    """The names of the tensors among `early` that the rest is made of, in order; numbers and lists are made anew."""
    wanted: dict[str, None] = {}
    late = [node for node in graph.nodes() if not any(value.debugName() in early for value in node.outputs())]
    asked = [value for node in (*late, graph.return_node()) for value in node.inputs() if value.debugName() in early]
    while asked:
        value = asked.pop(0)
        if value.type().isSubtypeOf(torch._C.TensorType.get()):
            wanted[value.debugName()] = None
        else:
            asked += [one for one in value.node().inputs() if one.debugName() in early]
    return wanted


def _answer(graph: Any, names: Sequence[str]) -> None:
    """Let a graph answer with these of its values, as a tuple."""
    values = {value.debugName(): value for node in graph.nodes() for value in node.outputs()}
    for _ in list(graph.outputs()):
        graph.eraseOutput(0)
    for name in names:
        graph.registerOutput(values[name])
    graph.makeMultiOutputIntoTuple()
    torch._C._jit_pass_dce(graph)
