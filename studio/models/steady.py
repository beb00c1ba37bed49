"""A network that is asked many times of the same words, with weights that stay as they are meanwhile: what never changes is computed once.

    keys, values    K = W_k text, V = W_v text of each cross-attention hang on the words alone      (for as long as these are the same tensor)
    upsamplers      folded (studio.models.folding), on a CPU

For networks whose weights change between two runs, so that a graph of them (studio.models.tracing) would be made in vain.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from studio.models.folding import folded, folds_of

__all__ = ["of_the_words", "steady"]


@contextmanager
def steady(network: torch.nn.Module) -> Iterator[None]:
    """While this is open the weights must not change, nor may gradients be wanted of them.

    Args:
        network: a UNet or a transformer of diffusers, LoRA's additions in it or not.
    """
    with ExitStack() as stack:
        for layer in of_the_words(network):
            stack.enter_context(_remembering(layer))
        if next(network.parameters()).device.type == "cpu":
            stack.enter_context(folded(folds_of(network)))
        yield


def of_the_words(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers that make keys and values of the words. Where words and picture are attended to together there are none: words change from layer to layer."""
    from diffusers.models.attention_processor import Attention

    attentions = (module for module in network.modules() if isinstance(module, Attention) and module.is_cross_attention)
    return [layer for attention in attentions for layer in (attention.to_k, attention.to_v) if "forward" not in vars(layer)]


@contextmanager
def _remembering(layer: torch.nn.Module) -> Iterator[None]:
    """The layer gives its last answer again for as long as it is asked of the very same tensor."""
    layer.forward = _remembered(layer.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        vars(layer).pop("forward", None)


def _remembered(ask: Callable[..., Tensor]) -> Callable[..., Tensor]:
    kept: list[Any] = [None, None]

    def answer(states: Tensor, *more: Any, **named: Any) -> Tensor:
        if states is not kept[0]:
            kept[:] = states, ask(states, *more, **named)
        return kept[1]  # type: ignore[no-any-return]

    return answer
