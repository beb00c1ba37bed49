"""The examiner of the whole toy world: every object of a picture with its colour, size and place, and how two of them stand.

A picture of 64x64 is read in 16x16 cells. Each cell says how likely an object's middle lies in it, where in the cell, and
what object that would be; the background is read off the whole picture (Zhou et al. 2019, arXiv:1904.07850, in small).
It learns from renders alone, so it knows nothing of any generator.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from studio.errors import ModelUnavailable
from studio.importing import one_at_a_time
from studio.toybox import COLOURS, OBJECTS, SIZES, AnyScene, PairScene, Scene, Thing, centre_of, nearest_position

__all__ = ["CELLS", "FOUND", "Found", "Reading", "SceneReader", "examine_scenes", "load_reader", "read_scenes", "split_cells", "truth_of"]

WEIGHTS = "reader.safetensors"
RESOLUTION, CELLS = 64, 16
# What each cell says: (name, how many numbers).
PARTS = {"middle": 1, "offset": 2, "object": len(OBJECTS), "colour": len(COLOURS), "size": len(SIZES)}
FOUND = 0.4  # likelihood from which a cell is taken to hold an object's middle
MOST = 3  # objects looked for: one more than the world has, so that a third one is noticed


class SceneReader(nn.Module):
    """(B, 3, 64, 64) in [-1, 1] -> what the cells say (B, sum of PARTS, 16, 16), and logits of the background (B, 12)."""

    def __init__(self, widths: tuple[int, int, int, int] = (24, 48, 80, 96)):
        super().__init__()
        fine, cells, coarse, whole = widths
        self.to_cells = nn.Sequential(_halved(3, fine), _halved(fine, cells))
        self.to_coarse, self.to_whole = _halved(cells, coarse), _halved(coarse, whole)
        # Size words mean less where there are two, so that every cell is told of the whole picture.
        self.to_context = nn.Sequential(nn.Flatten(), nn.Linear(16 * whole, whole), nn.SiLU())
        self.joined = nn.Sequential(nn.Conv2d(cells + coarse + 2 * whole, 96, 1), _convolved(96, 96), _convolved(96, 96))
        self.head = nn.Conv2d(96, sum(PARTS.values()), 1)
        self.background = nn.Linear(whole, len(COLOURS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        cells = self.to_cells(x)
        coarse = self.to_coarse(cells)
        whole = self.to_whole(coarse)
        context = self.to_context(whole)
        wide = [nn.functional.interpolate(part, scale_factor=cells.shape[-1] // part.shape[-1]) for part in (coarse, whole)]
        told = context[:, :, None, None].expand(-1, -1, *cells.shape[2:])
        return self.head(self.joined(torch.cat([cells, *wide, told], dim=1))), self.background(context)


def _convolved(before: int, after: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.BatchNorm2d(after), nn.SiLU())


def _halved(before: int, after: int) -> nn.Module:
    return nn.Sequential(_convolved(before, after, stride=2), _convolved(after, after))


def split_cells(cells: Tensor) -> dict[str, Tensor]:
    """(B, sum, h, w) -> {part: (B, numbers, h, w)}."""
    return dict(zip(PARTS, cells.split(list(PARTS.values()), dim=1)))


@dataclass(frozen=True, kw_only=True)
class Found:
    """An object as it was read. centre: (x, y) in fractions of the picture's side; likelihood: 0 to 1."""

    object: str
    colour: str
    size: str
    centre: tuple[float, float]
    likelihood: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a picture shows: its objects, the likeliest first, and its background."""

    things: tuple[Found, ...]
    background: str


@one_at_a_time
def load_reader(folder: str | Path) -> SceneReader:
    """The trained reader, float32, in eval mode. Raises ModelUnavailable where there is none."""
    weights = Path(folder) / WEIGHTS
    if not weights.is_file():
        raise ModelUnavailable(f"There is no reader of scenes in {folder}; train it: `python -m trainers.rebuild toybox-reader`, or name another folder.")
    network = SceneReader().eval()
    network.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in load_file(weights).items()})
    return network


@torch.inference_mode()
def read_scenes(reader: SceneReader, pixels: Tensor) -> list[Reading]:
    """For pictures (N, 3, 64, 64) uint8: what each shows."""
    readings: list[Reading] = []
    for chunk in pixels.split(128):
        cells, background = reader(chunk.float() / 127.5 - 1)
        parts = split_cells(cells)
        likely = parts["middle"].sigmoid()
        # Of neighbouring cells that all see one object, the likeliest speaks.
        peaks = likely * (nn.functional.max_pool2d(likely, 3, stride=1, padding=1) == likely)
        readings += [
            Reading(things=_things(peaks[i, 0], {name: part[i] for name, part in parts.items()}), background=COLOURS[int(background[i].argmax())])
            for i in range(len(chunk))
        ]
    return readings


def _things(peaks: Tensor, parts: dict[str, Tensor]) -> tuple[Found, ...]:
    values, where = peaks.flatten().topk(MOST)
    return tuple(_found(float(value), *divmod(int(cell), CELLS), parts) for value, cell in zip(values, where) if value > FOUND)


def _found(likelihood: float, row: int, column: int, parts: dict[str, Tensor]) -> Found:
    dx, dy = parts["offset"][:, row, column].sigmoid().tolist()
    names = {"object": OBJECTS, "colour": COLOURS, "size": SIZES}
    read = {part: menu[int(parts[part][:, row, column].argmax())] for part, menu in names.items()}
    return Found(**read, centre=((column + dx) / CELLS, (row + dy) / CELLS), likelihood=likelihood)


# --- against what was asked ----------------------------------------------------------------------------------

def truth_of(scene: AnyScene) -> list[Thing | Found]:
    """The objects that a scene should show, with their middles."""
    if isinstance(scene, PairScene):
        return [scene.first, scene.second]
    return [Found(object=scene.object, colour=scene.colour, size=scene.size, centre=centre_of(scene), likelihood=1.0)]


def examine_scenes(reader: SceneReader, pixels: Tensor, scenes: Sequence[AnyScene]) -> dict[str, np.ndarray]:
    """For pictures (N, 3, 64, 64) uint8 of scenes all of one object, or all of two: {what: (N,) bool}.

    One: object, colour, background, size, position, count, all. Two: the same for both ("first object", "second colour",
    ...), with relation for position. Of two read objects the one that fits the first better is taken for it.
    """
    verdicts = [_verdict(reading, scene) for reading, scene in zip(read_scenes(reader, pixels), scenes, strict=True)]
    for verdict in verdicts:
        verdict["all"] = all(verdict.values())
    return {name: np.array([verdict[name] for verdict in verdicts]) for name in verdicts[0]} if verdicts else {}


def _verdict(reading: Reading, scene: AnyScene) -> dict[str, bool]:
    right = {"background": reading.background == scene.background}
    if isinstance(scene, Scene):
        found = reading.things[0] if reading.things else None
        placed = found is not None and nearest_position(found.size, found.centre) == scene.position
        return right | {"count": len(reading.things) == 1} | _fits(found, scene) | {"position": placed}
    first, second = _assigned(reading.things[:2], scene)
    right |= {"count": len(reading.things) == 2}
    right |= {f"first {name}": fits for name, fits in _fits(first, scene.first).items()}
    right |= {f"second {name}": fits for name, fits in _fits(second, scene.second).items()}
    return right | {"relation": first is not None and second is not None and _stands(first, second, scene.relation)}


def _fits(found: Found | None, asked: Scene | Thing) -> dict[str, bool]:
    return {name: found is not None and getattr(found, name) == getattr(asked, name) for name in ("object", "colour", "size")}


def _assigned(things: Sequence[Found], scene: PairScene) -> tuple[Found | None, Found | None]:
    """Which of the read objects is meant by the first and which by the second: the way round in which more is right."""
    one, other = (*things, None, None)[:2]

    def fitting(first: Found | None, second: Found | None) -> float:
        likeness = [_fits(first, scene.first), _fits(second, scene.second)]
        # The kind of an object counts most: a red heart that came out blue is still the heart.
        return sum(2 * fits["object"] + fits["colour"] + 0.5 * fits["size"] for fits in likeness)

    return (one, other) if fitting(one, other) >= fitting(other, one) else (other, one)


def _stands(first: Found, second: Found, relation: str) -> bool:
    """Whether the first stands so to the second, the longer way between their middles counting."""
    dx, dy = (b - a for a, b in zip(first.centre, second.centre))
    seen = ("left of" if dx > 0 else "right of") if abs(dx) >= abs(dy) else ("above" if dy > 0 else "below")
    return relation in (seen, "and")
