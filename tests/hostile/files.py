"""Files that a stranger may send, and what a client may say of files."""

import gzip
import json
import struct
import zipfile
import zlib
from functools import cache
from io import BytesIO
from math import prod
from typing import Any

from PIL import Image, PngImagePlugin

from tests.hostile.served import MIB, ROOT, Served

# No picture of the studio is of this colour.
CANARY_COLOUR = (13, 201, 77)


# --- pictures ------------------------------------------------------------------------------------------------

def png(width: int = 8, height: int = 8, colour: tuple[int, int, int] = CANARY_COLOUR, kind: str = "PNG", **options: Any) -> bytes:
    """A plain picture."""
    buffer = BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def bomb(width: int, height: int) -> bytes:
    """A PNG of one colour: kilobytes that become gigabytes. Written row by row, so that this process does not pay for it."""
    row, packed = b"\0" + bytes(3 * width), zlib.compressobj(9)
    body = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()
    return png_of(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), body)


def png_of(header: bytes, body: bytes, *chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_text(key: str, text: str) -> bytes:
    """A picture that says something of itself, as the studio's own do of their options."""
    said = PngImagePlugin.PngInfo()
    said.add_text(key, text, zip=True)
    return png(pnginfo=said)


def text_bomb() -> bytes:
    """64 MiB of text in a few kilobytes of PNG."""
    packed = b"diffusion-studio\0\0" + zlib.compress(b"a" * (64 * MIB), 9)
    return png_of(struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0), zlib.compress(b"\0\0\0\0"), chunk(b"zTXt", packed))


def many_frames(count: int = 3000) -> bytes:
    """A GIF of many frames."""
    first, *others = [Image.new("P", (4, 4), i % 2) for i in range(count)]
    buffer = BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others)
    return buffer.getvalue()


def archive() -> bytes:
    """A ZIP with a name that leads out of its folder."""
    zipped = BytesIO()
    with zipfile.ZipFile(zipped, "w") as writing:
        writing.writestr("../../escaped.txt", "x")
    return zipped.getvalue()


# Python's own format: loading it would run a command.
PICKLE = b"\x80\x04cposix\nsystem\n(S'touch hostile-canary'\ntR."


@cache
def hostile_pictures() -> dict[str, bytes]:
    """Pictures that are none, or not what they seem, by what is wrong with them."""
    whole, no_size = png(64, 64), struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)
    giant, odd = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0), struct.pack(">IIBBBBB", 8, 8, 77, 9, 9, 9, 9)
    return {**_damaged(whole), **_foreign(whole)} | {
        "giant.png": png_of(giant, b""), "no-size.png": png_of(no_size, b""), "bad-depth.png": png_of(odd, zlib.compress(b"\0" * 500)),
        "bomb.png": bomb(7000, 7000), "wide.png": bomb(40_000, 1), "text-bomb.png": text_bomb(), "frames.gif": many_frames(),
    }


def _damaged(whole: bytes) -> dict[str, bytes]:
    loop = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x111, 4, 1, 8) + struct.pack("<I", 8)
    return {
        "empty.png": b"", "one-byte.png": b"\x89", "cut.png": whole[: len(whole) // 2], "header-only.png": whole[:33],
        "bad-crc.png": whole[:40] + b"\xff" + whole[41:], "trailing.png": whole + b"\0" * 5000, "cut.jpg": png(64, 64, kind="JPEG")[:200],
        "webp-cut.webp": png(64, 64, kind="WEBP")[:40], "tiff-loop.tif": loop, "bmp-huge.bmp": b"BM" + b"\xff" * 100, "null.png": b"\0" * 10_000,
        "icc.png": png(icc_profile=b"\0" * 200), "exif.jpg": png(kind="JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 60),
    }


def _foreign(whole: bytes) -> dict[str, bytes]:
    return {
        "html.png": b"<html><script>alert(1)</script></html>", "pdf.png": b"%PDF-1.7\n1 0 obj<<>>endobj", "pickle.png": PICKLE,
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "entities.svg": b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
        "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", "gif-js.gif": b"GIF89a/*" + b"\0" * 50 + b"*/=1;alert(1)",
        "zip-tail.png": whole + archive(), "zip.png": archive(), "gzip.png": gzip.compress(b"0" * 10**6), "jpeg.png": png(kind="JPEG"),
        "ico.png": png(kind="ICO"), "psd.png": b"8BPS\0\x01" + b"\0" * 60,
    }


# --- run files -----------------------------------------------------------------------------------------------

def safetensors(tensors: dict[str, tuple[str, tuple[int, ...], bytes]], metadata: dict[str, str] | None = None, length: int | None = None) -> bytes:
    """A .safetensors file by hand: name -> (dtype, shape, bytes); length: what the file says that its header has."""
    header: dict[str, Any] = {"__metadata__": metadata or {}}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + b"".join(data for *_, data in tensors.values())


OPTIONS = {"model": "toybox-ddpm", "num_steps": 1}
STEP = {"index": 0, "num_steps": 1, "timestep": 1.0, "sigma": 1.0, "guidance_scale": None, "clip_gradient_norm": None}
MODEL = {"kind": "pixel", "label": "x", "num_timesteps": 1000, "channels": 3}


def run_file(
    *, shape: tuple[int, ...] = (1, 1, 3, 4, 4), dtype: str = "F16", value: bytes = b"\0\x3c", final: tuple[int, ...] | None = None, options: Any = OPTIONS,
    steps: Any = (STEP,), model: Any = MODEL, **more: Any,
) -> bytes:
    """A run file of one step, each part of which can be made wrong. more: further tensors."""
    last = final or shape[1:]
    tensors = {name: (dtype, shape, value * prod(shape)) for name in ("x_t", "x0_hat", "eps_hat")}
    tensors["x_final"] = ("F32", last, b"\0\0\x80\x3f" * prod(last))
    text = {"options": json.dumps(options), "steps": json.dumps(steps), "model": json.dumps(model)}
    return safetensors({**tensors, **more}, {"format": "diffusion-studio-run", "version": "2", **text})


# What is wrong with the tensors, the steps, the options and the model of a run file that is whole otherwise.
TENSORS: dict[str, dict[str, Any]] = {
    "good": {}, "nan": {"value": b"\0\x7e"}, "infinite": {"value": b"\0\x7c"}, "integers": {"dtype": "I16"}, "booleans": {"dtype": "BOOL", "value": b"\1"},
    "flat": {"shape": (1, 1, 3, 4), "final": (1, 3, 4)}, "no-channels": {"shape": (1, 1, 0, 4, 4)}, "nothing": {"shape": (1, 1, 3, 0, 0)},
    "five-channels": {"shape": (1, 1, 5, 4, 4)}, "two-channels": {"shape": (1, 1, 2, 4, 4)}, "no-pictures": {"shape": (1, 0, 3, 4, 4)},
    "one-pixel": {"shape": (1, 1, 3, 1, 1)}, "line": {"shape": (1, 1, 3, 1, 60_000)}, "many": {"shape": (1, 4000, 3, 4, 4)},
    "attention": {"attention": ("F16", (1, 1, 2, 2), b"\0\0" * 4)}, "final-pixels": {"final_pixels": ("U8", (1, 4, 4, 3), b"\1" * 48)},
    "final-lie": {"final_pixels": ("U8", (9, 1, 1, 3), b"\1" * 27)}, "init-lie": {"init_image": ("U8", (0, 0, 3), b"")},
    "clip": {"clip_gradient": ("I64", (1, 1, 3, 4, 4), b"\1" * 8 * 48)}, "beliefs": {"x0_cond": ("F64", (1, 1, 3, 4, 4), b"\xff" * 8 * 48)},
}
STEPS: dict[str, Any] = {
    "three": [STEP] * 3, "none": [], "dict": {}, "null": None, "number": 7, "list": [[]], "nulls": [None], "more": [{**STEP, "evil": 1}],
    **{f"{key}-{words}": [{**STEP, key: value}] for key, words, value in (
        ("timestep", "text", "x"), ("timestep", "huge", 1e308), ("timestep", "nan", float("nan")), ("sigma", "list", []), ("sigma", "minus", -1),
        ("sigma", "text", "1"), ("sigma", "nan", float("nan")), ("num_steps", "lie", 10**9), ("num_steps", "text", "x"), ("index", "minus", -7),
        ("clip_gradient_norm", "text", "abc"), ("clip_gradient_norm", "number", 1.0), ("guidance_scale", "text", "x"),
    )},
}
RUN_OPTIONS: dict[str, Any] = {
    "list": [], "null": None, "unknown": {**OPTIONS, "evil": 1}, "steps": {**OPTIONS, "num_steps": 10**30}, "type": {**OPTIONS, "model": ["x"]},
    "path": {**OPTIONS, "model": "/etc/passwd"}, "scheduler": {**OPTIONS, "scheduler": "none"}, "class": {**OPTIONS, "class_label": 10**40},
    "script": {**OPTIONS, "prompt": "<img src=x onerror=alert(1)>"}, "size": {**OPTIONS, "width": 4096, "height": 4096}, "group": {**OPTIONS, "guidance": 7},
}
RUN_MODELS: dict[str, Any] = {
    "list": [], "null": None, "latent": {"kind": "latent"}, "map": {"kind": "latent", "rgb_map": []},
    "map-text": {"kind": "latent", "rgb_map": {"weight": "x", "bias": None}}, "none": {}, "kind": {"kind": ["pixel"]},
    "channels": {**MODEL, "num_timesteps": "x", "channels": 10**9},
}


@cache
def hostile_runs() -> dict[str, bytes]:
    """Run files that are none, or whose parts do not fit, by what is wrong with them."""
    said = {
        **{f"steps-{name}": {"steps": value} for name, value in STEPS.items()},
        **{f"options-{name}": {"options": value} for name, value in RUN_OPTIONS.items()},
        **{f"model-{name}": {"model": value} for name, value in RUN_MODELS.items()},
    }
    cases = {**{name: run_file(**parts) for name, parts in {**TENSORS, **said}.items()}, **_wrong_headers()}
    return {f"{name}.safetensors": content for name, content in cases.items()}


def _wrong_headers() -> dict[str, bytes]:
    deep, digits = "[" * 100_000, "9" * 5000
    run = {"format": "diffusion-studio-run", "version": "2"}
    return {
        "foreign": safetensors({"weight": ("F32", (1,), b"\0" * 4)}), "empty": b"", "zeros": b"\0" * 100, "version": safetensors({}, {**run, "version": "999"}),
        "header-lie": safetensors({}, length=2**63), "header-short": safetensors({}, length=3), "header-list": struct.pack("<Q", 2) + b"[]",
        "header-deep": struct.pack("<Q", len(deep)) + deep.encode(), "header-huge": struct.pack("<Q", 20 * MIB) + b'{"' + b"a" * (20 * MIB),
        "metadata-deep": safetensors({}, {**run, "options": deep, "steps": deep, "model": deep}),
        "metadata-digits": safetensors({}, {**run, "options": digits, "steps": f"[{digits}]", "model": "{}"}), "metadata-none": safetensors({}, run),
        "overlap": _overlapping(), "pickle": PICKLE, "zip": archive(), "picture": png(),
    }


def _overlapping() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}, "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0\0\0\0"


# --- what is said of files -----------------------------------------------------------------------------------

MARK = {"_type": "gradio.FileData"}


def reference(path: str, **more: Any) -> dict[str, Any]:
    """A file as the page speaks of it."""
    return {"path": path, "meta": MARK, **more}


OUTSIDE = ["/etc/passwd", "../../etc/passwd", "", "\0", ".", "/dev/zero", "/dev/stdin", "/proc/self/environ", "a" * 5000, str(ROOT / "README.md")]


def uploaded(app: Served) -> list[Any]:
    """References to hostile files that were uploaded, and to files that were not."""
    kept = {**{name: hostile_pictures()[name] for name in ("cut.png", "svg.png", "text-bomb.png", "zip.png")}, "small.png": png()}
    kept |= {f"{name}.safetensors": hostile_runs()[f"{name}.safetensors"] for name in ("good", "nan", "model-latent")}
    paths, outside = [app.upload(name, content) for name, content in kept.items()], [*OUTSIDE, str(app.folder / "log.txt")]
    odd = [reference("http://127.0.0.1:9/x.png"), reference(paths[0], url="file:///etc/passwd"), None, *paths[:2], *outside[:2]]
    return [*(reference(path) for path in (*paths, *outside)), *({"path": path} for path in (*paths[:2], *outside)), *odd]
