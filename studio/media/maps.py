"""Control maps as pictures: brought to a size in a way that is chosen, and written as text without loss.

A map of two values stays one of two values, one of a few colours keeps its colours; anything else is resampled smoothly.
"""

from base64 import b64decode
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from studio.errors import BadImage
from studio.media.data_uris import data_uri
from studio.media.images import fit
from studio.media.uploads import open_picture

__all__ = ["RESIZES", "aligned", "is_blank", "kind_of_map", "map_from_text", "map_to_text", "looks_inverted"]

RESIZES: Mapping[str, str] = MappingProxyType({
    "crop": "Crop: the largest part from the middle", "fit": "Fit: all of it, with black beside it", "stretch": "Stretch: all of it, out of shape",
})
# Of a picture with no more colours than this, each stands for something of its own.
FEW_COLOURS = 64
# A line that is thinner than the new pixels still counts.
LINE_SHARE = 0.25
MAX_SIDE = 4096


def kind_of_map(picture: Image.Image) -> str:
    """"binary" (two greys: black and another), "labels" (a few colours) or "smooth"."""
    found: Any = picture.convert("RGB").getcolors(FEW_COLOURS)
    if found is None:
        return "smooth"
    colours = [colour for _, colour in found]
    greys = {colour[0] for colour in colours if len(set(colour)) == 1}
    return "binary" if len(greys) == len(colours) <= 2 and greys <= {0, max(greys)} else "labels"


def aligned(picture: Image.Image, width: int, height: int, resize: str) -> Image.Image:
    """The map as RGB of width x height pixels; one of that size is left as it is. resize: a key of RESIZES."""
    picture = picture.convert("RGB")
    if picture.size == (width, height):
        return picture
    if resize == "fit":
        scale = min(width / picture.width, height / picture.height)
        inside = _resized(picture, max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        return ImageOps.pad(inside, (width, height), Image.Resampling.NEAREST, color="black") if inside.size != (width, height) else inside
    return _resized(_cropped(picture, width / height) if resize == "crop" else picture, width, height)


def _cropped(picture: Image.Image, shape: float) -> Image.Image:
    """The largest part of that width for a height, from the middle."""
    wide, high = min(picture.width, round(picture.height * shape)), min(picture.height, round(picture.width / shape))
    left, top = (picture.width - wide) // 2, (picture.height - high) // 2
    return picture.crop((left, top, left + max(1, wide), top + max(1, high)))


def _resized(picture: Image.Image, width: int, height: int) -> Image.Image:
    kind = kind_of_map(picture)
    if kind == "labels":
        return picture.resize((width, height), Image.Resampling.NEAREST)
    if kind == "smooth":
        return fit(picture, width, height) if picture.width * height == picture.height * width else picture.resize((width, height), Image.Resampling.LANCZOS)
    grey = np.asarray(picture.convert("L"))
    # Each new pixel says how much of it is covered.
    covered = np.asarray(picture.convert("L").resize((width, height), Image.Resampling.BOX), np.float32)
    return Image.fromarray(np.where(covered >= LINE_SHARE * max(1, int(grey.max())), grey.max(), np.uint8(0)).astype(np.uint8)).convert("RGB")


def is_blank(picture: Image.Image) -> bool:
    """Whether it is of one colour all over."""
    extrema: Any = picture.convert("RGB").getextrema()
    return all(low == high for low, high in extrema)


def looks_inverted(picture: Image.Image) -> bool:
    """Whether it is dark lines on white, where maps of lines are white on black."""
    return kind_of_map(picture) != "labels" and float(np.asarray(picture.convert("L"), np.float32).mean()) > 127.5


def map_to_text(picture: Image.Image) -> str:
    """The pixels of an RGB or grey picture as a PNG in a data URI, without loss."""
    red, green, blue = picture.convert("RGB").split()
    grey = red.tobytes() == green.tobytes() == blue.tobytes()
    return data_uri(red if grey else picture.convert("RGB"), thorough=True)


def map_from_text(text: object) -> Image.Image:
    """The RGB picture of such a text. Raises BadImage."""
    if not isinstance(text, str) or not text.startswith("data:image/png;base64,"):
        raise BadImage("A map must be a PNG in a data URI.")
    try:
        return open_picture(b64decode(text.partition(",")[2], validate=True), MAX_SIDE)
    except ValueError as error:
        raise BadImage("A map in this file is damaged.") from error
