"""Scenes in words, and words read back: captions, their synonyms, and what the world has no word for.

The full caption says everything: "a small red star on the left on a blue background", "a red heart to the left of a
small blue star on a yellow background". Varied ones take synonyms and leave attributes out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

import numpy as np

from studio.errors import InvalidOption
from studio.toybox.pairs import INVERSE, AnyScene, PairScene, Thing, arrange
from studio.toybox.world import COLOURS, MAX_ANGLE, MAX_JITTER, OBJECTS, Scene, pick

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
RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
    "and": ("and", "together with"),
}
_BEFORE_BACKGROUND = ("on", "against", "with")
_OPENINGS = ("", "", "", "a picture of", "a drawing of")
# How often a varied caption leaves an attribute unsaid. The object is always named.
_LEFT_OUT = {"colour": 0.1, "size": 0.2, "position": 0.2, "background": 0.25}
_USUAL_WORDING = 0.6  # how often a varied caption takes the first wording
# How often a varied caption of two begins with the second, and how often it says "and" where more is known.
_FROM_THE_OTHER_SIDE, _RELATION_UNSAID = 0.3, 0.15


def caption(scene: AnyScene, rng: np.random.Generator | None = None) -> str:
    """The scene in words.

    Without rng, the full caption (see the module). The medium size and the centre go unsaid: "a red heart on a white
    background". With rng, a varied one: attributes are left out and synonyms taken; of two things either may be named
    first, and their relation may go unsaid.
    """
    if isinstance(scene, PairScene):
        return _pair_caption(scene, rng) if rng is not None else _full_pair_caption(scene)
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


def _full_pair_caption(scene: PairScene) -> str:
    first, second = (_thing(SIZE_WORDS[thing.size][0], thing.colour, thing.object) for thing in (scene.first, scene.second))
    return _join(first, RELATION_WORDS[scene.relation][0], second, _behind("on", scene.background))


def _pair_caption(scene: PairScene, rng: np.random.Generator) -> str:
    first, second, relation = scene.first, scene.second, scene.relation
    if rng.random() < _FROM_THE_OTHER_SIDE:
        first, second, relation = second, first, INVERSE[relation]
    if rng.random() < _RELATION_UNSAID:
        relation = "and"
    behind = ""
    if rng.random() >= _LEFT_OUT["background"]:
        behind = _behind(_wording(_BEFORE_BACKGROUND, rng), _wording(COLOUR_WORDS[scene.background], rng))
    opening = _OPENINGS[rng.integers(len(_OPENINGS))]
    return _join(opening, _varied_thing(first, rng), _wording(RELATION_WORDS[relation], rng), _varied_thing(second, rng), behind)


def _varied_thing(thing: Thing, rng: np.random.Generator) -> str:
    colour = _wording(COLOUR_WORDS[thing.colour], rng) if rng.random() >= _LEFT_OUT["colour"] else ""
    size = _wording(SIZE_WORDS[thing.size], rng) if rng.random() >= _LEFT_OUT["size"] else ""
    return _thing(size, colour, _wording(OBJECT_WORDS[thing.object], rng))


def _wording(words: tuple[str, ...], rng: np.random.Generator) -> str:
    if len(words) == 1 or rng.random() < _USUAL_WORDING:
        return words[0]
    return words[rng.integers(1, len(words))]


def _phrase(
    *, object: str, colour: str, size: str, position: str, background: str, opening: str = "", joint: str = "on"
) -> str:
    return _join(opening, _thing(size, colour, object), position, _behind(joint, background) if background else "")


def _thing(size: str, colour: str, object: str) -> str:
    return with_article(_join(size, colour, object))


def _behind(joint: str, background: str) -> str:
    return f"{joint} {with_article(background)} background"


def _join(*words: str) -> str:
    return " ".join(word for word in words if word)


def with_article(words: str) -> str:
    """"a red star", "an orange fish"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


# ---- reading -----------------------------------------------------------------------------------------


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def parse_caption(text: str) -> dict[str, str]:
    """The attributes that a caption names, the inverse of `caption` as far as that says them.

    Returns a dict with any of the keys "object", "colour", "background", "size", "position"; what the
    text does not name is absent (a full caption leaves "medium" and "center" unsaid). Case, order and
    punctuation do not matter; a text about something else gives {}. Of two objects it reads the one that stands first:
    see parse_pair.
    """
    words = " ".join(_words(text))
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


def parse_pair(text: str) -> tuple[dict[str, str], str, dict[str, str], str | None]:
    """(first, relation, second, background) of a caption of two: each thing a dict with "object" and what is said of
    "colour" and "size"; background None where it goes unsaid.

    Raises InvalidOption for a text that the world cannot hold: not two objects, or a relation that it does not know.
    """
    words = " ".join(_words(text))
    background = _find(COLOUR_WORDS, words, after=" background")
    words = re.sub(r"\w+ background", "", words)
    named = list(_objects_in(words))
    if len(named) != 2:
        raise InvalidOption(f"{text!r} names {len(named) or 'no'} objects; a picture of the toy world holds one, or two with a relation between them.")
    (start, end, first), (begin, _, second) = named
    relation, before_second = _split_relation(text, words[end:begin])
    return _about(words[:start], first), relation, _about(before_second, second), background


def _objects_in(words: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, object) of every object that the words name."""
    by_wording = {wording: name for name, wordings in OBJECT_WORDS.items() for wording in wordings}
    longest_first = sorted(by_wording, key=len, reverse=True)
    for match in re.finditer(rf"\b({'|'.join(longest_first)})\b", words):
        yield match.start(), match.end(), by_wording[match[0]]


def _split_relation(text: str, between: str) -> tuple[str, str]:
    """The relation that stands between two objects, and what follows it."""
    by_wording = {wording: name for name, wordings in RELATION_WORDS.items() for wording in wordings}
    for wording in sorted(by_wording, key=len, reverse=True):
        if match := re.match(rf"\s*{wording}\b", between):
            return by_wording[wording], between[match.end() :]
    known = ", ".join(wordings[0] for wordings in RELATION_WORDS.values())
    raise InvalidOption(f"The toy world does not know the relation between the two objects of {text!r}; say one of: {known}.")


def _about(words: str, object: str) -> dict[str, str]:
    said = {"object": object, "colour": _find(COLOUR_WORDS, words), "size": _find(SIZE_WORDS, words)}
    return {field: value for field, value in said.items() if value is not None}


@cache
def vocabulary() -> frozenset[str]:
    """Every word that a caption of the world can hold."""
    tables = (OBJECT_WORDS, COLOUR_WORDS, SIZE_WORDS, POSITION_WORDS, RELATION_WORDS)
    phrases = [wording for table in tables for wordings in table.values() for wording in wordings]
    return frozenset(" ".join([*phrases, *_OPENINGS, *_BEFORE_BACKGROUND, "a an background"]).split())


def unknown_words(text: str) -> tuple[str, ...]:
    """The words of a prompt that the world has no meaning for, each once, in their order: "an astronaut with a red heart"
    gives ("astronaut",). Numbers count as words; case and punctuation do not matter."""
    spoken = re.findall(r"[^\W_]+", text.lower())
    return tuple(dict.fromkeys(word for word in spoken if word not in vocabulary()))


# ---- imagining ---------------------------------------------------------------------------------------


def imagine(text: str, rng: np.random.Generator) -> AnyScene:
    """A scene that the caption describes; what it leaves unsaid is drawn from rng, the medium size and the centre excepted.

    Raises InvalidOption for a text that the world cannot hold: no object, three, or a relation that it does not know.
    """
    count = len(list(_objects_in(re.sub(r"\w+ background", "", " ".join(_words(text))))))
    if count == 1:
        found = {"colour": pick(COLOURS, rng.random()), "background": pick(COLOURS, rng.random())} | parse_caption(text)
        jitter = tuple(float(2 * u - 1) * MAX_JITTER for u in rng.random(2))
        return Scene(**found, jitter=jitter, angle=_angle(rng))  # type: ignore[arg-type]
    first, relation, second, background = parse_pair(text)
    one, other = (_thing_of(said, rng) for said in (first, second))
    if (one.object, one.colour) == (other.object, other.colour) and "colour" not in second:
        other = _thing_of(second | {"colour": COLOURS[(COLOURS.index(one.colour) + 1) % len(COLOURS)]}, rng)
    return arrange(one, other, relation=relation, background=background or pick(COLOURS, rng.random()), rng=rng)


def _angle(rng: np.random.Generator) -> float:
    return float(2 * rng.random() - 1) * MAX_ANGLE


def _thing_of(said: dict[str, str], rng: np.random.Generator) -> Thing:
    return Thing(**({"colour": pick(COLOURS, rng.random())} | said), angle=_angle(rng))  # type: ignore[arg-type]
