"""ControlNets: our loop against StableDiffusionControlNetPipeline, a training step against a plain one, and Canny's answer in the page's handler.

    python -m tests.benchmarks control          toybox-sd, with ControlNets of its size and random outputs: speed does not hang on the weights

One thread, unless OMP_NUM_THREADS says otherwise.
"""

import os
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from studio import Finished, SampleOptions
from studio.models import load_model
from studio.models.activations import kept_for_backward
from studio.models.controlnets import load_controlnet, make_controlnet
from studio.models.folding import folded, learning_folds_of
from studio.sampling.controlled import make_ready
from studio.sampling.loop import sample
from studio.units import ControlUnit
from tests.benchmarks.paired import time_paired
from tests.benchmarks.training import descent
from trainers.controlnet import ControlNetOptions, ControlNetTask

ROUNDS, STEPS, PROMPT, GUIDANCE = 7, 20, "a red heart on a white background", 4.0


def main() -> None:
    # On cores that others use as well, two threads wait for each other: a call then takes minutes, of which the ratio says nothing.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with TemporaryDirectory() as folder:
        model = load_model("toybox-sd")
        nets = [_net(model, Path(folder) / str(seed), seed) for seed in (1, 2)]
        print("| units | images | ours, s | pipeline, s | ratio | largest difference of 255 |\n|---|---|---|---|---|---|")
        for count in (1, 2):
            for num_images in (1, 4):
                _compare(model, nets[:count], num_images)
        _compare_training(Path(folder))
        _time_canny(Path(folder))


def _net(model: Any, folder: Path, seed: int) -> str:
    """A ControlNet of the model's size whose outputs are not zero."""
    torch.manual_seed(seed)
    net = make_controlnet(model.network, model.factor)
    for name, weight in net.named_parameters():
        if "controlnet_" in name:
            torch.nn.init.normal_(weight, std=0.02)
    net.save_pretrained(folder)
    return str(folder)


def _map(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 2, (64, 64), dtype=np.uint8) * 255).convert("RGB")


def _compare(model: Any, nets: list[str], num_images: int) -> None:
    units = tuple(ControlUnit(net=net, map=_map(i)) for i, net in enumerate(nets))
    loaded = {net: load_controlnet(net) for net in nets}
    options = SampleOptions(model=model.name, prompt=PROMPT, num_steps=STEPS, num_images=num_images, guidance_scale=GUIDANCE, control=units)
    make_ready(model, options, loaded.__getitem__)
    theirs = _pipeline_call(model, nets, [unit.map for unit in units], num_images)

    def ours() -> np.ndarray:
        *_, last = sample(model, options, get_net=loaded.__getitem__)
        assert isinstance(last, Finished)
        return np.stack([np.asarray(image) for image in last.images])

    difference = np.abs(ours().astype(int) - theirs()).max()
    timing = time_paired(ours, theirs, ROUNDS)
    print(f"| {len(nets)} | {num_images} | {timing.ours_s:.3f} | {timing.theirs_s:.3f} | {timing.ratio:.3f} | {difference} |", flush=True)


def _pipeline_call(model: Any, nets: list[str], maps: list[Any], num_images: int) -> Callable[[], np.ndarray]:
    import diffusers

    loaded = [diffusers.ControlNetModel.from_pretrained(net) for net in nets]
    parts = {name: getattr(model.pipeline, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
    pipeline = diffusers.StableDiffusionControlNetPipeline(
        **parts, controlnet=loaded if len(loaded) > 1 else loaded[0], scheduler=diffusers.DDIMScheduler.from_config(model.scheduler_config),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)

    def call() -> np.ndarray:
        generators = [torch.Generator().manual_seed(i) for i in range(num_images)]
        images = pipeline(
            PROMPT, image=maps if len(maps) > 1 else maps[0], num_images_per_prompt=num_images, generator=generators, num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
        ).images
        return np.stack([np.asarray(image) for image in images])

    return call


def _compare_training(folder: Path) -> None:
    """A step of ours against that of diffusers' train_controlnet written out plainly, and against fine-tuning of the base. Same copy, batch, precision."""
    task = ControlNetTask(replace(ControlNetOptions(), output=str(folder / "run"), data_limit=64, sample_every=0))
    plain_network = deepcopy(task.network).train()
    network, process, parts = task.network.train().to(memory_format=torch.channels_last), task.noising.scheduler, task.base.parts
    unet = deepcopy(parts["unet"]).requires_grad_(True).train()
    batch, pixels, generator = torch.arange(16), torch.rand(16, 3, 64, 64) * 2 - 1, torch.Generator().manual_seed(0)
    descend, descend_plain = descent(network, fused=True), descent(plain_network)
    descend_unet = descent(unet, fused=True)

    def ours() -> None:
        descend(task.losses(network, batch, generator, torch.device("cpu")).descend)

    def plain() -> None:
        from trainers.dreambooth import token_features

        z = parts["vae"].encode(pixels).latent_dist.sample() * parts["vae"].config.scaling_factor
        t, noise = torch.randint(1000, (16,)), torch.randn(z.shape)
        text = token_features(parts, [PROMPT] * 16)
        output = plain_network(process.add_noise(z, noise, t), t, text, torch.rand(16, 3, 64, 64))
        descend_plain((output - process.get_velocity(z, noise, t)).square().mean())

    def fine_tuning() -> None:
        alone = _Unsteered(unet)
        descend_unet(task.losses(alone, batch, generator, torch.device("cpu")).descend)

    folds = learning_folds_of(network)
    with folded(folds):
        ours(), plain(), fine_tuning()
        timing = time_paired(ours, plain, ROUNDS)
    print(f"\nTraining: ours {timing.ours_s:.3f} s a step, plain {timing.theirs_s:.3f} s: {1 / timing.ratio:.2f} times the steps a second.", flush=True)
    with folded([*folds, *learning_folds_of(unet)]):
        beside = time_paired(ours, fine_tuning, ROUNDS)
    # Weights, gradients and both moments are four bytes each.
    held = [_held_gib(task, one) for one in (network, _Unsteered(unet))]
    print(
        f"Beside plain fine-tuning of the base's UNet: {beside.ratio - 1:+.0%} time, {held[0] / held[1] - 1:+.0%} memory "
        f"({1024 * held[0]:.0f} and {1024 * held[1]:.0f} MiB of weights, gradients, moments and activations); the paper has +34 % and +23 %.", flush=True,
    )


class _Unsteered(torch.nn.Module):
    """A UNet that learns itself, asked as the steered one is."""

    def __init__(self, unet: Any):
        super().__init__()
        self.unet = unet

    def forward(self, z_t: torch.Tensor, t: torch.Tensor, text: torch.Tensor, hint: torch.Tensor) -> torch.Tensor:
        return self.unet(z_t, t, text, return_dict=False)[0]


def _held_gib(task: ControlNetTask, network: torch.nn.Module) -> float:
    """GiB of the weights, of what descent keeps for those that learn, and of what backward needs."""
    weights = [(weight.numel(), weight.requires_grad) for weight in network.parameters()]
    z, text, hint = torch.zeros(16, *task.kept["latents"].shape[1:]), task.kept["features"][:1].float().expand(16, -1, -1), torch.zeros(16, 3, 64, 64)
    kept = kept_for_backward(network, lambda: network(z, torch.ones(16, dtype=torch.long), text, hint), checkpointing=False)
    return (4 * sum(count for count, _ in weights) + 12 * sum(count for count, learns in weights if learns) + kept) / 2**30


def _time_canny(folder: Path) -> None:
    """What a moved threshold costs on a photograph of a megapixel: the whole handler, file, edges and answer."""
    from skimage import data

    from tabs.parts.units import FIRST, preview

    path = folder / "photo.png"
    Image.fromarray(data.astronaut()).resize((1024, 1024)).save(path)
    seconds = []
    for low in range(20, 120, 10):
        started = time.perf_counter()
        preview(_Nets(), {**FIRST, "picture": str(path), "first": float(low)}, (512, 512))  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - started)
    print(f"\nCanny on a photograph of 1,024 x 1,024 at 512 x 512: {1000 * median(seconds[1:]):.0f} ms for the handler.", flush=True)


class _Nets:
    """A studio without ControlNets."""

    public, controlnets = False, {}


if __name__ == "__main__":
    main()
