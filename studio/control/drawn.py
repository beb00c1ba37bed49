"""Exact maps of Toybox scenes as ControlNets see them: edges, segmentation, depth. (side, side) or (side, side, 3) uint8."""

import colorsys
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from studio.toybox import OBJECTS, AnyScene, depth, edges, imagine, segmentation

__all__ = ["MAPS", "PALETTE", "depth_map", "edge_map", "map_of_scene", "scene_of", "segmentation_map"]

# Black for the background, then a colour for each object: golden-angle hues at three brightnesses, so that neighbours are far apart.
PALETTE = np.array([(0, 0, 0), *(
    tuple(round(255 * part) for part in colorsys.hsv_to_rgb(0.618034 * i % 1, 0.85, (1.0, 0.75, 0.55)[i % 3])) for i in range(len(OBJECTS))
)], np.uint8)


def scene_of(words: str, seed: int) -> AnyScene:
    """The scene that the words describe; what they leave open is drawn from the seed."""
    return imagine(words, np.random.default_rng(seed))


MAPS: Mapping[str, Callable[[AnyScene, int], np.ndarray]] = MappingProxyType({
    "toybox-edges": edges,
    "toybox-segmentation": lambda scene, side: PALETTE[segmentation(scene, side)],
    "toybox-depth": lambda scene, side: np.rint(255 * depth(scene, side)).astype(np.uint8),
})


def map_of_scene(kind: str, scene: AnyScene, side: int) -> np.ndarray:
    """The map of a scene: (side, side, 3) uint8. kind: a key of MAPS."""
    made = MAPS[kind](scene, side)
    return made if made.ndim == 3 else np.repeat(made[..., None], 3, axis=2)


def edge_map(words: str, seed: int, side: int) -> np.ndarray:
    """White outlines on black."""
    return map_of_scene("toybox-edges", scene_of(words, seed), side)


def segmentation_map(words: str, seed: int, side: int) -> np.ndarray:
    """A colour of PALETTE for each object."""
    return map_of_scene("toybox-segmentation", scene_of(words, seed), side)


def depth_map(words: str, seed: int, side: int) -> np.ndarray:
    """White is nearest."""
    return map_of_scene("toybox-depth", scene_of(words, seed), side)
