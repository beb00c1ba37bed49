"""Inpainting in pixels: which part of the picture a run works on, its mask there, and how the result goes back into the picture.

    whole picture     cut and resized to the run; the result is blended over it:   mask result + (1 - mask) picture
    only the masked   the box around the mask, with padding, in the shape of the run; the result is resized back into the box

The mask is feathered by a Gaussian; the network is told its half (128 of 255 and more count as drawn anew), the blend all of it.
Boxes and blends are those of diffusers' VaeImageProcessor (get_crop_region, apply_overlay).
"""

from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageFilter

from studio.errors import InvalidOption
from studio.media.images import fit
from studio.options import SampleOptions

__all__ = ["Canvas", "canvas_of"]

# A mask is the picture's own where its sides are in the same proportion, to this many pixels.
SHAPE_SLACK = 1.0


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """What a run of inpainting works on.

    picture: RGB, mask: grey, both of the size of the run. whole, soft: the picture that the result goes back into and the feathered
    mask on it, of one size. box: where on it the run works, (left, top, right, bottom); None: everywhere.
    """

    picture: Image.Image
    mask: Image.Image
    whole: Image.Image
    soft: Image.Image
    box: tuple[int, int, int, int] | None

    def put_back(self, drawn: Image.Image) -> Image.Image:
        """The whole picture with what was drawn where the mask is white; where it is black, pixel for pixel as it was."""
        base = drawn
        if self.box is not None:
            left, top, right, bottom = self.box
            base = self.whole.copy()
            base.paste(_processor().resize(drawn, height=bottom - top, width=right - left, resize_mode="crop"), (left, top))
        return Image.composite(base, self.whole, self.soft)


def canvas_of(options: SampleOptions, width: int, height: int) -> Canvas:
    """The canvas of a run of width x height pixels. Raises InvalidOption where the mask belongs to no picture of this run."""
    assert options.init_image is not None and options.init_mask is not None
    picture, mask = options.init_image.convert("RGB"), _mask_of(options, width, height)
    if options.mask_padding is None:
        picture = fit(picture, width, height)
        soft = _feathered(fit(mask, width, height), options.mask_blur)
        return Canvas(picture=picture, mask=_checked(soft), whole=picture, soft=soft, box=None)
    if not _alike(mask.size, picture.size):
        # Painted on what the run would have shown of the picture: back to where that lies in it.
        mask = _unfitted(mask, picture.size)
    soft = _feathered(mask if mask.size == picture.size else mask.resize(picture.size, Image.Resampling.BILINEAR), options.mask_blur)
    box = _processor().get_crop_region(_checked(soft), width, height, pad=options.mask_padding)
    part, part_mask = (_processor().resize(one.crop(box), height=height, width=width, resize_mode="fill") for one in (picture, soft))
    return Canvas(picture=part, mask=part_mask.convert("L"), whole=picture, soft=soft, box=box)


def _mask_of(options: SampleOptions, width: int, height: int) -> Image.Image:
    """The mask, grey, if it is of the picture's shape or of the run's."""
    picture, mask = options.init_image, options.init_mask
    assert picture is not None and mask is not None
    if not _alike(mask.size, (width, height)) and not _alike(mask.size, picture.size):
        raise InvalidOption(
            f"The mask is {mask.width}x{mask.height} pixels and the picture {picture.width}x{picture.height}, so it is not said where in it the mask lies: "
            "paint it on this picture, or give one of the same size."
        )
    return mask.convert("L")


def _alike(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes are of the same shape, to a pixel."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= SHAPE_SLACK * max(*one, *other)


def _feathered(mask: Image.Image, blur: float) -> Image.Image:
    return mask.filter(ImageFilter.GaussianBlur(blur)) if blur else mask


def _checked(soft: Image.Image) -> Image.Image:
    low, high = (int(level) for level in soft.getextrema())  # type: ignore[arg-type]
    if high < 128:
        raise InvalidOption("Nothing of the mask is left to draw anew in this part of the picture: lower the feather, or paint more.")
    if low > 127:
        raise InvalidOption("The mask covers all of this part of the picture, so nothing of it would be kept: paint less, or clear the mask.")
    return soft


def _unfitted(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The inverse of `fit` for a mask: black beside what the run showed of the picture."""
    scale = max(mask.width / size[0], mask.height / size[1])
    inside = mask.resize((min(size[0], round(mask.width / scale)), min(size[1], round(mask.height / scale))), Image.Resampling.BILINEAR)
    whole = Image.new("L", size)
    whole.paste(inside, ((size[0] - inside.width) // 2, (size[1] - inside.height) // 2))
    return whole


def _processor() -> Any:
    from diffusers.image_processor import VaeImageProcessor

    return VaeImageProcessor()
