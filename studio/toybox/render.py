"""Pictures of scenes, and the exact ground truth beside each.

A picture is flat paint: every pixel is a weighting of five inks,
    pixel = w_background B + w_outline O + w_base C + w_dark D + w_light L,    sum of w = 1,
where the weights are pixel coverages read off the object's signed distances (see shapes.py); a second object is
painted over the first in the same way. Edges, segmentation and depth come from the same distances, so they agree
with the picture by construction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from studio.errors import InvalidOption
from studio.toybox.pairs import AnyScene
from studio.toybox.shapes import FIELD_EXTENT, FIELD_SAMPLES, fields
from studio.toybox.world import OBJECTS, POSITIONS, Scene

Rgb = tuple[int, int, int]

OBJECT_RGB: dict[str, Rgb] = {
    "red": (222, 44, 50),
    "orange": (245, 130, 24),
    "yellow": (250, 208, 36),
    "green": (54, 160, 70),
    "teal": (0, 146, 150),
    "blue": (40, 96, 214),
    "purple": (128, 66, 180),
    "pink": (242, 112, 170),
    "brown": (126, 78, 44),
    "black": (30, 30, 36),
    "white": (255, 255, 255),
    "gray": (128, 130, 136),
}
BACKGROUND_RGB: dict[str, Rgb] = {
    "red": (246, 180, 176),
    "orange": (252, 208, 160),
    "yellow": (254, 242, 178),
    "green": (192, 228, 190),
    "teal": (168, 224, 222),
    "blue": (178, 206, 246),
    "purple": (212, 192, 238),
    "pink": (253, 206, 229),
    "brown": (208, 182, 158),
    "black": (74, 76, 84),
    "white": (232, 232, 228),
    "gray": (184, 187, 193),
}
# Black cannot go darker nor white lighter, so their details are drawn in grays of their own.
_SPECIAL_INKS: dict[str, tuple[Rgb, Rgb, Rgb]] = {
    "black": ((4, 4, 8), (92, 92, 102), (150, 150, 162)),
    "white": ((140, 143, 152), (162, 165, 175), (214, 218, 226)),
}

HALF_EXTENT = {"small": 0.14, "medium": 0.235, "large": 0.34}  # of an object, in fractions of the side
OFFSET = {"small": 0.29, "medium": 0.215, "large": 0.12}  # of a position from the centre, likewise
OUTLINE = 0.06  # width in object units, about one pixel of a medium object at 64 pixels
MIN_SIZE, MAX_SIZE = 16, 1024  # of a picture, in pixels
FINEST = 14  # samples that an object unit needs for details thinner than a pixel to weigh what they should

FAR, NEAR = 0.05, 0.45  # depth of the background plane at the top and at the bottom
OBJECT_DEPTH, BULGE = 0.7, 0.3  # depth at an object's outline, and how far its middle stands out
# Of two objects the first stands wholly before the second, and both before the background.
FIRST_DEPTH, FIRST_BULGE = 0.8, 0.2
SECOND_DEPTH, SECOND_BULGE = 0.6, 0.15


class _Part(NamedTuple):
    """One object as it is painted. centre and extent: in fractions of the picture's side; depth: at its outline."""

    object: str
    colour: str
    centre: tuple[float, float]
    extent: float
    angle: float
    depth: float
    bulge: float


class _Patch(NamedTuple):
    """The part of a picture that an object can touch, and the object's distances there.

    distances: (h, w, 3) float32, silhouette, dark and light, in units of one sample. There are `samples`
    samples to a pixel's side, so h and w are that many times the lengths of `rows` and `columns`.
    """

    rows: slice
    columns: slice
    distances: np.ndarray


def render(scene: AnyScene, size: int = 64) -> np.ndarray:
    """The picture of a scene: (size, size, 3) uint8 RGB, anti-aliased.

    Drawn for the size asked for, 16 to 1024 pixels; raises InvalidOption for another size.
    """
    _check(size)
    picture = np.empty((size, size, 3), np.uint8)
    _paint(picture, scene)
    return picture


def render_batch(scenes: Iterable[AnyScene], size: int = 64) -> np.ndarray:
    """The pictures of scenes: (N, size, size, 3) uint8 RGB, each the same as `render` gives."""
    _check(size)
    scenes = list(scenes)
    pictures = np.empty((len(scenes), size, size, 3), np.uint8)
    for picture, scene in zip(pictures, scenes, strict=True):
        _paint(picture, scene)
    return pictures


def segmentation(scene: AnyScene, size: int = 64) -> np.ndarray:
    """What is seen where: (size, size) uint8, 0 for background, 1 + OBJECTS.index(object) for each object.

    A pixel belongs to the foremost object that holds its centre.
    """
    return _painted(scene, size, [1 + OBJECTS.index(part.object) for part in _parts(scene)])


def instances(scene: AnyScene, size: int = 64) -> np.ndarray:
    """Which object is seen where: (size, size) uint8, 0 for background, 1 for the first object, 2 for the second."""
    count = len(_parts(scene))
    return _painted(scene, size, list(range(count, 0, -1)))


def edges(scene: AnyScene, size: int = 64) -> np.ndarray:
    """The outlines of what is seen, holes included: (size, size) uint8, 255 on the edge, else 0.

    One pixel wide: the pixels of an object that have a neighbour (up, down, left, right) that lies behind it.
    """
    inside = np.pad(_painted(scene, size, list(range(1, 1 + len(_parts(scene))))), 1)
    middle = inside[1:-1, 1:-1]
    behind = np.minimum.reduce([inside[:-2, 1:-1], inside[2:, 1:-1], inside[1:-1, :-2], inside[1:-1, 2:]])
    return np.where(behind < middle, np.uint8(255), np.uint8(0))


def depth(scene: AnyScene, size: int = 64) -> np.ndarray:
    """How near everything is: (size, size) float32 in [0, 1], 1 is nearest.

    The background is a plane that recedes smoothly from the bottom (NEAR) to the top (FAR); objects stand before it,
    softly bulging towards the viewer, the first before the second.
    """
    _check(size)
    plane = np.linspace(FAR, NEAR, size, dtype=np.float32)
    picture = np.repeat(plane[:, None], size, axis=1)
    for part in _parts(scene):
        patch = _place(part, size)
        silhouette = patch.distances[..., 0]
        thickness = np.clip(-silhouette / (part.extent * size), 0, 1)
        bulge = part.depth + part.bulge * np.sqrt(1 - (1 - thickness) ** 2)
        view = picture[patch.rows, patch.columns]
        view[...] = np.where(silhouette < 0, bulge, view)
    return picture


# ---- placing -----------------------------------------------------------------------------------------


def _check(size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or not MIN_SIZE <= size <= MAX_SIZE:
        raise InvalidOption(f"{size=} must be a whole number of pixels from {MIN_SIZE} to {MAX_SIZE}.")


def _parts(scene: AnyScene) -> tuple[_Part, ...]:
    """The objects of a scene, from back to front."""
    if isinstance(scene, Scene):
        return (_Part(scene.object, scene.colour, centre_of(scene), HALF_EXTENT[scene.size], scene.angle, OBJECT_DEPTH, BULGE),)
    order = ((scene.second, SECOND_DEPTH, SECOND_BULGE), (scene.first, FIRST_DEPTH, FIRST_BULGE))
    return tuple(_Part(thing.object, thing.colour, thing.centre, thing.extent, thing.angle, near, bulge) for thing, near, bulge in order)


def centre_of(scene: Scene) -> tuple[float, float]:
    """Where the object's middle lies, from the upper left corner, in fractions of the picture's side."""
    across, down = _way(scene.position)
    offset = OFFSET[scene.size]
    dx, dy = scene.jitter
    return 0.5 + across * offset + dx, 0.5 + down * offset + dy


def _way(position: str) -> tuple[int, int]:
    """(x, y) of a named place, each -1, 0 or 1."""
    words = position.split()
    return ("right" in words) - ("left" in words), ("bottom" in words) - ("top" in words)


def nearest_position(size: str, centre: tuple[float, float]) -> str:
    """The named place that an object of this size with this middle stands at, alone in its picture."""
    x, y = ((middle - 0.5) / OFFSET[size] for middle in centre)
    return min(POSITIONS, key=lambda position: math.dist(_way(position), (x, y)))


def _painted(scene: AnyScene, size: int, labels: list[int]) -> np.ndarray:
    """(size, size) uint8: the label of the foremost part that holds each pixel's centre; one label a part, from back to front."""
    _check(size)
    picture = np.zeros((size, size), np.uint8)
    for part, label in zip(_parts(scene), labels, strict=True):
        patch = _place(part, size)
        picture[patch.rows, patch.columns][patch.distances[..., 0] < 0] = label
    return picture


def _place(part: _Part, size: int, samples: int = 1) -> _Patch:
    """The object's distances in the pixels that it can touch, `samples` to a pixel's side."""
    cx, cy = (middle * size for middle in part.centre)
    scale = part.extent * size
    rows, columns = _span(cy, scale, size), _span(cx, scale, size)
    x = _sample_points(columns, cx, samples) / np.float32(scale)
    y = _sample_points(rows, cy, samples)[:, None] / np.float32(scale)
    turn = math.radians(part.angle)
    c, s = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    distances = _interpolate(fields(part.object), c * x + s * y, c * y - s * x)
    distances *= np.float32(scale * samples)
    return _Patch(rows, columns, distances)


def _sample_points(span: slice, centre: float, samples: int) -> np.ndarray:
    """Offsets from the object's middle, in pixels; one sample a pixel is the pixel's centre."""
    index = np.arange(span.start * samples, span.stop * samples, dtype=np.float32)
    return (index + np.float32(0.5)) / np.float32(samples) - np.float32(centre)


def _span(centre: float, scale: float, size: int) -> slice:
    # An object reaches one unit from its centre, and its anti-aliasing one pixel further.
    return slice(max(0, math.floor(centre - scale - 1)), min(size, math.ceil(centre + scale + 1)))


def _interpolate(field: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear reading of a sampled field (FIELD_SAMPLES**2, 3) at points in object units."""
    step = np.float32((FIELD_SAMPLES - 1) / (2 * FIELD_EXTENT))
    last = np.float32(FIELD_SAMPLES - 1.001)
    u = np.clip((x + np.float32(FIELD_EXTENT)) * step, 0, last)
    v = np.clip((y + np.float32(FIELD_EXTENT)) * step, 0, last)
    column, row = u.astype(np.intp), v.astype(np.intp)
    fu, fv = (u - column)[..., None], (v - row)[..., None]
    corner = row * FIELD_SAMPLES + column
    upper = _mix(field.take(corner, 0), field.take(corner + 1, 0), fu)
    corner += FIELD_SAMPLES
    lower = _mix(field.take(corner, 0), field.take(corner + 1, 0), fu)
    return _mix(upper, lower, fv)


def _mix(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    b -= a
    b *= share
    b += a
    return b


# ---- painting ----------------------------------------------------------------------------------------


def _paint(picture: np.ndarray, scene: AnyScene) -> None:
    picture[...] = BACKGROUND_RGB[scene.background]
    for place, part in enumerate(_parts(scene)):
        scale = part.extent * len(picture)
        samples = max(1, math.ceil(FINEST / scale))
        patch = _place(part, len(picture), samples)
        weights = _pool(_weights(patch.distances, OUTLINE * scale * samples), samples)
        inks = _inks(part.colour, scene.background)
        painted = weights @ inks + np.float32(0.5)
        view = picture[patch.rows, patch.columns]
        if place:  # where an earlier object stands, that shows through instead of the plain background
            painted += weights[..., :1] * (view - inks[0])
        view[...] = painted


def _weights(distances: np.ndarray, outline: float) -> np.ndarray:
    """The share of each ink in each sample: (h, w, 5) for background, outline, base, dark, light."""
    coverage = np.clip(np.float32(0.5) - distances, 0, 1)
    whole, dark, light = coverage[..., 0], coverage[..., 1], coverage[..., 2]
    filled = np.clip(np.float32(0.5 - outline) - distances[..., 0], 0, 1)
    weights = np.empty((*whole.shape, 5), np.float32)
    weights[..., 0] = 1 - whole
    weights[..., 1] = whole - filled
    weights[..., 4] = filled * light
    rest = filled - weights[..., 4]
    weights[..., 3] = rest * dark
    weights[..., 2] = rest - weights[..., 3]
    return weights


def _pool(weights: np.ndarray, samples: int) -> np.ndarray:
    if samples == 1:
        return weights
    height, width, inks = weights.shape
    blocks = weights.reshape(height // samples, samples, width // samples, samples, inks)
    # Summed one axis at a time: several times quicker than one mean over both.
    return blocks.sum(1).sum(2) / np.float32(samples**2)


def _inks(colour: str, background: str) -> np.ndarray:
    """(5, 3) float32: background, outline, base, dark, light."""
    return np.array([BACKGROUND_RGB[background], *_object_inks(colour)], np.float32)


def _object_inks(colour: str) -> tuple[Rgb, Rgb, Rgb, Rgb]:
    base = OBJECT_RGB[colour]
    outline, dark, light = _SPECIAL_INKS.get(colour, (_darker(base, 0.72), _darker(base, 0.62), _lighter(base, 0.6)))
    return outline, base, dark, light


def _darker(rgb: Rgb, share: float) -> Rgb:
    r, g, b = (round(share * value) for value in rgb)
    return r, g, b


def _lighter(rgb: Rgb, share: float) -> Rgb:
    r, g, b = (round(value + share * (255 - value)) for value in rgb)
    return r, g, b
