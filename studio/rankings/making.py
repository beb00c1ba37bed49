"""Tasks from models: pictures of each prompt drawn, kept, and put up for ranking, one prompt after another.

What is asked for is a function of its options alone, and every prompt is kept once it is drawn: the same asked again goes on where it ended.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio.checks import require_int, require_text, require_texts
from studio.errors import InvalidOption
from studio.options import SampleOptions
from studio.rankings.pictures import keep_drawn
from studio.rankings.ranking import MAX_PICTURES, MIN_PICTURES
from studio.rankings.tasks import MAX_OVERLAP, NewGeneration, NewTask, add_tasks
from studio.sampling.events import Finished

if TYPE_CHECKING:
    from collections.abc import Generator

    from PIL import Image

    from studio.rankings.database import Rankings

__all__ = ["TaskOptions", "TaskMade", "add_drawn", "make_tasks", "toybox_prompts"]

MAX_TASKS = 1000


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Tasks that are to be made.

    Args:
        prompts: one task each.
        models: names of models of the menu; the pictures of a task are shared out among them.
        pictures: of a task, 2 to 9.
        sampling: what else the pictures are drawn with; its model, prompt, seed and number of pictures are not used.
        seed: of the first picture; the next have the next ones, and each prompt the seeds after those of the one before.
        same_seeds: every model of a task begins with the same seeds, so that pictures differ by the models alone.
        overlap: how many annotators rank each task.
    Raises InvalidOption.
    """

    prompts: Sequence[str]
    models: Sequence[str]
    sampling: SampleOptions
    pictures: int = 4
    seed: int = 0
    overlap: int = 1
    collection: str = "mine"
    same_seeds: bool = False

    def __post_init__(self) -> None:
        require_texts("prompts", self.prompts, MAX_TASKS)
        require_texts("models", self.models, MAX_PICTURES)
        require_int("pictures", self.pictures, MIN_PICTURES, MAX_PICTURES)
        require_int("seed", self.seed, 0, 2**32)
        require_int("overlap", self.overlap, 1, MAX_OVERLAP)
        require_text("collection", self.collection, 100)
        if not self.prompts:
            raise InvalidOption("Write a prompt, one on each line; each becomes a task.")
        if not 1 <= len(self.models) <= self.pictures:
            raise InvalidOption(f"Choose 1 to {self.pictures} models for tasks of {self.pictures} pictures, but there are {len(self.models)}.")

    def samplings(self, index: int) -> Iterator[SampleOptions]:
        """What the pictures of a prompt are drawn with, one run of each model."""
        seed = self.seed + index * self.pictures
        for place, model in enumerate(self.models):
            share = len(range(place, self.pictures, len(self.models)))
            yield dataclasses.replace(self.sampling, model=model, prompt=self.prompts[index], seed=seed, num_images=share)
            seed += 0 if self.same_seeds else share


@dataclass(frozen=True)
class TaskMade:
    """index: of the prompt whose task is there now; new: whether it was not there before."""

    index: int
    total: int
    new: bool


def make_tasks(rankings: "Rankings", sample: "Callable[[SampleOptions], Iterator[object]]", options: TaskOptions) -> "Generator[TaskMade, None, None]":
    """Draw the pictures of each prompt and add its task. Closing ends it after the task that is under way.

    Args:
        sample: as Studio.sample.
    Raises what sampling raises, and as rankings.write does; the tasks before stay.
    """
    for index, prompt in enumerate(options.prompts):
        generations = [one for sampling in options.samplings(index) for one in drawn(rankings, sample, sampling)]
        task = NewTask(prompt=prompt, generations=generations, collection=options.collection, overlap=options.overlap)
        yield TaskMade(index, len(options.prompts), add_tasks(rankings, [task]) > 0)


def drawn(rankings: "Rankings", sample: "Callable[[SampleOptions], Iterator[object]]", options: SampleOptions) -> list[NewGeneration]:
    """The pictures of one run, kept."""
    with closing(sample(options)) as events:  # type: ignore[type-var]
        finished = next(event for event in events if isinstance(event, Finished))
    return kept(rankings, options, finished.images)


def kept(rankings: "Rankings", options: SampleOptions, images: "Sequence[Image.Image]") -> list[NewGeneration]:
    """The pictures of a run, with the seed of each."""
    said = {"num_steps": options.num_steps, "scheduler": options.scheduler, "guidance_scale": options.guidance_scale}
    return [
        NewGeneration(picture=keep_drawn(rankings.folder, image), model=options.model, seed=options.seed + place, options=said)
        for place, image in enumerate(images)
    ]


def add_drawn(rankings: "Rankings", options: SampleOptions, images: "Sequence[Image.Image]", collection: str, overlap: int = 1) -> bool:
    """Put the pictures of a run that was drawn already up for ranking; whether they were no task before. Raises InvalidOption, and as rankings.write does."""
    require_text("collection", collection, 100)
    if not MIN_PICTURES <= len(images) <= MAX_PICTURES:
        raise InvalidOption(f"A task has {MIN_PICTURES} to {MAX_PICTURES} pictures, but the run drew {len(images)}; draw it again with other Pictures.")
    prompt = options.prompt or str(options.class_label or options.model)
    task = NewTask(prompt=prompt, generations=kept(rankings, options, images), collection=collection, overlap=overlap)
    return add_tasks(rankings, [task]) > 0


def toybox_prompts(count: int, seed: int = 0) -> list[str]:
    """Prompts of the embedded world, whole captions, half of them never trained on."""
    from studio.toybox import caption, scene_stream

    trained, held_out = scene_stream(seed), scene_stream(seed, "held_out")
    return [caption(next(held_out if number % 2 else trained)) for number in range(count)]
