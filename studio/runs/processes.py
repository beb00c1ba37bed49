"""The processes of trainers: how one is started, and whether it still runs."""

import os
import sys
from pathlib import Path

__all__ = ["ROOT", "environment", "is_alive", "launcher", "process_start"]

# Where the package trainers lies.
ROOT = Path(__file__).resolve().parents[2]
# How exactly a process's start is known, in seconds.
SAME_START_S = 0.5


def environment() -> dict[str, str]:
    """The process's environment: this project's modules, output that is not held back."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def launcher(batch_size: int) -> list[str]:
    """Plain python on one device; accelerate's launcher on as many as share a batch evenly."""
    import torch

    devices = next(count for count in range(max(1, torch.cuda.device_count()), 0, -1) if batch_size % count == 0)
    if devices == 1:
        return [sys.executable]
    return [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(devices)]


def process_start(pid: int) -> float | None:
    """Seconds from the system's start to the process's, by which a number that was given again is told from the process
    that had it before; None for one that is gone, or that has ended and was not yet collected."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        # Both move when the clock is set, their difference does not.
        return round(process.create_time() - psutil.boot_time(), 2)
    except psutil.Error:
        return None


def is_alive(pid: int | None, started: float | None = None) -> bool:
    """Whether the process runs (and began when it should have)."""
    begun = None if pid is None else process_start(pid)
    return begun is not None and (started is None or abs(begun - started) < SAME_START_S)
