"""Folders of pictures that someone trains on."""

from pathlib import Path
from typing import TYPE_CHECKING

from studio.errors import InvalidOption

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["IMAGE_SUFFIXES", "pictures_in", "read_picture"]

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def pictures_in(folder: Path) -> list[Path]:
    """The files of pictures in the folder itself, in order of name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def read_picture(path: Path) -> "Image.Image":
    """The picture in RGB. Raises InvalidOption naming the file."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise InvalidOption(f"{str(path)!r} is not a picture that can be read; remove it from the folder.") from error
