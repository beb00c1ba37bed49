"""A small project to try everything on: Toybox scenes drawn right and wrong, ranked by three made-up annotators.

Of each prompt four pictures, every one drawn by our own code: as it says; with another colour; with another object, colour and
background; and as it says, but blurred and noisy. Which is better is therefore known. The annotators follow it but for noise on how
good a picture looks to them, drawn from a normal distribution of the deviation in ANNOTATORS.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from studio.rankings.assigning import opened
from studio.rankings.pictures import keep_drawn
from studio.rankings.ranking import Ranking
from studio.rankings.submitting import submitted
from studio.rankings.tasks import NewGeneration, NewTask, add_tasks

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from studio.rankings.database import Rankings
    from studio.toybox import Scene

__all__ = ["ANNOTATORS", "EXAMPLE", "add_example", "example_pictures"]

EXAMPLE = "example"
NUM_TASKS = 60
# Deviation of the noise on the qualities below: two pictures one apart are told apart in 98, 84 and 66 of 100 cases.
ANNOTATORS: Mapping[str, float] = {"careful (made up)": 0.35, "usual (made up)": 0.7, "hasty (made up)": 1.7}
# What each kind of picture is worth, and the rank that follows from it.
QUALITIES = {"as it says": 3.0, "blurred and noisy": 2.0, "another colour": 1.0, "another scene": 0.0}
# Pictures whose quality seems this close are a tie.
TIE = 0.25


def add_example(rankings: "Rankings", seed: int = 0) -> int:
    """Add the example's tasks and what its annotators say of them, once; gives how many tasks were new. Raises as rankings.write does."""
    new = add_tasks(rankings, [*example_tasks(rankings, seed)])
    if new:
        for number, (name, deviation) in enumerate(ANNOTATORS.items()):
            rank_all(rankings, name, deviation, np.random.default_rng((seed, number)))
    return new


def example_tasks(rankings: "Rankings", seed: int) -> Iterator[NewTask]:
    """Sixty tasks that have room for one annotator beside the made-up ones."""
    from studio.toybox import caption, scene_stream

    generator, scenes = np.random.default_rng(seed), scene_stream(seed, "held_out")
    for number in range(NUM_TASKS):
        scene = next(scenes)
        drawn = pictures_of(scene, generator)
        yield NewTask(
            prompt=caption(scene), collection=EXAMPLE, overlap=len(ANNOTATORS) + 1, source_id=f"example-{number}",
            generations=[NewGeneration(picture=keep_drawn(rankings.folder, drawn[kind]), model=kind, seed=number) for kind in QUALITIES],
            gold=list(range(1, len(QUALITIES) + 1)) if number % 10 == 0 else None,
        )


def example_pictures(seed: int = 0) -> tuple[str, dict[str, Image.Image]]:
    """(a prompt of the toy world, its pictures by their kind): those of one task, to be tried on."""
    from studio.toybox import caption, scene_stream

    scene = next(scene_stream(seed, "held_out"))
    return caption(scene), pictures_of(scene, np.random.default_rng(seed))


def pictures_of(scene: "Scene", generator: np.random.Generator) -> dict[str, Image.Image]:
    """The pictures of one prompt by their kind, 64 x 64 each."""
    from studio.toybox import COLOURS, OBJECTS, render

    def other(names: tuple[str, ...], *taken: str) -> str:
        return str(generator.choice([name for name in names if name not in taken]))

    colour = other(COLOURS, scene.colour, scene.background)
    background = other(COLOURS, scene.background, colour)
    recoloured = dataclasses.replace(scene, colour=colour)
    another = dataclasses.replace(scene, object=other(OBJECTS, scene.object), colour=colour, background=background)
    right = Image.fromarray(render(scene))
    noisy = np.asarray(right.filter(ImageFilter.GaussianBlur(1.5))) + generator.normal(0, 22, (64, 64, 3))
    poor = Image.fromarray(np.rint(noisy).clip(0, 255).astype(np.uint8))
    return {
        "as it says": right, "blurred and noisy": poor, "another colour": Image.fromarray(render(recoloured)),
        "another scene": Image.fromarray(render(another)),
    }


def rank_all(rankings: "Rankings", name: str, deviation: float, generator: np.random.Generator) -> None:
    """Have a made-up annotator rank every task of the example."""
    def change(session: "Session") -> None:
        while tasks := opened(session, name, 1, EXAMPLE, rankings.clock()):
            seen = np.array(list(QUALITIES.values())) + generator.normal(0, deviation, len(QUALITIES))
            ranking = Ranking(ranks=ranks_by(seen), seconds=float(generator.gamma(4, 2.5)))
            submitted(session, name, tasks[0].assignment, ranking, "", rankings.clock())

    rankings.write(change)


def ranks_by(qualities: np.ndarray) -> list[int]:
    """Ranks without gaps, 1 for the best; what is within TIE of the one above shares its rank."""
    order = np.argsort(-qualities)
    steps = np.r_[1, np.diff(-qualities[order]) > TIE].cumsum()
    ranks = np.empty(len(order), int)
    ranks[order] = steps
    return ranks.tolist()
