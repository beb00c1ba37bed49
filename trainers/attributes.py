"""The examiner of text-to-image: a small network that reads all five attributes off a picture of the Toybox.

    python -m trainers.attributes --output runs/attributes
    python -m trainers.attributes --judge runs/toybox-sd/model

It learns from renders alone, so it knows nothing of any generator; its own accuracy on fresh renders is stated beside
what it says of generated pictures.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from studio.models.examiner import ACCURACY, RESOLUTION, WEIGHTS, Examiner, examine, load_examiner, split_logits
from studio.models.loading import resolve
from studio.models.taught import base_of
from studio.runs.trainers.options import MOST_STEPS, LoopOptions, option
from studio.toybox import ATTRIBUTES, Scene, caption
from trainers.captions import draw_scenes, load_captioned, toybox_scenes
from trainers.command_line import parse_options
from trainers.loop import Losses, StepLog, Task, run_loop
from trainers.pipelines import to_half
from trainers.program import run_program

__all__ = ["AttributeOptions", "train", "examine_renders", "judge_prompts", "generate"]


@dataclass(frozen=True, kw_only=True)
class AttributeOptions(LoopOptions):
    """The knobs of a run; `python -m trainers.attributes --help` prints them."""

    output: str = option("runs/attributes", "the run folder; an unfinished run in it is resumed")
    data_limit: int = option(40_000, "how many scenes are drawn, of all combinations", low=1, high=10_000_000)
    steps: int = option(2000, "optimiser steps in all", low=1, high=MOST_STEPS)
    batch_size: int = option(64, "pictures a step", low=1, high=4096)
    lr: float = option(2e-3, "peak learning rate of AdamW, between 0 and 1", low=0, high=1)
    blur: float = option(0.5, "share of pictures softened by halving and enlarging them, so that softness alone misleads nobody, 0 to 1", low=0, high=1)
    judge: str = option("", "a StableDiffusionPipeline folder to judge instead of training")
    prompts: int = option(200, "how many prompts of each kind are judged", low=1, high=100_000)


def softened(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Pictures (B, 3, H, W), a share of them halved and enlarged again, all with a little noise."""
    soft = (torch.rand(len(x), generator=generator) < share)[:, None, None, None]
    small = nn.functional.avg_pool2d(x, 2)
    x = torch.where(soft, nn.functional.interpolate(small, scale_factor=2, mode="bilinear"), x)
    return x + 0.05 * torch.randn(x.shape, generator=generator)


def labels_of(scenes: list[Scene]) -> dict[str, Tensor]:
    """{attribute: (B,) indices}."""
    return {name: torch.tensor([values.index(getattr(scene, name)) for scene in scenes]) for name, values in ATTRIBUTES.items()}


class AttributeTask(Task):
    """Scenes and the examiner."""

    def __init__(self, options: AttributeOptions):
        self.options = options
        torch.manual_seed(options.seed)
        self.data = load_captioned("toybox", RESOLUTION, limit=options.data_limit, seed=options.seed, split="all")
        self.labels, self.size = labels_of(list(self.data.texts)), len(self.data)  # type: ignore[arg-type]
        self.network = Examiner()

    def losses(self, network: Any, indices: Tensor, generator: torch.Generator, device: torch.device) -> Losses:
        x = softened(self.data.batch(indices), self.options.blur, generator)
        logits = split_logits(network(x.to(device)))
        each = torch.stack([nn.functional.cross_entropy(logits[name], self.labels[name][indices].to(device), reduction="none") for name in ATTRIBUTES]).sum(0)
        right = torch.stack([(logits[name].argmax(1).cpu() == self.labels[name][indices]).float() for name in ATTRIBUTES])
        return Losses(descend=each.mean(), each=each, extra={"accuracy": right.mean()})

    def save(self, network: Any, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        save_file({name: to_half(tensor) for name, tensor in network.state_dict().items()}, path / WEIGHTS)
        write_accuracy(path)


def write_accuracy(folder: Path) -> dict[str, float]:
    """Measure the kept weights on fresh renders, and keep the figures beside them."""
    accuracy = {name: float(np.mean(right)) for name, right in examine_renders(load_examiner(folder), seed=900_001).items()}
    (folder / ACCURACY).write_text(json.dumps(accuracy, indent=2) + "\n")
    return accuracy


def train(options: AttributeOptions, *, progress: bool = True) -> Iterator[StepLog]:
    """Run (or resume) a training, one StepLog a step: see trainers.loop.run_loop."""
    yield from run_loop(AttributeTask(options), progress=progress)


# --- judging -------------------------------------------------------------------------------------------------

def examine_renders(examiner: Examiner, seed: int, count: int = 2000) -> dict[str, np.ndarray]:
    """The examiner's own answers on fresh renders."""
    scenes = toybox_scenes(seed, count, "all")
    return examine(examiner, draw_scenes(scenes, RESOLUTION), scenes)


def judge_prompts(
    model: str, examiner: Examiner, *, split: str, count: int = 200, guidance_scale: float = 4.0, num_steps: int = 25, seed: int = 700_000,
) -> dict[str, float]:
    """Share of generated pictures that show each attribute of their full prompt, and "all" of them at once.

    The prompts are those of fresh scenes of the split; "held_out" are combinations that were never trained on.
    """
    scenes = toybox_scenes(seed, count, split)
    pictures = generate(model, [caption(scene) for scene in scenes], guidance_scale=guidance_scale, num_steps=num_steps, seed=seed)
    right = examine(examiner, torch.from_numpy(pictures).movedim(-1, 1), scenes)
    both = {"position and size": right["position"] & right["size"], "all": np.logical_and.reduce(list(right.values()))}
    return {name: float(np.mean(answers)) for name, answers in {**right, **both}.items()}


def generate(model: str, prompts: list[str], *, guidance_scale: float, num_steps: int, seed: int, batch: int = 25) -> np.ndarray:
    """(N, 64, 64, 3) uint8 by plain diffusers with DDIM, a seed a prompt. The folder may be a LoRA's, which names its base."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from tqdm import tqdm

    base = base_of(model)
    pipeline = StableDiffusionPipeline.from_pretrained(resolve(base) if base else model, torch_dtype=torch.float32, safety_checker=None)
    if base:
        pipeline.load_lora_weights(model)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    for i in tqdm(range(0, len(prompts), batch), desc="drawing prompts", leave=False):
        texts = prompts[i : i + batch]
        generators = [torch.Generator().manual_seed(seed + i + k) for k in range(len(texts))]
        parts.append(pipeline(texts, num_inference_steps=num_steps, guidance_scale=guidance_scale, generator=generators, output_type="np").images)
    return (np.concatenate(parts) * 255).round().astype(np.uint8)


def main(argv: list[str] | None = None) -> None:
    """The command line: trains, or with --judge prints the figures of a model as JSON."""
    options = parse_options(AttributeOptions, argv, prog="python -m trainers.attributes", description="Train the examiner, or judge a model with it.")
    if options.judge:
        examiner = load_examiner()
        print(json.dumps({split: judge_prompts(options.judge, examiner, split=split, count=options.prompts) for split in ("train", "held_out")}, indent=2))
        return
    run_program(AttributeOptions, train, argv, description="Train the examiner.")


if __name__ == "__main__":
    main()
