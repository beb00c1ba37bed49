"""Two contestants timed in turn, so that a drift of the machine's speed hits both alike."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

__all__ = ["Timing", "time_paired"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Median seconds of each, and the median of the ratios ours / theirs, round by round.

    cpu_ratio: the same of the processor's time, which work of others on the machine moves less.
    """

    ours_s: float
    theirs_s: float
    ratio: float
    cpu_ratio: float


def time_paired(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> Timing:
    """Call both `rounds` times, the first one changing every round."""
    times: tuple[list[float], list[float]] = ([], [])
    cpu: tuple[list[float], list[float]] = ([], [])
    for round_ in range(rounds):
        for which, call in sorted(enumerate((ours, theirs)), reverse=bool(round_ % 2)):
            started, worked = time.perf_counter(), time.process_time()
            call()
            times[which].append(time.perf_counter() - started)
            cpu[which].append(time.process_time() - worked)
    ratio, cpu_ratio = (median(a / b for a, b in zip(*both)) for both in (times, cpu))
    return Timing(ours_s=median(times[0]), theirs_s=median(times[1]), ratio=ratio, cpu_ratio=cpu_ratio)
