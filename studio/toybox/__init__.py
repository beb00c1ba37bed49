"""The embedded world: captioned pictures with exact ground truth, drawn by our own code.

    scenes = scene_stream(seed=0)              # endless, the same for the same seed
    scene = next(scenes)                       # data: object, colour, background, size, position
    caption(scene)                             # "a small red star on the left on a blue background"
    render(scene), edges(scene), segmentation(scene), depth(scene)

Needs numpy only (Pillow for the contact sheet); no file, no network.
"""

from studio.toybox.render import depth, edges, render, render_batch, segmentation
from studio.toybox.sheet import contact_sheet
from studio.toybox.world import (
    ATTRIBUTES,
    COLOURS,
    OBJECTS,
    POSITIONS,
    SIZES,
    Scene,
    caption,
    is_held_out,
    parse_caption,
    sample_scene,
    scene_stream,
    with_article,
)

__all__ = [
    "ATTRIBUTES",
    "COLOURS",
    "OBJECTS",
    "POSITIONS",
    "SIZES",
    "Scene",
    "caption",
    "contact_sheet",
    "depth",
    "edges",
    "is_held_out",
    "parse_caption",
    "render",
    "render_batch",
    "sample_scene",
    "scene_stream",
    "segmentation",
    "with_article",
]
