"""Uploads: whatever arrives becomes RGB, upright and on white, or one sentence that says what to do."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from studio.errors import BadImage
from studio.media.uploads import MAX_BYTES, MAX_PIXELS, open_picture


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 60, height: int = 40) -> np.ndarray:
    """(H, W, 3) uint8: red runs right, green runs down."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 128)], axis=-1).astype(np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it has width x height pixels, and holds none of them."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG"])
def test_each_format_reads_back_as_the_same_picture(kind):
    image = Image.fromarray(gradient())
    options = {"lossless": True} if kind == "WEBP" else {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    read = np.asarray(open_picture(encode(image, kind, **options)), dtype=int)
    tolerance = {"GIF": 40, "JPEG": 8}.get(kind, 0)
    assert read.shape == (40, 60, 3)
    assert np.abs(read - gradient()).max() <= tolerance


def test_path_and_bytes_give_the_same_picture(tmp_path):
    data = encode(Image.fromarray(gradient()))
    (tmp_path / "a.png").write_bytes(data)
    assert open_picture(tmp_path / "a.png") == open_picture(data) == open_picture(str(tmp_path / "a.png"))


def test_grey_and_palette_and_grey_with_alpha_become_rgb():
    grey = gradient()[..., 0]
    for mode in ("L", "LA", "1"):
        read = open_picture(encode(Image.fromarray(grey).convert(mode)))
        assert read.mode == "RGB"
        expected = Image.fromarray(grey).convert(mode).convert("RGB")
        assert np.array_equal(np.asarray(read), np.asarray(expected))
    palette = Image.fromarray(gradient()).quantize(32)
    assert np.array_equal(np.asarray(open_picture(encode(palette))), np.asarray(palette.convert("RGB")))


def test_16_bit_grey_is_scaled_not_cut_off():
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        read = np.asarray(open_picture(encode(Image.fromarray(ramp), kind)))[..., 0]
        assert np.array_equal(read.ravel(), np.arange(256))


def test_32_bit_integers_and_floats_are_scaled_to_8_bits():
    integers = (np.arange(256, dtype=np.int32) * 257).reshape(16, 16)
    floats = (np.arange(256, dtype=np.float32) / 255).reshape(16, 16)
    beyond = np.array([[-1000, 0], [1000, 3000]], dtype=np.int32)
    assert np.array_equal(np.asarray(open_picture(encode(Image.fromarray(integers), "TIFF")))[..., 0].ravel(), np.arange(256))
    assert np.array_equal(np.asarray(open_picture(encode(Image.fromarray(floats), "TIFF")))[..., 0].ravel(), np.arange(256))
    assert np.asarray(open_picture(encode(Image.fromarray(beyond), "TIFF")))[..., 0].ravel().tolist() == [0, 64, 128, 255]


def test_cmyk_jpeg_has_the_colours_of_its_rgb():
    flat = Image.new("RGB", (32, 32), (200, 60, 30))
    read = np.asarray(open_picture(encode(flat.convert("CMYK"), "JPEG", quality=98)), dtype=int)
    assert np.abs(read - (200, 60, 30)).max() <= 4


def test_transparent_parts_lie_over_white():
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0, :] = (255, 0, 0, 128)
    pixels[1, 0] = (0, 0, 0, 255)
    read = np.asarray(open_picture(encode(Image.fromarray(pixels))))
    assert np.abs(read[0, 0].astype(int) - (255, 127, 127)).max() <= 1
    assert read[1, 0].tolist() == [0, 0, 0]
    assert read[1, 1].tolist() == [255, 255, 255]


def test_palette_with_a_transparent_entry_lies_over_white():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((0, 0), 1)
    read = np.asarray(open_picture(encode(image, "PNG", transparency=0)))
    assert read[0, 0].tolist() == [200, 0, 0]
    assert read[3, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    read = open_picture(encode(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert read.getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Image.Transpose that undoes how the camera was held
    upright = Image.fromarray(gradient())
    undo = {4: 2, 2: 4}  # quarter turns undo each other
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo.get(turn[orientation], turn[orientation])))
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = np.asarray(open_picture(encode(stored, "PNG", exif=exif)))
    assert np.array_equal(read, gradient())


def test_nothing_of_the_metadata_comes_through():
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    data = encode(Image.fromarray(gradient()), "JPEG", exif=exif, comment=b"secret", icc_profile=b"x" * 200)
    read = open_picture(data)
    assert read.info == {} and len(read.getexif()) == 0
    assert b"taken at home" not in encode(read) and b"secret" not in encode(read)


def test_broken_exif_does_not_cost_the_picture():
    data = encode(Image.fromarray(gradient()), "JPEG", exif=b"Exif\x00\x00garbage")
    assert open_picture(data).size == (60, 40)


def test_one_pixel_is_a_picture():
    assert open_picture(encode(Image.new("RGB", (1, 1), "teal"))).getpixel((0, 0)) == (0, 128, 128)


def test_a_large_picture_is_shrunk_with_antialiasing_and_keeps_its_shape():
    stripes = np.tile(np.array([[0], [255]], np.uint8), (1500, 1000))  # one-pixel stripes: grey when averaged
    read = np.asarray(open_picture(encode(Image.fromarray(stripes))))
    assert read.shape == (1024, 341, 3)
    assert abs(float(read[8:-8].mean()) - 127.5) < 3 and read[8:-8].std() < 40


def test_a_thin_strip_keeps_at_least_one_pixel():
    assert open_picture(encode(Image.new("L", (4000, 1)))).size == (1024, 1)


@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_from_the_header_alone(size, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("the pixels were decoded"))
    with pytest.raises(BadImage, match=r"megapixels.* make it smaller"):
        open_picture(png_header(*size))


def test_the_pixel_limit_itself_is_allowed_as_far_as_the_header():
    with pytest.raises(BadImage, match="damaged or cut short"):
        open_picture(png_header(50_000, 1000))
    with pytest.raises(BadImage, match="64000 x 1001 pixels"):
        open_picture(png_header(MAX_PIXELS // 1000, 1001))


def test_too_many_bytes_are_refused_unread(tmp_path):
    path = tmp_path / "big.png"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(BadImage, match="at most 30 MiB"):
        open_picture(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"this is text, whatever its name says", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 40, "picture"),
        (b"GIF89a", "picture"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_sentence(data, words):
    with pytest.raises(BadImage, match=words) as caught:
        open_picture(data)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_file_cut_short_is_refused_in_a_sentence(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with pytest.raises(BadImage, match="damaged|not a picture"):
        open_picture(data[: len(data) // 2])


def test_random_damage_never_ends_in_another_error():
    rng = np.random.default_rng(1)
    sound = [encode(Image.fromarray(gradient()), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]
    for turn in range(240):
        data = bytearray(sound[turn % len(sound)])
        for at in rng.integers(0, len(data), 6):
            data[at] = rng.integers(256)
        try:
            assert open_picture(bytes(data)).mode == "RGB"
        except BadImage as error:
            assert str(error).endswith(".")


def test_no_picture_and_a_missing_file_say_what_to_do(tmp_path):
    with pytest.raises(BadImage, match="drop one"):
        open_picture(None)
    with pytest.raises(BadImage, match="upload the picture again"):
        open_picture(tmp_path / "gone.png")


# --- colour profiles -----------------------------------------------------------------------------------------

# Colorants as columns, adapted to D50, of Adobe RGB (1998) and of sRGB (Lindbloom's tables).
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]])
GAMMA = 563 / 256


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def icc_profile(*, space: bytes = b"RGB ", name: bytes = b"Wide") -> bytes:
    """A version 2 display profile of Adobe RGB's primaries, or of one grey, both of gamma 2.2."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(GAMMA * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + fixed(0.9642) + fixed(1) + fixed(0.8249)
    description = b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name + bytes(1 + 78 + (-len(name) - 91) % 4)
    tags = {b"desc": description, b"cprt": b"text" + bytes(4) + b"none", b"wtpt": white}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        tags |= {letter + b"TRC": curve for letter in (b"r", b"g", b"b")}
        tags |= {letter + b"XYZ": b"XYZ " + bytes(4) + b"".join(map(fixed, ADOBE_RGB[:, i])) for i, letter in enumerate((b"r", b"g", b"b"))}
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data
    header = struct.pack(">I4sI4s4s4s12s4s", start + len(body), bytes(4), 0x02100000, b"mntr", space, b"XYZ ", bytes(12), b"acsp")
    header += bytes(28) + fixed(0.9642) + fixed(1) + fixed(0.8249)
    return header.ljust(128, b"\0") + table + body


def as_srgb(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) of Adobe RGB as sRGB shows it, by the colorimetric formulas."""
    light = (pixels / 255.0) ** GAMMA @ (np.linalg.inv(SRGB) @ ADOBE_RGB).T
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_colours_of_a_wide_profile_become_those_of_srgb(kind):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    data = encode(Image.fromarray(gradient()), kind, icc_profile=icc_profile(), **options)
    stored = np.asarray(Image.open(BytesIO(data)))
    read = open_picture(data)
    assert np.abs(as_srgb(stored) - stored).max() > 30
    assert np.abs(np.asarray(read) - as_srgb(stored)).max() <= 2
    assert not read.info


def test_a_profile_leaves_transparency_alone():
    pixels = np.dstack([gradient(), np.where(np.arange(60) < 30, 0, 255)[None, :].repeat(40, 0)]).astype(np.uint8)
    read = np.asarray(open_picture(encode(Image.fromarray(pixels), icc_profile=icc_profile())))
    assert (read[:, :30] == 255).all()
    assert np.abs(read[:, 30:] - as_srgb(gradient())[:, 30:]).max() <= 2


def test_a_palette_has_a_profile_too():
    palette = Image.fromarray(gradient()).quantize(32)
    read = np.asarray(open_picture(encode(palette, icc_profile=icc_profile())))
    assert np.abs(read - as_srgb(np.asarray(palette.convert("RGB")))).max() <= 2


def test_grey_with_a_profile_stays_grey_and_keeps_its_ends():
    grey = np.arange(256, dtype=np.uint8)[None, :].repeat(4, 0)
    read = np.asarray(open_picture(encode(Image.fromarray(grey), icc_profile=icc_profile(space=b"GRAY"))), dtype=int)
    assert np.abs(read - read[..., :1]).max() <= 1 and read[0, 0, 0] <= 1 and read[0, 255, 0] >= 254
    light = (np.arange(256) / 255.0) ** GAMMA
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(read[0, :, 0] - expected).max() <= 2


def test_a_profile_that_is_srgb_changes_no_value():
    read = open_picture(encode(Image.fromarray(gradient()), icc_profile=icc_profile(name=b"sRGB IEC61966-2.1")))
    assert np.array_equal(np.asarray(read), gradient())


@pytest.mark.parametrize("profile", [
    b"not a profile", icc_profile()[:200], icc_profile(space=b"GRAY"), icc_profile().replace(b"rTRC", b"oops"), icc_profile(space=b"CMYK"), bytes(5000),
], ids=["words", "cut", "grey", "without a curve", "cmyk", "zeros"])
def test_a_profile_that_does_not_fit_is_no_reason_to_refuse_a_picture(profile):
    read = open_picture(encode(Image.fromarray(gradient()), icc_profile=profile))
    assert np.array_equal(np.asarray(read), gradient())
