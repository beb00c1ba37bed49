"""Our loop, everything recorded and shown at full rate, against StableDiffusionPipeline.__call__: same folder, scheduler, steps, seed, dtype.

    python -m tests.benchmarks latent              toybox-sd where it is there, else random weights of its size
    python -m tests.benchmarks.latent FOLDER       any StableDiffusionPipeline folder
"""

import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from studio import Finished, SampleOptions
from studio.models import MODELS, load_model
from studio.process.schedulers import SCHEDULERS
from studio.sampling.loop import sample
from tests.benchmarks.paired import time_paired

ROUNDS = 7
NUM_STEPS = 25
PROMPT = "a purple butterfly on a yellow background"
GUIDANCE = 4.0


def main() -> None:
    with TemporaryDirectory() as folder:
        model = load_model(_model(Path(folder)))
        print(f"{model.info.label}, {model.device}, {str(model.network.dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads\n")
        print("| scheduler | images | ours, s | pipeline, s | ratio | largest difference of 255 |\n|---|---|---|---|---|---|")
        for scheduler in ("ddim", "dpm++_2m"):
            for num_images in (1, 4):
                _compare(model, scheduler, num_images)
        _compare_recording(model)
        print("\n| images | ours, peak MiB | pipeline, peak MiB | ratio |\n|---|---|---|---|")
        for num_images in (1, 4):
            ours, theirs = _peaks_on_gpu(model, num_images) if model.device.type == "cuda" else _peaks_of_processes(model.name, num_images)
            print(f"| {num_images} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.3f} |", flush=True)


def _model(folder: Path) -> str:
    if len(sys.argv) > 1 and Path(sys.argv[1]).is_dir():
        return sys.argv[1]
    if "toybox-sd" in MODELS:
        return "toybox-sd"
    from tests.tiny_sd import save_tiny_sd

    return save_tiny_sd(folder / "random", widths=(64, 128, 192), vae_widths=(32, 64, 64), sample_size=16, text_width=128, head_dim=32)


def _calls(model, scheduler: str, num_images: int):
    options = SampleOptions(model=model.name, prompt=PROMPT, scheduler=scheduler, num_steps=NUM_STEPS, num_images=num_images, guidance_scale=GUIDANCE)
    # As the studio does with the model that a tab opens with.
    model.make_ready(options)
    pipeline = _pipeline(model, scheduler)

    def ours() -> np.ndarray:
        shown = 0.0
        for event in sample(model, options):
            if isinstance(event, Finished):
                return np.stack([np.asarray(image) for image in event.images])
            # As the page does it: at most twenty times a second, of x_t and x0_hat.
            if time.perf_counter() - shown > 0.05:
                event.pictures("x_t").cpu(), event.pictures("x0_hat").cpu()
                shown = time.perf_counter()
        raise AssertionError

    def theirs() -> np.ndarray:
        generators = [torch.Generator().manual_seed(i) for i in range(num_images)]
        images = pipeline(PROMPT, num_images_per_prompt=num_images, generator=generators, num_inference_steps=NUM_STEPS, guidance_scale=GUIDANCE).images
        return np.stack([np.asarray(image) for image in images])

    return ours, theirs


def _pipeline(model, scheduler: str):
    """diffusers' pipeline around the very parts that our loop uses."""
    import diffusers

    info = SCHEDULERS[scheduler]
    own = getattr(diffusers, info.diffusers_class or "DDIMScheduler").from_config(model.scheduler_config, **info.config)
    parts = {name: getattr(model.pipeline, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
    pipeline = diffusers.StableDiffusionPipeline(**parts, scheduler=own, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _compare(model, scheduler: str, num_images: int) -> None:
    ours, theirs = _calls(model, scheduler, num_images)
    difference = np.abs(ours().astype(int) - theirs()).max()
    timing = time_paired(ours, theirs, ROUNDS)
    print(f"| {scheduler} | {num_images} | {timing.ours_s:.3f} | {timing.theirs_s:.3f} | {timing.ratio:.3f} | {difference} |", flush=True)


def _compare_recording(model) -> None:
    """What it costs to record where each word is looked at."""
    def run(**changes):
        options = SampleOptions(model=model.name, prompt=PROMPT, scheduler="ddim", num_steps=NUM_STEPS, guidance_scale=GUIDANCE, **changes)
        model.make_ready(options)
        return lambda: list(sample(model, options))

    timing = time_paired(run(record_attention=True), run(), ROUNDS)
    print(f"\nWith word attention recorded {timing.ours_s:.3f} s, without {timing.theirs_s:.3f} s, ratio {timing.ratio:.3f}.", flush=True)


def _peaks_on_gpu(model, num_images: int) -> tuple[float, float]:
    peaks = []
    for call in _calls(model, "ddim", num_images):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        call()
        peaks.append(torch.cuda.max_memory_allocated() / 2**20)
    return peaks[0], peaks[1]


def _peaks_of_processes(name: str, num_images: int) -> tuple[float, float]:
    """MiB that a whole process of each ever held; the median of three, as the allocator's moods differ."""
    def peak(which: int) -> float:
        command = [sys.executable, "-m", "tests.benchmarks.latent", "--peak", name, str(which), str(num_images)]
        return median(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]) for _ in range(3))

    return peak(0), peak(1)


def _print_peak(name: str, which: int, num_images: int) -> None:
    _calls(load_model(name), "ddim", num_images)[which]()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        _print_peak(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
