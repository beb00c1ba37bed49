"""Pictures as data URIs, the one place where pixels become text for a page."""

from base64 import b64encode
from io import BytesIO

import numpy as np
from PIL import Image

__all__ = ["data_uri", "small_uri"]


def data_uri(picture: Image.Image | np.ndarray, *, thorough: bool = False) -> str:
    """The picture as a PNG in a data URI.

    Args:
        picture: a picture, or (H, W, C) uint8 with C = 1 (grey), 2 (grey and opacity) or 3 (RGB).
        thorough: look for the smallest file, several times slower; for what is sent or stored often. Noise hardly
            compresses, so otherwise little time is spent on trying.
    """
    return _written(_image(picture), "PNG", compress_level=9 if thorough else 1)


def small_uri(picture: Image.Image, side: int) -> str:
    """The picture shrunk to fit a square of `side` pixels, as a WebP in a data URI."""
    small = picture.copy()
    small.thumbnail((side, side))
    return _written(small, "WEBP", quality=92)


def _image(picture: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    return Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)


def _written(image: Image.Image, kind: str, **options: int) -> str:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{b64encode(buffer.getvalue()).decode('ascii')}"
