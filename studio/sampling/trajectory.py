"""Everything of a run, kept: every state and every prediction, replayable and forkable at any step.

A run file is one .safetensors file: the tensors below, with the options, steps and format version in its metadata.
A file opens without the model: pixel states are pictures themselves, and a latent run carries its decoded pictures and
the linear map that makes small pictures of its latents. Version 1 knew pixel runs only, and is still read.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from studio.checks import require_float, require_int
from studio.errors import BadRunFile, StudioError
from studio.options import PICTURES, SampleOptions
from studio.process.schedules import MAX_TIMESTEPS
from studio.sampling.steps import StepDone, StepInfo
from studio.sampling.streams import ALWAYS, STREAMS, TOLD

if TYPE_CHECKING:
    from PIL import Image

    from studio.media.previews import RgbMap

__all__ = ["Trajectory", "Lineage", "Recorder"]

FORMAT = "diffusion-studio-run"
VERSION = 3
READABLE = ("1", "2", "3")
# Recorded only where there was guidance, where it was asked for, and where CLIP guided.
EXTRAS = tuple(name for name, info in STREAMS.items() if info.kept and name not in ALWAYS)
# What a sampler has to remember of the steps before a fork.
HISTORY = ("x0_hat", "eps_hat")
# What half precision leaves out of these is kept in a further byte, times REST_SCALE: a fork begins from the one, and
# multistep solvers weigh several of the other against each other.
RESTS = ("x_t", "eps_hat")
REST_SCALE = 4096.0
# Of a kind of picture that the network was told, at most so many.
MAX_TOLD = 64


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Where a fork comes from. parent: the id of that run; index: the step that it went on from; changed: by their names,
    the options that were changed, as they are now."""

    parent: str
    index: int
    changed: Mapping[str, Any]

    @classmethod
    def of(cls, trajectory: "Trajectory", index: int, changes: Mapping[str, Any]) -> "Lineage":
        """Of a fork of `trajectory`; a picture among the changes is named, not kept."""
        named = {name: value if isinstance(value, str | int | float | bool | None) else type(value).__name__ for name, value in changes.items()}
        return cls(parent=trajectory.id, index=index, changed=named)


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """A finished or stopped run of S steps and B pictures.

    options: what was asked. steps: S of StepInfo. model: facts of the model needed to read it later.
    x_t, x0_hat, eps_hat: (S, B, C, H, W) float16 on the CPU. x_final: (B, C, H, W) float32, the state after the
    last step: the picture itself (or its latents), or the noisy state where the run was stopped.
    extras: further streams, (S, B, ...) float16; those of guidance hold x0_hat at steps without it.
    final_pixels: (B, H, W, 3) uint8, the pictures where they are not the states: decoded, or put back into the picture they started from.
    rests: what float16 leaves out of the streams of RESTS, (S, B, C, H, W) float8; none in files of versions 1 and 2.
    history: of a fork, the streams of HISTORY at the steps before it, (P, B, ...) float32; lineage: where it comes from.
    told: what the network was told in pictures, by the names of TOLD, (1 or B, C, h, w) float16.
    """

    options: SampleOptions
    steps: Sequence[StepInfo]
    model: dict[str, Any]
    x_t: Tensor
    x0_hat: Tensor
    eps_hat: Tensor
    x_final: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    final_pixels: Tensor | None = None
    rests: Mapping[str, Tensor] = field(default_factory=dict)
    history: Mapping[str, Tensor] = field(default_factory=dict)
    lineage: Lineage | None = None
    told: Mapping[str, Tensor] = field(default_factory=dict)

    def exact(self, name: str, index: int | slice) -> Tensor:
        """Steps of a stream as float32, with what float16 leaves out where it was kept."""
        stream = self.stream(name)[index].float()
        return stream + self.rests[name][index].float() / REST_SCALE if name in self.rests else stream

    @property
    def id(self) -> str:
        """A name for what is in it: the same run has the same one, 16 hexadecimal digits."""
        digest = sha256(json.dumps(self.options.to_dict(), sort_keys=True).encode())
        for tensor in (self.x_t, self.x_final):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def before(self, index: int) -> dict[str, Tensor]:
        """What a sampler has to remember to go on from step `index`: the streams of HISTORY at all steps before it."""
        own = {name: self.exact(name, slice(index)) for name in HISTORY}
        return {name: torch.cat([self.history[name], own[name]]) for name in HISTORY} if self.history else own

    @property
    def complete(self) -> bool:
        """Whether every step was taken."""
        return bool(self.steps) and len(self.steps) == self.steps[0].num_steps

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept, the pictures among its options too."""
        tensors = [self.x_final, *self.told.values(), *(self.stream(name) for name in self.streams), *self.rests.values(), *self.history.values()]
        tensors += [] if self.final_pixels is None else [self.final_pixels]
        starts = [picture for name in PICTURES if (picture := getattr(self.options, name)) is not None]
        return sum(tensor.nbytes for tensor in tensors) + sum(3 * picture.width * picture.height for picture in starts)

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of all that was recorded, in the order of STREAMS."""
        return ALWAYS + tuple(name for name in EXTRAS if name in self.extras)

    @property
    def latent(self) -> bool:
        """Whether the states are latents, not pictures."""
        return "rgb_map" in self.model

    @property
    def rgb_map(self) -> "RgbMap | None":
        """How latents look; None in a pixel run."""
        from studio.media.previews import RgbMap

        return RgbMap.from_json(self.model["rgb_map"]) if self.latent else None

    def stream(self, name: str) -> Tensor:
        """(S, B, C, H, W) by name: one of `streams`; "attention" is (S, B, tokens, h, w), "residual_sizes" (S, B, units, blocks)."""
        if name not in self.streams:
            raise KeyError(name)
        return self.extras[name] if name in self.extras else getattr(self, name)

    def pictures(self, stream: str, index: int | slice | Sequence[int] = slice(None)) -> Tensor:
        """Steps of a stream as pictures to look at, in about [-1, 1]; no model is needed.

        Returns (S, B, 3, h, w), one pixel a latent, or (S, B, C, H, W) of a pixel run; without S for a single index.
        """
        from studio.media.previews import as_pictures

        return as_pictures(self.stream(stream)[index], STREAMS[stream].kind, self.rgb_map)

    def told_pictures(self, name: str) -> Tensor:
        """What the network was told, by a name of `told`, to look at: (1 or B, 3 or 1, h, w) in about [-1, 1]; no model is needed."""
        from studio.media.previews import as_pictures

        told = self.told[name].float()
        return as_pictures(told, "state", self.rgb_map) if TOLD[name].kind == "state" else told

    @property
    def images(self) -> "list[Image.Image]":
        """The pictures that the run ended with, the last x0_hat where it was stopped; no model is needed."""
        from studio.media.images import to_image, to_images

        if self.final_pixels is not None:
            return [to_image(pixels) for pixels in self.final_pixels.numpy()]
        return to_images(self.x_final if self.complete else self.x0_hat[-1])

    def save(self, path: str | Path) -> Path:
        """Write the run file; returns its path."""
        metadata = {
            "format": FORMAT, "version": str(VERSION), "options": json.dumps(self.options.to_dict()),
            "steps": json.dumps([_step_to_json(step) for step in self.steps]), "model": json.dumps(self.model),
        }
        if self.lineage is not None:
            metadata["lineage"] = json.dumps(dataclasses.asdict(self.lineage))
        tensors = {name: self.stream(name).contiguous() for name in self.streams} | {"x_final": self.x_final.contiguous()}
        tensors |= {f"rest.{name}": tensor.contiguous() for name, tensor in self.rests.items()}
        tensors |= {f"history.{name}": tensor.contiguous() for name, tensor in self.history.items()}
        if self.final_pixels is not None:
            tensors["final_pixels"] = self.final_pixels.contiguous()
        tensors |= {f"told.{name}": tensor.contiguous() for name, tensor in self.told.items()}
        for name in PICTURES:
            if (picture := getattr(self.options, name)) is not None:
                tensors[name] = torch.from_numpy(np.array(picture.convert("RGB")))
        save_file(tensors, path, metadata=metadata)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "Trajectory":
        """Read a run file. Raises BadRunFile with what to do when it is cut short, foreign or of another version."""
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata = file.metadata() or {}
                _check_format(metadata)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            steps = [StepInfo(**{**step, "log_snr": _log_snr(step["sigma"])}) for step in map(_step_from_json, json.loads(metadata["steps"]))]
            options, model = SampleOptions.from_dict(json.loads(metadata["options"])), _object("model", json.loads(metadata["model"]))
            lineage = Lineage(**json.loads(metadata["lineage"])) if "lineage" in metadata else None
            _check_tensors(tensors, len(steps), model)
            pictures: dict[str, Any] = {name: _image(tensors[name]) for name in PICTURES if name in tensors}
            options = dataclasses.replace(options, **pictures)
        except BadRunFile:
            raise
        except (OSError, SafetensorError) as error:
            raise BadRunFile("This run file cannot be read: it is cut short or not a run file. Save it again from the studio.") from error
        # Of JSON that is nested without end, its reader says so in this way.
        except (KeyError, TypeError, ValueError, StudioError, RecursionError) as error:
            raise BadRunFile(f"This run file is damaged ({error}). Save it again from the studio.") from error
        return cls(
            options=options, steps=steps, model=model, x_final=tensors["x_final"], final_pixels=tensors.get("final_pixels"),
            extras={name: tensors[name] for name in EXTRAS if name in tensors}, **{name: tensors[name] for name in ALWAYS}, lineage=lineage,
            rests=_group("rest", RESTS, tensors), history=_group("history", HISTORY, tensors), told=_group("told", tuple(TOLD), tensors),
        )


def _step_to_json(step: StepInfo) -> dict[str, Any]:
    # JSON has no infinity: sigma at zero SNR is written as null, and log_snr follows from sigma.
    values = {"index": step.index, "num_steps": step.num_steps, "timestep": step.timestep, "sigma": step.sigma if math.isfinite(step.sigma) else None}
    return values | {"guidance_scale": step.guidance_scale, "clip_gradient_norm": step.clip_gradient_norm, "alpha": step.alpha} | (
        {"refined": True} if step.refined else {})


def _step_from_json(values: Any) -> dict[str, Any]:
    """What a step says of itself, each of its kind. Raises TypeError, KeyError, InvalidOption."""
    norms = _object("a step", values).get("clip_gradient_norm")
    require_int("num_steps", values["num_steps"], 1, MAX_TIMESTEPS)
    require_int("index", values["index"], 0, values["num_steps"] - 1)
    require_float("timestep", values["timestep"], -MAX_TIMESTEPS, MAX_TIMESTEPS)
    known = [(name, values.get(name)) for name in ("sigma", "guidance_scale", "alpha")]
    for name, number in (*known, *(("clip_gradient_norm", norm) for norm in norms or ())):
        if number is not None:
            require_float(name, number, -1e30, 1e30)
    if not isinstance(values.get("refined", False), bool):
        raise TypeError("refined is neither true nor false")
    return {**values, "sigma": math.inf if values["sigma"] is None else values["sigma"], "clip_gradient_norm": norms and tuple(norms)}


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} is no object")
    return value


def _log_snr(sigma: float) -> float:
    return -math.inf if math.isinf(sigma) else math.inf if sigma == 0 else -2 * math.log(sigma)


def _check_format(metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise BadRunFile("This is a safetensors file, but not a run of the studio; open one that 'Save run' wrote.")
    if metadata.get("version") not in READABLE:
        raise BadRunFile(
            f"This run file has version {metadata.get('version')} and this studio reads version {VERSION} and older; open it with the studio that wrote it."
        )


def _check_tensors(tensors: dict[str, Tensor], num_steps: int, model: dict[str, Any]) -> None:
    """That all belong to one run; latents also need the numbers that make pictures of them."""
    x_final = tensors["x_final"]
    is_latent = "rgb_map" in model or model.get("kind") == "latent"
    states = [name for name in EXTRAS if name in tensors and STREAMS[name].kind not in ("map", "sizes")]
    fits = 1 <= num_steps <= MAX_TIMESTEPS and x_final.ndim == 4 and all(tensors[name].shape == (num_steps, *x_final.shape) for name in (*states, *ALWAYS))
    # Pictures are grey or in colours; whatever it is, there is something of it.
    fits = fits and all(x_final.shape) and (is_latent or x_final.shape[1] in (1, 3))
    fits = fits and all(tensors[name].is_floating_point() for name in ("x_final", *states, *ALWAYS))
    fits = fits and all(rest.shape == (num_steps, *x_final.shape) for rest in _group("rest", RESTS, tensors).values())
    past = list(_group("history", HISTORY, tensors).values())
    fits = fits and len(past) in (0, len(HISTORY)) and all(tensor.shape == (len(past[0]), *x_final.shape) for tensor in past)
    for name, ndim in (("attention", 5), ("residual_sizes", 4)):
        if fits and name in tensors:
            fits = tensors[name].ndim == ndim and tensors[name].shape[:2] == (num_steps, len(x_final)) and tensors[name].is_floating_point()
    for name, ndim in (("final_pixels", 4), *((name, 3) for name in PICTURES)):
        if name in tensors:
            fits = fits and tensors[name].dtype == torch.uint8 and tensors[name].ndim == ndim and tensors[name].shape[-1] == 3 and tensors[name].numel() > 0
    if fits and "final_pixels" in tensors:
        fits = len(tensors["final_pixels"]) == len(x_final)
    fits = fits and all(_fits_told(TOLD[name].kind, told, x_final) for name, told in _group("told", tuple(TOLD), tensors).items())
    if not fits:
        raise BadRunFile("This run file is damaged: its pictures and its steps do not match. Save it again from the studio.")
    if is_latent:
        from studio.media.previews import RgbMap

        if RgbMap.from_json(model["rgb_map"]).weight.shape[1] != x_final.shape[1]:
            raise BadRunFile("The colours of this run's latents are damaged; save it again from the studio.")


def _fits_told(kind: str, told: Tensor, x_final: Tensor) -> bool:
    channels = {"state": (x_final.shape[1],), "picture": (3,), "grey": (1,)}[kind]
    return told.is_floating_point() and told.ndim == 4 and told.shape[1] in channels and 1 <= len(told) <= MAX_TOLD and all(told.shape)


def _group(prefix: str, names: Sequence[str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that a file keeps under "prefix.name", by name."""
    return {name: tensors[f"{prefix}.{name}"] for name in names if f"{prefix}.{name}" in tensors}


def _image(pixels: Tensor) -> "Image.Image":
    from studio.media.images import to_image

    return to_image(pixels.numpy())


class Recorder:
    """Collects steps into a Trajectory, in float16 on the CPU. It never holds more than the run itself.

    Each stream lies in one piece from its first step on: frames made one by one would leave holes in the memory, and all of
    them would be there twice when they are put together.

    history, lineage: of a fork, what was before it and where it comes from.
    """

    def __init__(self, options: SampleOptions, model: dict[str, Any], history: Mapping[str, Tensor] | None = None, lineage: Lineage | None = None):
        self.options, self.model, self.history, self.lineage = options, model, history or {}, lineage
        self.told: dict[str, Tensor] = {}
        self.steps: list[StepInfo] = []
        self._streams: dict[str, Tensor] = {}
        self._rests: dict[str, Tensor] = {}
        self._room = 0

    def tell(self, shown: Mapping[str, Tensor]) -> None:
        """Keep what the network is told in pictures, by the names of TOLD."""
        self.told = {name: picture.to("cpu", torch.float16) for name, picture in shown.items()}

    def add(self, step: StepDone) -> None:
        """Keep one step."""
        index = len(self.steps)
        self._room = self._room or max(1, step.num_steps - step.index)
        self.steps.append(StepInfo(**{name: getattr(step, name) for name in _INFO_FIELDS}))
        for name in (*ALWAYS, *EXTRAS):
            frame = getattr(step, name)
            if frame is not None and name not in self._streams:
                self._streams[name] = self._piece(frame, torch.float16)
                self._leave_out(name, slice(index))
            if frame is not None:
                self._streams[name][index] = frame
            elif name in self._streams:
                self._leave_out(name, slice(index, index + 1))
        for name in RESTS:
            rest = _rest(getattr(step, name).to("cpu"), self._streams[name][index])
            self._rests.setdefault(name, self._piece(rest, rest.dtype))[index] = rest

    def trajectory(self, x_final: Tensor, final_pixels: np.ndarray | None = None) -> Trajectory:
        """The run so far, ending in the state `x_final`; final_pixels: (B, H, W, 3) uint8 of a latent run."""
        streams = {name: self._taken(stream) for name, stream in self._streams.items()}
        return Trajectory(
            options=self.options, steps=list(self.steps), model=self.model, x_final=x_final.float().cpu(), history=self.history, lineage=self.lineage,
            final_pixels=None if final_pixels is None else torch.from_numpy(final_pixels), told=self.told,
            rests={name: self._taken(rest) for name, rest in self._rests.items()},
            extras={name: streams.pop(name) for name in EXTRAS if name in streams}, **streams,
        )

    def _piece(self, frame: Tensor, dtype: torch.dtype) -> Tensor:
        """Room for all steps of a stream; the system gives it memory as it is filled."""
        return torch.empty((self._room, *frame.shape), dtype=dtype)

    def _leave_out(self, name: str, steps: slice) -> None:
        """Every step has something: without guidance the one x0_hat that there is stands for both, maps and gradients are 0."""
        self._streams[name][steps] = self._streams["x0_hat"][steps] if STREAMS[name].absent == "x0_hat" else 0

    def _taken(self, stream: Tensor) -> Tensor:
        """The steps that were taken. Of a run that was stopped early the rest is let go, and of one that was nearly through it costs nothing."""
        taken = stream[: len(self.steps)]
        return taken if 2 * len(taken) > len(stream) else taken.clone()


def _rest(exact: Tensor, half: Tensor) -> Tensor:
    """What float16 left out. Where the numbers are not finite, or too large for it, nothing is."""
    return ((exact.float() - half.float()) * REST_SCALE).nan_to_num(0.0, 0.0, 0.0).clamp(-448, 448).to(torch.float8_e4m3fn)


_INFO_FIELDS = tuple(info.name for info in dataclasses.fields(StepInfo))
