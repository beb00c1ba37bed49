"""Pictures as data URIs: what is decoded is what went in, whatever the kind of picture."""

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from studio.media.data_uris import data_uri, small_uri


def decoded(uri: str, kind: str) -> Image.Image:
    head, data = uri.split(",", 1)
    assert head == f"data:image/{kind};base64"
    return Image.open(BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("thorough", [False, True])
def test_pixels_come_back_to_the_last_bit(channels, thorough):
    pixels = np.random.default_rng(channels).integers(0, 256, (7, 11, channels), np.uint8)
    assert np.array_equal(np.asarray(decoded(data_uri(pixels, thorough=thorough), "png")), pixels.squeeze())


def test_a_picture_goes_as_it_is_and_thorough_is_smaller():
    x = np.linspace(0, 255, 200).astype(np.uint8)
    picture = Image.fromarray(np.stack([np.add.outer(x, x)] * 3, axis=-1))
    quick, small = data_uri(picture), data_uri(picture, thorough=True)
    assert np.array_equal(np.asarray(decoded(quick, "png")), np.asarray(decoded(small, "png"))) and len(small) < len(quick)


def test_a_small_picture_keeps_its_shape_and_leaves_the_original():
    picture = Image.new("RGB", (400, 200), "red")
    small = decoded(small_uri(picture, 160), "webp")
    assert small.size == (160, 80) and picture.size == (400, 200)
