"""What a subject's training did: the same seeds before and after, and after each checkpoint at several numbers of steps.

Every cell of a sheet begins with the noise of its seed, so that what differs is what was learned.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from studio.errors import InvalidOption
from studio.options import SampleOptions
from studio.runs.folder import RunView
from studio.sampling.events import Finished
from studio.toybox import parse_caption

if TYPE_CHECKING:
    from threading import Event

__all__ = ["Sheet", "before_and_after", "checkpoint_matrix", "forgotten", "MOST_CHECKPOINTS", "STEP_COUNTS"]

MOST_CHECKPOINTS = 6
STEP_COUNTS = (5, 10, 25, 50)
FORGETTING_SEEDS = 16
# Looking on while training costs the training time, so it takes fewer steps; here there is time for enough of them.
FEWEST_STEPS = 20
# The options that say how a run looks on, and at what.
NEEDED = {"base", "class_prompt", "validation_steps", "validation_guidance", "resolution"}


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Pictures by row and column, None where one is still to be drawn. done of total: drawings so far. headings: of each row, what it shows, which
    stands once above rows in sequence that share it; empty = none."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[Image.Image | None]]] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    done: int = 0
    total: int = 0
    note: str = ""


def before_and_after(
    studio: Any, view: RunView, prompt: str, *, num_seeds: int = 4, others: Sequence[RunView] = (), stop: "Event | None" = None,
) -> Iterator[Sheet]:
    """The base model, the run's result and those of other runs, one row each, from the same seeds. The last sheet's note says
    how far each has moved from the base. Raises InvalidOption, before anything is drawn, for runs that have not finished."""
    asked = probe_options(view, prompt, num_images=num_seeds)
    models = [("before", asked.model), *((checkpoint_name(run), result_of(run)) for run in (view, *others))]
    jobs = [(row, 0, replace(asked, model=model)) for row, (_, model) in enumerate(models)]
    empty = Sheet(title=f"“{prompt}”, before and after", columns=[f"seed {asked.seed + i}" for i in range(num_seeds)])
    drawing = drawn(studio, empty, [label for label, _ in models], jobs, stop)
    return noted(drawing, moved)


def forgotten(studio: Any, view: RunView, *, others: Sequence[RunView] = (), stop: "Event | None" = None) -> Iterator[Sheet]:
    """before_and_after of the class prompt, without the token. Where the examiner can read the pictures, the last sheet's note
    says how many of FORGETTING_SEEDS are still of the class. Raises InvalidOption for runs that have not finished."""
    prompt = required_options(view)["class_prompt"]
    asked = parse_caption(prompt).get("object") if view.options.get("resolution") == 64 else None
    drawing = before_and_after(studio, view, prompt, num_seeds=FORGETTING_SEEDS if asked else 4, others=others, stop=stop)
    return noted(drawing, lambda sheet: f"{counted(sheet, asked)} {sheet.note}") if asked else drawing


def noted(drawing: Iterator[Sheet], note: Callable[[Sheet], str]) -> Iterator[Sheet]:
    """The sheets, the last one with a note on what it shows."""
    for sheet in drawing:
        yield replace(sheet, note=note(sheet)) if sheet.done == sheet.total else sheet


def counted(sheet: Sheet, asked: str) -> str:
    """How many pictures of each row the examiner takes for what was asked."""
    import torch

    from studio.models.examiner import load_examiner, read_attributes

    examiner = load_examiner()
    pixels = {label: torch.stack([torch.from_numpy(np.array(cell)).movedim(-1, 0) for cell in row]) for label, row in sheet.rows}
    counts = ", ".join(f"{read_attributes(examiner, row)['object'].count(asked)} ({label})" for label, row in pixels.items())
    return f"Taken for a {asked} by the examiner, of {len(sheet.columns)}: {counts}."


def checkpoint_matrix(studio: Any, view: RunView, prompt: str, *, stop: "Event | None" = None) -> Iterator[Sheet]:
    """The run's checkpoints (MOST_CHECKPOINTS, spread evenly) by STEP_COUNTS denoising steps, all from the same noise.
    Raises InvalidOption where there is no checkpoint."""
    asked, paths = probe_options(view, prompt, num_images=1), evenly_spaced(view.checkpoints, MOST_CHECKPOINTS)
    if not paths:
        raise InvalidOption(f"The run {view.name!r} has no checkpoint yet; wait until its first one is saved.")
    rows = [("before", asked.model), *((f"step {int(path.name.removeprefix('step-')) + 1}", str(path)) for path in paths)]
    jobs = [(row, column, replace(asked, model=model, num_steps=count)) for row, (_, model) in enumerate(rows) for column, count in enumerate(STEP_COUNTS)]
    sheet = Sheet(title=f"“{prompt}”, checkpoints by denoising steps", columns=[f"{count} steps" for count in STEP_COUNTS])
    return drawn(studio, sheet, [label for label, _ in rows], jobs, stop)


def drawn(studio: Any, sheet: Sheet, labels: list[str], jobs: list[tuple[int, int, SampleOptions]], stop: "Event | None") -> Iterator[Sheet]:
    """The sheet, empty and then after each drawing; a job's pictures go to its row from its column on.

    It is told again after every step, unchanged, so that whoever shares the device can give way between two of them.
    """
    cells: list[list[Image.Image | None]] = [[None] * len(sheet.columns) for _ in labels]

    def now(done: int) -> Sheet:
        return replace(sheet, rows=[(label, list(row)) for label, row in zip(labels, cells)], done=done, total=len(jobs))
    yield now(0)
    for done, (row, column, options) in enumerate(jobs, start=1):
        for event in studio.sample(options, stop):
            if not isinstance(event, Finished):
                yield now(done - 1)
            elif event.trajectory.complete:
                cells[row][column : column + len(event.images)] = event.images
        if stop is not None and stop.is_set():
            yield replace(now(done - 1), note="Stopped; what was drawn stays.")
            return
        yield now(done)


def probe_options(view: RunView, prompt: str, num_images: int) -> SampleOptions:
    """As the run's own validation pictures are drawn, in FEWEST_STEPS or more, with the base model."""
    said = required_options(view)
    if not prompt.strip():
        raise InvalidOption("The prompt is empty; say what is to be drawn.")
    return SampleOptions(
        model=said["base"], prompt=prompt.strip(), num_steps=max(said["validation_steps"], FEWEST_STEPS),
        guidance_scale=said["validation_guidance"], scheduler="ddim", width=said["resolution"], height=said["resolution"], num_images=num_images, seed=1000,
    )


def required_options(view: RunView) -> dict[str, Any]:
    """The options of a DreamBooth run that its probes need. Raises InvalidOption for any other run."""
    if view.example:
        raise InvalidOption(f"{view.name!r} is kept without its weights, so it cannot draw: take “Example: Domino”, press Train, and choose your own run.")
    if view.trainer != "dreambooth" or not set(view.options) >= NEEDED:
        raise InvalidOption(f"{view.name!r} is no DreamBooth run that can be read; choose one of those.")
    return view.options


def result_of(view: RunView) -> str:
    model = view.path / "model"
    if view.state != "finished" or not model.is_dir():
        raise InvalidOption(f"The run {view.name!r} has not finished; wait for its end, or resume it.")
    return str(model)


def checkpoint_name(view: RunView) -> str:
    weight = view.options.get("prior_weight", 0.0) if view.trainer == "dreambooth" else 0.0
    return f"{view.name}, {f'prior weight {weight:g}' if weight else 'no prior preservation'}"


def evenly_spaced(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def moved(sheet: Sheet) -> str:
    """How far each row is from the first, in a sentence."""
    (_, first), *others = sheet.rows
    far = ", ".join(f"{distance(first, row):.2f} ({label})" for label, row in others)
    return f"Root mean square change from before, at the same seeds: {far}. From black to white is 2; other seeds of one prompt differ by {apart(first):.2f}."


def distance(a: Sequence[Image.Image | None], b: Sequence[Image.Image | None]) -> float:
    return float(np.sqrt(np.mean([np.square(values(x) - values(y)).mean() for x, y in zip(a, b)])))


def apart(row: Sequence[Image.Image | None]) -> float:
    return distance(row, [*row[1:], row[0]])


def values(image: Image.Image | None) -> np.ndarray:
    assert image is not None
    return np.asarray(image, dtype=np.float32) / 127.5 - 1
