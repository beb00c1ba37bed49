"""Runs beside each other: two on one axis of noise with what sets them apart, and grids of runs with their time foretold.

    log-SNR of a step says how much noise is left, whatever the scheduler; two runs meet where it is the same.
    difference at a place = mean over colours of |a - b| / 2, for values in [-1, 1]: 0 the same, 1 black against white
"""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.additions import Lora
from studio.errors import InvalidOption
from studio.machine import require_ram
from studio.options import SampleOptions
from studio.sampling.events import StepDone, StepInfo

if TYPE_CHECKING:
    from torch import Tensor

    from studio.sampling.trajectory import Trajectory

__all__ = [
    "Meeting", "common_axis", "difference_maps", "GRIDS", "LORAS", "STRIPS", "GridInfo", "Cell", "plan_grid", "with_weights", "network_calls", "time_a_call",
    "foretold_s", "MAX_CELLS",
]

MAX_CELLS = 64
# What a grid over the weight of a LoRA changes: all LoRAs together, of which the first has another weight.
LORAS = "added.loras"
# These ask the model twice a step, once of them at a trial state.
TWO_CALLS = ("heun", "dpm2", "dpm2_ancestral")
TRIAL_STEPS = 8


# --- two runs on one axis ------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Meeting:
    """A place on the common axis: log_snr, and of either run the step that is nearest to it."""

    log_snr: float
    a: int
    b: int


def common_axis(a: Sequence[StepInfo], b: Sequence[StepInfo]) -> list[Meeting]:
    """Every noise level that one of the runs visits, from noisy to clean; those of both runs count once.

    Infinite log-SNR (pure noise, or none) lies one beyond the finite ones.
    """
    levels_a, levels_b = _finite(a, [*a, *b]), _finite(b, [*a, *b])
    levels = np.unique(np.round(np.concatenate([levels_a, levels_b]), 6))
    return [Meeting(log_snr=float(level), a=_nearest(levels_a, level), b=_nearest(levels_b, level)) for level in levels]


def _finite(steps: Sequence[StepInfo], every: Sequence[StepInfo]) -> np.ndarray:
    finite = [step.log_snr for step in every if np.isfinite(step.log_snr)] or [0.0]
    return np.clip([step.log_snr for step in steps], min(finite) - 1, max(finite) + 1)


def _nearest(levels: np.ndarray, level: float) -> int:
    # The last of equals: a run that rests at a level has then gone furthest.
    distances = np.abs(levels - level)
    return int(len(levels) - 1 - np.argmin(distances[::-1]))


def difference_maps(a: "Trajectory", b: "Trajectory", stream: str, meetings: Sequence[Meeting]) -> "Tensor":
    """(P, B, h, w) float32 in [0, 1]: where two runs of one size differ at each meeting. Raises InvalidOption."""
    # Latents of several channels are compared by their colours.
    if (len(a.x_final), *a.x_final.shape[2:]) != (len(b.x_final), *b.x_final.shape[2:]):
        raise InvalidOption(f"Only pictures of one number and size can be compared, but these are {_size(a)} and {_size(b)}.")
    count, _, height, width = a.x_final.shape
    # Both in float32, before and after they are clipped, and their difference.
    require_ram(len(meetings) * count * height * width * 3 * 4 * 5, "This comparison", "compare fewer steps, or smaller pictures")
    ours = a.pictures(stream, [meeting.a for meeting in meetings])
    theirs = b.pictures(stream, [meeting.b for meeting in meetings])
    return (ours.clamp(-1, 1) - theirs.clamp(-1, 1)).abs().mean(dim=2) / 2


def _size(run: "Trajectory") -> str:
    count, _, height, width = run.x_final.shape
    return f"{count} of {width} x {height}"


# --- grids ---------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class GridInfo:
    """A kind of grid: the options that change from row to row and from column to column, "size.crop" of one in a group of its own."""

    label: str
    rows: str
    columns: str


GRIDS: dict[str, GridInfo] = {
    "seed_scale": GridInfo(label="seed x guidance scale", rows="seed", columns="guidance_scale"),
    "scheduler_steps": GridInfo(label="scheduler x steps", rows="scheduler", columns="num_steps"),
    "prompt_seed": GridInfo(label="prompt x seed", rows="prompt", columns="seed"),
    # For models that can be told it: what each of these does, seed by seed.
    **{name.replace(".", "_"): GridInfo(label=label, rows="seed", columns=name) for name, label in (
        ("size.original", "original size"), ("size.crop", "crop"), ("size.target", "target size"), ("texts.clip_skip", "CLIP layers skipped"),
        ("texts.encoders", "text encoders"), ("refined.start", "hand-over to the refiner"), ("aesthetic.score", "aesthetic score"),
        ("flow.shift", "shift of the flow"), ("skipped.scale", "skip-layer scale"), ("noise_level", "noise on what it is told"),
        ("cond_mix", "mix of two pictures"), (LORAS, "weight of the LoRA"),
    )},
}


# Grids of one row, which their own part of the page asks for.
STRIPS: dict[str, GridInfo] = {"control_scale": GridInfo(label="scale of a ControlNet", rows="seed", columns="control")}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One picture of a grid: where it stands, and the options that make it."""

    row: int
    column: int
    options: SampleOptions


def plan_grid(kind: str, base: SampleOptions, values: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """The cells row by row, each option checked before the first is drawn.

    Args:
        values: by the name of an option, what it takes; only the two of the kind are read.
    Raises:
        InvalidOption: an empty side, more than MAX_CELLS cells, or options that make no sense. UnknownName.
    """
    info = (GRIDS | STRIPS)[kind]
    rows, columns = values[info.rows], values[info.columns]
    for name, side in ((info.rows, rows), (info.columns, columns)):
        if not side:
            raise InvalidOption(f"The grid needs at least one value for {name.replace('_', ' ')}.")
    if len(rows) * len(columns) > MAX_CELLS:
        raise InvalidOption(f"A grid has at most {MAX_CELLS} pictures, but {len(rows)} x {len(columns)} are {len(rows) * len(columns)}; take fewer values.")
    return [
        Cell(row=i, column=j, options=base.replaced({"num_images": 1, "record_attention": False, info.rows: row, info.columns: column}))
        for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns))
    ]


def with_weights(base: SampleOptions, weights: Sequence[float]) -> list[tuple[Lora, ...]]:
    """The LoRAs of a run, once for each weight of the first of them. Raises InvalidOption where there is none."""
    if not base.added.loras:
        raise InvalidOption("The grid changes the weight of the first LoRA: name one under LoRA, embeddings, VAE in the area Picture.")
    first, *others = base.added.loras
    return [(Lora(file=first.file, weight=weight), *others) for weight in weights]


def network_calls(options: SampleOptions) -> float:
    """How often a run asks the network for one picture; where guidance acts, each ask counts twice."""
    guided = options.guidance_end - options.guidance_start if options.guidance_scale != 1 else 0.0
    strength = options.strength if options.init_image is not None else 1.0
    return options.num_steps * strength * (2 if options.scheduler in TWO_CALLS else 1) * (1 + guided) * options.num_images


def time_a_call(events: Iterator[Any], options: SampleOptions) -> float:
    """Seconds that one call of the network takes, from the first steps of a trial run, which is closed then.

    events: what studio.sample gives for the options.
    """
    stamps = []
    try:
        for event in events:
            stamps.append(time.perf_counter())
            if not isinstance(event, StepDone) or len(stamps) == TRIAL_STEPS:
                break
    finally:
        close = getattr(events, "close", None)
        if close:
            close()
    # The first step also pays for what is done once.
    taken = stamps[1:] if len(stamps) > 2 else stamps
    each = (taken[-1] - taken[0]) / max(1, len(taken) - 1)
    return each * options.num_steps / network_calls(options)


def foretold_s(cells: Sequence[Cell], call_s: float) -> float:
    """Seconds that the cells take when a call of the network takes `call_s`."""
    return call_s * sum(network_calls(cell.options) for cell in cells)
