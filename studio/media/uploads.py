"""Which files are uploads; and any upload made into a safe picture: an sRGB image in memory, without metadata, upright, on white.

The bytes are judged by decoding them, never by the file's name. What decoding will take is foretold from the header
before a pixel is decoded, and all pictures that are decoded at once share one allowance of memory: a small file cannot
ask for gigabytes, nor can many of them together. A JPEG is decoded at the size that is needed; every other format is
decoded whole, and brought to RGB and to size strip by strip.
"""

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from io import SEEK_CUR, BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, SAMPLESPERPIXEL, TILELENGTH, TILEWIDTH, TiffImageFile

from studio.disk_room import used
from studio.errors import BadImage, NotUploaded
from studio.files import lies_within
from studio.machine import Room

__all__ = ["open_picture", "require_upload", "FORMATS", "MAX_BYTES", "MAX_PIXELS", "MAX_SIDE", "MAX_DECODING", "DECODING_TOGETHER"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MIB = 2**20
MAX_BYTES = 30 * MIB
# The largest photographs of telephones that say 50 megapixels are 8192 x 6144.
MAX_PIXELS = 64_000_000
MAX_SIDE = 1024
# Bytes of memory that decoding one picture, and all that are decoded at once, may take.
MAX_DECODING = 256 * MIB
DECODING_TOGETHER = 512 * MIB
WAIT_S = 5.0
WHITE = (255, 255, 255)
# The pictures that a profile of each kind can speak of, and the mode that it takes them in.
KINDS = {"RGB": ("RGB", ("RGB", "RGBA", "P", "L", "LA")), "GRAY": ("L", ("L", "LA")), "CMYK": ("CMYK", ("CMYK",))}

# Bytes a pixel as Pillow keeps them, 4 in every mode that is not named; and what a decoder keeps beside them, as measured.
KEPT = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
BESIDE = {"WEBP": 12, "BMP": 2}
# Blocks of pixels are averaged until the longer side is 1.5 to 3 times what is wanted; the rest is left to Lanczos.
GAP = 1.5
# Pixels that are brought to RGB at once, and the bytes for each: four kinds of pixels of 4 bytes.
STRIP = 2**20
STRIP_BYTES = 16


def open_picture(source: str | Path | bytes | None, max_side: int = MAX_SIDE) -> Image.Image:
    """The picture of a file: sRGB, upright by its EXIF tag, the first frame of an animation, transparency over white.

    Args:
        source: a path, or the bytes themselves.
        max_side: a picture with a longer side than this is shrunk to it with antialiasing.
    Returns:
        RGB, 1 x 1 to max_side x max_side pixels, carrying no metadata.
    Raises:
        BadImage: nothing given, empty, not a picture, damaged, or too large; the message says what to do.
        StudioBusy: other pictures are being decoded, and in WAIT_S seconds there was no room for this one.
    """
    size = _size_of(source)
    with ROOM.taken(size), _opened(source) as file:
        cost = _foretold(_header(file), file, max_side)
    with ROOM.taken(size + cost), _opened(source) as file:
        image = _read(file, max_side)
        _give_back()
    return image


def _read(file: IO[bytes], max_side: int) -> Image.Image:
    decoded = _decoded(_header(file), max_side)
    image = _upright(_small(decoded, max_side), _orientation(decoded))
    # A copy of the pixels alone: whatever else the file said (place, camera, comments) stays behind.
    return Image.frombytes("RGB", image.size, image.tobytes())


def _give_back() -> None:
    """Have the C library return what was freed: glibc keeps it for the thread that it was freed in, and the next picture has another."""
    with suppress(OSError, AttributeError, TypeError):  # no such function, nothing of the kind is kept
        ctypes.CDLL(None).malloc_trim(0)


def require_upload(path: object, folders: Iterable[str | Path]) -> str:
    """The path, where it is that of a file in one of the folders that uploads are kept in. Decides it for all kinds of uploads.

    Raises:
        NotUploaded: for anything else, in one and the same sentence, so that nothing is learned of what else there is.
    """
    if isinstance(path, str) and ".." not in Path(path).parts and lies_within(path, folders) and Path(path).is_file():
        used(path)
        return path
    raise NotUploaded("This is no file that was uploaded here, or it is no longer kept; upload it, then use what the upload gave.")


ROOM = Room(DECODING_TOGETHER, WAIT_S, "The studio is reading many large pictures at this moment; try again in a few seconds, or with a smaller picture.")


# --- the file ------------------------------------------------------------------------------------------------

def _size_of(source: str | Path | bytes | None) -> int:
    """The number of bytes, once it is known to be in range."""
    if source is None:
        raise BadImage("No picture was given; drop one, or take one of the examples.")
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise BadImage(f"There is no file {Path(source).name!r}; upload the picture again.")
    size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if size == 0:
        raise BadImage("The file is empty; choose the picture again, or another one.")
    if size > MAX_BYTES:
        raise BadImage(f"The file has {size / MIB:.0f} MiB, and at most {MAX_BYTES // MIB} MiB are read; save a smaller copy first.")
    return size


def _opened(source: str | Path | bytes | None) -> IO[bytes]:
    return BytesIO(source) if isinstance(source, bytes) else Path(source or "").open("rb")


def _header(file: IO[bytes]) -> ImageFile.ImageFile:
    """What the file says of itself; no pixel is decoded. The limit of pixels is checked."""
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise BadImage("This file is not a picture that can be read; use a PNG, JPEG, WebP, GIF, BMP or TIFF file.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(f"The picture has far more than {MAX_PIXELS // 10**6} megapixels; make it smaller first.") from None
    except Exception as error:  # Pillow's readers fail in many ways on a broken header; all mean the same here.
        raise BadImage("The picture is damaged; save or download it again, or use another one.") from error
    _check_pixels(*image.size)
    return image


def _check_pixels(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise BadImage(f"The picture has {width} x {height} pixels, so there is nothing to see; use another one.")
    if width * height > MAX_PIXELS:
        raise BadImage(
            f"The picture has {width} x {height} pixels ({width * height / 1e6:.0f} megapixels), and at most "
            f"{MAX_PIXELS // 10**6} megapixels are read; make it smaller first."
        )


# --- what decoding takes -------------------------------------------------------------------------------------

def _foretold(image: ImageFile.ImageFile, file: IO[bytes], max_side: int) -> int:
    """Bytes of memory that decoding and shrinking will take at most. Raises BadImage where they are too many."""
    named = f"{image.format} of {image.width} x {image.height} pixels"
    try:
        beside = _beside(image, file)
    except (TypeError, ValueError, ArithmeticError) as error:  # tags of a TIFF that are no numbers
        raise BadImage("The picture is damaged; save or download it again, or use another one.") from error
    _draft(image, max_side)
    factor, pixels = _factor(image.size, max_side), image.width * image.height
    strip = min(_rows(image.width, factor), image.height) * image.width
    cost = beside + KEPT.get(image.mode, 4) * pixels + 4 * pixels // factor**2 + STRIP_BYTES * strip
    if cost > MAX_DECODING:
        raise BadImage(
            f"Decoding this {named} would take {cost / MIB:.0f} MiB of memory, and at most {MAX_DECODING // MIB} MiB are given; "
            "make the picture smaller first, or save it as a JPEG."
        )
    return cost


def _beside(image: ImageFile.ImageFile, file: IO[bytes]) -> int:
    """Bytes that the format's decoder keeps beside the pixels."""
    if isinstance(image, JpegImageFile):
        return 0 if _comes_in_rows(image, file) else _coefficients(image)
    if isinstance(image, TiffImageFile):
        return _block(image)
    return BESIDE.get(image.format or "", 0) * image.width * image.height


def _comes_in_rows(image: JpegImageFile, file: IO[bytes]) -> bool:
    """Whether the decoder gives row after row: the first scan holds every component, and all of it. Else it keeps all coefficients."""
    if "progressive" in image.info:
        return False
    file.seek(2)
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:
        if head[1] == 0xDA:  # the start of the scan: how many components follows
            return file.read(1) == bytes([image.layers])
        file.seek(int.from_bytes(head[2:]) - 2, SEEK_CUR)
    return False


def _coefficients(image: JpegImageFile) -> int:
    """Bytes of all coefficients: 2 each, fewer of the components that are stored at a lower resolution."""
    across, down = (max(layer[i] for layer in image.layer) for i in (1, 2))
    return sum(2 * image.width * image.height * layer[1] * layer[2] // (across * down) for layer in image.layer)


def _block(image: TiffImageFile) -> int:
    """Bytes of what is unpacked at once: a strip as large as the picture at most, or a tile, which may be larger than it."""
    tags = image.tag_v2
    pixels = max(image.width, tags.get(TILEWIDTH, 0)) * max(image.height, tags.get(TILELENGTH, 0))
    bits = max(tags.get(BITSPERSAMPLE, (1,))) * tags.get(SAMPLESPERPIXEL, 3)
    # A picture that lies on its side is turned as a whole.
    return pixels * bits // 8 + (4 * image.width * image.height if tags.get(0x0112, 1) != 1 else 0)


# --- decoding ------------------------------------------------------------------------------------------------

def _draft(image: ImageFile.ImageFile, max_side: int) -> None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 of its size where that is enough; other formats know nothing of it."""
    image.draft(image.mode, _within(image.size, round(GAP * max_side)))


def _decoded(image: ImageFile.ImageFile, max_side: int) -> Image.Image:
    """With its pixels, as the file keeps them."""
    _draft(image, max_side)
    try:
        image.load()
    except Exception as error:
        raise BadImage("The picture is damaged or cut short; save or download it again, or use another one.") from error
    return image


def _within(size: tuple[int, int], most: int) -> tuple[int, int]:
    """The size with its longer side brought down to `most`."""
    scale = min(1.0, most / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _factor(size: tuple[int, int], max_side: int) -> int:
    """How many pixels a side become one by averaging."""
    return max(1, max(size) // round(GAP * max_side))


def _rows(width: int, factor: int) -> int:
    """Rows of a strip: whole blocks, at least one row of them."""
    return factor * max(1, STRIP // (width * factor))


def _strips(image: Image.Image, rows: int) -> Iterator[tuple[int, Image.Image]]:
    """(the row that it begins with, strip of so many rows), from the top."""
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _small(image: Image.Image, max_side: int) -> Image.Image:
    """RGB on white, its longer side at most max_side: blocks of pixels averaged strip by strip, then Lanczos."""
    factor, to_rgb = _factor(image.size, max_side), _to_rgb(image)
    blocks = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for top, strip in _strips(image, _rows(image.width, factor)):
        blocks.paste(to_rgb(strip).reduce(factor), (0, top // factor))
    size = _within(image.size, max_side)
    if size == image.size:
        return blocks
    # The last blocks may be cut by the edge: the box ends where the picture does.
    return blocks.resize(size, Image.Resampling.LANCZOS, box=(0, 0, image.width / factor, image.height / factor))


def _to_rgb(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """What makes a strip of this picture 8-bit sRGB on white."""
    profile, levels = image.info.get("icc_profile"), _levels(image)
    return lambda strip: _on_white(_in_srgb(_grey(strip, *levels) if levels else strip, profile))


def _orientation(image: Image.Image) -> int:
    """How the camera was held, 1 = upright; a tag that cannot be read says nothing."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # Broken metadata is no reason to refuse a picture whose pixels are sound.
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    image.getexif()[0x0112] = orientation
    return ImageOps.exif_transpose(image)


# --- colours -------------------------------------------------------------------------------------------------

def _levels(image: Image.Image) -> tuple[float, float] | None:
    """The values that become black and white where pixels are 16-bit, 32-bit or float grey; None where they are bytes."""
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    if image.mode not in ("I", "F"):
        return None
    ends = [(values.min(), values.max()) for _, strip in _strips(image, _rows(image.width, 1)) for values in [_numbers(strip)]]
    low, high = float(min(low for low, _ in ends)), float(max(high for _, high in ends))
    full = 65535.0 if image.mode == "I" else 1.0
    # These modes name no range: 16-bit values and 0..1 are the customs; anything else is stretched to what is there.
    return (0.0, full) if low >= 0 and high <= full else (low, high)


def _numbers(image: Image.Image) -> np.ndarray:
    """(H, W) float32, without NaN and infinity."""
    return np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)


def _grey(image: Image.Image, low: float, high: float) -> Image.Image:
    """low..high -> 0..255, rounded; one value everywhere becomes black."""
    scale = 255.0 / (high - low) if high > low else 0.0
    scaled = (_numbers(image) - np.float32(low)) * np.float32(scale)
    return Image.fromarray(np.rint(scaled).clip(0, 255).astype(np.uint8))


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The colours as the embedded ICC profile means them; one that is broken, or of another kind of picture, means nothing."""
    if not profile:
        return image
    try:
        meant = ImageCms.ImageCmsProfile(BytesIO(profile))
        # Nearly every profile is sRGB itself: then every value stays exactly what it was.
        if "sRGB" in ImageCms.getProfileDescription(meant):
            return image
        return _converted(image, meant)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, SyntaxError):
        return image


def _converted(image: Image.Image, meant: ImageCms.ImageCmsProfile) -> Image.Image:
    mode, modes = KINDS.get(meant.profile.xcolor_space.strip(), ("", ()))
    if image.mode not in modes:
        return image
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    colours = image.convert("RGBA").convert("RGB") if alpha else image
    converted = ImageCms.profileToProfile(colours.convert(mode), meant, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None  # only in place is nothing returned
    if alpha:
        converted.putalpha(alpha)
    return converted


def _on_white(image: Image.Image) -> Image.Image:
    """RGB, with whatever is transparent laid over white."""
    try:
        if not image.has_transparency_data:
            return image.convert("RGB")
        layer = image.convert("RGBA")
    except ValueError as error:
        raise BadImage(f"Colours of kind {image.mode!r} cannot be read; save the picture as PNG or JPEG in RGB.") from error
    page = Image.new("RGB", layer.size, WHITE)
    page.paste(layer, mask=layer)
    return page
