"""Rankings of the toy world that follow a known rule, to teach a reward and to judge it by.

    quality(picture, prompt) = sum of WEIGHTS over what is right: object, colour, background, size, position; and clean in 0..1

Of each scene several pictures: as it says; with one attribute another, or two; blurred, noisy or in blocks; and some drawn by a text-to-image
model in few steps or many. Of renders all is known; of drawn pictures the examiner says what they show, and how clean they are is taken
from how many steps they had (CLEAN_BY_STEPS). An annotator sees the quality with noise of a deviation of ANNOTATORS on it, drawn from a
normal distribution, and calls a tie what is within TIE. Half of the prompts are complete captions; the others are worded freely, and then
only what they name counts.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import combinations
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from studio.models.examiner import load_examiner, read_attributes
from studio.models.loading import resolve
from studio.toybox import ATTRIBUTES, Scene, caption, parse_caption, render
from trainers.attributes import generate
from trainers.captions import toybox_scenes
from trainers.ranked import Pair, Ranked, is_held_out

__all__ = ["ANNOTATORS", "WEIGHTS", "OracleTask", "accuracies", "judge_rewards", "oracle_tasks", "ranked_world"]

WEIGHTS: Mapping[str, float] = {"object": 3.0, "colour": 2.0, "background": 1.5, "size": 1.0, "position": 1.0, "clean": 1.5}
ANNOTATORS: Mapping[str, float] = {"careful": 0.3, "hasty": 0.9}
TIE = 0.2
CLEAN_BY_STEPS = {2: 0.2, 3: 0.4, 5: 0.7, 10: 0.9, 25: 1.0}
FULL_CAPTIONS = 0.5
# Of each kind of picture so many a task.
KINDS = ("right", "one", "one", "spoiled", "any")


@dataclass(frozen=True, kw_only=True, eq=False)
class OracleTask:
    """A prompt, its pictures (64, 64, 3) uint8, and of each what is right: {attribute: 0 or 1, "clean": 0..1}, of what the prompt says."""

    prompt: str
    pictures: Sequence[np.ndarray]
    right: Sequence[Mapping[str, float]]

    @property
    def qualities(self) -> np.ndarray:
        """What each is worth without noise."""
        return np.array([sum(WEIGHTS[name] * value for name, value in right.items()) for right in self.right])


def oracle_tasks(count: int, seed: int, split: str = "train", *, model: str = "", drawn: float = 0.25, full: float = FULL_CAPTIONS) -> list[OracleTask]:
    """Fresh tasks of scenes of a split.

    Args:
        model: a text-to-image model that draws one picture of a share `drawn` of the tasks; "" = renders alone.
        full: share of prompts that are complete captions.
    """
    rng = np.random.default_rng((seed, 77))
    scenes: list[Scene] = toybox_scenes(seed, count, split)
    prompts = [caption(scene, None if rng.random() < full else rng) for scene in scenes]
    tasks = [rendered_task(scene, prompt, rng) for scene, prompt in zip(scenes, prompts)]
    return with_drawn(tasks, scenes, model, drawn, rng) if model else tasks


def rendered_task(scene: Scene, prompt: str, rng: np.random.Generator) -> OracleTask:
    """A task of renders."""
    named = set(ATTRIBUTES) if prompt == caption(scene) else set(parse_caption(prompt))
    pictures, right = [], []
    for kind in KINDS:
        wrong = chosen(kind, rng)
        clean = 1.0 if kind == "right" or kind == "one" or rng.random() < 0.5 and kind == "any" else float(rng.uniform(0.0, 0.8))
        picture = render(changed(scene, wrong, rng))
        pictures.append(picture if clean == 1.0 else spoiled(picture, clean, rng))
        right.append(judged({name: float(name not in wrong) for name in ATTRIBUTES}, named, clean))
    return OracleTask(prompt=prompt, pictures=pictures, right=right)


def chosen(kind: str, rng: np.random.Generator) -> set[str]:
    """The attributes that come out wrong in a picture of this kind."""
    wanted = {"right": 0, "one": 1, "spoiled": 0}.get(kind, int(rng.integers(0, 4)))
    return set(rng.choice(list(ATTRIBUTES), wanted, replace=False).tolist())


def judged(right: Mapping[str, float], named: set[str], clean: float) -> dict[str, float]:
    """What the prompt names, and how clean it is."""
    return {**{name: value for name, value in right.items() if name in named}, "clean": clean}


def changed(scene: Scene, wrong: set[str], rng: np.random.Generator) -> Scene:
    """The scene with other values for some attributes, and turned and shifted a little otherwise; object and background stay apart."""
    new: dict[str, Any] = {}
    for name in wrong:
        taken = {getattr(scene, name), new.get("colour", scene.colour), new.get("background", scene.background)} if name in ("colour", "background") else {
            getattr(scene, name)
        }
        new[name] = str(rng.choice([value for value in ATTRIBUTES[name] if value not in taken]))
    shaken = {"angle": scene.angle * float(rng.uniform(0, 1)), "jitter": tuple(value * float(rng.uniform(-1, 1)) for value in scene.jitter)}
    return dataclasses.replace(scene, **new, **shaken)


def spoiled(picture: np.ndarray, clean: float, rng: np.random.Generator) -> np.ndarray:
    """The picture blurred, noisy, or in the blocks of a poor JPEG, the more the less clean it is (0..1)."""
    harm, kind = 1 - clean, int(rng.integers(3))
    image = Image.fromarray(picture)
    if kind == 0:
        return np.asarray(image.filter(ImageFilter.GaussianBlur(0.4 + 2.6 * harm)))
    if kind == 1:
        return np.rint(picture + rng.normal(0, 6 + 44 * harm, picture.shape)).clip(0, 255).astype(np.uint8)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=max(1, round(30 * clean**1.5)))
    return np.asarray(Image.open(buffer).convert("RGB"))


def with_drawn(tasks: list[OracleTask], scenes: list[Scene], model: str, share: float, rng: np.random.Generator) -> list[OracleTask]:
    """The last picture of a share of the tasks drawn by the model, in few steps or many."""
    places = np.flatnonzero(rng.random(len(tasks)) < share)
    steps = rng.choice(list(CLEAN_BY_STEPS), len(places))
    examiner, found = load_examiner(), list(tasks)
    for count, clean in CLEAN_BY_STEPS.items():
        own = places[steps == count]
        if not len(own):
            continue
        pictures = generate(resolve(model), [tasks[i].prompt for i in own], guidance_scale=4.0, num_steps=int(count), seed=int(rng.integers(2**31)))
        read = read_attributes(examiner, torch.from_numpy(pictures).movedim(-1, 1))
        for row, i in enumerate(own):
            right = {name: float(read[name][row] == getattr(scenes[i], name)) for name in ATTRIBUTES}
            named = set(tasks[i].right[0]) - {"clean"}
            found[i] = dataclasses.replace(
                tasks[i], pictures=[*tasks[i].pictures[:-1], pictures[row]], right=[*tasks[i].right[:-1], judged(right, named, clean)],
            )
    return found


# --- as a trainer takes them ---------------------------------------------------------------------------------

def ranked_world(count: int, seed: int, held_out: float, model: str) -> Ranked:
    """Tasks of the training split, each ranked by every annotator."""
    tasks, rng = oracle_tasks(count, seed, model=model), np.random.default_rng((seed, 78))
    pairs = [pair for place, task in enumerate(tasks) for pair in annotated(task, place, place * len(KINDS), rng)]
    prompts = [task.prompt for task in tasks for _ in task.pictures]
    pixels = torch.from_numpy(np.stack([picture for task in tasks for picture in task.pictures])).movedim(-1, 1).contiguous()
    out = {prompt for prompt in set(prompts) if is_held_out(prompt, held_out, seed)}
    return Ranked(
        pixels=pixels, prompts=prompts, rankings=len(tasks) * len(ANNOTATORS), train=[pair for pair in pairs if prompts[pair.better] not in out],
        held_out=[pair for pair in pairs if prompts[pair.better] in out],
    )


def annotated(task: OracleTask, place: int, first: int, rng: np.random.Generator) -> Iterator[Pair]:
    """Every pair of a task as each annotator has it."""
    for name, deviation in ANNOTATORS.items():
        seen = task.qualities + rng.normal(0, deviation, len(task.pictures))
        for a, b in combinations(range(len(seen)), 2):
            better, worse = (a, b) if seen[a] >= seen[b] else (b, a)
            yield Pair(first + better, first + worse, place, name, tie=bool(seen[better] - seen[worse] < TIE))


# --- judging -------------------------------------------------------------------------------------------------

def accuracies(tasks: Sequence[OracleTask], scores: Sequence[np.ndarray], seed: int = 0) -> dict[str, float]:
    """Shares of pairs in the right order by the scores of each task's pictures: "oracle" against what is known, "noisy" against annotators, and by
    each attribute and "clean", of pairs that differ in nothing else."""
    rng, right = np.random.default_rng((seed, 79)), dict[str, list[bool]]()
    for place, (task, score) in enumerate(zip(tasks, scores, strict=True)):
        quality = task.qualities
        for a, b in combinations(range(len(quality)), 2):
            if quality[a] == quality[b]:
                continue
            better, worse = (a, b) if quality[a] > quality[b] else (b, a)
            hit = bool(score[better] > score[worse])
            right.setdefault("oracle", []).append(hit)
            differs = [name for name in WEIGHTS if task.right[a].get(name) != task.right[b].get(name)]
            if len(differs) == 1:
                right.setdefault(differs[0], []).append(hit)
        for pair in annotated(task, place, 0, rng):
            if not pair.tie:
                right.setdefault("noisy", []).append(bool(score[pair.better] > score[pair.worse]))
    return {name: float(np.mean(hits)) for name, hits in right.items()}


def judge_rewards(names: Sequence[str], count: int = 400, seed: int = 880_000, model: str = "toybox-sd") -> dict[str, dict[str, float]]:
    """{scorer: accuracies} on fresh tasks with complete captions, of combinations that were never trained on."""
    from studio.rewards import load_reward
    from studio.rewards.scoring import scored

    tasks = oracle_tasks(count, seed, "held_out", model=model, full=1.0)
    pictures = [Image.fromarray(picture) for task in tasks for picture in task.pictures]
    prompts = [task.prompt for task in tasks for _ in task.pictures]
    found = {}
    for name in names:
        values = np.empty(len(pictures))
        for batch, scores in scored(load_reward(name), pictures, prompts):
            values[batch] = scores
        found[name] = accuracies(tasks, np.split(values, len(tasks)))
    return found
