"""What a run takes at its peak, measured in a process of its own, beside what is foretold of it. Linux tells a process its peak."""

import ctypes
import gc
from pathlib import Path
from typing import Any

from studio import SampleOptions, Studio
from tests.copies import in_a_copy

CAN_MEASURE = Path("/proc/self/clear_refs").exists()


def foretold_and_measured(**options: Any) -> tuple[int, int]:
    """Bytes of a run of these options: as foretold, and as a process took them."""
    return in_a_copy(_foretold_and_measured, SampleOptions(**options))


def _foretold_and_measured(options: SampleOptions) -> tuple[int, int]:
    from studio.sampling.estimate import need_of_runs

    studio = Studio()
    list(studio.sample(SampleOptions(model=options.model, num_steps=2)))
    need = need_of_runs(studio.model(options.model), [options], quick=False)
    gc.collect(), ctypes.CDLL(None).malloc_trim(0)
    # The peak is counted anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = _held("VmRSS")
    for _ in studio.sample(options):
        pass
    return need.together, _held("VmHWM") - before


def _held(key: str) -> int:
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
