"""Training runs: processes of their own, each with a folder that anyone can follow.

    runs = Runs("runs")
    run = runs.start("ddpm", {"data": "digits", "steps": 500}, name="my-digits")   # refused in a sentence, or queued
    runs.read("my-digits").state                                                   # "waiting", "running", ...
    runs.stop("my-digits"); runs.resume("my-digits"); runs.delete("my-digits")
"""

from studio.runs.folder import RunView, read_events, read_run
from studio.runs.queue import Runs
from studio.runs.records import RunState
from studio.runs.trainers import TRAINERS, TrainerInfo

__all__ = ["Runs", "RunView", "RunState", "TRAINERS", "TrainerInfo", "read_run", "read_events"]
