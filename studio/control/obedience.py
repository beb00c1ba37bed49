"""How well a picture obeys the map that it was to follow, 0 (not at all) to 1. Numbers only; pictures are uint8.

    edges           F1 of outlines, a pixel's shift forgiven        2 P R / (P + R)
    segmentation    |A and B| / |A or B| of what stands before the background
    depth           the same of what is near
    depth order     the share of pairs of a near and a far pixel in which the picture has the near one in front

A picture's own outline is that of its silhouette: what differs from the colour of its border. Details inside an object would
cost a comparison of all edges its precision.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

__all__ = ["OBEDIENCE", "depth_order", "edge_f1", "iou", "obedience", "outline", "silhouette"]

# Of 255: less is shading, or what an autoencoder leaves of a plain background.
APART = 14
# A grey of a depth map that belongs to an object, not to the plane behind it.
NEAR = 140


def silhouette(picture: np.ndarray) -> np.ndarray:
    """(H, W) bool: where a picture (H, W, 3) uint8 differs from the colour that its border mostly has.

    The edge lies where half of the typical difference is reached, as a pixel that is half covered has it. What such pixels enclose belongs
    to it as well, where it is not the background itself: some colours differ little from their background, and only the outline does.
    """
    from scipy.ndimage import binary_fill_holes

    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    difference = np.abs(picture.astype(np.int16) - np.median(border, axis=0).astype(np.int16)).max(axis=2)
    apart = difference > APART
    if not apart.any():
        return apart
    strong: np.ndarray = difference > max(APART, np.median(difference[apart]) / 2)
    return strong | (binary_fill_holes(strong) & apart)


def outline(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels of a mask that have a neighbour (up, down, left, right) outside it."""
    inside = np.pad(mask, 1)
    return mask & ~(inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:])


def edge_f1(found: np.ndarray, wanted: np.ndarray, tolerance: int = 1) -> float:
    """F1 of two sets of edge pixels (H, W) bool; one within `tolerance` pixels of the other set counts. 1 where both are empty."""
    if not found.any() or not wanted.any():
        return float(not found.any() and not wanted.any())
    precision, recall = found[_widened(wanted, tolerance)].sum() / found.sum(), wanted[_widened(found, tolerance)].sum() / wanted.sum()
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _widened(mask: np.ndarray, pixels: int) -> np.ndarray:
    height, width = mask.shape
    padded, every = np.pad(mask, pixels), range(2 * pixels + 1)
    return np.logical_or.reduce([padded[y : y + height, x : x + width] for y in every for x in every])


def iou(found: np.ndarray, wanted: np.ndarray) -> float:
    """Intersection over union of two masks (H, W) bool; 1 where both are empty."""
    union = (found | wanted).sum()
    return float((found & wanted).sum() / union) if union else 1.0


def depth_order(picture: np.ndarray, wanted: np.ndarray) -> float:
    """Of all pairs of a near and a far pixel of a depth map (H, W, 3), the share that a picture (H, W, 3) shows in that order; both uint8.

    Drawn pictures have no depth of their own to compare: what differs from the background stands in front of it. A pair that is not told
    apart counts as wrong, so an empty picture has 0.
    """
    near, front = wanted.max(axis=2) > NEAR, silhouette(picture)
    return float(front[near].mean() * (1 - front[~near].mean())) if near.any() and not near.all() else float("nan")


OBEDIENCE: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = MappingProxyType({
    "toybox-edges": lambda picture, wanted: edge_f1(outline(silhouette(picture)), wanted.max(axis=2) > 127),
    "toybox-segmentation": lambda picture, wanted: iou(silhouette(picture), wanted.max(axis=2) > 0),
    "toybox-depth": lambda picture, wanted: iou(silhouette(picture), wanted.max(axis=2) > NEAR),
})


def obedience(kind: str, picture: np.ndarray, wanted: np.ndarray) -> float:
    """Of a picture (H, W, 3) to a map (H, W, 3) uint8 that the annotator `kind` made.

    For what is not drawn here the picture is annotated again, and edges or greys are compared. NaN where the annotator's maps say
    nothing of places, or where it would have to load its weights.
    """
    if kind in OBEDIENCE:
        return OBEDIENCE[kind](picture, wanted)
    from PIL import Image

    from studio.control.annotators import ANNOTATORS, MapRequest, make_map

    if kind not in ANNOTATORS or ANNOTATORS[kind].kind in ("", "shuffle") or ANNOTATORS[kind].needs:
        return float("nan")
    height, width = wanted.shape[:2]
    again = np.asarray(make_map(MapRequest(annotator=kind, picture=Image.fromarray(picture), width=width, height=height)).map)
    if ANNOTATORS[kind].kind == "edges":
        return edge_f1(again.max(axis=2) > 127, wanted.max(axis=2) > 127)
    return float(1 - np.abs(again.astype(np.float32) - wanted).mean() / 255)
