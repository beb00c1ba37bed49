"""Contact sheets: scenes with their captions, and one scene beside its ground truth.

`python -m studio.toybox.sheet docs/toybox.png` draws the picture of the documentation.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from studio.errors import InvalidOption
from studio.toybox.render import depth, edges, render, segmentation
from studio.toybox.world import COLOURS, OBJECTS, POSITIONS, Scene, caption

if TYPE_CHECKING:  # Pillow is needed only when a sheet is drawn
    from PIL import Image

PICTURE = 128  # pixels, of each picture on the sheet
MARGIN = 20  # between pictures, and around the sheet
CAPTION_HEIGHT = 48  # under each picture: up to three lines
CAPTION_FONT = 13
LINE_CHARACTERS = 22
PAPER, INK = (250, 249, 246), (60, 60, 66)

Cell = tuple[np.ndarray, str]  # a picture (PICTURE, PICTURE, 3) uint8, and the words under it


def contact_sheet(scenes: Sequence[Scene] | None = None, *, columns: int = 5, truth: bool = True) -> Image.Image:
    """Scenes with their captions underneath, as a PIL image.

    scenes: one per cell, row by row; by default one of each object in varied colours. With `truth`, a
    last row shows the first scene beside its edges, segmentation and depth. Raises InvalidOption for an
    empty list or for fewer than one column.
    """
    scenes = demo_scenes() if scenes is None else list(scenes)
    if not scenes or columns < 1:
        raise InvalidOption(f"A sheet needs a scene and a column, not {len(scenes)} scenes in {columns=}.")
    rows = _rows([(render(scene, PICTURE), caption(scene)) for scene in scenes], columns)
    if truth:
        rows += _rows(_truth_cells(scenes[0]), columns)
    return _draw(rows, min(columns, max(len(row) for row in rows)))


def demo_scenes() -> list[Scene]:
    """One scene of each object; every colour, background and position occurs."""
    sizes = ("large", "medium", "large", "small")
    return [
        Scene(
            object=name,
            colour=COLOURS[(5 * k) % 12],
            background=COLOURS[(5 * k + 4 + 3 * (k // 6)) % 12],
            size=sizes[k % 4],
            position=POSITIONS[(k * 5) % 9] if k % 2 else "center",
            angle=(0.0, 4.0, -5.0)[k % 3],
        )
        for k, name in enumerate(OBJECTS)
    ]


def _rows(cells: list[Cell], columns: int) -> list[list[Cell]]:
    return [cells[start : start + columns] for start in range(0, len(cells), columns)]


def _truth_cells(scene: Scene) -> list[Cell]:
    return [
        (render(scene, PICTURE), "the picture"),
        (_as_rgb(edges(scene, PICTURE)), "its edges"),
        (_as_rgb((segmentation(scene, PICTURE) > 0) * 180 + 40), "its segmentation"),
        (_as_rgb(depth(scene, PICTURE) * 255), "its depth, near is bright"),
    ]


def _as_rgb(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)


def _draw(rows: list[list[Cell]], columns: int) -> Image.Image:
    from PIL import Image, ImageDraw, ImageFont

    across, down = PICTURE + MARGIN, PICTURE + CAPTION_HEIGHT + MARGIN
    sheet = Image.new("RGB", (columns * across + MARGIN, len(rows) * down + MARGIN), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(CAPTION_FONT)
    for row, cells in enumerate(rows):
        for column, (picture, words) in enumerate(cells):
            left, top = MARGIN + column * across, MARGIN + row * down
            sheet.paste(Image.fromarray(picture), (left, top))
            draw.multiline_text((left, top + PICTURE + 5), _wrap(words), fill=INK, font=font, spacing=2)
    return sheet


def _wrap(words: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(words, LINE_CHARACTERS))


if __name__ == "__main__":
    contact_sheet().save(sys.argv[1], optimize=True)
