"""A subject that the toy world does not know: Domino, a cat of two halves with a bow tie.

No training picture holds it (the world's cats are of one colour and wear nothing), so that teaching it to a model is a
real test. `subject(background)` draws it on one of the world's backgrounds, five poses ship in assets/examples/domino.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from studio.errors import InvalidOption
from studio.toybox.render import BACKGROUND_RGB

__all__ = ["SUBJECT_CLASS", "subject", "example_pictures"]

SUBJECT_CLASS = "cat"
FINER = 8  # drawn this many times larger, then averaged down

ORANGE, INK, CREAM, GREEN, RED = (245, 130, 24), (38, 38, 46), (255, 246, 228), (54, 190, 90), (214, 36, 44)
# (background, size, dx, dy): how the examples differ, so that only the subject is common to them.
POSES: tuple[tuple[str, float, float, float], ...] = (
    ("blue", 0.30, 0.0, 0.0), ("green", 0.26, -0.12, 0.05), ("pink", 0.33, 0.05, 0.02), ("white", 0.26, 0.14, -0.08), ("teal", 0.30, -0.04, 0.08),
)


def subject(background: str, *, size: int = 64, extent: float = 0.3, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
    """(size, size, 3) uint8: Domino on a background of the toy world.

    extent: half its height, dx and dy: off the centre, all in fractions of the picture's side.
    Raises InvalidOption for an unknown background.
    """
    if background not in BACKGROUND_RGB:
        raise InvalidOption(f"{background=} is not in the toy world. Choose one of: {', '.join(BACKGROUND_RGB)}.")
    side = size * FINER
    picture = Image.new("RGB", (side, side), BACKGROUND_RGB[background])
    _draw(ImageDraw.Draw(picture), centre=((0.5 + dx) * side, (0.5 + dy) * side), scale=extent * side)
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX))


def example_pictures(size: int = 64) -> list[Image.Image]:
    """The five pictures of the example."""
    return [Image.fromarray(subject(background, size=size, extent=extent, dx=dx, dy=dy)) for background, extent, dx, dy in POSES]


def _draw(draw: ImageDraw.ImageDraw, centre: tuple[float, float], scale: float) -> None:
    """In units of `scale` around the centre, y down."""
    cx, cy = centre

    def at(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(cx + x * scale, cy + y * scale) for x, y in points]

    def disc(x: float, y: float, rx: float, ry: float, ink: tuple[int, int, int]) -> None:
        draw.ellipse(at([(x - rx, y - ry), (x + rx, y + ry)]), fill=ink)

    for side, ink in ((-1, ORANGE), (1, INK)):
        draw.polygon(at([(side * 0.78, -0.95), (side * 0.80, -0.1), (side * 0.16, -0.55)]), fill=ink)
        draw.pieslice(at([(-0.85, -0.72), (0.85, 0.62)]), 90 if side < 0 else -90, 270 if side < 0 else 90, fill=ink)
    disc(0, 0.26, 0.42, 0.28, CREAM)
    for x in (-0.36, 0.36):
        disc(x, -0.14, 0.19, 0.21, GREEN)
        disc(x, -0.14, 0.07, 0.16, INK)
    draw.polygon(at([(-0.12, 0.10), (0.12, 0.10), (0, 0.24)]), fill=RED)
    for side in (-1, 1):
        draw.polygon(at([(0, 0.76), (side * 0.55, 0.52), (side * 0.55, 1.0)]), fill=RED)
    disc(0, 0.76, 0.13, 0.13, CREAM)
