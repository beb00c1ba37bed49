"""What the toy world says: scenes as data, their captions, and which of them are kept for testing.

A scene is one object in one colour and size, at one place on one background. All its pictures and all its
ground truth follow from that, so nothing is stored: a seed is a data set.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
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
            _check_name(field, getattr(self, field), names)
        if not _is_pair_within(self.jitter, MAX_JITTER):
            raise InvalidOption(f"jitter={self.jitter!r} must be a pair within {MAX_JITTER} of 0.")
        if not _is_number_within(self.angle, MAX_ANGLE):
            raise InvalidOption(f"angle={self.angle!r} must be within {MAX_ANGLE:g} degrees of 0.")


ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "object": OBJECTS,
    "colour": COLOURS,
    "background": COLOURS,
    "size": SIZES,
    "position": POSITIONS,
}


def _check_name(field: str, value: object, names: tuple[str, ...]) -> None:
    if value not in names:
        raise InvalidOption(f"{field}={value!r} is not in the toy world. Choose one of: {', '.join(names)}.")


def _is_number_within(value: object, limit: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    return abs(float(value)) <= limit  # nan is refused as well


def _is_pair_within(value: object, limit: float) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(_is_number_within(v, limit) for v in value)


# ---- the split ---------------------------------------------------------------------------------------


@cache
def _held_out() -> frozenset[tuple[str, str, str]]:
    return frozenset(t for t in product(OBJECTS, COLOURS, COLOURS) if _fraction(t) < HELD_OUT_SHARE)


def _fraction(words: tuple[str, ...]) -> float:
    # Not Python's hash(): that changes from one process to the next.
    digest = hashlib.sha256(" ".join(words).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_held_out(object: str, colour: str, background: str) -> bool:
    """Whether this combination is never trained on, so that composition can be measured on it.

    About HELD_OUT_SHARE of all combinations are; every name and every pair of names still occurs in
    training. Fixed for ever: the same on every machine. Raises InvalidOption for an unknown name.
    """
    for field, value in (("object", object), ("colour", colour), ("background", background)):
        _check_name(field, value, ATTRIBUTES[field])
    return (object, colour, background) in _held_out()


# ---- sampling ----------------------------------------------------------------------------------------


def sample_scene(rng: np.random.Generator) -> Scene:
    """One scene at random, from either split.

    Object, colour, background and size are uniform; a third of the scenes is centred, because a caption
    that names no place means the centre, and the rest is uniform over the other positions.
    """
    o, c, b, s, centred, p, dx, dy, turn = rng.random(9)
    return Scene(
        object=_pick(OBJECTS, o),
        colour=_pick(COLOURS, c),
        background=_pick(COLOURS, b),
        size=_pick(SIZES, s),
        position="center" if centred < 1 / 3 else _pick(POSITIONS[1:], p),
        jitter=(float(2 * dx - 1) * MAX_JITTER, float(2 * dy - 1) * MAX_JITTER),
        angle=float(2 * turn - 1) * MAX_ANGLE,
    )


def _pick(names: tuple[str, ...], u: float) -> str:
    return names[int(u * len(names))]


def scene_stream(seed: int, split: str = "train") -> Iterator[Scene]:
    """Scenes without end, the same ones for the same seed.

    split: "train" (no held-out combination), "held_out" (only those) or "all".
    Raises InvalidOption for another split, or for a seed that is not a whole number of 0 or more.
    """
    if split not in SPLITS:
        raise InvalidOption(f"{split=} is not a split. Choose one of: {', '.join(SPLITS)}.")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InvalidOption(f"{seed=} must be a whole number, 0 or more.")
    return _stream(np.random.default_rng(seed), split)


def _stream(rng: np.random.Generator, split: str) -> Iterator[Scene]:
    held_out = _held_out()
    while True:
        scene = sample_scene(rng)
        kept = (scene.object, scene.colour, scene.background) in held_out
        if split == "all" or kept == (split == "held_out"):
            yield scene


# ---- captions ----------------------------------------------------------------------------------------

# The first wording of each is the one of the full caption.
OBJECT_WORDS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in OBJECTS},
    "circle": ("circle", "disc"),
    "moon": ("moon", "crescent moon"),
    "ring": ("ring", "hoop"),
    "cross": ("cross", "plus sign"),
    "tree": ("tree", "fir tree"),
    "boat": ("boat", "sailing boat"),
    "cup": ("cup", "mug"),
    "cat": ("cat", "kitten"),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in COLOURS},
    "purple": ("purple", "violet"),
    "gray": ("gray", "grey"),
}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "tiny", "little"),
    "medium": ("", "medium"),
    "large": ("large", "big", "huge"),
}
POSITION_WORDS: dict[str, tuple[str, ...]] = {
    "center": ("", "in the center", "in the centre", "in the middle"),
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
    "top left": ("in the top left corner", "in the upper left corner", "at the top left"),
    "top right": ("in the top right corner", "in the upper right corner", "at the top right"),
    "bottom left": ("in the bottom left corner", "in the lower left corner", "at the bottom left"),
    "bottom right": ("in the bottom right corner", "in the lower right corner", "at the bottom right"),
}
_BEFORE_BACKGROUND = ("on", "against", "with")
_OPENINGS = ("", "", "", "a picture of", "a drawing of")
# How often a varied caption leaves an attribute unsaid. The object is always named.
_LEFT_OUT = {"colour": 0.1, "size": 0.2, "position": 0.2, "background": 0.25}
_USUAL_WORDING = 0.6  # how often a varied caption takes the first wording


def caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """The scene in words.

    Without rng, the full caption: "a small red star on the left on a blue background". The medium size
    and the centre go unsaid: "a red heart on a white background". With rng, a varied one: attributes are
    left out and synonyms taken.
    """
    if rng is None:
        return _phrase(
            object=OBJECT_WORDS[scene.object][0],
            colour=COLOUR_WORDS[scene.colour][0],
            size=SIZE_WORDS[scene.size][0],
            position=POSITION_WORDS[scene.position][0],
            background=COLOUR_WORDS[scene.background][0],
        )
    said = {field: rng.random() >= share for field, share in _LEFT_OUT.items()}
    return _phrase(
        opening=_OPENINGS[rng.integers(len(_OPENINGS))],
        object=_wording(OBJECT_WORDS[scene.object], rng),
        colour=_wording(COLOUR_WORDS[scene.colour], rng) if said["colour"] else "",
        size=_wording(SIZE_WORDS[scene.size], rng) if said["size"] else "",
        position=_wording(POSITION_WORDS[scene.position], rng) if said["position"] else "",
        joint=_wording(_BEFORE_BACKGROUND, rng),
        background=_wording(COLOUR_WORDS[scene.background], rng) if said["background"] else "",
    )


def _wording(words: tuple[str, ...], rng: np.random.Generator) -> str:
    if len(words) == 1 or rng.random() < _USUAL_WORDING:
        return words[0]
    return words[rng.integers(1, len(words))]


def _phrase(
    *, object: str, colour: str, size: str, position: str, background: str, opening: str = "", joint: str = "on"
) -> str:
    thing = with_article(_join(size, colour, object))
    behind = f"{joint} {with_article(background)} background" if background else ""
    return _join(opening, thing, position, behind)


def _join(*words: str) -> str:
    return " ".join(word for word in words if word)


def with_article(words: str) -> str:
    """"a red star", "an orange fish"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def parse_caption(text: str) -> dict[str, str]:
    """The attributes that a caption names, the inverse of `caption` as far as that says them.

    Returns a dict with any of the keys "object", "colour", "background", "size", "position"; what the
    text does not name is absent (a full caption leaves "medium" and "center" unsaid). Case, order and
    punctuation do not matter; a text about something else gives {}.
    """
    words = " ".join(re.findall(r"[a-z]+", text.lower()))
    found: dict[str, str | None] = {"background": _find(COLOUR_WORDS, words, after=" background")}
    words = re.sub(r"\w+ background", "", words)
    found |= {"object": _find(OBJECT_WORDS, words), "colour": _find(COLOUR_WORDS, words)}
    found |= {"size": _find(SIZE_WORDS, words), "position": _find_position(words)}
    return {field: value for field, value in found.items() if value is not None}


def _find(wordings: Mapping[str, tuple[str, ...]], text: str, after: str = "") -> str | None:
    """The name whose wording stands first in the text."""
    hits = [
        (match.start(), name)
        for name, words in wordings.items()
        for word in words
        if word and (match := re.search(rf"\b{word}{after}\b", text))
    ]
    return min(hits)[1] if hits else None


_HEIGHTS = {"top": ("top", "upper"), "bottom": ("bottom", "lower")}
_SIDES = {"left": ("left",), "right": ("right",)}
_MIDDLE = {"center": ("center", "centre", "middle")}


def _find_position(text: str) -> str | None:
    corner = _join(_find(_HEIGHTS, text) or "", _find(_SIDES, text) or "")
    return corner or _find(_MIDDLE, text)
