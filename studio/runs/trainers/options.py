"""Options as data: a frozen dataclass whose fields are the options, with what each means in its metadata.

A trainer's command line, the studio's form and the table of options are all made from them.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from studio.errors import InvalidOption

__all__ = ["LoopOptions", "option", "parse_widths"]

LR_PLANS = ("cosine", "trapezoid", "constant")


def option(default: Any, help: str, choices: Iterable[str] | None = None) -> Any:
    """A dataclass field with its one-sentence help."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices and list(choices)})


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """The knobs that every trainer has."""

    output: str = option("runs/run", "the run folder; an unfinished run in it is resumed")
    steps: int = option(4000, "optimiser steps in all")
    batch_size: int = option(64, "examples a batch, over all devices")
    accumulation: int = option(1, "batches whose gradients are summed up before each optimiser step")
    lr: float = option(1e-3, "peak learning rate of AdamW, between 0 and 1")
    lr_plan: str = option("cosine", "after the warm-up: cosine to 5 %%, trapezoid (flat, then down over the last fifth), or constant", LR_PLANS)
    warmup: int = option(100, "steps over which the learning rate rises")
    weight_decay: float = option(0.01, "AdamW's weight decay")
    grad_clip: float = option(1.0, "largest gradient norm")
    ema_decay: float = option(0.999, "decay of the averaged weights, which are the ones kept, 0 to 1")
    mixed_precision: str = option("no", "bf16 or fp16 on a GPU that has it", ("no", "bf16", "fp16"))
    seed: int = option(0, "of weights, order, timesteps and noise")
    sample_every: int = option(500, "steps between sample grids, 0 = none")
    checkpoint_every: int = option(500, "steps between checkpoints")
    keep_checkpoints: int = option(2, "newest checkpoints kept; the one with the lowest loss is kept besides")
    tensorboard: bool = option(True, "write TensorBoard logs to <output>/tensorboard")

    def __post_init__(self) -> None:
        self.require_at_least(1, "steps", "batch_size", "accumulation", "checkpoint_every", "keep_checkpoints")
        self.require_at_least(0, "warmup", "sample_every", "weight_decay")
        self.require_share("ema_decay")
        if not 0 < self.lr < 1:
            raise InvalidOption(f"lr must lie between 0 and 1, but it is {self.lr}.")
        if self.grad_clip <= 0:
            raise InvalidOption(f"grad_clip must be above 0, but it is {self.grad_clip}.")

    def require_at_least(self, least: float, *names: str) -> None:
        """Refuse values below `least`, in a sentence."""
        for name in names:
            if not getattr(self, name) >= least:
                raise InvalidOption(f"{name} must be at least {least}, but it is {getattr(self, name)}.")

    def require_share(self, *names: str) -> None:
        """Refuse values outside 0..1, in a sentence."""
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidOption(f"{name} must lie in 0..1, but it is {getattr(self, name)}.")


def parse_widths(text: str, multiple: int) -> tuple[int, ...]:
    """Channels a level from "32,64,96". Raises InvalidOption for what is no number, or no multiple of `multiple`."""
    try:
        widths = tuple(int(width) for width in text.split(","))
    except ValueError:
        raise InvalidOption(f"widths is written like '32,64,96', but it is {text!r}.") from None
    if any(width < multiple or width % multiple for width in widths):
        raise InvalidOption(f"widths must be multiples of {multiple}, but they are {text!r}.")
    return widths
