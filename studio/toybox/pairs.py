"""Scenes of two objects: who they are, how they stand to each other, and which of them are kept for testing.

Half of the world is one object a picture (world.py), half is two. Between two there are five relations: first left of
second, right of it, above it, below it, or "and", which says nothing of their places. In a picture of two there is less
room, so small, medium and large are smaller than in a picture of one. Where they touch, the first stands in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from studio.errors import InvalidOption
from studio.toybox.world import (
    COLOURS,
    HELD_OUT_SHARE,
    MAX_ANGLE,
    OBJECTS,
    SIZES,
    Scene,
    check_name,
    check_stream,
    fraction,
    is_held_out,
    is_number_within,
    pick,
    scene_stream,
)

RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below", "and")
INVERSE: dict[str, str] = {"left of": "right of", "right of": "left of", "above": "below", "below": "above", "and": "and"}
ACROSS = ("left of", "right of")
SECOND_COMES_FIRST = ("right of", "below")  # read from the left, or from above

PAIR_EXTENT = {"small": 0.125, "medium": 0.175, "large": 0.24}  # half an object's side, in fractions of the picture's
MAX_OVERLAP = 0.2  # of the smaller object's square; of what is painted of an object, never more than a fifth is hidden
MARGIN = 0.01  # between an object's square and the edge of the picture
LEAN, MOST_LEAN = 0.4, 0.5  # how far a pair may lie off its axis, in parts of the way along it: as drawn, and at most


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One of the two objects of a scene.

    object, colour, size: names from OBJECTS, COLOURS, SIZES. angle: clockwise turn in degrees within [-MAX_ANGLE,
    MAX_ANGLE]. centre: (x, y) of its middle from the upper left corner, in fractions of the picture's side.

    Raises InvalidOption naming the value that does not fit.
    """

    object: str
    colour: str
    size: str = "medium"
    angle: float = 0.0
    centre: tuple[float, float] = (0.5, 0.5)

    def __post_init__(self) -> None:
        for field, names in (("object", OBJECTS), ("colour", COLOURS), ("size", SIZES)):
            check_name(field, getattr(self, field), names)
        if not is_number_within(self.angle, MAX_ANGLE):
            raise InvalidOption(f"angle={self.angle!r} must be within {MAX_ANGLE:g} degrees of 0.")
        if not (isinstance(self.centre, tuple) and len(self.centre) == 2 and all(_is_between(value, self.extent, 1 - self.extent) for value in self.centre)):
            raise InvalidOption(f"centre={self.centre!r} must be a pair from {self.extent:g} to {1 - self.extent:g}, or this object is cut off.")

    @property
    def extent(self) -> float:
        """Half its side, in fractions of the picture's."""
        return PAIR_EXTENT[self.size]


def _is_between(value: Any, low: float, high: float) -> bool:
    return is_number_within(value, high) and low <= float(value)


@dataclass(frozen=True, kw_only=True)
class PairScene:
    """Two things on one background, as data.

    relation: from RELATIONS, read "first <relation> second"; the places of the two have to agree with it.

    Raises InvalidOption where they do not, where one hides the other, or where they are the same in object and colour,
    which no caption could tell apart.
    """

    first: Thing
    second: Thing
    relation: str
    background: str

    def __post_init__(self) -> None:
        if not (isinstance(self.first, Thing) and isinstance(self.second, Thing)):
            raise InvalidOption("first and second must each be a Thing.")
        check_name("relation", self.relation, RELATIONS)
        check_name("background", self.background, COLOURS)
        if (self.first.object, self.first.colour) == (self.second.object, self.second.colour):
            raise InvalidOption(f"Both things are a {self.first.colour} {self.first.object}; change the object or the colour of one.")
        if overlap(self.first, self.second) > MAX_OVERLAP + 1e-9:
            raise InvalidOption(f"The {self.first.object} hides the {self.second.object}; move their centres apart.")
        if self.relation != "and" and not _agrees(self):
            raise InvalidOption(f"The {self.first.object} is not {self.relation} the {self.second.object} where their centres lie; move one of them.")


AnyScene = Scene | PairScene  # what a picture of the world can be


def overlap(one: Thing, other: Thing) -> float:
    """How much of the smaller thing's square the larger one's covers, 0 to 1."""
    sides = (one.extent + other.extent - abs(a - b) for a, b in zip(one.centre, other.centre))
    width, height = (max(0.0, side) for side in sides)
    smaller = 2 * min(one.extent, other.extent)
    return min(width, smaller) * min(height, smaller) / smaller**2


def _way(scene: PairScene) -> tuple[float, float]:
    """(dx, dy) from the first thing to the second."""
    (x, y), (u, v) = scene.first.centre, scene.second.centre
    return u - x, v - y


def _agrees(scene: PairScene) -> bool:
    dx, dy = _way(scene)
    along, aside = (dx, dy) if scene.relation in ACROSS else (dy, dx)
    along = -along if scene.relation in SECOND_COMES_FIRST else along
    return along > 0 and abs(aside) <= MOST_LEAN * along


def seen_relation(scene: PairScene) -> str:
    """How the first stands to the second in the picture, by the longer way between their middles; never "and"."""
    dx, dy = _way(scene)
    if abs(dx) >= abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def in_reading_order(scene: PairScene) -> tuple[Thing, Thing]:
    """The two, the left one first, or the upper one where they stand one above the other."""
    swapped = seen_relation(scene) in SECOND_COMES_FIRST
    return (scene.second, scene.first) if swapped else (scene.first, scene.second)


# ---- the split ---------------------------------------------------------------------------------------


@cache
def _held_out_pairs() -> frozenset[tuple[str, str]]:
    return frozenset((a, b) for a, b in product(OBJECTS, OBJECTS) if fraction(("both", a, b)) < HELD_OUT_SHARE)


def is_pair_held_out(before: str, after: str) -> bool:
    """Whether no training picture shows the object `before` on the left of (or above) the object `after`.

    About HELD_OUT_SHARE of the ordered pairs are; every object still occurs in training on either side. Fixed for
    ever. Raises InvalidOption for an unknown name.
    """
    for value in (before, after):
        check_name("object", value, OBJECTS)
    return (before, after) in _held_out_pairs()


def is_scene_held_out(scene: AnyScene) -> bool:
    """Whether a scene is kept out of training: for a combination of object, colour and background, or for its ordered pair."""
    if isinstance(scene, Scene):
        return is_held_out(scene.object, scene.colour, scene.background)
    before, after = in_reading_order(scene)
    return is_pair_held_out(before.object, after.object) or any(is_held_out(thing.object, thing.colour, scene.background) for thing in (before, after))


# ---- sampling ----------------------------------------------------------------------------------------


def sample_pair(rng: np.random.Generator) -> PairScene:
    """One scene of two at random, from either split: names and relation uniform, then the places."""
    u = rng.random(10)
    first, second = (
        Thing(object=pick(OBJECTS, o), colour=pick(COLOURS, c), size=pick(SIZES, s), angle=float(2 * turn - 1) * MAX_ANGLE)
        for o, c, s, turn in (u[:4], u[4:8])
    )
    if (first.object, first.colour) == (second.object, second.colour):
        second = replace(second, colour=COLOURS[(COLOURS.index(second.colour) + 1) % len(COLOURS)])
    return arrange(first, second, relation=pick(RELATIONS, u[8]), background=pick(COLOURS, u[9]), rng=rng)


def arrange(first: Thing, second: Thing, *, relation: str, background: str, rng: np.random.Generator) -> PairScene:
    """The scene of two things, put to places at random that agree with the relation; where they stood before does not matter."""
    check_name("relation", relation, RELATIONS)
    gap, start, side, other, axis, order = rng.random(6)
    is_said = relation != "and"
    across = relation in ACROSS if is_said else axis < 0.5
    swapped = relation in SECOND_COMES_FIRST if is_said else order < 0.5
    before, after = (second, first) if swapped else (first, second)
    h, k = before.extent, after.extent
    way = _between(h + k - 2 * MAX_OVERLAP * min(h, k), 1 - 2 * MARGIN - h - k, gap)
    along = _between(MARGIN + h, 1 - MARGIN - k - way, start)
    aside = _between(MARGIN + h, 1 - MARGIN - h, side)
    lean = LEAN * way if is_said else 1.0
    aside_too = _between(max(MARGIN + k, aside - lean), min(1 - MARGIN - k, aside + lean), other)
    before = _moved(before, along, aside, across)
    after = _moved(after, along + way, aside_too, across)
    first, second = (after, before) if swapped else (before, after)
    return PairScene(first=first, second=second, relation=relation, background=background)


def _between(low: float, high: float, share: float) -> float:
    return float(low + (high - low) * share)


def _moved(thing: Thing, along: float, aside: float, across: bool) -> Thing:
    return replace(thing, centre=(along, aside) if across else (aside, along))


def pair_stream(seed: int, split: str = "train") -> Iterator[PairScene]:
    """Scenes of two without end, the same ones for the same seed; splits and errors as scene_stream has them.

    "train" holds no combination and no ordered pair that is held out; each scene of "held_out" has one at least.
    """
    check_stream(seed, split)
    return _stream(np.random.default_rng([seed, 2]), split)


def _stream(rng: np.random.Generator, split: str) -> Iterator[PairScene]:
    while True:
        scene = sample_pair(rng)
        if split == "all" or is_scene_held_out(scene) == (split == "held_out"):
            yield scene


def world_stream(seed: int, split: str = "train") -> Iterator[AnyScene]:
    """The whole world: half scenes of one, as scene_stream gives them, half of two, as pair_stream does."""
    check_stream(seed, split)
    return _mixed(scene_stream(seed, split), pair_stream(seed, split), np.random.default_rng([seed, 1]))


def _mixed(ones: Iterator[Scene], twos: Iterator[PairScene], rng: np.random.Generator) -> Iterator[AnyScene]:
    while True:
        yield next(ones) if rng.random() < 0.5 else next(twos)


# The worlds that models learn, by the name that trainers take as --data: (seed, split) -> scenes without end.
WORLDS: dict[str, Callable[[int, str], Iterator[AnyScene]]] = {"toybox": scene_stream, "toybox-pairs": pair_stream, "toybox-world": world_stream}
