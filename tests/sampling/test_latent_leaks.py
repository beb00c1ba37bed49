"""Starting and cancelling a hundred times leaves nothing behind: no thread, no generator, no memory."""

import gc
import sys
import threading
import types

from studio import SampleOptions, Studio
from tests.copies import in_a_copy


def cycle(studio, model, i):
    options = SampleOptions(model=model, prompt="a star", num_steps=6, guidance_scale=3.0, num_images=2, seed=i, record_attention=i % 2 == 0)
    events = studio.sample(options)
    for _ in range(1 + i % 3):
        next(events)
    events.close()


def measure():
    import torch

    # Python's own count of its memory blocks, exact and free; tensors' bytes are outside it.
    gc.collect()
    tensors = sum(one.numel() * one.element_size() for one in gc.get_objects() if issubclass(type(one), torch.Tensor))
    return threading.active_count(), tensors, sys.getallocatedblocks()


def left_over(one):
    from studio.sampling.guidance import ClassifierFree
    from studio.sampling.trajectory import Recorder

    return type(one) in (ClassifierFree, Recorder) or type(one) is types.GeneratorType and one.__name__ in ("_loop", "sample")


def a_hundred_cycles(model):
    """What there is more of afterwards: threads, what a run needs, the ratio of the tensors' bytes and of memory blocks."""
    studio = Studio()
    for i in range(6):
        cycle(studio, model, i)
    threads, tensors, blocks = measure()
    for i in range(100):
        cycle(studio, model, i)
    after_threads, after_tensors, after_blocks = measure()
    return after_threads - threads, sum(map(left_over, gc.get_objects())), after_tensors / tensors, after_blocks / blocks


def test_a_hundred_starts_and_cancels_leave_nothing_behind(tiny_sd):
    threads, alive, tensors, memory = in_a_copy(a_hundred_cycles, tiny_sd)
    assert (threads, alive) == (0, 0)
    assert tensors == 1.0 and memory < 1.01
