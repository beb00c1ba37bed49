"""Starting and cancelling a hundred times leaves nothing behind: no thread, no generator, no memory."""

import subprocess
import sys
from pathlib import Path

CYCLES = """
import gc, sys, threading, types
from studio import SampleOptions, Studio
from studio.sampling.guidance import ClassifierFree
from studio.sampling.trajectory import Recorder
import torch

studio = Studio()

def cycle(i):
    options = SampleOptions(model=sys.argv[1], prompt="a star", num_steps=6, guidance_scale=3.0, num_images=2, seed=i, record_attention=i % 2 == 0)
    events = studio.sample(options)
    for _ in range(1 + i % 3):
        next(events)
    events.close()

def measure():
    # Python's own count of its memory blocks, exact and free; tensors' bytes are outside it.
    gc.collect()
    tensors = sum(one.numel() * one.element_size() for one in gc.get_objects() if issubclass(type(one), torch.Tensor))
    return threading.active_count(), tensors, sys.getallocatedblocks()

def left_over(one):
    return type(one) in (ClassifierFree, Recorder) or type(one) is types.GeneratorType and one.__name__ in ("_loop", "sample")

for i in range(6):
    cycle(i)
threads, tensors, blocks = measure()
for i in range(100):
    cycle(i)
after_threads, after_tensors, after_blocks = measure()
alive = [one for one in gc.get_objects() if left_over(one)]
print(after_threads - threads, len(alive), after_tensors / tensors, after_blocks / blocks)
"""


def test_a_hundred_starts_and_cancels_leave_nothing_behind(tiny_sd):
    done = subprocess.run(
        [sys.executable, "-c", CYCLES, tiny_sd], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False,
    )
    assert done.returncode == 0, done.stderr
    threads, alive, tensors, memory = done.stdout.split()[-4:]
    assert (int(threads), int(alive)) == (0, 0)
    assert float(tensors) == 1.0 and float(memory) < 1.01
