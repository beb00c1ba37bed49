"""The twenty objects of the toy world, each as three signed distance functions.

A signed distance d(x, y) is negative inside a shape, zero on its outline and positive outside, so
    union = min(d1, d2)    intersection = max(d1, d2)    difference = max(d1, -d2)    grown by r = d - r
and a pixel's coverage is clip(1/2 - d / pixel, 0, 1): anti-aliasing without supersampling.

Object space: the origin is the object's middle, x grows to the right and y DOWN as in pictures, and the
object lies inside the square [-1, 1]^2 even after the small turns that a scene may ask for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

Field = np.ndarray  # a signed distance at every sample point, in object units
Points = Sequence[tuple[float, float]]

FIELD_EXTENT = 1.25  # the sampled square is [-1.25, 1.25]^2: the object and a margin
FIELD_SAMPLES = 160  # finer than the largest object in a 128-pixel picture


class Shape(NamedTuple):
    """One object: its outline, and the parts of it that are painted darker or lighter.

    Each field has the shape of the sample points and is a signed distance in object units. `light` lies
    over `dark`, and both are seen only inside `silhouette`.
    """

    silhouette: Field
    dark: Field | None = None
    light: Field | None = None


# ---- primitives --------------------------------------------------------------------------------------


def _union(*fields: Field) -> Field:
    return np.minimum.reduce(fields)


def _cut(field: Field, *holes: Field) -> Field:
    return np.maximum(field, -_union(*holes))


def _both(*fields: Field) -> Field:
    return np.maximum.reduce(fields)


def _disc(x: Field, y: Field, cx: float, cy: float, radius: float) -> Field:
    return np.hypot(x - cx, y - cy) - radius


def _ellipse(x: Field, y: Field, cx: float, cy: float, rx: float, ry: float, turn: float = 0.0) -> Field:
    """An ellipse turned by `turn` degrees; first-order distance, exact on the outline."""
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    u, v = (x - cx) * c + (y - cy) * s, (y - cy) * c - (x - cx) * s
    k = np.hypot(u / rx, v / ry)
    slope = np.hypot(u / rx**2, v / ry**2)
    return k * (k - 1) / np.maximum(slope, 1e-6)


def _box(x: Field, y: Field, cx: float, cy: float, hx: float, hy: float, corner: float = 0.0) -> Field:
    """A box of half sides hx, hy whose corners are rounded with radius `corner`."""
    qx, qy = np.abs(x - cx) - (hx - corner), np.abs(y - cy) - (hy - corner)
    outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
    return outside + np.minimum(np.maximum(qx, qy), 0) - corner


def _stroke(x: Field, y: Field, start: tuple[float, float], end: tuple[float, float], radius: float) -> Field:
    """A straight line with round ends."""
    (ax, ay), (bx, by) = start, end
    length2 = (bx - ax) ** 2 + (by - ay) ** 2
    along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length2, 0, 1)
    return np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)) - radius


def _polygon(x: Field, y: Field, points: Points, corner: float = 0.0) -> Field:
    """A closed polygon grown by `corner`, which also rounds its convex corners."""
    nearest2 = np.full(np.broadcast(x, y).shape, np.inf)
    inside = np.zeros(nearest2.shape, bool)
    for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
        ex, ey, wx, wy = bx - ax, by - ay, x - ax, y - ay
        along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        nearest2 = np.minimum(nearest2, (wx - along * ex) ** 2 + (wy - along * ey) ** 2)
        # Even-odd rule: each edge that lies to the right of a point, at its height, flips the side.
        if ey:
            inside ^= ((ay > y) != (by > y)) & (wx < wy * ex / ey)
    return np.sqrt(nearest2) * np.where(inside, -1, 1) - corner


def _spokes(count: int, radius: float, first: float = -90.0) -> list[tuple[float, float]]:
    """`count` points evenly round a circle, the first at `first` degrees (-90 is up)."""
    angles = [math.radians(first + 360 * k / count) for k in range(count)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


# ---- plain figures -----------------------------------------------------------------------------------


def _circle(x: Field, y: Field) -> Shape:
    return Shape(_disc(x, y, 0, 0, 0.8))


def _square(x: Field, y: Field) -> Shape:
    return Shape(_box(x, y, 0, 0, 0.76, 0.76, 0.08))


def _triangle(x: Field, y: Field) -> Shape:
    return Shape(_polygon(x, y, [(0, -0.8), (0.8, 0.62), (-0.8, 0.62)], 0.08))


def _hexagon(x: Field, y: Field) -> Shape:
    return Shape(_polygon(x, y, _spokes(6, 0.9, 0), 0.05))


def _star(x: Field, y: Field) -> Shape:
    outer, inner = _spokes(5, 0.93), _spokes(5, 0.42, -54)
    points = [point for pair in zip(outer, inner, strict=True) for point in pair]
    return Shape(_polygon(x, y - 0.06, points, 0.05))


def _heart(x: Field, y: Field) -> Shape:
    # A square on its tip of side `a`, and a disc on each of its upper sides.
    a, cy = 1.06, 0.08
    tip, lobe = a / math.sqrt(2), a / math.sqrt(8)
    diamond = _polygon(x, y, [(0, cy - tip), (tip, cy), (0, cy + tip), (-tip, cy)])
    return Shape(_union(diamond, _disc(x, y, -lobe, cy - lobe, a / 2), _disc(x, y, lobe, cy - lobe, a / 2)))


def _moon(x: Field, y: Field) -> Shape:
    return Shape(_cut(_disc(x, y, 0.05, 0, 0.9), _disc(x, y, 0.45, -0.18, 0.7)))


def _ring(x: Field, y: Field) -> Shape:
    return Shape(np.abs(_disc(x, y, 0, 0, 0.66)) - 0.21)


def _cross(x: Field, y: Field) -> Shape:
    return Shape(_union(_box(x, y, 0, 0, 0.88, 0.28, 0.07), _box(x, y, 0, 0, 0.28, 0.88, 0.07)))


# ---- things ------------------------------------------------------------------------------------------


def _house(x: Field, y: Field) -> Shape:
    walls = _box(x, y, 0, 0.4, 0.64, 0.5, 0.04)
    roof = _polygon(x, y, [(0, -0.82), (0.86, -0.06), (-0.86, -0.06)], 0.05)
    chimney = _box(x, y, 0.48, -0.55, 0.13, 0.3, 0.02)
    door = _box(x, y, -0.26, 0.62, 0.17, 0.3, 0.04)
    window = _box(x, y, 0.28, 0.36, 0.19, 0.17, 0.03)
    eaves = _box(x, y, 0, 0.03, 0.64, 0.055)
    return Shape(_union(walls, roof, chimney), dark=_union(door, eaves), light=window)


def _tree(x: Field, y: Field) -> Shape:
    tiers = [(-0.86, -0.28, 0.42), (-0.52, 0.2, 0.58), (-0.1, 0.6, 0.74)]
    boughs = [_polygon(x, y, [(0, top), (half, low), (-half, low)], 0.06) for top, low, half in tiers]
    trunk = _box(x, y, 0, 0.76, 0.15, 0.2, 0.03)
    return Shape(_union(*boughs, trunk), dark=_cut(trunk, *boughs))


def _fish(x: Field, y: Field) -> Shape:
    body = _ellipse(x, y, -0.2, 0, 0.74, 0.5)
    tail = _polygon(x, y, [(0.34, 0), (0.84, -0.46), (0.72, 0), (0.84, 0.46)], 0.06)
    back = _polygon(x, y, [(-0.52, -0.34), (0.1, -0.66), (0.3, -0.2)], 0.05)
    eye, pupil = _disc(x, y, -0.56, -0.12, 0.15), _disc(x, y, -0.57, -0.12, 0.075)
    fin = _polygon(x, y, [(-0.18, 0.04), (0.16, 0.2), (-0.12, 0.26)], 0.04)
    return Shape(_union(body, tail, back), dark=_union(pupil, fin), light=_cut(eye, pupil))


def _flower(x: Field, y: Field) -> Shape:
    petals = [_disc(x, y, px, py, 0.325) for px, py in _spokes(6, 0.58)]
    centre = _disc(x, y, 0, 0, 0.3)
    rim = _disc(x, y, 0, 0, 0.38)
    return Shape(_union(*petals, rim), dark=_cut(rim, centre), light=centre)


def _mushroom(x: Field, y: Field) -> Shape:
    dome = _both(_ellipse(x, y, 0, 0.14, 0.9, 0.98), y - 0.12) - 0.03
    stem = _union(_box(x, y, 0, 0.5, 0.22, 0.4, 0.1), _ellipse(x, y, 0, 0.74, 0.32, 0.16))
    spots = _union(_disc(x, y, -0.42, -0.22, 0.14), _disc(x, y, 0.1, -0.46, 0.17), _disc(x, y, 0.52, -0.12, 0.12))
    return Shape(_union(dome, stem), light=_union(spots, _cut(stem, dome)))


def _butterfly(x: Field, y: Field) -> Shape:
    side = np.abs(x)  # a butterfly is its own mirror image
    upper = _ellipse(side, y, 0.46, -0.3, 0.5, 0.37, -38)
    lower = _ellipse(side, y, 0.38, 0.42, 0.4, 0.3, 42)
    body = _stroke(x, y, (0, -0.36), (0, 0.5), 0.09)
    feeler = _stroke(side, y, (0.03, -0.42), (0.2, -0.84), 0.05)
    spots = _union(_disc(side, y, 0.55, -0.37, 0.12), _disc(side, y, 0.42, 0.46, 0.09))
    return Shape(_union(upper, lower, body, feeler), dark=_union(body, feeler), light=spots)


def _car(x: Field, y: Field) -> Shape:
    body = _box(x, y, 0, 0.14, 0.92, 0.3, 0.15)
    cabin = _polygon(x, y, [(-0.52, 0), (-0.36, -0.46), (0.24, -0.46), (0.54, 0)], 0.1)
    glass = _polygon(x, y, [(-0.4, -0.14), (-0.3, -0.4), (0.18, -0.4), (0.4, -0.14)], 0.02)
    panes = _cut(glass, _box(x, y, -0.04, -0.2, 0.06, 0.4))
    wheels = _disc(np.abs(x), y, 0.5, 0.42, 0.23)
    hubs = _disc(np.abs(x), y, 0.5, 0.42, 0.09)
    return Shape(_union(body, cabin, wheels), dark=wheels, light=_union(panes, hubs))


def _boat(x: Field, y: Field) -> Shape:
    hull = _polygon(x, y, [(-0.86, 0.36), (0.86, 0.36), (0.54, 0.8), (-0.58, 0.8)], 0.06)
    mast = _stroke(x, y, (0, -0.84), (0, 0.4), 0.055)
    sail = _polygon(x, y, [(0.13, -0.74), (0.76, 0.16), (0.13, 0.16)], 0.05)
    jib = _polygon(x, y, [(-0.14, -0.42), (-0.14, 0.16), (-0.54, 0.16)], 0.05)
    return Shape(_union(hull, mast, sail, jib), dark=_cut(mast, hull), light=jib)


def _cup(x: Field, y: Field) -> Shape:
    body = _polygon(x, y, [(-0.74, -0.5), (0.4, -0.5), (0.3, 0.62), (-0.64, 0.62)], 0.1)
    handle = np.abs(_ellipse(x, y, 0.42, -0.02, 0.4, 0.36)) - 0.1
    drink = _ellipse(x, y, -0.17, -0.44, 0.52, 0.1)
    return Shape(_union(body, _cut(handle, body)), dark=drink)


def _umbrella(x: Field, y: Field) -> Shape:
    canopy = _both(_disc(x, y, 0, 0.06, 0.92), y - 0.14)
    scallops = [_disc(x, y, cx, 0.2, 0.31) for cx in (-0.62, 0.0, 0.62)]
    canopy = _cut(canopy, *scallops)
    pole = _stroke(x, y, (0, -0.92), (0, 0.66), 0.06)
    hook = _both(np.abs(_disc(x, y, 0.17, 0.68, 0.17)) - 0.06, 0.66 - y)
    rib = np.abs(_ellipse(x, y, 0, 0.1, 0.34, 0.96)) - 0.035
    return Shape(_union(canopy, pole, hook), dark=_union(_cut(_union(pole, hook), canopy), rib))


def _cat(x: Field, y: Field) -> Shape:
    side = np.abs(x)
    head = _ellipse(x, y, 0, 0.18, 0.84, 0.68)
    ear = _polygon(side, y, [(0.16, -0.4), (0.7, -0.82), (0.78, 0.0)], 0.07)
    inner = _polygon(side, y, [(0.4, -0.4), (0.64, -0.6), (0.68, -0.2)], 0.03)
    eye = _ellipse(side, y, 0.34, 0.08, 0.13, 0.18)
    glint = _disc(side, y, 0.37, 0.02, 0.05)
    nose = _polygon(side, y, [(-0.01, 0.32), (0.1, 0.32), (-0.01, 0.42)], 0.03)
    mouth = _both(np.abs(_disc(side, y, 0.13, 0.44, 0.13)) - 0.03, 0.44 - y)
    whisker = _stroke(side, y, (0.46, 0.36), (0.7, 0.32), 0.025)
    return Shape(_union(head, ear), dark=_union(eye, nose, mouth, whisker), light=_union(inner, glint))


SHAPES: dict[str, Callable[[Field, Field], Shape]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "hexagon": _hexagon,
    "star": _star,
    "heart": _heart,
    "moon": _moon,
    "ring": _ring,
    "cross": _cross,
    "house": _house,
    "tree": _tree,
    "fish": _fish,
    "flower": _flower,
    "mushroom": _mushroom,
    "butterfly": _butterfly,
    "car": _car,
    "boat": _boat,
    "cup": _cup,
    "umbrella": _umbrella,
    "cat": _cat,
}


@cache
def fields(name: str) -> np.ndarray:
    """The object sampled once on a square grid, to be placed by interpolation ever after.

    Returns (FIELD_SAMPLES**2, 3) float32, row by row over [-FIELD_EXTENT, FIELD_EXTENT]^2: the signed
    distances of silhouette, dark part and light part, in object units. A part that the object lacks is
    far away everywhere. Interpolating distances keeps outlines crisp at any scale, where interpolating
    pixels would blur them.
    """
    axis = np.linspace(-FIELD_EXTENT, FIELD_EXTENT, FIELD_SAMPLES)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    far = np.full(x.shape, 9.0)
    layers = [far if layer is None else layer for layer in SHAPES[name](x, y)]
    sampled = np.stack(layers, axis=-1).reshape(-1, 3).astype(np.float32)
    sampled.flags.writeable = False
    return sampled
