"""The pictures of the rankings: files named by what they hold, so that the same picture is kept once."""

from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from studio.errors import NotWritable, UnknownName
from studio.files import written_aside
from studio.media.uploads import open_picture

if TYPE_CHECKING:
    from studio.rankings.schema import Picture

__all__ = ["keep_drawn", "keep_file", "picture_path"]

# The original bytes of these are kept, so that an export holds what was imported.
KEPT_AS_THEY_ARE = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}


def keep_drawn(folder: Path, image: Image.Image) -> "Picture":
    """A picture that was drawn here, as a PNG file. Raises NotWritable."""
    buffer = BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return kept(folder, buffer.getvalue(), "png", image.size)


def keep_file(folder: Path, source: "str | Path | bytes") -> "Picture":
    """A picture from a file or from its bytes: judged by decoding it, kept byte for byte where a browser shows its format, else as PNG.

    Raises BadImage, NotWritable.
    """
    image = open_picture(source)
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    with Image.open(BytesIO(content)) as header:
        suffix, size = KEPT_AS_THEY_ARE.get(header.format or ""), header.size
    return kept(folder, content, suffix, size) if suffix else keep_drawn(folder, image)


def kept(folder: Path, content: bytes, suffix: str, size: tuple[int, int]) -> "Picture":
    """The row of these bytes, once their file is there."""
    from studio.rankings.schema import Picture

    name = sha256(content).hexdigest()
    row = Picture(sha256=name, suffix=suffix, width=size[0], height=size[1], size_bytes=len(content))
    path = path_of(folder, name, suffix)
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_aside(path) as aside:
                aside.write_bytes(content)
        except OSError as error:
            why = f"A picture could not be kept ({error.strerror}): see that the folder of the rankings may be written, and that the disk is not full."
            raise NotWritable(why) from error
    return row


def picture_path(folder: Path, name: str, suffix: str) -> Path:
    """Where the file of a picture lies. Raises UnknownName where it is gone."""
    path = path_of(folder, name, suffix)
    if not path.is_file():
        raise UnknownName(f"The picture {name[:12]} of the rankings is gone from its folder; put the folder of pictures back from a copy.")
    return path


def path_of(folder: Path, name: str, suffix: str) -> Path:
    return folder / "pictures" / name[:2] / f"{name}.{suffix}"
