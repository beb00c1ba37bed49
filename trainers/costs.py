"""What estimates of runs share: what a process takes of itself, and a timed look at a network."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["PASSING", "PROCESS_GIB", "START_S", "passes_of", "timed"]

# A fresh process: python, torch and diffusers from a disk that has them cached.
START_S = 8.0
# What it holds of itself.
PROCESS_GIB = 0.9
# And what comes and goes: gradients of activations, what the allocator cannot hand out. At the size of SD 1.5 and of the
# toy model this comes within 5 % of the most that a process held.
PASSING = 1.15


def timed(forward: Callable[[], Tensor], *, gradients: bool = False) -> float:
    """Seconds of a pass: the faster of two, after one that warms up. gradients: whether it takes any."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        with torch.inference_mode(not gradients):
            forward().sum().item()  # waits for a GPU to be done
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def passes_of(guidance_scale: float) -> int:
    """How often a network is asked at a step."""
    return 2 if guidance_scale > 1 else 1
