"""Scenes of one object as data, and which of them are kept for testing.

A scene is one object in one colour and size, at one place on one background. All its pictures, captions and all
its ground truth follow from that, so nothing is stored: a seed is a data set. Scenes of two: pairs.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from studio.errors import InvalidOption
from studio.toybox.shapes import SHAPES

OBJECTS: tuple[str, ...] = tuple(SHAPES)
COLOURS: tuple[str, ...] = (
    "red", "orange", "yellow", "green", "teal", "blue",
    "purple", "pink", "brown", "black", "white", "gray",
)  # fmt: skip
SIZES: tuple[str, ...] = ("small", "medium", "large")
POSITIONS: tuple[str, ...] = (
    "center", "left", "right", "top", "bottom",
    "top left", "top right", "bottom left", "bottom right",
)  # fmt: skip
SPLITS: tuple[str, ...] = ("train", "held_out", "all")

MAX_JITTER = 0.02  # of the picture's side, in x and in y
MAX_ANGLE = 8.0  # degrees, either way
HELD_OUT_SHARE = 0.1  # of the (object, colour, background) combinations


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One captioned picture, as data.

    object, colour, background, size, position: names from OBJECTS, COLOURS, COLOURS, SIZES, POSITIONS.
    jitter: (dx, dy) off the named position, in fractions of the picture's side, dx to the right and dy
        down, each within [-MAX_JITTER, MAX_JITTER].
    angle: clockwise turn in degrees within [-MAX_ANGLE, MAX_ANGLE].

    Raises InvalidOption (a ValueError) naming the value that does not fit.
    """

    object: str
    colour: str
    background: str
    size: str = "medium"
    position: str = "center"
    jitter: tuple[float, float] = (0.0, 0.0)
    angle: float = 0.0

    def __post_init__(self) -> None:
        for field, names in ATTRIBUTES.items():
            check_name(field, getattr(self, field), names)
        if not is_pair_within(self.jitter, MAX_JITTER):
            raise InvalidOption(f"jitter={self.jitter!r} must be a pair within {MAX_JITTER} of 0.")
        if not is_number_within(self.angle, MAX_ANGLE):
            raise InvalidOption(f"angle={self.angle!r} must be within {MAX_ANGLE:g} degrees of 0.")


ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "object": OBJECTS,
    "colour": COLOURS,
    "background": COLOURS,
    "size": SIZES,
    "position": POSITIONS,
}


def check_name(field: str, value: object, names: tuple[str, ...]) -> None:
    """Refuse a value that is none of `names`, in a sentence."""
    if value not in names:
        raise InvalidOption(f"{field}={value!r} is not in the toy world. Choose one of: {', '.join(names)}.")


def is_number_within(value: object, limit: float) -> bool:
    """Whether the value is a number whose size is at most `limit`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    return abs(float(value)) <= limit  # nan is refused as well


def is_pair_within(value: object, limit: float) -> bool:
    """Whether the value is a tuple of two numbers whose sizes are at most `limit`."""
    return isinstance(value, tuple) and len(value) == 2 and all(is_number_within(v, limit) for v in value)


# ---- the split ---------------------------------------------------------------------------------------


@cache
def _held_out() -> frozenset[tuple[str, str, str]]:
    return frozenset(t for t in product(OBJECTS, COLOURS, COLOURS) if fraction(t) < HELD_OUT_SHARE)


def fraction(words: tuple[str, ...]) -> float:
    """A number in [0, 1) that belongs to these words for ever: what lies below a share is held out."""
    # Not Python's hash(): that changes from one process to the next.
    digest = hashlib.sha256(" ".join(words).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_held_out(object: str, colour: str, background: str) -> bool:
    """Whether this combination is never trained on, so that composition can be measured on it.

    About HELD_OUT_SHARE of all combinations are; every name and every pair of names still occurs in
    training. Fixed for ever: the same on every machine. Raises InvalidOption for an unknown name.
    """
    for field, value in (("object", object), ("colour", colour), ("background", background)):
        check_name(field, value, ATTRIBUTES[field])
    return (object, colour, background) in _held_out()


# ---- sampling ----------------------------------------------------------------------------------------


def sample_scene(rng: np.random.Generator) -> Scene:
    """One scene at random, from either split.

    Object, colour, background and size are uniform; a third of the scenes is centred, because a caption
    that names no place means the centre, and the rest is uniform over the other positions.
    """
    o, c, b, s, centred, p, dx, dy, turn = rng.random(9)
    return Scene(
        object=pick(OBJECTS, o),
        colour=pick(COLOURS, c),
        background=pick(COLOURS, b),
        size=pick(SIZES, s),
        position="center" if centred < 1 / 3 else pick(POSITIONS[1:], p),
        jitter=(float(2 * dx - 1) * MAX_JITTER, float(2 * dy - 1) * MAX_JITTER),
        angle=float(2 * turn - 1) * MAX_ANGLE,
    )


def pick(names: tuple[str, ...], u: float) -> str:
    """The name at the share u in [0, 1) of the menu."""
    return names[int(u * len(names))]


def scene_stream(seed: int, split: str = "train") -> Iterator[Scene]:
    """Scenes without end, the same ones for the same seed.

    split: "train" (no held-out combination), "held_out" (only those) or "all".
    Raises InvalidOption for another split, or for a seed that is not a whole number of 0 or more.
    """
    check_stream(seed, split)
    return _stream(np.random.default_rng(seed), split)


def check_stream(seed: object, split: object) -> None:
    """Refuse what no stream can begin from, in a sentence."""
    if split not in SPLITS:
        raise InvalidOption(f"{split=} is not a split. Choose one of: {', '.join(SPLITS)}.")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InvalidOption(f"{seed=} must be a whole number, 0 or more.")


def _stream(rng: np.random.Generator, split: str) -> Iterator[Scene]:
    held_out = _held_out()
    while True:
        scene = sample_scene(rng)
        kept = (scene.object, scene.colour, scene.background) in held_out
        if split == "all" or kept == (split == "held_out"):
            yield scene
