"""The examiner of the whole toy world: learns from renders to read one object or two off a picture.

    python -m trainers.reader --output runs/toybox-reader
    python -m trainers.reader --judge runs/toybox-sd/model --reader runs/toybox-reader/model

Each step: renders, half of them softened, and what their cells should say; the middles by the focal loss of
arXiv:1904.07850, equation 1, the rest by cross-entropy where an object's middle lies.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from studio.models.scene_reader import CELLS, RESOLUTION, WEIGHTS, SceneReader, examine_scenes, load_reader, split_cells, truth_of
from studio.runs.trainers.options import MOST_STEPS, LoopOptions, option
from studio.toybox import COLOURS, OBJECTS, SIZES, WORLDS, AnyScene, caption
from trainers.attributes import generate, softened
from trainers.captions import draw_scenes, load_captioned, toybox_scenes
from trainers.command_line import parse_options
from trainers.loop import Losses, StepLog, Task, run_loop
from trainers.pipelines import to_half
from trainers.program import run_program

__all__ = ["ReaderOptions", "examine_fresh", "judge_world", "train"]

MENUS = {"object": OBJECTS, "colour": COLOURS, "size": SIZES}
SPREAD = 0.7  # of the target around a middle, in cells
ACCURACY = "accuracy.json"


@dataclass(frozen=True, kw_only=True)
class ReaderOptions(LoopOptions):
    """The knobs of a run; `python -m trainers.reader --help` prints them."""

    output: str = option("runs/toybox-reader", "the run folder; an unfinished run in it is resumed")
    data: str = option("toybox-world", "which world it reads", WORLDS)
    data_limit: int = option(40_000, "how many scenes are drawn, of all combinations", low=1, high=10_000_000)
    steps: int = option(4000, "optimiser steps in all", low=1, high=MOST_STEPS)
    batch_size: int = option(64, "pictures a step", low=1, high=4096)
    lr: float = option(2e-3, "peak learning rate of AdamW, between 0 and 1", low=0, high=1)
    blur: float = option(0.5, "share of pictures softened by halving and enlarging them, so that softness alone misleads nobody, 0 to 1", low=0, high=1)
    judge: str = option("", "a StableDiffusionPipeline folder to judge instead of training")
    reader: str = option("runs/toybox-reader/model", "the reader that judges")
    prompts: int = option(200, "how many prompts of each kind are judged", low=1, high=100_000)


# --- what the cells should say -------------------------------------------------------------------------------

def targets(scenes: Sequence[AnyScene]) -> dict[str, Tensor]:
    """middle (N, 16, 16) in 0..1; of each object, in one long list: picture, row, column (K,) int64, offset (K, 2), and
    the indices of its object, colour and size (K,); background (N,)."""
    middle = torch.zeros(len(scenes), CELLS, CELLS)
    rows: list[list[float]] = []
    for k, scene in enumerate(scenes):
        for thing in truth_of(scene):
            x, y = (CELLS * value for value in thing.centre)
            column, row = min(int(x), CELLS - 1), min(int(y), CELLS - 1)
            middle[k] = torch.maximum(middle[k], _spot(row, column))
            rows.append([k, row, column, x - column, y - row, *(menu.index(getattr(thing, name)) for name, menu in MENUS.items())])
    table = torch.tensor(rows)
    columns = dict(zip(("picture", "row", "column"), table[:, :3].long().T)) | dict(zip(MENUS, table[:, 5:].long().T))
    return {"middle": middle, "offset": table[:, 3:5], "background": torch.tensor([COLOURS.index(scene.background) for scene in scenes]), **columns}


def _spot(row: int, column: int) -> Tensor:
    place = torch.arange(CELLS)
    return torch.exp(-((place[:, None] - row) ** 2 + (place[None] - column) ** 2) / (2 * SPREAD**2))


def focal_loss(logits: Tensor, middle: Tensor) -> Tensor:
    """(B,) arXiv:1904.07850, equation 1, over cells (B, h, w), an object's share."""
    likely, unlikely = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
    is_middle = (middle == 1).float()
    hit = is_middle * unlikely.exp() ** 2 * likely
    miss = (1 - is_middle) * (1 - middle) ** 4 * likely.exp() ** 2 * unlikely
    return -(hit + miss).sum((1, 2)) / is_middle.sum((1, 2)).clamp(min=1)


def reading_loss(cells: Tensor, background: Tensor, wanted: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(loss of each picture (B,), share of names that are right)."""
    parts = split_cells(cells)
    at = (wanted["picture"], slice(None), wanted["row"], wanted["column"])
    said = {name: part[at] for name, part in parts.items()}
    names = sum(nn.functional.cross_entropy(said[name], wanted[name], reduction="none") for name in MENUS)
    offset = (said["offset"].sigmoid() - wanted["offset"]).abs().sum(1)
    counts = wanted["picture"].bincount(minlength=len(cells))
    objects = torch.zeros(len(cells), device=cells.device).index_add(0, wanted["picture"], names + offset) / counts
    behind = nn.functional.cross_entropy(background, wanted["background"], reduction="none")
    right = torch.cat([(said[name].argmax(1) == wanted[name]).float() for name in MENUS])
    return focal_loss(parts["middle"][:, 0], wanted["middle"]) + objects + behind, right.mean()


# --- the task ------------------------------------------------------------------------------------------------

class ReaderTask(Task):
    """Scenes and the reader."""

    def __init__(self, options: ReaderOptions):
        self.options = options
        torch.manual_seed(options.seed)
        self.data = load_captioned(options.data, RESOLUTION, limit=options.data_limit, seed=options.seed, split="all")
        self.size, self.network = len(self.data), SceneReader()

    def losses(self, network: Any, indices: Tensor, generator: torch.Generator, device: torch.device) -> Losses:
        x = softened(self.data.batch(indices), self.options.blur, generator)
        scenes: Any = [self.data.texts[int(i)] for i in indices]
        wanted = {name: tensor.to(device) for name, tensor in targets(scenes).items()}
        each, right = reading_loss(*network(x.to(device)), wanted)
        return Losses(descend=each.mean(), each=each, extra={"accuracy": right})

    def save(self, network: Any, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        save_file({name: to_half(tensor) for name, tensor in network.state_dict().items()}, path / WEIGHTS)
        (path / ACCURACY).write_text(json.dumps(examine_fresh(load_reader(path)), indent=2) + "\n")


def train(options: ReaderOptions, *, progress: bool = True) -> Iterator[StepLog]:
    """Run (or resume) a training, one StepLog a step: see trainers.loop.run_loop."""
    yield from run_loop(ReaderTask(options), progress=progress)


# --- judging -------------------------------------------------------------------------------------------------

def examine_fresh(reader: SceneReader, seed: int = 900_001, count: int = 1000) -> dict[str, dict[str, float]]:
    """{"one", "two": {what: share right}} on fresh renders of all combinations."""
    figures = {}
    for name, world in (("one", "toybox"), ("two", "toybox-pairs")):
        scenes = toybox_scenes(seed, count, "all", world)
        figures[name] = shares(examine_scenes(reader, draw_scenes(scenes, RESOLUTION), scenes))
    return figures


def judge_world(
    model: str, reader: SceneReader, *, world: str, split: str, count: int = 200, guidance_scale: float = 4.0, seed: int = 700_000,
) -> dict[str, float]:
    """{what: share right} of pictures generated from full captions of fresh scenes of a world and split."""
    scenes = toybox_scenes(seed, count, split, world)
    pictures = generate(model, [caption(scene) for scene in scenes], guidance_scale=guidance_scale, num_steps=25, seed=seed)
    return shares(examine_scenes(reader, torch.from_numpy(pictures).movedim(-1, 1), scenes))


def shares(right: dict[str, np.ndarray]) -> dict[str, float]:
    """The share of right answers to each question; of two objects also both of a kind, each object with its own colour."""
    if "relation" in right:
        objects = np.concatenate([right["first object"], right["second object"]])
        colours = np.concatenate([right["first colour"], right["second colour"]])
        right = {**right, "each object": objects, "its own colour": colours}
    return {name: float(np.mean(answers)) for name, answers in right.items()}


def main(argv: list[str] | None = None) -> None:
    """The command line: trains, or with --judge prints the figures of a model as JSON."""
    options = parse_options(ReaderOptions, argv, prog="python -m trainers.reader", description="Train the reader of the toy world, or judge a model with it.")
    if options.judge:
        reader = load_reader(options.reader)
        figures = {
            f"{world}, {split}": judge_world(options.judge, reader, world=world, split=split, count=options.prompts)
            for world in ("toybox", "toybox-pairs") for split in ("train", "held_out")
        }
        print(json.dumps(figures, indent=2))
        return
    run_program(ReaderOptions, train, argv, description="Train the reader of the toy world.")


if __name__ == "__main__":
    main()
