"""What decoding takes: foretold from the header, kept, and shared by all that is decoded at once. Peaks are of a process of its own."""

import json
import struct
import subprocess
import sys
import threading
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studio.errors import BadImage, StudioBusy
from studio.media import uploads
from studio.media.uploads import DECODING_TOGETHER, MAX_DECODING, MIB, open_picture

measured = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from Linux")

PEAKS = """
import json, sys, warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from PIL import Image
from studio.errors import StudioError
from studio.media import uploads

def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

def read(path):
    try:
        return list(uploads.open_picture(path).size)
    except StudioError as error:
        return str(error)

def foretold(path):
    with open(path, "rb") as file:
        return uploads._foretold(uploads._header(file), file, uploads.MAX_SIDE)

uploads.ROOM.wait_s = 300
for kind in uploads.FORMATS:  # the decoders are loaded
    small = BytesIO()
    Image.new("RGB", (8, 8)).save(small, kind)
    uploads.open_picture(small.getvalue())
for path in sys.argv[2:]:
    open("/proc/self/clear_refs", "w").write("5")
    before = peak()
    with ThreadPoolExecutor(int(sys.argv[1])) as threads:
        results = list(threads.map(read, [path] * int(sys.argv[1])))
    print(json.dumps({"grown": peak() - before, "foretold": foretold(path), "results": results}))
"""


def peaks(together: int, *paths: Path) -> list[dict]:
    """For each file, read so many times at once in a process of its own: what memory grew by, what was foretold for one, the results."""
    done = subprocess.run([sys.executable, "-c", PEAKS, str(together), *map(str, paths)], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def saved(folder: Path, name: str, image: Image.Image, kind: str, **options) -> Path:
    path = folder / name
    image.save(path, kind, **options)
    return path


@measured
def test_twelve_bombs_at_once_stay_within_the_memory_that_all_share(tmp_path):
    bomb = saved(tmp_path, "bomb.png", Image.new("RGB", (5000, 5000), "red"), "PNG")
    assert bomb.stat().st_size < 200_000
    [of] = peaks(12, bomb)
    assert 12 * of["foretold"] > 2 * (DECODING_TOGETHER + 64 * MIB)
    assert of["results"] == [[1024, 1024]] * 12
    assert of["grown"] < DECODING_TOGETHER + 64 * MIB


@measured
def test_what_is_foretold_is_not_exceeded(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (250, 300, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((2400, 2000), Image.Resampling.NEAREST)
    see_through = image.convert("RGBA")
    see_through.putalpha(image.getchannel(0))
    palette = image.quantize(32, Image.Quantize.FASTOCTREE)
    floats = Image.fromarray(np.asarray(image)[..., 0].astype(np.float32))
    paths = [
        saved(tmp_path, "rgb", image, "PNG", compress_level=1),
        saved(tmp_path, "rgba", see_through, "PNG", compress_level=1),
        saved(tmp_path, "palette", palette, "PNG", compress_level=1, transparency=0),
        saved(tmp_path, "wide", Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257), "PNG", compress_level=1),
        saved(tmp_path, "jpeg", image, "JPEG"),
        saved(tmp_path, "progressive", image, "JPEG", progressive=True),
        saved(tmp_path, "cmyk", image.convert("CMYK"), "JPEG", progressive=True),
        saved(tmp_path, "webp", image, "WEBP", method=0),
        saved(tmp_path, "gif", palette, "GIF"),
        saved(tmp_path, "bmp", image.convert("L"), "BMP"),
        saved(tmp_path, "tiff", see_through, "TIFF", compression="tiff_lzw", strip_size=2**30),
        saved(tmp_path, "floats", floats, "TIFF", compression="tiff_lzw", strip_size=2**30),
    ]
    for path, of in zip(paths, peaks(1, *paths)):
        assert max(of["results"][0]) == 1024, path.name
        # Besides the picture: the file's bytes, which are counted apart, and what Python itself needs.
        assert of["grown"] < of["foretold"] + path.stat().st_size + 8 * MIB, path.name


@measured
def test_a_photograph_of_50_megapixels_is_decoded_at_a_quarter_of_its_sides(tmp_path):
    [of] = peaks(1, saved(tmp_path, "telephone.jpg", Image.new("RGB", (8192, 6144), "teal"), "JPEG"))
    assert of["results"] == [[1024, 768]]
    assert of["grown"] < 64 * MIB < 4 * 8192 * 6144


def tiff_of_one_tile(side: int, tile: int) -> bytes:
    """A grey picture of side x side pixels, inside one packed tile that is far larger."""
    data = zlib.compress(bytes(tile * 64), 9)
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def in_one_scan_a_component(jpeg: bytes) -> bytes:
    """The header of a JPEG whose first scan holds one component of three: its decoder keeps the whole picture's coefficients."""
    at = jpeg.index(b"\xff\xda") + 4
    return jpeg[:at] + b"\x01" + jpeg[at + 1 :]


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("make", [
    lambda: encoded(Image.new("RGB", (7000, 7000)), "JPEG", progressive=True, subsampling=0),
    lambda: in_one_scan_a_component(encoded(Image.new("RGB", (7000, 7000)), "JPEG", subsampling=0)),
    lambda: encoded(Image.new("RGB", (5000, 5000)), "WEBP", method=0),
    lambda: tiff_of_one_tile(16, 20_000),
], ids=["progressive", "several scans", "webp", "tile"])
def test_what_would_take_too_much_is_refused_from_the_header_in_numbers(make, monkeypatch):
    data = make()
    monkeypatch.setattr(uploads, "_decoded", lambda *_: pytest.fail("the pixels were decoded"))
    with pytest.raises(BadImage, match=rf"would take \d+ MiB of memory, and at most {MAX_DECODING // MIB} MiB are given; make the picture smaller"):
        open_picture(data)


def test_who_finds_no_room_is_told_to_come_back(monkeypatch):
    monkeypatch.setattr(uploads, "ROOM", uploads.Room(MIB, 0.0, uploads.ROOM.busy))
    with pytest.raises(StudioBusy, match="try again in a few seconds"):
        open_picture(encoded(Image.new("RGB", (600, 600)), "PNG"))


def test_who_waits_goes_on_as_soon_as_there_is_room():
    room, waits, got = uploads.Room(10, wait_s=60.0), threading.Event(), threading.Event()

    def second() -> None:
        waits.set()
        with room.taken(6):
            got.set()

    with room.taken(6):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(60) and not got.is_set()
    assert got.wait(60)
    thread.join()


def test_room_comes_back_after_a_failure():
    room = uploads.Room(10, wait_s=0.0)
    for _ in range(3):
        with pytest.raises(BadImage), room.taken(10):
            raise BadImage("The picture is damaged.")


def test_strip_by_strip_is_the_same_as_all_at_once():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3301, 1601, 3), dtype=np.uint8))
    whole = image.reduce(2).resize((497, 1024), Image.Resampling.LANCZOS, box=(0, 0, 1601 / 2, 3301 / 2))
    assert 4 * uploads.STRIP < 3301 * 1601
    assert open_picture(encoded(image, "PNG", compress_level=1)) == whole
