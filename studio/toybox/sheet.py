"""Contact sheets: scenes with their captions, and one scene beside its ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from studio.errors import InvalidOption
from studio.toybox.pairs import AnyScene
from studio.toybox.render import depth, edges, instances, render
from studio.toybox.words import caption
from studio.toybox.world import COLOURS, OBJECTS, POSITIONS, Scene

if TYPE_CHECKING:  # Pillow is needed only when a sheet is drawn
    from PIL import Image

PICTURE = 128  # pixels, of each picture on the sheet
MARGIN = 18  # between pictures, and around the sheet
CAPTION_HEIGHT = 50  # under each picture: up to three lines
CAPTION_FONT = 12
PAPER, INK = (250, 249, 246), (60, 60, 66)

Cell = tuple[np.ndarray, str]  # a picture (PICTURE, PICTURE, 3) uint8, and the words under it


def scene_sheet(
    scenes: Sequence[AnyScene] | None = None, *, columns: int = 5, truth: AnyScene | None = None
) -> Image.Image:
    """Scenes with their captions underneath, as a PIL image in RGB.

    scenes: one a cell, row by row; by default one of each object in varied colours.
    truth: a scene to show in further rows beside its edges, segmentation and depth.
    Raises InvalidOption for an empty list or for fewer than one column.
    """
    scenes = demo_scenes() if scenes is None else list(scenes)
    if not scenes or columns < 1:
        raise InvalidOption(f"A sheet needs a scene and a column, not {len(scenes)} scenes in {columns=}.")
    rows = _rows([(render(scene, PICTURE), caption(scene)) for scene in scenes], columns)
    if truth is not None:
        rows += _rows(_truth_cells(truth), columns)
    return _draw(rows, max(len(row) for row in rows))


def demo_scenes() -> list[Scene]:
    """One scene of each object, in varied colours, sizes and places."""
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


def _truth_cells(scene: AnyScene) -> list[Cell]:
    return [
        (render(scene, PICTURE), caption(scene)),
        (render(scene, 32).repeat(PICTURE // 32, 0).repeat(PICTURE // 32, 1), "in 32 pixels"),
        (_as_rgb(edges(scene, PICTURE)), "its edges"),
        (_as_rgb(np.array([40, 220, 130])[instances(scene, PICTURE)]), "its segmentation"),
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
            text = _wrap(words, lambda line: font.getlength(line) <= PICTURE)
            draw.multiline_text((left, top + PICTURE + 5), text, fill=INK, font=font, spacing=2)
    return sheet


def _wrap(words: str, fits: Callable[[str], bool]) -> str:
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if fits(longer) else [*lines, word]
    return "\n".join(lines)
