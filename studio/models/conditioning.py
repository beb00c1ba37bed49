"""Everything that a network can be told beside the state and the time. A family uses what it knows of it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Conditioning", "batched"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditioning:
    """One condition, of one picture or of a batch.

    text: (B, L, D) states of the text encoders. pooled: (B, D) the prompt as one vector. added_ids: (B, N) sizes and crops.
    label: (B,) class indices. image_embeds: (B, D) of a picture's encoder. concat: (B, C, h, w) channels beside the state
    (mask, depth, low resolution). control: units of ControlNets, ready for a run. skipped: layers of the network that are left out.
    """

    text: Tensor | None = None
    pooled: Tensor | None = None
    added_ids: Tensor | None = None
    label: Tensor | None = None
    image_embeds: Tensor | None = None
    concat: Tensor | None = None
    control: "tuple[Unit, ...]" = ()
    skipped: tuple[int, ...] = ()

    def rows(self, chosen: slice) -> "Conditioning":
        """That of some pictures of the batch."""
        parts = {name: tensor[chosen] for name in TENSORS if (tensor := getattr(self, name)) is not None}
        return replace(self, **parts)

    def beside(self, x_t: Tensor) -> Tensor:
        """The state x_t (B, C, h, w) with the channels of `concat` behind its own, where there are any."""
        return x_t if self.concat is None else torch.cat([x_t, self.concat.to(x_t.dtype)], dim=1)

    def residuals(self, x_t: Tensor, t: float) -> tuple[Tensor, ...]:
        """What the units of ControlNets add to a network's states at x_t (B, C, h, w): one a skip connection, then the middle; () where none acts."""
        return _summed([answer for unit in self.control if (answer := unit.residuals(x_t, t, self))])

    def make_units_ready(self, x_t: Tensor) -> tuple[Tensor, ...]:
        """The same in any step, while the units do what makes such questions quick from now on."""
        return _summed([answer for unit in self.control if (answer := unit.make_ready(x_t, self))])


def _summed(answers: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    # Of transformers, nets of fewer blocks add each of theirs to several.
    most = max(map(len, answers), default=0)
    spread = [[answer[i * len(answer) // most] for i in range(most)] for answer in answers]
    return tuple(sum(parts[1:], start=parts[0]) for parts in zip(*spread))


class Unit(Protocol):
    """A ControlNet ready for a run (studio.sampling.controlled)."""

    def residuals(self, x_t: Tensor, t: float, told: Conditioning) -> tuple[Tensor, ...]:
        """What it adds at x_t and t, where a network is told `told`; () where it does not act."""

    def make_ready(self, x_t: Tensor, told: Conditioning) -> tuple[Tensor, ...]:
        """The same in any step, while it does what makes such questions quick from now on."""


TENSORS = tuple(field.name for field in dataclasses.fields(Conditioning) if field.name not in ("control", "skipped"))


def batched(conditions: Sequence[Conditioning], num_images: int) -> Conditioning:
    """The conditions of one picture each as one batch: the first for `num_images` pictures, then the second, ..."""
    joined = {}
    for name in TENSORS:
        tensors = [getattr(condition, name) for condition in conditions]
        if tensors[0] is not None:
            joined[name] = torch.cat([tensor.expand(num_images, *tensor.shape[1:]) for tensor in tensors])
    return Conditioning(**joined, control=conditions[-1].control, skipped=conditions[-1].skipped)
