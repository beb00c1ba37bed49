"""The embedded world: captioned pictures with exact ground truth, drawn by our own code.

    scenes = scene_stream(seed=0)              # endless, the same for the same seed
    scene = next(scenes)                       # data: object, colour, background, size, position
    caption(scene)                             # "a small red star on the left on a blue background"
    render(scene), edges(scene), segmentation(scene), depth(scene)
    pair = next(pair_stream(seed=0))           # two things and their relation; world_stream gives half and half
    caption(pair)                              # "a red heart to the left of a small blue star on a yellow background"

Needs numpy only (Pillow for the contact sheet); no file, no network.
"""

from studio.toybox.files import scene_from_json, scene_to_json
from studio.toybox.pairs import (
    INVERSE,
    RELATIONS,
    WORLDS,
    AnyScene,
    PairScene,
    Thing,
    arrange,
    in_reading_order,
    is_pair_held_out,
    is_scene_held_out,
    pair_stream,
    sample_pair,
    seen_relation,
    world_stream,
)
from studio.toybox.render import centre_of, depth, edges, instances, nearest_position, render, render_batch, segmentation
from studio.toybox.sheet import scene_sheet
from studio.toybox.words import caption, imagine, parse_caption, parse_pair, unknown_words, vocabulary, with_article
from studio.toybox.world import (
    ATTRIBUTES,
    COLOURS,
    OBJECTS,
    POSITIONS,
    SIZES,
    Scene,
    is_held_out,
    sample_scene,
    scene_stream,
)

__all__ = [
    "ATTRIBUTES",
    "AnyScene",
    "COLOURS",
    "INVERSE",
    "OBJECTS",
    "POSITIONS",
    "PairScene",
    "RELATIONS",
    "SIZES",
    "Scene",
    "Thing",
    "WORLDS",
    "arrange",
    "caption",
    "centre_of",
    "depth",
    "edges",
    "imagine",
    "in_reading_order",
    "instances",
    "is_held_out",
    "is_pair_held_out",
    "is_scene_held_out",
    "nearest_position",
    "pair_stream",
    "parse_caption",
    "parse_pair",
    "render",
    "render_batch",
    "sample_pair",
    "sample_scene",
    "scene_from_json",
    "scene_sheet",
    "scene_stream",
    "scene_to_json",
    "seen_relation",
    "segmentation",
    "unknown_words",
    "vocabulary",
    "with_article",
    "world_stream",
]
