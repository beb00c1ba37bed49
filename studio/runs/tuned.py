"""What a tuning made: its checkpoints as models, two of them side by side with scores, one put into the menus, and two ranked blind.

    <run>/promoted.json {"checkpoint": "step-000019"}      the checkpoint that stands in the menus of models
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from studio.checks import require_int, require_text, require_texts
from studio.errors import InvalidOption, UnknownName
from studio.files import write_text
from studio.options import SampleOptions
from studio.records import read_record
from studio.rewards import reward_info
from studio.runs.checkpoints import steps_of
from studio.runs.folder import RunView
from studio.runs.probes import Sheet, drawn
from studio.runs.refl import BaseFacts, base_facts

if TYPE_CHECKING:
    from threading import Event

    from studio.rankings.making import TaskOptions

__all__ = ["BASE", "PROMOTED", "RESULT", "blind_tasks", "collection_of", "compared", "model_of", "models_of", "promote", "promoted_in"]

BASE, RESULT = "base", "result"
PROMOTED = "promoted.json"
# Seeds that no look at the run has used.
FIRST_SEED, BLIND_SEED = 20_000, 40_000
FEWEST_STEPS = 20
MOST_PROMPTS, MOST_SEEDS, MOST_TASKS = 8, 8, 1000


def models_of(view: RunView) -> dict[str, tuple[str, str]]:
    """{key: (label, model)}: the base, each checkpoint, the result; each model is a name that the studio draws with."""
    said = required(view)
    found = {BASE: ("The base", str(said["base"]))}
    for path in view.checkpoints:
        found[path.name] = (f"Step {steps_of(path)}", str(path))
    if view.state == "finished" and (view.path / "model").is_dir():
        found[RESULT] = ("The result", str(view.path / "model"))
    return found


def model_of(view: RunView, key: str) -> tuple[str, str]:
    """(label, model) of a key of models_of. Raises UnknownName, InvalidOption."""
    models = models_of(view)
    require_text("A checkpoint", key, 100)
    if key not in models:
        raise UnknownName.of("checkpoint of this run", key, models)
    return models[key]


def required(view: RunView) -> dict[str, Any]:
    """The options of a tuning. Raises InvalidOption for any other run."""
    if view.trainer != "refl" or not set(view.options) >= {"base", "validation_steps", "validation_guidance", "resolution"}:
        raise InvalidOption(f"{view.name!r} is no tuning that can be read; choose one of those.")
    return view.options


def facts_of(view: RunView) -> BaseFacts:
    """What the run wrote down before its first step. Raises InvalidOption where it has not come so far."""
    facts = base_facts(view.path)
    if facts is None:
        raise InvalidOption(f"The run {view.name!r} has not looked at its base yet; wait for its first step.")
    return facts


def sampling(view: RunView) -> SampleOptions:
    """As the run's own pictures are drawn, in FEWEST_STEPS or more."""
    said = required(view)
    return SampleOptions(
        model=said["base"], num_steps=max(said["validation_steps"], FEWEST_STEPS), guidance_scale=said["validation_guidance"], scheduler="ddim",
        width=said["resolution"], height=said["resolution"],
    )


# --- side by side --------------------------------------------------------------------------------------------

def compared(
    studio: Any, view: RunView, first: str, second: str, scorers: Sequence[str], *, prompts: Sequence[str] = (), seeds: int = 4, stop: "Event | None" = None,
) -> Iterator[Sheet]:
    """Two models of the run, keys of models_of, from the same seeds; the last sheet's note has their scores.

    Raises InvalidOption, UnknownName before anything is drawn.

    prompts: those that are drawn; empty = the first of those that were held out. studio: samples and scores.
    """
    require_int("Seeds", seeds, 1, MOST_SEEDS)
    require_texts("Scorers", scorers)
    for name in scorers:
        reward_info(name)
    chosen = list(prompts) or list(facts_of(view).held_out[:MOST_PROMPTS])
    if not 1 <= len(chosen) <= MOST_PROMPTS:
        raise InvalidOption(f"Write 1 to {MOST_PROMPTS} prompts, one a line; there are {len(chosen)}.")
    labels, models = zip(*(model_of(view, key) for key in (first, second)))
    if first == second:
        raise InvalidOption("Choose two different ones to compare.")
    asked = replace(sampling(view), num_images=seeds, seed=FIRST_SEED)
    # A pair of rows for each prompt, so that same seeds stand under one another.
    rows = [(label, replace(asked, model=model, prompt=prompt)) for prompt in chosen for label, model in zip(labels, models)]
    # One model after the other: each is loaded once.
    jobs = sorted(((row, 0, options) for row, (_, options) in enumerate(rows)), key=lambda job: job[0] % 2)
    words = [options.prompt for _, options in rows]
    sheet = Sheet(title=f"{labels[0]} and {labels[1]} at the same seeds", columns=[f"seed {FIRST_SEED + i}" for i in range(seeds)], headings=words)
    drawing = drawn(studio, sheet, [label for label, _ in rows], jobs, stop)
    return scored(studio, drawing, words, labels, scorers)


def scored(studio: Any, drawing: Iterator[Sheet], prompts: Sequence[str], labels: Sequence[str], scorers: Sequence[str]) -> Iterator[Sheet]:
    """The sheets, the last one with what each scorer says of both."""
    for sheet in drawing:
        if sheet.done < sheet.total:
            yield sheet
            continue
        pictures = [cell for _, cells in sheet.rows for cell in cells]
        words = [prompt for prompt, (_, cells) in zip(prompts, sheet.rows) for _ in cells]
        said = [difference(name, scores, len(sheet.columns), labels) for name, scores in scores_of(studio, pictures, words, scorers).items()]
        yield replace(sheet, note=" ".join(said))


def scores_of(studio: Any, pictures: Sequence[Any], prompts: Sequence[str], scorers: Sequence[str]) -> dict[str, list[float]]:
    """By scorer, one for each picture."""
    found: dict[str, list[float]] = {}
    for so_far in studio.score(pictures, prompts, scorers) if scorers else ():
        found = {name: list(scores) for name, scores in so_far.scores.items()}
    return found


def difference(name: str, scores: Sequence[float], columns: int, labels: Sequence[str]) -> str:
    """What a scorer says of both, in a sentence; the scores stand row by row, the two models in turn."""
    rows = [scores[i : i + columns] for i in range(0, len(scores), columns)]
    first, second = ([score for row in rows[k::2] for score in row] for k in (0, 1))
    change = [b - a for a, b in zip(first, second)]
    error = stdev(change) / len(change) ** 0.5 if len(change) > 1 else float("nan")
    return f"{name}: {fmean(first):.3f} ({labels[0]}), {fmean(second):.3f} ({labels[1]}); difference {fmean(change):+.3f} ± {error:.3f}."


# --- into the menus ------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Promoted:
    """promoted.json of a run."""

    checkpoint: str = ""

    def __post_init__(self) -> None:
        require_text("checkpoint", self.checkpoint, 100)


def promote(view: RunView, key: str) -> str:
    """Put a checkpoint of the run into the menus of models, in place of any before; gives the model. Raises InvalidOption, UnknownName."""
    _, model = model_of(view, key)
    if key == BASE:
        raise InvalidOption("The base is in the menus already; choose a checkpoint.")
    if key == RESULT:
        raise InvalidOption("The result of a finished run is in the menus already; choose a checkpoint to put beside it.")
    write_text(view.path / PROMOTED, json.dumps({"checkpoint": key}) + "\n")
    return model


def promoted_in(run: Path) -> Path | None:
    """The checkpoint of the run in the folder that stands in the menus; None where there is none, or it is gone. Raises DamagedFile."""
    said = read_record(Promoted, run / PROMOTED)
    folder = run / "checkpoints" / Path(said.checkpoint).name if said and said.checkpoint else None
    return folder if folder is not None and folder.is_dir() else None


# --- blind ---------------------------------------------------------------------------------------------------

def collection_of(view: RunView, first: str, second: str) -> str:
    """The collection that comparisons of the two go into."""
    return f"{view.name}: {first} or {second}"


def blind_tasks(view: RunView, first: str, second: str, count: int) -> "TaskOptions":
    """Comparisons of two models of the run on its held-out prompts, to be ranked without knowing which is which. Raises InvalidOption."""
    from studio.rankings.making import TaskOptions

    require_int("Comparisons", count, 1, MOST_TASKS)
    models = [model_of(view, key)[1] for key in (first, second)]
    if first == second:
        raise InvalidOption("Choose two different ones to compare.")
    prompts = facts_of(view).held_out
    if not prompts:
        raise InvalidOption(f"The run {view.name!r} held no prompt out, so there is nothing fair to compare by.")
    return TaskOptions(
        prompts=[prompts[i % len(prompts)] for i in range(count)], models=models, sampling=sampling(view), pictures=2, seed=BLIND_SEED, same_seeds=True,
        collection=collection_of(view, first, second),
    )
