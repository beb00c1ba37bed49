"""Scenes that nearly fit: their captions are the wrong answers from which a CLIP learns every word.

Of one object: one attribute is another. Of two: the relation is another, the two have swapped their colours, or one word
of one of them is another (arXiv:2210.01936: without swapped ones a bag of words is all that is learned).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from studio.toybox import ATTRIBUTES, INVERSE, RELATIONS, AnyScene, PairScene, Scene, arrange, seen_relation

__all__ = ["NEAR", "NEAR_PAIRS", "near_scene", "swapped_colours", "with_relation"]

# How often each attribute is the one that a near caption has wrong.
NEAR = {"object": 0.4, "position": 0.3, "size": 0.1, "colour": 0.1, "background": 0.1}
NEAR_PAIRS = {"relation": 0.3, "colours": 0.25, "object": 0.25, "size": 0.1, "colour": 0.05, "background": 0.05}


def near_scene(scene: AnyScene | str, rng: np.random.Generator) -> AnyScene | str:
    """A scene that differs in one respect; a plain caption as it is."""
    if isinstance(scene, str):
        return scene
    if isinstance(scene, Scene):
        attribute = _drawn(NEAR, rng)
        return replace(scene, **{attribute: _another(attribute, getattr(scene, attribute), rng)})
    return WRONG[_drawn(NEAR_PAIRS, rng)](scene, rng)


def _drawn(shares: dict[str, float], rng: np.random.Generator) -> str:
    return list(shares)[rng.choice(len(shares), p=list(shares.values()))]


def _another(attribute: str, value: str, rng: np.random.Generator) -> str:
    others = [name for name in ATTRIBUTES[attribute] if name != value]
    return others[rng.integers(len(others))]


def with_relation(scene: PairScene, relation: str, rng: np.random.Generator) -> PairScene:
    """The same two things in another relation."""
    return arrange(scene.first, scene.second, relation=relation, background=scene.background, rng=rng)


def _other_relation(scene: PairScene, rng: np.random.Generator) -> PairScene:
    # "and" is never wrong; where it is said, only the opposite of what is seen is surely wrong.
    if scene.relation == "and":
        return with_relation(scene, INVERSE[seen_relation(scene)], rng)
    others = [relation for relation in RELATIONS if relation not in (scene.relation, "and")]
    return with_relation(scene, others[rng.integers(len(others))], rng)


def swapped_colours(scene: PairScene, rng: np.random.Generator) -> PairScene:
    """Each thing in the other's colour; where that shows nothing new, another relation."""
    first, second = scene.first, scene.second
    if first.colour == second.colour or (first.object == second.object and scene.relation == "and"):
        return _other_relation(scene, rng)
    return replace(scene, first=replace(first, colour=second.colour), second=replace(second, colour=first.colour))


def _other_background(scene: PairScene, rng: np.random.Generator) -> PairScene:
    return replace(scene, background=_another("background", scene.background, rng))


def _other_word(attribute: str) -> Callable[[PairScene, np.random.Generator], PairScene]:
    """One of the two things gets another object, size or colour; it may not become the other's double."""

    def changed(scene: PairScene, rng: np.random.Generator) -> PairScene:
        which, other = ("first", "second") if rng.random() < 0.5 else ("second", "first")
        thing = getattr(scene, which)
        while True:
            new = replace(thing, centre=(0.5, 0.5), **{attribute: _another(attribute, getattr(thing, attribute), rng)})
            if (new.object, new.colour) != (getattr(scene, other).object, getattr(scene, other).colour):
                break
        pair: dict[str, Any] = {which: new, other: getattr(scene, other)}
        return arrange(**pair, relation=scene.relation, background=scene.background, rng=rng)

    return changed


WRONG: dict[str, Callable[[PairScene, np.random.Generator], PairScene]] = {
    "relation": _other_relation, "colours": swapped_colours, "object": _other_word("object"), "size": _other_word("size"),
    "colour": _other_word("colour"), "background": _other_background,
}
