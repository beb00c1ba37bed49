"""The example run of DreamBooth judged from fresh seeds: does the token draw the subject, where it is asked to be, and is the class kept?

    python -m trainers.rebuild domino

The preset "toybox", with prior preservation and without, and the preset "toybox-lora" are judged beside their base model.
Likeness is the cosine between picture features of toybox-clip, as DINO and CLIP-I figures of arXiv:2208.12242 are made; what
is in a picture is read by the examiner, which has never seen any of these models.
"""

import json
from collections import Counter
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studio.models.catalogue import ASSETS
from studio.models.examiner import load_examiner, read_attributes
from studio.runs.trainers.dreambooth import DreamBoothOptions, load_instances
from studio.runs.trainers.presets import PRESETS
from studio.toybox import COLOURS
from studio.toybox.subject import SUBJECT_CLASS
from trainers.attributes import generate

__all__ = ["RUNS", "judge_subject", "subject_card"]

EXAMPLE = DreamBoothOptions(output="runs/domino", **PRESETS["toybox"].options)
RUNS = {
    "after": EXAMPLE,
    "without_prior": replace(EXAMPLE, output="runs/domino-without-prior", prior_weight=0.0),
    "lora": DreamBoothOptions(output="runs/domino-lora", **PRESETS["toybox-lora"].options),
}
NAMES = {"before": "before", "after": "after", "without_prior": "after, without prior preservation", "lora": "after, LoRA"}
SAMPLES, CLASS_SAMPLES, SEED = 32, 100, 40_000
SAMPLER = {"guidance_scale": 4.0, "num_steps": 25}


def judge_subject(folder: Path) -> dict[str, Any]:
    """Likeness, backgrounds and the class, before and after; writes samples.png into `folder`."""
    models = {"before": EXAMPLE.base, **{name: f"{run.output}/model" for name, run in RUNS.items()}}
    backgrounds = list(islice(cycle(COLOURS), SAMPLES))
    drawn = {name: draw(model, [f"{EXAMPLE.instance_prompt} on a {colour} background" for colour in backgrounds], SEED) for name, model in models.items()}
    of_class = {name: draw(model, [EXAMPLE.class_prompt] * CLASS_SAMPLES, SEED + SAMPLES) for name, model in models.items()}
    sheet(drawn, of_class).save(folder / "samples.png")
    own = features(torch.stack([torch.from_numpy(np.array(picture)) for picture in load_instances(EXAMPLE)]).movedim(-1, 1))
    examiner = load_examiner()
    read = {name: read_attributes(examiner, pictures) for name, pictures in of_class.items()}
    return {
        "likeness": {name: likeness(features(pictures), own) for name, pictures in drawn.items()} | {"themselves": among(own)},
        "background": {name: share(read_attributes(examiner, pictures)["background"], backgrounds) for name, pictures in drawn.items()},
        "class": {name: share(words["object"], [SUBJECT_CLASS] * CLASS_SAMPLES) for name, words in read.items()},
        "diversity": {name: entropy(words["colour"]) for name, words in read.items()},
        "minutes": {name: minutes(Path(run.output)) for name, run in RUNS.items()},
    }


def draw(model: str, prompts: list[str], seed: int) -> Tensor:
    """(N, 3, 64, 64) uint8."""
    from studio.models.loading import resolve

    return torch.from_numpy(generate(resolve(model), prompts, seed=seed, **SAMPLER)).movedim(-1, 1)


@torch.inference_mode()
def features(pixels: Tensor) -> Tensor:
    """(N, D) unit picture features of toybox-clip, for (N, 3, 64, 64) uint8."""
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(ASSETS / "models" / "toybox-clip", dtype=torch.float32).eval()
    vectors = model.visual_projection(model.vision_model(pixel_values=pixels.float() / 127.5 - 1).pooler_output)
    return vectors / vectors.norm(dim=-1, keepdim=True)


def likeness(a: Tensor, b: Tensor) -> float:
    """Mean cosine of all pairs."""
    return (a @ b.T).mean().item()


def among(a: Tensor) -> float:
    """Mean cosine of all pairs of different ones."""
    count = len(a)
    return ((a @ a.T).sum().item() - count) / (count * (count - 1))


def share(read: list[str], asked: list[str]) -> float:
    return float(np.mean([one == other for one, other in zip(read, asked, strict=True)]))


def entropy(words: list[str]) -> float:
    """Shannon entropy of how often each word occurs, in bits: 0 where all are one, log2(n) where n words are equally frequent."""
    shares = np.array(list(Counter(words).values())) / len(words)
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def minutes(run: Path) -> float:
    """From the start of the run's process to its end."""
    state = json.loads((run / "state.json").read_text())
    return (state["ended"] - state["started"]) / 60


def sheet(drawn: dict[str, Tensor], of_class: dict[str, Tensor], columns: int = 12) -> Any:
    """A row of the subject's prompt for each model, then a row of the class's; the first seeds, none chosen."""
    from studio.media.images import grid, to_image

    rows = [pictures[:columns] for pictures in (*drawn.values(), *of_class.values())]
    return to_image(grid(torch.cat(rows).movedim(1, -1).numpy(), columns, gap=2))


def subject_card(quality: dict[str, Any], commands: dict[str, str]) -> str:
    """The card of the example run. commands: what repeats each of RUNS."""
    like, took = quality["likeness"], quality["minutes"]
    recipes = "\n".join(f"| {NAMES[name]}, {took[name]:.1f} min | `{command}` |" for name, command in commands.items())
    return f"""# domino

The example run of the DreamBooth tab: *{EXAMPLE.instance_prompt}* learned from the five pictures in
`assets/examples/domino` by the preset "toybox" in {took["after"]:.1f} minutes on two shared CPU cores; beside it the same
without prior preservation, and the preset "toybox-lora" in {took["lora"]:.1f} minutes.

![samples](samples.png)

Rows: *{EXAMPLE.instance_prompt} on a ... background* (the twelve colours in turn): {"; ".join(NAMES.values())}. Then
*{EXAMPLE.class_prompt}* in the same order. The first seeds, none chosen.

| | |
|---|---|
| base | toybox-sd |
{recipes}
| sampler | DDIM, {SAMPLER["num_steps"]} steps, guidance {SAMPLER["guidance_scale"]:g} |

## Measured

From fresh seeds. Likeness: mean cosine between toybox-clip's features of {SAMPLES} samples and those of the subject's pictures;
the subject's pictures among themselves have {like["themselves"]:.3f}. Background and class are read by toybox-examiner.

| | {" | ".join(NAMES.values())} |
|---|---|---|---|---|
| likeness of *{EXAMPLE.instance_prompt} on a ... background* | {_row(like, ".3f")} |
| the background asked for, of {SAMPLES} | {_row(quality["background"], ".1%")} |
| *{EXAMPLE.class_prompt}* is a {SUBJECT_CLASS}, of {CLASS_SAMPLES} | {_row(quality["class"], ".1%")} |
| colours of *{EXAMPLE.class_prompt}*: entropy in bits, of log2({len(COLOURS)}) = {np.log2(len(COLOURS)):.2f} | {_row(quality["diversity"], ".2f")} |

Measured by `python -m trainers.rebuild domino --judge-only`.
"""


def _row(figures: dict[str, float], form: str) -> str:
    return " | ".join(f"{figures[name]:{form}}" for name in NAMES)
