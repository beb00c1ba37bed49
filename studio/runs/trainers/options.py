"""Options as data: a frozen dataclass whose fields are the options, with what each means in its metadata.

A trainer's command line, the studio's form and the table of options are all made from them.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from studio.checks import require_float, require_int
from studio.errors import InvalidOption

__all__ = ["LoopOptions", "option", "parse_widths", "require_in_range", "require_room_for_data"]

# More of anything is a slip of the pen, not a training.
MOST_STEPS = 10_000_000
MOST_SEED = 2**32 - 1  # an epoch's order is seeded by this times a million
MOST_TEXT = 4_000
MOST_LEVELS, MOST_WIDTH = 8, 2048
MOST_BYTES = 2**35
LR_PLANS = ("cosine", "trapezoid", "constant")


def option(
    default: Any, help: str, choices: Iterable[str] | None = None, *, low: float | None = None, high: float | None = None,
    path: Literal["", "read", "write", "name"] = "",
) -> Any:
    """A dataclass field with its one-sentence help.

    Args:
        low, high: the range of a number, both ends in it; every number has one.
        path: of a text that names a folder, what is done with it, or "name" where it may be a name instead.
    """
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices and list(choices), "low": low, "high": high, "path": path})


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """The knobs that every trainer has."""

    output: str = option("runs/run", "the run folder; an unfinished run in it is resumed", path="write")
    steps: int = option(4000, "optimiser steps in all", low=1, high=MOST_STEPS)
    batch_size: int = option(64, "examples a batch, over all devices", low=1, high=4096)
    accumulation: int = option(1, "batches whose gradients are summed up before each optimiser step", low=1, high=4096)
    lr: float = option(1e-3, "peak learning rate of AdamW, between 0 and 1", low=0, high=1)
    lr_plan: str = option("cosine", "after the warm-up: cosine to 5 %%, trapezoid (flat, then down over the last fifth), or constant", LR_PLANS)
    warmup: int = option(100, "steps over which the learning rate rises", low=0, high=MOST_STEPS)
    weight_decay: float = option(0.01, "AdamW's weight decay", low=0, high=100)
    grad_clip: float = option(1.0, "largest gradient norm, above 0", low=0, high=1e6)
    ema_decay: float = option(0.999, "decay of the averaged weights, which are the ones kept, 0 to 1", low=0, high=1)
    mixed_precision: str = option("no", "bf16 or fp16 on a GPU that has it", ("no", "bf16", "fp16"))
    seed: int = option(0, "of weights, order, timesteps and noise", low=0, high=MOST_SEED)
    sample_every: int = option(500, "steps between sample grids, 0 = none", low=0, high=MOST_STEPS)
    checkpoint_every: int = option(500, "steps between checkpoints", low=1, high=MOST_STEPS)
    keep_checkpoints: int = option(2, "newest checkpoints kept; the one with the lowest loss is kept besides", low=1, high=1000)
    tensorboard: bool = option(True, "write TensorBoard logs to <output>/tensorboard")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            require_in_range(field, getattr(self, field.name))
        if not 0 < self.lr < 1:
            raise InvalidOption(f"lr must lie between 0 and 1, but it is {self.lr}.")
        if self.grad_clip <= 0:
            raise InvalidOption(f"grad_clip must be above 0, but it is {self.grad_clip}.")


def require_in_range(field: dataclasses.Field, value: Any) -> None:
    """Refuse a number out of the option's range, infinity, NaN, and a text without end. Raises InvalidOption."""
    low, high = field.metadata["low"], field.metadata["high"]
    if low is not None:
        require = require_int if isinstance(field.default, int) else require_float
        require(field.name, value, low, high)
    if isinstance(value, str) and len(value) > MOST_TEXT:
        raise InvalidOption(f"{field.name} may have {MOST_TEXT} characters at most, but it has {len(value)}.")


def require_room_for_data(data_limit: int, resolution: int) -> None:
    """Refuse more pictures than fit into any memory, in a sentence; they are all kept there, 3 bytes a pixel."""
    needed = 3 * data_limit * resolution**2
    if needed > MOST_BYTES:
        raise InvalidOption(
            f"{data_limit:,} pictures of {resolution} x {resolution} pixels take {needed / 2**30:,.0f} GiB of memory, and at most {MOST_BYTES >> 30} GiB "
            "are given; choose a smaller data_limit or resolution."
        )


def parse_widths(text: str, multiple: int) -> tuple[int, ...]:
    """Channels a level from "32,64,96". Raises InvalidOption for what is no number, or no multiple of `multiple`."""
    try:
        widths = tuple(int(width) for width in text.split(","))
    except ValueError:
        raise InvalidOption(f"widths is written like '32,64,96', but it is {text[:60]!r}.") from None
    if len(widths) > MOST_LEVELS or max(widths) > MOST_WIDTH:
        raise InvalidOption(f"widths may be {MOST_LEVELS} numbers up to {MOST_WIDTH} at most, but they are {text[:60]!r}.")
    if any(width < multiple or width % multiple for width in widths):
        raise InvalidOption(f"widths must be multiples of {multiple}, but they are {text!r}.")
    return widths
