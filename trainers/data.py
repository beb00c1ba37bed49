"""What the trainers learn from: pictures with labels, as tensors of one size.

    digits              scikit-learn's 1,797 handwritten digits, enlarged to fill the frame
    toybox              the embedded world, drawn once into memory; labels are the objects
    toybox-large        the same with every object large and in the middle: the shapes are learned much sooner
    <folder>            pictures in a folder; the sub-folders are the labels
    <datasets id>       an id of the Hugging Face `datasets` library with an image column, e.g. "cifar10"
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio.errors import InvalidOption, UnknownName
from studio.media.folders import IMAGE_SUFFIXES, read_picture
from studio.media.images import fit
from studio.media.pictures import handwritten_digits

__all__ = ["Pictures", "load_pictures", "digit_split", "batch_indices"]

# Part of the digits is never trained on: the judge and the copy test need real digits that the model has not seen.
HELD_OUT_DIGITS = 360
SPLIT_SEED = 20


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures in memory: pixels (N, C, H, W) uint8, labels (N,) int64 into class_names."""

    pixels: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) float32 in [-1, 1], and labels (B,)."""
        return self.pixels[indices].float() / 127.5 - 1, self.labels[indices]


def load_pictures(data: str, resolution: int, *, channels: int = 3, limit: int = 40_000, seed: int = 0) -> Pictures:
    """The training pictures named by `data` (see the module), resolution x resolution.

    `limit` is how many Toybox scenes are drawn, and the most that is taken of anything else.
    Raises UnknownName or InvalidOption.
    """
    if data in SOURCES:
        return SOURCES[data](resolution, limit, seed)
    if Path(data).is_dir():
        return _from_pairs(*_folder(Path(data), limit), resolution, channels)
    return _from_pairs(*_hub(data, limit), resolution, channels)


# --- the embedded data ---------------------------------------------------------------------------------------

def digit_split(resolution: int) -> tuple[Pictures, Pictures]:
    """The digits as (training, held-out) pictures, (N, 1, resolution, resolution); the split is fixed."""
    digits, labels = handwritten_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(digits))
    # Bicubic, not nearest: an enlarged pixel grid would be a pattern that the network must spend itself on.
    big = np.stack([np.asarray(Image.fromarray(digit).resize((resolution, resolution), Image.Resampling.BICUBIC)) for digit in digits])
    everything = Pictures(pixels=torch.from_numpy(big[:, None]), labels=torch.from_numpy(labels), class_names=tuple("0123456789"))
    held_out, training = order[:HELD_OUT_DIGITS], order[HELD_OUT_DIGITS:]
    return _subset(everything, training), _subset(everything, held_out)


def _subset(pictures: Pictures, indices: np.ndarray) -> Pictures:
    return Pictures(pixels=pictures.pixels[indices], labels=pictures.labels[indices], class_names=pictures.class_names)


def _digits(resolution: int, limit: int, seed: int) -> Pictures:
    return digit_split(resolution)[0]


def _toybox(resolution: int, limit: int, seed: int, **same: str) -> Pictures:
    """`limit` training scenes; `same` are attributes that all of them share."""
    from dataclasses import replace
    from itertools import islice

    from tqdm import tqdm

    from studio.toybox import OBJECTS, render, scene_stream

    names = tuple(OBJECTS)
    pixels = np.empty((limit, resolution, resolution, 3), np.uint8)
    labels = np.empty(limit, np.int64)
    for i, scene in enumerate(tqdm(islice(scene_stream(seed, split="train"), limit), total=limit, desc="drawing scenes", leave=False)):
        pixels[i], labels[i] = render(replace(scene, **same), resolution), names.index(scene.object)
    return Pictures(pixels=torch.from_numpy(pixels).movedim(-1, 1).contiguous(), labels=torch.from_numpy(labels), class_names=names)


def _toybox_large(resolution: int, limit: int, seed: int) -> Pictures:
    return _toybox(resolution, limit, seed, size="large", position="center")


SOURCES: dict[str, Callable[[int, int, int], Pictures]] = {"digits": _digits, "toybox": _toybox, "toybox-large": _toybox_large}


# --- the user's own data -------------------------------------------------------------------------------------

def _folder(folder: Path, limit: int) -> tuple[list[Image.Image], list[str]]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)[:limit]
    if not paths:
        raise InvalidOption(f"The folder {str(folder)!r} holds no pictures; put PNG, JPEG or WebP files into it.")
    return [read_picture(path) for path in paths], [path.parent.name if path.parent != folder else "" for path in paths]


def _hub(name: str, limit: int) -> tuple[list[Image.Image], list[str]]:
    from datasets import Image as ImageFeature
    from datasets import load_dataset

    try:
        table = load_dataset(name, split=f"train[:{limit}]")
    except Exception as error:  # the library raises many kinds; all mean that this id cannot be had
        raise UnknownName(f"{name!r} is neither digits, toybox, a folder, nor a dataset that can be loaded: {error}") from error
    image_column = next((key for key, feature in table.features.items() if isinstance(feature, ImageFeature)), None)
    if image_column is None:
        raise InvalidOption(f"The dataset {name!r} has no image column; its columns are {', '.join(table.features)}.")
    label_column = next((key for key in ("label", "fine_label", "labels") if key in table.features), None)
    labels = [""] * len(table) if label_column is None else [_label_name(table.features[label_column], value) for value in table[label_column]]
    return [image.convert("RGB") for image in table[image_column]], labels


def _label_name(feature: object, value: object) -> str:
    return feature.int2str(value) if hasattr(feature, "int2str") else str(value)


def _from_pairs(images: Sequence[Image.Image], labels: Sequence[str], resolution: int, channels: int) -> Pictures:
    names = tuple(sorted(set(labels)))
    mode = "L" if channels == 1 else "RGB"
    pixels = np.stack([np.asarray(fit(image, resolution, resolution).convert(mode)).reshape(resolution, resolution, channels) for image in images])
    return Pictures(
        pixels=torch.from_numpy(pixels).movedim(-1, 1).contiguous(), labels=torch.tensor([names.index(label) for label in labels]),
        class_names=names if names != ("",) else (),
    )


def batch_indices(size: int, batch_size: int, seed: int, start: int = 0) -> Iterator[Tensor]:
    """The indices of batch `start`, `start` + 1, ...: epoch after epoch, each in its own seeded order.

    The order is a function of the seed and the step alone, so a resumed run sees what the first would have seen.
    """
    position = start * batch_size
    while True:
        indices = torch.arange(position, position + batch_size)
        yield torch.cat([_epoch(size, int(epoch), seed)[indices[indices // size == epoch] % size] for epoch in (indices // size).unique()])
        position += batch_size


def _epoch(size: int, epoch: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
