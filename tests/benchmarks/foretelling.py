"""Memory of runs as it is foretold against what a process takes, and what weighing a run costs beside making it."""

import time

from studio import SampleOptions, Studio
from tests.benchmarks.paired import time_paired
from tests.peak import CAN_MEASURE, foretold_and_measured

RUNS: tuple[dict, ...] = (
    {"model": "digits-ddpm", "num_images": 64}, {"model": "toybox-ddpm"}, {"model": "toybox-ddpm", "num_images": 64, "num_steps": 25},
    {"model": "toybox-ddpm", "num_images": 16, "num_steps": 400}, {"model": "toybox-ddpm", "width": 256, "height": 256, "num_steps": 2},
    {"model": "toybox-sd", "num_images": 16, "num_steps": 25, "guidance_scale": 4.0},
    {"model": "toybox-sd", "width": 512, "height": 512, "num_steps": 2}, {"model": "toybox-sd", "width": 1024, "height": 1024, "num_steps": 1},
    {"model": "toybox-sd", "prompt": "a star", "guidance_scale": 4.0, "clip_guidance_scale": 100.0, "num_images": 2, "num_steps": 4},
)
ROUNDS = 9


def main() -> None:
    if CAN_MEASURE:
        print("| run | foretold, MiB | taken, MiB | ratio |\n|---|---|---|---|")
        for options in RUNS:
            told, took = foretold_and_measured(**options)
            print(f"| {options} | {told / 2**20:.0f} | {took / 2**20:.0f} | {told / took:.2f} |", flush=True)
    print("\n| model | weighing, ms | a run of 10 steps, ms | ratio | counting a size for the first time, ms |\n|---|---|---|---|---|")
    for model in ("digits-ddpm", "toybox-ddpm", "toybox-sd"):
        _cost(model)


def _cost(model: str) -> None:
    from studio.sampling.estimate import need_of_runs

    studio, options = Studio(), SampleOptions(model=model, num_steps=10)
    list(studio.sample(options))
    timing = time_paired(lambda: studio.require_room(options), lambda: list(studio.sample(options)), ROUNDS)
    started = time.perf_counter()
    need_of_runs(studio.model(model), [options], quick=False)
    counted = 1000 * (time.perf_counter() - started)
    print(f"| {model} | {1000 * timing.ours_s:.2f} | {1000 * timing.theirs_s:.0f} | {timing.ratio:.4f} | {counted:.0f} |", flush=True)
