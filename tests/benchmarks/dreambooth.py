"""DreamBooth steps a second: the studio's trainer against diffusers' full-UNet step written out plainly, in turn in one run.

The plain step reads its pictures from their files, tokenises its prompts and encodes both each time, as diffusers' example
does without options; a second one has its pictures in memory. Same base, batch, precision; events and TensorBoard logs on. The
last figures are what events cost of a step, and what events and the sample sheets cost of the steps of the preset "toybox".
"""

import math
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from studio.media.folders import read_picture
from studio.media.images import to_square
from studio.runs.trainers.dreambooth import DreamBoothOptions, instance_paths
from studio.runs.trainers.presets import PRESETS
from trainers.dreambooth import (
    DreamBoothTask,
    class_pictures,
    ensure_class_images,
    load_parts,
    to_tensor,
    train,
)

ROUNDS, STEPS_A_ROUND = 20, 5


def main(base: str = "toybox-sd") -> None:
    """Print a table of ratios."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"base": base, "batch_size": 4, "num_class_images": 16, "class_steps": 5, "sample_every": 0, "checkpoint_every": 10_000, "steps": 1000}
        options |= {"class_images": str(Path(folder) / "class"), "instances": "assets/examples/domino", "resolution": 64}
        cached, each_time = (DreamBoothOptions(output=str(Path(folder) / str(cache)), cache=cache, **options) for cache in (True, False))
        ensure_class_images(cached, load_parts(base))
        contestants = {
            "plain": plain_steps(cached), "plain, pictures in memory": plain_steps(cached, in_memory=True),
            "cached": train(cached, progress=False), "uncached": train(each_time, progress=False),
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        with ExitStack() as closed_in_time:
            for steps in contestants.values():
                next(closed_in_time.enter_context(closing(steps)))
            for _ in range(ROUNDS):
                for name, steps in contestants.items():
                    times[name].append(timed(partial(deque, islice(steps, STEPS_A_ROUND), maxlen=0)) / STEPS_A_ROUND)
    print("| step | seconds | steps a second against the plain one |\n|---|---|---|")
    for name, seconds in times.items():
        # Round by round, as the machine's pace changes.
        ratio = statistics.median(plain / ours for plain, ours in zip(times["plain"], seconds, strict=True))
        print(f"| {name} | {statistics.median(seconds):.3f} | {ratio:.2f} |")
    event_s = event_cost()
    print(f"events and logs: {event_s / statistics.median(times['cached']):.2%} of a cached step")
    print(f"events, logs and sample sheets: {share_of_looking_on(event_s):.2%} of the steps of the preset")


def plain_steps(options: DreamBoothOptions, *, in_memory: bool = False) -> Iterator[float]:
    """Full-UNet DreamBooth with prior preservation, nothing kept from step to step but, if asked for, the decoded pictures."""
    parts = load_parts(options.base)
    unet, vae, encoder, tokenizer, process = (parts[name] for name in ("unet", "vae", "text_encoder", "tokenizer", "process"))
    unet.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=options.lr)
    fixed = torch.Generator()

    def read(path: Path) -> Any:
        return to_square(read_picture(path), options.resolution, "center", fixed)

    halves = instance_paths(options.instances), list(class_pictures(options.class_folder).values())
    kept = {path: read(path) for half in halves for path in half} if in_memory else {}
    prompts = [options.instance_prompt] * options.batch_size + [options.class_prompt] * options.batch_size
    while True:
        chosen = [half[i] for half in halves for i in torch.randint(len(half), (options.batch_size,)).tolist()]
        batch = to_tensor([kept[path] if in_memory else read(path) for path in chosen])
        with torch.no_grad():
            z = vae.encode(batch).latent_dist.sample() * vae.config.scaling_factor
            ids = tokenizer(prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
            text = encoder(ids)[0]
        noise, t = torch.randn_like(z), torch.randint(1000, (len(z),))
        target = process.get_velocity(z, noise, t) if process.config.prediction_type == "v_prediction" else noise
        output = unet(process.add_noise(z, noise, t), t, text).sample
        instance, prior = ((output - target) ** 2).chunk(2)
        loss = instance.mean() + options.prior_weight * prior.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def share_of_looking_on(event_s: float) -> float:
    """What events and sheets take of the time of steps, events and sheets of the preset; start and class pictures are left out."""
    with tempfile.TemporaryDirectory() as folder:
        options = DreamBoothOptions(output=folder, **(PRESETS["toybox"].options | {"num_class_images": 16, "sample_every": 0}))
        with closing(train(options, progress=False)) as steps:
            next(steps)
            step_s = statistics.median(timed(lambda: next(steps)) for _ in range(20))
        asked = replace(options, sample_every=PRESETS["toybox"].options["sample_every"])
        task = DreamBoothTask(asked)
        sheet_s = statistics.median(timed(lambda: task.sheet(task.network)) for _ in range(3))
    looking_on = sheet_s * (1 + math.ceil(asked.steps / asked.sample_every)) + event_s * asked.steps
    return looking_on / (looking_on + step_s * asked.steps)


def timed(work: Callable[[], Any]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def event_cost(count: int = 200) -> float:
    """Seconds that one step's line and scalars take, with what is written behind the step's back."""
    from torch.utils.tensorboard import SummaryWriter

    from trainers.loop import write_scalars
    from trainers.run_folder import RunFolder

    values = {"step": 0, "loss": 0.1, "quartiles": (0.1, 0.1, 0.1, 0.1), "grad_norm": 1.0, "lr": 1e-4, "samples": 8, "samples_per_s": 10.0}
    with tempfile.TemporaryDirectory() as name:
        folder, writer = RunFolder(name), SummaryWriter(name)
        started = time.perf_counter()
        for step in range(count):
            folder.event(**(values | {"step": step}), instance=0.1, prior=0.1)
            write_scalars(writer, values | {"step": step, "extra": {"instance": 0.1, "prior": 0.1}})
        writer.close()  # waits for what its thread has still to write
        return (time.perf_counter() - started) / count
