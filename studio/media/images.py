"""The one place where tensors become pictures and back.

A picture tensor is (B, C, H, W) float in [-1, 1], C = 1 or 3; pixels are uint8 0..255.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["to_pixels", "to_images", "from_images", "fit", "to_square", "shrunk", "grid"]


def to_pixels(x: "Tensor") -> np.ndarray:
    """(..., C, H, W) in [-1, 1] -> (..., H, W, C) uint8, rounded to nearest; values outside are clipped, NaN is grey."""
    scaled = (x.detach().float().nan_to_num(0.0).clamp(-1, 1) + 1) * 127.5
    return scaled.round().byte().movedim(-3, -1).cpu().numpy()


def to_images(x: "Tensor") -> list[Image.Image]:
    """(B, C, H, W) in [-1, 1] -> one RGB picture each."""
    return [to_image(pixels) for pixels in to_pixels(x)]


def to_image(pixels: np.ndarray) -> Image.Image:
    """(H, W, C) uint8 with C = 1 or 3 -> RGB picture."""
    return Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy() if pixels.shape[2] == 1 else pixels)


def from_images(images: Sequence[Image.Image], channels: int = 3) -> "Tensor":
    """RGB or grey pictures of one size -> (B, channels, H, W) float32 in [-1, 1]."""
    import torch

    pixels = np.stack([np.asarray(image.convert("RGB" if channels == 3 else "L")) for image in images])
    if channels == 1:
        pixels = pixels[..., None]
    return torch.from_numpy(pixels).movedim(-1, 1).float() / 127.5 - 1


def shrunk(pixels: np.ndarray, factor: int) -> np.ndarray:
    """(N, H, W, C) uint8 with every `factor` x `factor` pixels averaged; what is left over at the right and bottom is cut off."""
    if factor == 1:
        return pixels
    height, width = pixels.shape[1] // factor, pixels.shape[2] // factor
    blocks = pixels[:, : height * factor, : width * factor].reshape(len(pixels), height, factor, width, factor, -1)
    return np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """The largest centred part of the picture with this shape, resized with antialiasing; the aspect is kept."""
    scale = max(width / image.width, height / image.height)
    crop_w, crop_h = width / scale, height / scale
    left, top = (image.width - crop_w) / 2, (image.height - crop_h) / 2
    # One resampling does crop and resize; Lanczos in Pillow widens its kernel when shrinking, so it antialiases.
    return image.resize((width, height), Image.Resampling.LANCZOS, box=(left, top, left + crop_w, top + crop_h))


def to_square(image: Image.Image, side: int, crop: str, generator: "Generator | None" = None) -> Image.Image:
    """A square of `side` pixels out of the picture brought to that height or width: from the centre, or (crop "random") where the generator says."""
    if crop == "center":
        return fit(image, side, side)
    import torch

    scale = side / min(image.size)
    wide = image.resize((max(side, round(image.width * scale)), max(side, round(image.height * scale))), Image.Resampling.LANCZOS)
    left, top = (int(torch.randint(extent - side + 1, (1,), generator=generator)) for extent in wide.size)
    return wide.crop((left, top, left + side, top + side))


def grid(pixels: np.ndarray, columns: int, gap: int = 0, fill: int = 255) -> np.ndarray:
    """(N, H, W, C) uint8 -> one (rows*(H+gap)-gap, columns*(W+gap)-gap, C) picture, row by row."""
    count, height, width, channels = pixels.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap), columns * (width + gap), channels), fill, np.uint8)
    for i in range(count):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = pixels[i]
    return sheet[: rows * (height + gap) - gap, : columns * (width + gap) - gap]
