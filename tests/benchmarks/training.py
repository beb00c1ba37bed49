"""A step of the trainers of autoencoders and of text to image against the same written out plainly with diffusers: same networks, batch, precision.

    python -m tests.benchmarks training

Plainly as in diffusers' examples: pictures and captions are encoded in every step, AdamW goes weight by weight. Both have the memory settings
of a trainer. One thread, unless OMP_NUM_THREADS says otherwise.
"""

import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from studio.machine import keep_freed_memory
from studio.models.catalogue import ASSETS
from studio.models.folding import folded, learning_folds_of
from tests.benchmarks.paired import time_paired
from trainers.captions import token_ids
from trainers.latent import LatentOptions, LatentTask
from trainers.loop import Task
from trainers.vae import VaeOptions, VaeTask

ROUNDS = 9
CPU = torch.device("cpu")


def main() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    keep_freed_memory()
    print("| trainer | ours, s a step | plain, s a step | times the steps a second | by the processor's time |\n|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        for name, compared in (("vae", _vae), ("latent", _latent)):
            ours, plain = compared(Path(folder))
            ours(), plain()
            timing = time_paired(ours, plain, ROUNDS)
            print(f"| {name} | {timing.ours_s:.3f} | {timing.theirs_s:.3f} | {1 / timing.ratio:.2f} | {1 / timing.cpu_ratio:.2f} |", flush=True)


def descent(network: torch.nn.Module, fused: bool = False) -> Callable[[Tensor], None]:
    """What a step does with its loss."""
    learning = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, **({"fused": True} if fused else {}))

    def descend(loss: Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return descend


def step_of(task: Task, batch: Tensor) -> Callable[[], None]:
    """A step as trainers.loop takes it."""
    network, generator = task.network.train().to(memory_format=task.memory_format), torch.Generator().manual_seed(0)
    descend, folds = descent(network, fused=True), learning_folds_of(network)

    def step() -> None:
        with folded(folds):
            descend(task.losses(network, batch, generator, CPU).descend)

    return step


def _vae(folder: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    options = VaeOptions(data="toybox-world", output=str(folder / "vae"), data_limit=64, widths="16,48,96", batch_size=16, preview_weight=0.05)
    task = VaeTask(options)
    vae, batch = deepcopy(task.network.vae).train(), torch.arange(options.batch_size)
    descend, pixels = descent(vae), task.data.batch(batch)

    def plain() -> None:
        posterior = vae.encode(pixels).latent_dist
        z = posterior.sample()
        error = (vae.decode(z).sample - pixels).square().mean()
        descend(error + options.kl_weight * posterior.kl().mean() / z[0].numel())

    return step_of(task, batch), plain


def _latent(folder: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    embedded = ASSETS / "models"
    options = replace(
        LatentOptions(data="toybox-world", output=str(folder / "latent"), vae=str(embedded / "toybox-sd" / "vae"), clip=str(embedded / "toybox-clip")),
        widths="64,96,96", data_limit=64,
    )
    task = LatentTask(options)
    unet, batch, pixels = deepcopy(task.network).train(), torch.arange(options.batch_size), torch.rand(options.batch_size, 3, 64, 64) * 2 - 1
    descend, captions, process = descent(unet), ["a red heart on a white background"] * options.batch_size, task.scheduler

    def plain() -> None:
        with torch.no_grad():
            z = task.vae.encode(pixels).latent_dist.sample() * task.vae.config.scaling_factor
            text: Any = task.encoder(token_ids(task.tokenizer, captions))[0]
        t, noise = torch.randint(1000, (len(z),)), torch.randn(z.shape)
        target = process.get_velocity(z, noise, t) if options.prediction_type == "v_prediction" else noise
        descend((unet(process.add_noise(z, noise, t), t, text).sample - target).square().mean())

    return step_of(task, batch), plain


if __name__ == "__main__":
    main()
