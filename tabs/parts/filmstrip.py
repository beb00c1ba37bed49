"""What the stage is shown: live frames while a run goes on, and the whole run as a filmstrip when it is over.

    film        {kind: "film", run, title, complete, num_steps, steps, frames, every, streams, tile, images,
                 sprite_columns, curve, autoplay, options, decodes, decoded, attention, control, told,
                 patches}; one PNG sprite a stream, tile
                 frame * images + image, row by row. Of latents these are small previews: `decodes` names the streams that
                 the real decoder can be asked for, `decoded` holds what it was asked already.
    begin       {kind: "begin", run, curve, options, address}: where the live frames of a run come from (tabs.parts.live)
    live frame  {step, tile, images, columns, channels, pictures}: base64 of the pixels of each stream, all images in one sheet
    options     {all, each}: texts that a picture saved from the stage carries

Values are JSON-ready: what is infinite travels as null.
"""

import dataclasses
import math
from base64 import b64encode
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from studio.media.data_uris import data_uri
from studio.media.images import grid, shrunk, to_pixels
from studio.media.maps import aligned
from studio.options import SampleOptions
from studio.sampling.events import StepDone, StepInfo
from studio.sampling.export import options_text
from studio.sampling.streams import STREAMS, TOLD

if TYPE_CHECKING:
    from studio.models.prompts import Tokens
    from studio.sampling.trajectory import Trajectory

__all__ = ["film", "begin", "live_frame", "decoded", "attention", "carried", "each_alone", "curve_of", "MAX_SPRITE_PIXELS"]

# Pixels of a sprite, of a live frame's pictures together, and of what the decoder made of a step: larger ones are shown smaller.
MAX_SPRITE_PIXELS, MAX_LIVE_PIXELS, MAX_DECODED_PIXELS = 4_000_000, 1_000_000, 16_000_000
MAX_CURVE_POINTS = 240


# --- the payloads --------------------------------------------------------------------------------------------

def film(
    trajectory: "Trajectory", *, run: str, title: str = "", curve: dict[str, Any] | None = None, autoplay: bool = False,
    tokens: "Tokens | None" = None, streams: Collection[str] = tuple(STREAMS),
) -> dict[str, Any]:
    """The whole run. Long runs are thinned evenly, first and last step kept, until a sprite has 4 million pixels; where even
    those two are more, pictures are shown smaller.

    Args:
        run: names the run, so that the stage knows a film from the live frames before it.
        curve: of `curve_of`; None takes the run's own steps.
        autoplay: play from the first step; otherwise the last one is shown.
        tokens: of the prompt; with them, where each was looked at joins the film, if it was recorded.
        streams: those to show.
    """
    num_steps, images, *_ = trajectory.x_t.shape
    factor, height, width = _smaller(min(2, num_steps) * images, tuple(trajectory.x_t.shape[-2:]), MAX_SPRITE_PIXELS)
    every = _every(num_steps, images * height * width)
    frames = sorted({*range(0, num_steps, every), num_steps - 1})
    columns = _sprite_columns(len(frames) * images, width, height)
    steps = [_step(step) for step in trajectory.steps]
    return {
        "kind": "film", "run": run, "title": title, "options": carried(trajectory.options), "complete": trajectory.complete, "num_steps": num_steps,
        "steps": steps, "frames": frames, "every": every, "tile": [width, height], "images": images,
        "sprite_columns": columns, "curve": curve or _curve_of_steps(steps), "autoplay": autoplay,
        "streams": [
            {"name": name, "label": info.label, "src": _sprite(trajectory, name, frames, columns, factor)}
            for name, info in STREAMS.items() if name in trajectory.streams and name in streams and info.view is not None
        ],
        "decodes": [name for name in trajectory.streams if STREAMS[name].decodable] if trajectory.latent else [],
        "decoded": [decoded("x0_hat", num_steps - 1, trajectory.images)] if trajectory.latent else [],
        "attention": attention(trajectory, tokens, frames) if tokens and "attention" in trajectory.streams else None,
        "control": controlled(trajectory, frames) if trajectory.options.units else None, "told": told(trajectory),
        "patches": patches(trajectory, frames) if "attention" in trajectory.streams and trajectory.model.get("patches") else None,
    }


def decoded(stream: str, index: int, pictures: "Sequence[Image.Image]") -> dict[str, Any]:
    """What the real decoder made of one step, one picture a seed, as one sprite."""
    factor, height, width = _smaller(len(pictures), pictures[0].size[::-1], MAX_DECODED_PIXELS)
    columns = _sprite_columns(len(pictures), width, height)
    sheet = grid(np.concatenate([shrunk(np.asarray(picture.convert("RGB"))[None], factor) for picture in pictures]), columns)
    return {"stream": stream, "index": index, "tile": [width, height], "columns": columns, "src": data_uri(sheet)}


def attention(trajectory: "Trajectory", tokens: "Tokens", frames: list[int]) -> dict[str, Any]:
    """Where the pieces of the prompt were looked at, as a grey sprite: tile (frame * images + image) * pieces + piece.

    A byte of 255 stands for the `scale` of its piece, the largest share of attention that a place ever gave it.
    """
    pieces = [index for index, token in enumerate(tokens.tokens) if token.word is not None]
    maps = trajectory.stream("attention")[frames][:, :, pieces].float().numpy()
    scale = maps.max(axis=(0, 1, 3, 4), initial=1e-6)
    height, width = maps.shape[-2:]
    levels = np.rint(255 * maps / scale[:, None, None]).astype(np.uint8).reshape(-1, height, width, 1)
    columns = _sprite_columns(len(levels), width, height)
    return {
        "tile": [width, height], "columns": columns, "src": data_uri(grid(levels, columns)), "scale": scale.tolist(),
        "pieces": [{"text": tokens.tokens[index].text, "word": tokens.tokens[index].word} for index in pieces],
    }


def patches(trajectory: "Trajectory", frames: list[int]) -> dict[str, Any] | None:
    """Where each patch of a transformer looked, as a grey sprite: tile (frame * images + image) * patches + patch, each brightest at 255.

    frames: places in the film's own frames, thinned until the sprite has 4 million pixels; images: all of the run, or its first.
    """
    _, images, count, height, width = trajectory.stream("attention").shape
    if count != height * width:
        return None
    images = images if 2 * images * count**2 <= MAX_SPRITE_PIXELS else 1
    every = max(1, math.ceil(len(frames) * images * count**2 / MAX_SPRITE_PIXELS))
    kept = sorted({*range(0, len(frames), every), len(frames) - 1})
    maps = trajectory.stream("attention")[[frames[place] for place in kept], :images].float().numpy()
    levels = np.rint(255 * maps / np.maximum(maps.max(axis=(-2, -1), keepdims=True), 1e-9)).astype(np.uint8).reshape(-1, height, width, 1)
    columns = _sprite_columns(len(levels), width, height)
    sprite = {"frames": kept, "images": images, "tile": [width, height], "columns": columns, "src": data_uri(grid(levels, columns))}
    # The facts may come from a stranger's file; the page takes text.
    facts = trajectory.model["patches"] if isinstance(trajectory.model["patches"], dict) else {}
    said = facts.get("positions")
    return {**sprite, "positions": said if isinstance(said, str) and len(said) == 4 * math.ceil(count**2 / 3) else None}


def controlled(trajectory: "Trajectory", frames: list[int]) -> dict[str, Any]:
    """The maps that a run followed, as large as its pictures, and how much each unit added at each frame, block by block.

    sizes: [frame][unit][block], the root mean square of the residual over all pictures; null where nothing was recorded.
    """
    height, width = trajectory.x_final.shape[-2:] if trajectory.final_pixels is None else trajectory.final_pixels.shape[1:3]
    units = trajectory.options.units
    maps = [aligned(unit.map, width, height, unit.resize) for unit in units if unit.map is not None]
    sizes = trajectory.stream("residual_sizes")[frames].float().mean(dim=1) if "residual_sizes" in trajectory.streams else None
    return {
        "units": [{"name": Path(unit.net).parent.name if Path(unit.net).name == "model" else Path(unit.net).name, "scale": unit.scale} for unit in units],
        "maps": [data_uri(one) for one in maps],
        "sizes": None if sizes is None else [[[round(size, 5) for size in blocks] for blocks in unit] for unit in sizes.tolist()],
    }


def told(trajectory: "Trajectory") -> list[dict[str, Any]]:
    """What the network was told in pictures: {name, label, over, sources}; where each picture of a run was told its own, the first's."""
    shown = []
    for name, info in TOLD.items():
        if name in trajectory.told:
            pictures = trajectory.told_pictures(name)
            sources = [data_uri(one) for one in to_pixels(pictures if info.kind == "picture" and not info.over else pictures[:1])]
            shown.append({"name": name, "label": info.label, "over": info.over, "sources": sources})
    return shown


def begin(options: SampleOptions, *, run: str, curve: dict[str, Any], address: str) -> dict[str, Any]:
    """A run that begins now, and where its live frames come from."""
    return {"kind": "begin", "run": run, "curve": curve, "options": carried(options), "address": address}


def live_frame(event: StepDone) -> dict[str, Any]:
    """One step of a run that is going on: x_t and x0_hat of all its pictures, and what guidance made of them.

    The pixels travel as they are: noise does not compress, and the browser draws them without decoding a file.
    """
    images = len(event.x_t)
    factor, height, width = _smaller(images, tuple(event.x_t.shape[-2:]), MAX_LIVE_PIXELS)
    columns = math.ceil(math.sqrt(images))
    sheets = {
        name: grid(shrunk(to_pixels(event.pictures(name)), factor), columns)
        for name, info in STREAMS.items() if info.live and getattr(event, name) is not None
    }
    return {
        "step": _step(event), "tile": [width, height], "images": images, "columns": columns, "channels": next(iter(sheets.values())).shape[2],
        "pictures": {name: b64encode(sheet.tobytes()).decode("ascii") for name, sheet in sheets.items()},
    }


def carried(options: SampleOptions) -> dict[str, Any]:
    """What a picture saved from the stage carries: the options of all pictures together, and of each alone."""
    return {"all": options_text(options), "each": [options_text(one) for one in each_alone(options)]}


def each_alone(options: SampleOptions) -> list[SampleOptions]:
    """The options that make each picture of a run by itself."""
    return [dataclasses.replace(options, seed=options.seed + i, num_images=1) for i in range(options.num_images)]


def curve_of(noise_curve: dict[str, Any]) -> dict[str, list[float | None]]:
    """The model's schedule, t, log_snr, signal and noise, thinned to what a chart can show."""
    count = len(noise_curve["t"])
    stride = max(1, math.ceil(count / MAX_CURVE_POINTS))
    kept = sorted({*range(0, count, stride), count - 1})
    return {name: [_number(noise_curve[name][i]) for i in kept] for name in ("t", "log_snr", "signal", "noise")}


def _curve_of_steps(steps: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    return {key: [step[name] for step in steps] for key, name in (("t", "timestep"), ("log_snr", "log_snr"), ("signal", "signal"), ("noise", "noise"))}


def _step(step: StepInfo) -> dict[str, Any]:
    signal, noise = step.scales
    numbers = {"timestep": step.timestep, "sigma": step.sigma, "log_snr": step.log_snr, "signal": signal, "noise": noise}
    norms = step.clip_gradient_norm and [_number(norm) for norm in step.clip_gradient_norm]
    guidance: dict[str, Any] = {"guidance_scale": step.guidance_scale, "clip_gradient_norm": norms}
    if step.refined:
        guidance["refined"] = True
    return {"index": step.index, "num_steps": step.num_steps, **guidance, **{name: _number(value) for name, value in numbers.items()}}


def _number(value: Any) -> float | None:
    value = float(value)
    return float(f"{value:.6g}") if math.isfinite(value) else None


# --- sprites -------------------------------------------------------------------------------------------------

def _every(num_steps: int, pixels: int) -> int:
    """The smallest n such that every n-th step, and the last, fit into a sprite."""
    room = max(2, MAX_SPRITE_PIXELS // pixels)
    return 1 if num_steps <= room else math.ceil((num_steps - 1) / (room - 1))


def _sprite_columns(tiles: int, width: int, height: int) -> int:
    """So many that the sprite is about square: browsers refuse pictures of very long sides."""
    return max(1, min(tiles, round(math.sqrt(tiles * height / width))))


def _smaller(tiles: int, size: tuple[int, ...], most: int) -> tuple[int, int, int]:
    """(factor, height, width): so many pixels are averaged each way that the tiles have at most `most` in all, and what is left of one."""
    height, width = size
    factor = next(factor for factor in range(1, max(height, width) + 1) if tiles * (height // factor) * (width // factor) <= most)
    factor = min(factor, height, width)
    return factor, height // factor, width // factor


def _sprite(trajectory: "Trajectory", name: str, frames: list[int], columns: int, factor: int) -> str:
    # Step by step: in float32 all of them at once would be many times the sprite.
    tiles = [shrunk(to_pixels(trajectory.pictures(name, frame)), factor) for frame in frames]
    return data_uri(grid(np.concatenate(tiles), columns))
