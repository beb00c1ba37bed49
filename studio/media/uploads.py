"""Any upload made into a safe picture: an sRGB image in memory, without metadata, upright, on white.

The bytes are judged by decoding them, never by the file's name; the size in pixels is judged by the header, before
anything is decoded, so that a small file cannot ask for gigabytes.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from studio.errors import BadImage

__all__ = ["open_picture", "FORMATS", "MAX_BYTES", "MAX_PIXELS", "MAX_SIDE"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_BYTES = 30 * 2**20
MAX_PIXELS = 50_000_000
MAX_SIDE = 1024
WHITE = (255, 255, 255)
# The pictures that a profile of each kind can speak of, and the mode that it takes them in.
KINDS = {"RGB": ("RGB", ("RGB", "RGBA", "P", "L", "LA")), "GRAY": ("L", ("L", "LA")), "CMYK": ("CMYK", ("CMYK",))}


def open_picture(source: str | Path | bytes | None, max_side: int = MAX_SIDE) -> Image.Image:
    """The picture of a file: sRGB, upright by its EXIF tag, the first frame of an animation, transparency over white.

    Args:
        source: a path, or the bytes themselves.
        max_side: a picture with a longer side than this is shrunk to it with antialiasing.
    Returns:
        RGB, 1 x 1 to max_side x max_side pixels, carrying no metadata.
    Raises:
        BadImage: nothing given, empty, not a picture, damaged, or too large; the message says what to do.
    """
    image = _first_frame(_read(source))
    profile = image.info.get("icc_profile")
    image = _on_white(_in_srgb(_eight_bit(_upright(image)), profile))
    if max(image.size) > max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    # A copy of the pixels alone: whatever else the file said (place, camera, comments) stays behind.
    return Image.frombytes("RGB", image.size, image.tobytes())


def _read(source: str | Path | bytes | None) -> bytes:
    """The bytes, once their number is known to be in range."""
    if source is None:
        raise BadImage("No picture was given; drop one, or take one of the examples.")
    if not isinstance(source, bytes):
        source = Path(source)
        if not source.is_file():
            raise BadImage(f"There is no file {source.name!r}; upload the picture again.")
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size == 0:
        raise BadImage("The file is empty; choose the picture again, or another one.")
    if size > MAX_BYTES:
        raise BadImage(f"The file has {size / 2**20:.0f} MiB, and at most {MAX_BYTES // 2**20} MiB are read; save a smaller copy first.")
    return source if isinstance(source, bytes) else source.read_bytes()


def _first_frame(data: bytes) -> Image.Image:
    """The decoded first frame. The pixel limit is checked between the header and the pixels."""
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadImage("This file is not a picture that can be read; use a PNG, JPEG, WebP, GIF, BMP or TIFF file.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(f"The picture has far more than {MAX_PIXELS // 10**6} megapixels; make it smaller first.") from None
    except Exception as error:  # Pillow's readers fail in many ways on a broken header; all mean the same here.
        raise BadImage("The picture is damaged; save or download it again, or use another one.") from error
    _check_pixels(*image.size)
    try:
        image.load()
    except Exception as error:
        raise BadImage("The picture is damaged or cut short; save or download it again, or use another one.") from error
    return image


def _check_pixels(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise BadImage(f"The picture has {width} x {height} pixels, so there is nothing to see; use another one.")
    if width * height > MAX_PIXELS:
        raise BadImage(
            f"The picture has {width} x {height} pixels ({width * height / 1e6:.0f} megapixels), and at most "
            f"{MAX_PIXELS // 10**6} megapixels are read; make it smaller first."
        )


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF tag says; a tag that cannot be read turns nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Broken metadata is no reason to refuse a picture whose pixels are sound.
        return image


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float grey scaled to 8 bits; every other mode as it is."""
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image), 0, 65535)
    if image.mode not in ("I", "F"):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    full = 65535.0 if image.mode == "I" else 1.0
    # These modes name no range: 16-bit values and 0..1 are the customs; anything else is stretched to what is there.
    return _grey(values, 0, full) if low >= 0 and high <= full else _grey(values, low, high)


def _grey(values: np.ndarray, low: float, high: float) -> Image.Image:
    """low..high -> 0..255, rounded; one value everywhere becomes black."""
    scale = 255.0 / (high - low) if high > low else 0.0
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(scale)
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
    return Image.alpha_composite(Image.new("RGBA", layer.size, (*WHITE, 255)), layer).convert("RGB")
