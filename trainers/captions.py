"""Captioned pictures to learn from, in memory.

    toybox          the embedded world, one object a picture; every picture has its full caption, and varied ones without end
    toybox-pairs    the same with two objects a picture
    toybox-world    half of each
    <folder>        pictures with a metadata.jsonl of {"file_name", "text"} lines, as `datasets` image folders have it,
                    or with a .txt beside each picture
    <owner/name>    an id of the Hugging Face `datasets` library
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio.errors import InvalidOption
from studio.toybox import WORLDS, AnyScene, caption, render_batch

__all__ = ["Captioned", "Columns", "load_captioned", "load_conditioning", "token_ids", "toybox_scenes", "word"]

# Half of the captions say everything: what the full caption leaves unsaid (medium, centre) must come to mean just that.
FULL_CAPTIONS = 0.5


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """pixels (N, 3, H, W) uint8; texts: what is known of each picture, a Toybox scene or a caption."""

    pixels: Tensor
    texts: Sequence[AnyScene | str]

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Tensor) -> Tensor:
        """(B, 3, H, W) float32 in [-1, 1]."""
        return (self.pixels[indices].float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)

    def caption(self, index: int, rng: np.random.Generator | None = None) -> str:
        """The picture's caption; with rng, a Toybox scene is half the time put in other words, and parts are left unsaid."""
        return word(self.texts[index], rng)


def word(text: AnyScene | str, rng: np.random.Generator | None = None) -> str:
    """A scene in words: complete without rng, and half the time with it; a plain caption as it is."""
    if isinstance(text, str):
        return text
    return caption(text, None if rng is None or rng.random() < FULL_CAPTIONS else rng)


def token_ids(tokenizer: Any, texts: list[str]) -> Tensor:
    """(B, L) int64 ids, padded to the tokenizer's limit and cut off there, as pipelines feed them."""
    from studio.models.prompts import tokenize

    return tokenize(tokenizer, texts).input_ids


def toybox_scenes(seed: int, count: int, split: str = "train", world: str = "toybox") -> list[Any]:
    """`count` scenes of a split of one of the WORLDS."""
    from itertools import islice

    return list(islice(WORLDS[world](seed, split), count))


def draw_scenes(scenes: Sequence[AnyScene], resolution: int, chunk: int = 1000) -> Tensor:
    """(N, 3, resolution, resolution) uint8."""
    from tqdm import tqdm

    parts = [render_batch(scenes[i : i + chunk], resolution) for i in tqdm(range(0, len(scenes), chunk), desc="drawing scenes", leave=False)]
    return torch.from_numpy(np.concatenate(parts)).movedim(-1, 1).contiguous()


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of a table of pictures are called."""

    image: str = "image"
    caption: str = "text"
    conditioning: str = "conditioning_image"


USUAL_COLUMNS = Columns()


def load_captioned(
    data: str, resolution: int, *, limit: int = 40_000, seed: int = 0, split: str = "train", columns: Columns = USUAL_COLUMNS,
) -> Captioned:
    """The pictures named by `data` (see the module). columns: of a table. Raises InvalidOption with what to do."""
    if data in WORLDS:
        scenes = toybox_scenes(seed, limit, split, data)
        return Captioned(pixels=draw_scenes(scenes, resolution), texts=scenes)
    if Path(data).is_dir():
        return _folder(Path(data), resolution, limit, columns)
    table = _table(data, limit, columns.image, columns.caption)
    return _captioned([picture.convert("RGB") for picture in table[columns.image]], [_caption_in(text) for text in table[columns.caption]], resolution)


def load_conditioning(data: str, *, limit: int, columns: Columns = USUAL_COLUMNS) -> list[Image.Image]:
    """The conditioning pictures beside those of `data`, a folder with metadata.jsonl or an id, in their order. Raises InvalidOption."""
    from studio.media.folders import read_picture

    if not Path(data).is_dir():
        return [picture.convert("RGB") for picture in _table(data, limit, columns.conditioning)[columns.conditioning]]
    names = [row.get("conditioning_file_name", row.get(columns.conditioning)) for row in _rows(Path(data))[:limit]]
    if not names or None in names:
        table = str(Path(data) / TABLE)
        raise InvalidOption(f"Each line of {table!r} must name its conditioning picture as conditioning_file_name; or set map to an annotator.")
    return [read_picture(Path(data) / str(name)) for name in names]


TABLE = "metadata.jsonl"


def _rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of the table in a folder, none where there is no table. Raises InvalidOption."""
    table = folder / TABLE
    try:
        return [json.loads(line) for line in table.read_text().splitlines() if line.strip()] if table.is_file() else []
    except ValueError as error:
        raise InvalidOption(f"{str(table)!r} is damaged: each line must be a JSON object ({error}).") from error


def _table(name: str, limit: int, *columns: str) -> Any:
    """The first rows of a dataset with these columns. Raises InvalidOption."""
    from datasets import load_dataset

    try:
        table = load_dataset(name, split=f"train[:{limit}]")
    # The library raises many kinds; all mean that this id cannot be had.
    except Exception as error:
        raise InvalidOption(f"{name!r} is none of {', '.join(WORLDS)}, no folder of captioned pictures, nor a dataset that can be loaded: {error}") from error
    if missing := [column for column in columns if column not in table.column_names]:
        raise InvalidOption(f"The dataset {name!r} has no column {missing[0]!r}; its columns are {', '.join(table.column_names)}.")
    return table


def _caption_in(text: Any) -> str:
    """A caption, or the first of several."""
    return str(text[0] if isinstance(text, list) and text else text)


def _folder(folder: Path, resolution: int, limit: int, columns: Columns) -> Captioned:
    from studio.media.folders import pictures_in, read_picture

    texts = {path.stem: path.read_text().strip() for path in folder.glob("*.txt")}
    pairs = [(path, texts[path.stem]) for path in pictures_in(folder) if path.stem in texts]
    if rows := _rows(folder):
        named = [(row.get("file_name", row.get(columns.image)), row.get(columns.caption)) for row in rows]
        if any(None in pair for pair in named):
            raise InvalidOption(f"Each line of {str(folder / TABLE)!r} must name its picture as file_name and its caption as {columns.caption}.")
        pairs = [(folder / str(file), _caption_in(text)) for file, text in named]
    if not pairs:
        raise InvalidOption(f"The folder {str(folder)!r} holds no captioned pictures; put a .txt beside each, or a metadata.jsonl with file_name and text.")
    return _captioned([read_picture(path) for path, _ in pairs[:limit]], [text for _, text in pairs[:limit]], resolution)


def _captioned(pictures: Sequence[Image.Image], texts: Sequence[str], resolution: int) -> Captioned:
    from studio.media.images import fit

    pixels = np.stack([np.asarray(fit(picture, resolution, resolution).convert("RGB")) for picture in pictures])
    return Captioned(pixels=torch.from_numpy(pixels).movedim(-1, 1).contiguous(), texts=texts)
