"""What a run takes at its peak, measured in a process of its own, beside what is foretold of it. Linux tells a process its peak."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CAN_MEASURE = Path("/proc/self/clear_refs").exists()

CODE = """
import ctypes, gc, json, sys
from studio import SampleOptions, Studio
from studio.sampling.estimate import need_of_runs

def held(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

options = SampleOptions(**json.loads(sys.argv[1]))
studio = Studio()
list(studio.sample(SampleOptions(model=options.model, num_steps=2)))
need = need_of_runs(studio.model(options.model), [options], quick=False)
gc.collect(), ctypes.CDLL(None).malloc_trim(0)
# The peak is counted anew.
open("/proc/self/clear_refs", "w").write("5")
before = held("VmRSS")
for event in studio.sample(options):
    pass
print(json.dumps([need.together, held("VmHWM") - before]))
"""


def foretold_and_measured(**options: Any) -> tuple[int, int]:
    """Bytes of a run of these options: as foretold, and as a process took them."""
    ended = subprocess.run([sys.executable, "-c", CODE, json.dumps(options)], cwd=ROOT, capture_output=True, text=True, check=True)
    told, took = json.loads(ended.stdout.splitlines()[-1])
    return told, took
