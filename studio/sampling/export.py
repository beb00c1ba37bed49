"""Keeping a run: GIF, MP4, contact sheet, and PNG pictures that carry the options they were made with.

A run of S steps gives S + 1 frames: what the stream showed at each step, then the picture that came of it.
Streams are "x_t", "x0_hat", "eps_hat" (unit normal, drawn at a third so that three deviations fill the range) and
"both" (x_t left, x0_hat right). Frames are laid out at their own size and enlarged by whole pixels afterwards, so
palettes and chroma see every pixel once and edges stay sharp. The states of a latent run are shown by their small
previews, its result by the decoded pictures; `decoded_run` makes it a run of pictures first.
"""

import dataclasses
import json
import textwrap
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import GifImagePlugin, Image, ImageDraw, ImageFont, PngImagePlugin, UnidentifiedImageError

from studio.errors import BadImage, InvalidOption, StudioError, TooLarge, UnknownName
from studio.machine import Room, require_ram
from studio.media.images import from_images, grid, to_pixels
from studio.options import SampleOptions
from studio.sampling.infotext import Parameters, parameters_text, read_parameters

if TYPE_CHECKING:
    from torch import Tensor

    from studio.sampling.trajectory import Trajectory

__all__ = [
    "frames", "save_gif", "save_mp4", "contact_sheet", "decoded_run", "labelled_grid", "require_room_for_grid",
    "save_png", "options_text", "read_options", "read_picture", "STREAMS",
]

STREAMS = ("x_t", "x0_hat", "eps_hat", "both")
MAX_FRAMES = 160
LOOKAHEAD = 60
MIN_SIDE = 256
HOLD_S = 1.5
KEY = "diffusion-studio"
# Where AUTOMATIC1111 keeps its own.
PARAMETERS = "parameters"
VERSION = 1
# The maps of ControlNets travel with the options; Pillow reads texts of up to 1 MiB.
MAX_JSON = 960 * 1024

PAPER, INK, MUTED = (250, 249, 246), (38, 36, 33), (122, 117, 110)


# --- frames --------------------------------------------------------------------------------------------------

def frames(trajectory: "Trajectory", stream: str, scale: int | None = None, max_frames: int | None = None) -> np.ndarray:
    """The run as a film.

    Args:
        trajectory: S steps of B pictures.
        stream: one of STREAMS. A batch is laid out as a near-square grid.
        scale: whole-number enlargement; None makes the longer side of each stream's grid at least 256 pixels.
        max_frames: at most so many, evenly chosen, first and last kept; None = all.
    Returns:
        (S + 1, H, W, 3) uint8, or fewer. The last frame is the final picture; where the run was stopped early, x0_hat
        ends on its last x0_hat, and eps_hat always does.
    Raises:
        UnknownName: no such stream. InvalidOption: a nonsensical scale or max_frames, or states that are no pictures.
    """
    scale = _scale(trajectory, scale)
    chosen = _evenly(len(trajectory.steps) + 1, max_frames)
    frame = _pixels_of(_frame_size(trajectory, stream, scale))
    # The frames, and the same in one piece.
    with _room("This film", frame, frame * len(chosen), MAX_HELD_PIXELS, bytes_each=6):
        return np.stack([_enlarge(frame, scale) for frame in _small_frames(trajectory, stream, chosen)])


def _small_frames(trajectory: "Trajectory", stream: str, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 each, not enlarged."""
    _check(trajectory, stream)
    for index in indices:
        yield _layout(trajectory, stream, index)


def _layout(trajectory: "Trajectory", stream: str, index: int) -> np.ndarray:
    if stream != "both":
        return _batch(_pixels(trajectory, stream, index))
    left, right = _layout(trajectory, "x_t", index), _layout(trajectory, "x0_hat", index)
    return grid(np.stack([left, right]), columns=2, gap=2 * _gap(*_size(trajectory)))


def _pixels(trajectory: "Trajectory", stream: str, index: int) -> np.ndarray:
    """(B, H, W, 1 or 3) uint8 of one frame; index S is what came of the run."""
    num_steps = len(trajectory.steps)
    came_out = index == num_steps and stream != "eps_hat" and trajectory.complete
    if came_out and trajectory.final_pixels is not None:
        return trajectory.final_pixels.numpy()
    if came_out or (index == num_steps and stream == "x_t"):
        pixels = to_pixels(_as_picture(trajectory))
    else:
        pixels = to_pixels(trajectory.pictures(stream, min(index, num_steps - 1)))
    # A latent's preview has one pixel for many of the decoded picture.
    factor = _size(trajectory)[0] // pixels.shape[1]
    return pixels.repeat(factor, axis=1).repeat(factor, axis=2)


def _as_picture(trajectory: "Trajectory") -> "Tensor":
    """(B, C, H, W) in [-1, 1]: how the state looks that the run ended in."""
    return trajectory.x_final if trajectory.rgb_map is None else trajectory.rgb_map(trajectory.x_final)


def _size(trajectory: "Trajectory") -> tuple[int, int]:
    """Height and width of one picture of the run, decoded."""
    height, width = trajectory.x_final.shape[-2:] if trajectory.final_pixels is None else trajectory.final_pixels.shape[1:3]
    return height, width


# --- room for it ---------------------------------------------------------------------------------------------

# Pixels of one frame; of frames that are held all at once; of a sheet. Bytes that all who make some may take together.
MAX_FRAME_PIXELS, MAX_HELD_PIXELS, MAX_SHEET_PIXELS = 2**25, 2**29, 2**28
MAX_TOGETHER, WAIT_S = 2**31, 60.0
# A frame on its way is there in a few versions: its pixels as numbers, as a picture, as a palette's, and beside the one before it.
ON_ITS_WAY = 24
# What the formats can say of a side, and of what the encoder of films takes.
LONGEST_SIDES = {"GIF": 65_535, "MP4": 16_384}
SMALLER = "take fewer pictures or steps, smaller ones, or one stream alone"
TOGETHER = Room(MAX_TOGETHER, WAIT_S, "The studio is making large films and sheets at this moment; try again in a minute.")


def _frame_size(trajectory: "Trajectory", stream: str, scale: int) -> tuple[int, int]:
    """Height and width of one frame, enlarged."""
    (height, width), columns = _size(trajectory), _columns(len(trajectory.x_final))
    rows, gap = -(-len(trajectory.x_final) // columns), _gap(height, width)
    height, width = rows * (height + gap) - gap, columns * (width + gap) - gap
    return height * scale, (2 * width + 2 * gap if stream == "both" else width) * scale


def _pixels_of(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _require_room(what: str, frame: int, held: int, most: int, bytes_each: float) -> int:
    """Refuse `held` pixels of `bytes_each`, made of frames of `frame` pixels, that are too many or do not fit into memory; gives the bytes.

    Raises TooLarge.
    """
    for pixels, limit, kind in ((frame, MAX_FRAME_PIXELS, " a frame"), (held, most, "")):
        if pixels > limit:
            raise TooLarge(f"{what} would have {pixels / 1e6:,.0f} megapixels{kind}, and at most {limit / 1e6:,.0f} can be made: {SMALLER}.")
    needed = int(held * bytes_each + frame * ON_ITS_WAY)
    require_ram(needed, what, SMALLER)
    return needed


@contextmanager
def _room(what: str, frame: int, held: int, most: int, bytes_each: float) -> Iterator[None]:
    """The same, for what is made within it: all who make something share MAX_TOGETHER. Raises TooLarge, StudioBusy."""
    needed = _require_room(what, frame, held, most, bytes_each)
    with TOGETHER.taken(min(needed, MAX_TOGETHER)):
        # What others took meanwhile is not free any more.
        require_ram(needed, what, SMALLER)
        yield


def _require_sides(kind: str, size: tuple[int, int]) -> None:
    """Refuse frames with sides that a film of this kind cannot have. Raises TooLarge."""
    if max(size) > LONGEST_SIDES[kind]:
        raise TooLarge(f"The frames of this {kind} would be {size[1]:,} x {size[0]:,} pixels, and its sides have at most {LONGEST_SIDES[kind]:,}: {SMALLER}.")


def _batch(pixels: np.ndarray) -> np.ndarray:
    """(B, H, W, 1 or 3) -> one near-square (H', W', 3) grid."""
    sheet = grid(pixels, columns=_columns(len(pixels)), gap=_gap(*pixels.shape[1:3]))
    return np.broadcast_to(sheet, (*sheet.shape[:2], 3))


def _columns(count: int) -> int:
    return int(np.ceil(np.sqrt(count)))


def _gap(height: int, width: int) -> int:
    """Between two pictures. Of a long and narrow one the short side counts, so that there is less of gaps than of pictures."""
    return max(1, min(height, width) // 32)


def _scale(trajectory: "Trajectory", scale: int | None) -> int:
    if scale is None:
        batch, (height, width) = len(trajectory.x_final), _size(trajectory)
        columns = _columns(batch)
        return max(1, -(-MIN_SIDE // max(columns * width, -(-batch // columns) * height)))
    if isinstance(scale, bool) or not isinstance(scale, int) or not 1 <= scale <= 64:
        raise InvalidOption(f"scale must be a whole number from 1 to 64, but {scale=}.")
    return scale


def _enlarge(picture: np.ndarray, scale: int) -> np.ndarray:
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def _evenly(count: int, limit: int | None) -> list[int]:
    """At most `limit` of 0..count-1, evenly spread, both ends kept."""
    if limit is None or count <= limit:
        return list(range(count))
    if limit < 2:
        raise InvalidOption(f"At least 2 frames are needed, the first and the last, but {limit=}.")
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def _check(trajectory: "Trajectory", stream: str) -> None:
    if stream not in STREAMS:
        raise UnknownName.of("stream", stream, STREAMS)
    if not trajectory.latent and trajectory.x_final.shape[1] not in (1, 3):
        raise InvalidOption(f"This run holds states of {trajectory.x_final.shape[1]} channels, which are no pictures.")


def decoded_run(
    trajectory: "Trajectory", stream: str, decode: Callable[["Trajectory", str, int], list[Image.Image]],
) -> Generator[tuple[int, int], None, "Trajectory"]:
    """A latent run as a run of pictures, for films that are no previews: `stream` ("x_t", "x0_hat" or "both") by `decode`.

    Yields (steps decoded, of how many) before each; returns the run. Noise, and a pixel run, are returned as they are.
    """
    import torch

    names = {"both": ("x_t", "x0_hat"), "x_t": ("x_t",), "x0_hat": ("x0_hat",)}.get(stream, ())
    if not trajectory.latent or not names:
        return trajectory
    jobs = [(name, index) for name in names for index in range(len(trajectory.steps))]
    step = len(trajectory.x_final) * _pixels_of(_size(trajectory))
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    # Pictures in half precision, and the same in one piece.
    _require_room("The film of decoded steps", step, step * len(jobs), MAX_HELD_PIXELS, bytes_each=12)
    for done, (name, index) in enumerate(jobs):
        yield done, len(jobs)
        parts[name].append(from_images(decode(trajectory, name, index)).half())
    shown: dict[str, Any] = {name: torch.stack(pictures) for name, pictures in parts.items()}
    # A run that was stopped ends in the last state that is known, and so does its film.
    final = from_images(trajectory.images) if trajectory.complete else shown[names[0]][-1].float()
    model = {key: value for key, value in trajectory.model.items() if key != "rgb_map"}
    return dataclasses.replace(trajectory, **shown, x_final=final, final_pixels=None, extras={}, rests={}, history={}, model=model)


# --- films ---------------------------------------------------------------------------------------------------

def save_gif(trajectory: "Trajectory", stream: str, path: str | Path, fps: float = 12) -> Path:
    """A looping GIF, at most 160 frames, the last held 1.5 s; its comment carries the options. Returns the path.

    Every frame has its own 256 colours, chosen before enlarging and not dithered, so grey pictures are exact.
    Raises: as `frames`, and InvalidOption for fps outside 1..50.
    """
    hundredths = round(100 / _check_fps(fps))
    scale = _scale(trajectory, None)
    chosen, size = _evenly(len(trajectory.steps) + 1, MAX_FRAMES), _frame_size(trajectory, stream, scale)
    _require_sides("GIF", size)
    durations = [10 * hundredths] * (len(chosen) - 1) + [int(1000 * HOLD_S)]
    # Pillow keeps every frame until it writes them.
    with _room("This GIF", _pixels_of(size), _pixels_of(size) * len(chosen), MAX_HELD_PIXELS, bytes_each=1):
        pictures = (_paletted(frame, scale) for frame in _small_frames(trajectory, stream, chosen))
        next(pictures).save(
            path, "GIF", save_all=True, append_images=pictures, duration=durations, loop=0, disposal=1,
            comment=options_text(trajectory.options).encode(),
        )
    return Path(path)


def _paletted(frame: np.ndarray, scale: int) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(frame))
    colours = picture.quantize(256, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
    return colours.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def _check_fps(fps: float) -> float:
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 1 <= fps <= 50:
        raise InvalidOption(f"fps must be a number from 1 to 50, but {fps=}.")
    return fps


def save_mp4(trajectory: "Trajectory", stream: str, path: str | Path, fps: float = 12) -> Path:
    """An H.264 film (yuv420p, even sizes, BT.709) of at most 160 frames, then the last one held 1.5 s; returns the path.

    Raises: as `frames`, and InvalidOption for fps outside 1..50.
    """
    scale = _scale(trajectory, None)
    chosen, size = _evenly(len(trajectory.steps) + 1, MAX_FRAMES), _frame_size(trajectory, stream, scale)
    chosen += [chosen[-1]] * round(HOLD_S * _check_fps(fps))
    _require_sides("MP4", size)
    # One at a time; the encoder looks ahead at some 40 frames.
    held = _pixels_of(size) * min(len(chosen), LOOKAHEAD)
    with _room("This MP4", _pixels_of(size), held, MAX_HELD_PIXELS, bytes_each=1.5), _film(path, fps, trajectory.options) as writer:
        for frame in _small_frames(trajectory, stream, chosen):
            writer.append_data(_even(_enlarge(frame, scale)))
    return Path(path)


def _film(path: str | Path, fps: float, options: SampleOptions) -> Any:
    import imageio.v2 as imageio

    return imageio.get_writer(str(path), format="FFMPEG", fps=fps, **_h264(options))  # type: ignore[arg-type]


def _h264(options: SampleOptions) -> dict[str, Any]:
    # Browsers take unmarked colours for BT.709, ffmpeg for BT.601: convert to the one and say so.
    colours = ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    kept = ["-movflags", "+faststart", "-metadata", f"comment={options_text(options, maps=False)}"]
    return {"codec": "libx264", "pixelformat": "yuv420p", "quality": None, "macro_block_size": 2, "output_params": ["-crf", "16", *colours, *kept]}


def _even(frame: np.ndarray) -> np.ndarray:
    """The frame with white added at the right and bottom so that both sides are even."""
    return np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), constant_values=255)


# --- the contact sheet ---------------------------------------------------------------------------------------

MARGIN, LABEL, HEADER = 12, 36, 34


def contact_sheet(trajectory: "Trajectory", stream: str, max_steps: int = 24) -> Image.Image:
    """Evenly chosen steps in rows, with step and timestep under each, and the result last.

    Args:
        max_steps: at most so many cells, 2 to 200, the result among them.
    Returns:
        RGB picture. Save it with `save_png` so that it carries the options.
    Raises:
        UnknownName, InvalidOption.
    """
    chosen, small = _evenly(len(trajectory.steps) + 1, _check_max_steps(max_steps)), _frame_size(trajectory, stream, 1)
    scale = _cell_scale(*small)
    height, width = (side * scale for side in small)
    columns = _sheet_columns(len(chosen), height + LABEL, width)
    held = _pixels_of(_sheet_size(len(chosen), columns, height, width))
    with _room("This contact sheet", height * width, held, MAX_SHEET_PIXELS, bytes_each=4):
        sheet = _blank(len(chosen), columns, height, width)
        _write_header(sheet, trajectory, stream)
        for i, (index, frame) in enumerate(zip(chosen, _small_frames(trajectory, stream, chosen))):
            _place(sheet, _enlarge(frame, scale), _label(trajectory, index), *divmod(i, columns))
    return sheet


def _check_max_steps(max_steps: int) -> int:
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or not 2 <= max_steps <= 200:
        raise InvalidOption(f"max_steps must be a whole number from 2 to 200, but {max_steps=}.")
    return max_steps


def _cell_scale(height: int, width: int) -> int:
    """How often a frame is enlarged to be at least 128 pixels high, and wide enough for its label."""
    return max(1, -(-128 // height), -(-112 // width))


def _sheet_columns(count: int, height: int, width: int) -> int:
    """So many that the sheet is about half as wide again as it is high, its last row as full as can be."""
    widest = min(count, max(1, round(np.sqrt(1.5 * count * height / width))))
    rows = -(-count // widest)
    return -(-count // rows)


def _blank(count: int, columns: int, height: int, width: int) -> Image.Image:
    return Image.new("RGB", _sheet_size(count, columns, height, width), PAPER)


def _sheet_size(count: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Its width and height."""
    rows = -(-count // columns)
    return MARGIN + columns * (width + MARGIN), HEADER + rows * (height + LABEL + MARGIN) + MARGIN


def _write_header(sheet: Image.Image, trajectory: "Trajectory", stream: str) -> None:
    options = trajectory.options
    words = [Path(options.model).name, options.scheduler, f"{len(trajectory.steps)} steps", f"seed {options.seed}"]
    if options.class_label is not None:
        words.insert(1, f"class {options.class_label}")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    name = {"both": "x_t | x0_hat"}.get(stream, stream)
    draw.text((MARGIN, 8), name, INK, font)
    draw.text((MARGIN + draw.textlength(name, font) + 14, 11), " \u00b7 ".join(words), MUTED, ImageFont.load_default(13))


def _label(trajectory: "Trajectory", index: int) -> tuple[str, str]:
    if index == len(trajectory.steps):
        done, asked = index, trajectory.steps[-1].num_steps
        return ("result", f"after {done} steps") if trajectory.complete else ("stopped", f"after {done} of {asked}")
    step = trajectory.steps[index]
    return f"step {step.index + 1} of {step.num_steps}", f"t = {step.timestep:.4g}"


def _place(sheet: Image.Image, cell: np.ndarray, label: tuple[str, str], row: int, column: int) -> None:
    height, width = cell.shape[:2]
    left, top = MARGIN + column * (width + MARGIN), HEADER + row * (height + LABEL + MARGIN) + MARGIN // 2
    sheet.paste(Image.fromarray(cell), (left, top))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    draw.text((left, top + height + 3), label[0], INK, font)
    draw.text((left, top + height + 18), label[1], MUTED, font)


def require_room_for_grid(count: int, width: int, height: int) -> None:
    """Refuse a labelled grid of so many pictures of that size, before the first is drawn. Raises TooLarge."""
    cell = width * height * _cell_scale(height, width) ** 2
    # The pictures, and the sheet.
    _require_room("A grid of that", cell, cell * count, MAX_SHEET_PIXELS, bytes_each=8)


def labelled_grid(pictures: Sequence[Image.Image], rows: Sequence[str], columns: Sequence[str], corner: str) -> Image.Image:
    """Pictures of one size, row by row, with the names of the rows at the left, of the columns above, and `corner` where they meet.

    Small pictures are enlarged by whole pixels to at least 128. Returns an RGB picture; save it with `save_png`.
    """
    require_room_for_grid(len(pictures), *pictures[0].size)
    scale = _cell_scale(pictures[0].height, pictures[0].width)
    width, height = pictures[0].width * scale, pictures[0].height * scale
    names = [textwrap.wrap(name, 18) or [""] for name in rows]
    heads = [textwrap.wrap(name, max(8, width // 8)) or [""] for name in columns]
    font, small, line = ImageFont.load_default(13), ImageFont.load_default(11), 16
    left = MARGIN + round(max(font.getlength(text) for name in names for text in name)) + MARGIN
    left, top = max(left, round(small.getlength(corner)) + 2 * MARGIN), MARGIN + line * max(map(len, heads)) + 6
    sheet = Image.new("RGB", (left + len(columns) * (width + MARGIN), top + len(rows) * (height + MARGIN)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, top - line - 3), corner, MUTED, small)
    for column, head in enumerate(heads):
        for i, text in enumerate(reversed(head)):
            draw.text((left + column * (width + MARGIN), top - 4 - line * (i + 1)), text, INK, font)
    for row, name in enumerate(names):
        y = top + row * (height + MARGIN)
        draw.multiline_text((MARGIN, y + (height - line * len(name)) // 2), "\n".join(name), INK, font)
        for column in range(len(columns)):
            cell = _enlarge(np.asarray(pictures[row * len(columns) + column].convert("RGB")), scale)
            sheet.paste(Image.fromarray(cell), (left + column * (width + MARGIN), y))
    return sheet


# --- pictures that know how they were made -------------------------------------------------------------------

def save_png(image: Image.Image, path: str | Path, options: SampleOptions, *, alone: bool = False) -> Path:
    """Write a PNG that carries the options as JSON in an iTXt chunk named "diffusion-studio", and in AUTOMATIC1111's form as "parameters".

    alone: it is one picture as it was drawn, not a sheet of several, so its size is that of the run. Returns the path.
    """
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, options_text(options))
    info.add_itxt(PARAMETERS, parameters_text(options, image.size if alone else None))
    image.save(path, "PNG", pnginfo=info)
    return Path(path)


def options_text(options: SampleOptions, *, maps: bool = True) -> str:
    """What a picture carries of the options; `read_options` reads it. maps: those of ControlNets too, where there is room for them."""
    text = json.dumps({"version": VERSION, "options": options.to_dict(maps=maps)})
    return text if not maps or len(text) <= MAX_JSON else options_text(options, maps=False)


def read_options(path: str | Path | BinaryIO) -> SampleOptions:
    """The options that a PNG (or GIF) of the studio, or a PNG of AUTOMATIC1111, carries; no pixel is decoded.

    Raises:
        BadImage: not a PNG or GIF, or it carries none or damaged ones. InvalidOption, UnknownName: they say nonsense.
    """
    return read_picture(path).options


def read_picture(path: str | Path | BinaryIO) -> Parameters:
    """The same, with the names of what AUTOMATIC1111's form says besides and the studio does not know. Raises as it does."""
    own, text = _read_text(path)
    if not own:
        return read_parameters(text)
    try:
        envelope = json.loads(text)
        if envelope["version"] != VERSION:
            raise BadImage(f"This picture's options have version {envelope['version']!r} and this studio reads version {VERSION}; set them by hand.")
        return Parameters(SampleOptions.from_dict(envelope["options"]), ())
    except StudioError:
        raise
    # RecursionError: JSON nested a thousand deep.
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadImage("The options in this picture are damaged; drop another picture that the studio saved.") from error


def _read_text(path: str | Path | BinaryIO) -> tuple[bool, str]:
    """Whether the text is the studio's own, and the text."""
    try:
        with Image.open(path, formats=("PNG", "GIF")) as image:
            png = isinstance(image, PngImagePlugin.PngImageFile)
            text, other = (image.info.get(KEY), image.info.get(PARAMETERS)) if png else (_comment(image), None)
    # Pillow stops inflating a text chunk at 1 MiB and says so by ValueError; SyntaxError is its word for broken chunks.
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise BadImage("This file is not a PNG or GIF that can be read; drop a picture that the studio saved.") from error
    if not (text or other):
        raise BadImage("This picture carries no options of the studio or of AUTOMATIC1111; drop a picture that one of them saved.")
    if len(str(text or other)) > MAX_JSON:
        raise BadImage("The options in this picture are too long to be the studio's; drop a picture that the studio saved.")
    return bool(text), str(text or other)


def _comment(image: Image.Image) -> str:
    assert isinstance(image, GifImagePlugin.GifImageFile)
    comment = image.info.get("comment", b"")
    return comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment)
