"""Captioned pictures to learn from, in memory.

    toybox          the embedded world, one object a picture; every picture has its full caption, and varied ones without end
    toybox-pairs    the same with two objects a picture
    toybox-world    half of each
    <folder>        pictures with a metadata.jsonl of {"file_name", "text"} lines, as `datasets` image folders have it,
                    or with a .txt beside each picture
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studio.errors import InvalidOption
from studio.toybox import WORLDS, AnyScene, caption, render_batch

__all__ = ["Captioned", "load_captioned", "token_ids", "toybox_scenes", "word"]

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


def load_captioned(data: str, resolution: int, *, limit: int = 40_000, seed: int = 0, split: str = "train") -> Captioned:
    """The pictures named by `data` (see the module). Raises InvalidOption with what to do."""
    if data in WORLDS:
        scenes = toybox_scenes(seed, limit, split, data)
        return Captioned(pixels=draw_scenes(scenes, resolution), texts=scenes)
    if not Path(data).is_dir():
        raise InvalidOption(f"{data!r} is none of {', '.join(WORLDS)}, nor a folder of captioned pictures.")
    return _folder(Path(data), resolution, limit)


def _folder(folder: Path, resolution: int, limit: int) -> Captioned:
    from studio.media.folders import pictures_in, read_picture
    from studio.media.images import fit

    texts = {path.stem: path.read_text().strip() for path in folder.glob("*.txt")}
    pairs = [(path, texts[path.stem]) for path in pictures_in(folder) if path.stem in texts]
    table = folder / "metadata.jsonl"
    if table.is_file():
        pairs = [(folder / row["file_name"], row["text"]) for row in map(json.loads, table.read_text().splitlines())]
    if not pairs:
        raise InvalidOption(f"The folder {str(folder)!r} holds no captioned pictures; put a .txt beside each, or a metadata.jsonl with file_name and text.")
    pixels = np.stack([np.asarray(fit(read_picture(path), resolution, resolution).convert("RGB")) for path, _ in pairs[:limit]])
    return Captioned(pixels=torch.from_numpy(pixels).movedim(-1, 1).contiguous(), texts=[text for _, text in pairs[:limit]])
