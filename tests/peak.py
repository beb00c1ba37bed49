"""What a run takes at its peak, measured in a process of its own, beside what is foretold of it. Linux tells a process its peak."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CAN_MEASURE = Path("/proc/self/clear_refs").exists()

CODE = """
import ctypes, gc, json, os, sys
from studio import SampleOptions, Studio
from studio.sampling.estimate import need_of_runs
import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion, torch

def held(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

def measured(options):
    studio = Studio()
    list(studio.sample(SampleOptions(model=options.model, num_steps=2)))
    need = need_of_runs(studio.model(options.model), [options], quick=False)
    gc.collect(), ctypes.CDLL(None).malloc_trim(0)
    # The peak is counted anew.
    open("/proc/self/clear_refs", "w").write("5")
    before = held("VmRSS")
    for event in studio.sample(options):
        pass
    return need.together, held("VmHWM") - before

# Each in a copy of this process, which has computed nothing yet.
for asked in json.loads(sys.argv[1]):
    copy = os.fork()
    if not copy:
        print(json.dumps(measured(SampleOptions(**asked))), flush=True)
        os._exit(0)
    if os.waitpid(copy, 0)[1]:
        sys.exit(1)
"""


def foretold_and_measured(runs: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Bytes of a run of each of these options: as foretold, and as a process of its own took them."""
    ended = subprocess.run([sys.executable, "-c", CODE, json.dumps(list(runs))], cwd=ROOT, capture_output=True, text=True, check=True)
    told_and_took: list[tuple[int, int]] = [tuple(json.loads(line)) for line in ended.stdout.splitlines() if line.startswith("[")]
    assert len(told_and_took) == len(runs), ended.stderr
    return told_and_took
