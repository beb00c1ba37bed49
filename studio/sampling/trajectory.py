"""Everything of a run, kept: every state and every belief, replayable and forkable at any step.

A run file is one .safetensors file: the tensors below, with the options, steps and format version in its metadata.
A file opens without the model: pixel states are pictures themselves, and a latent run carries its decoded pictures and
the linear map that makes small pictures of its latents. Version 1 knew pixel runs only, and is still read.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from studio.errors import BadRunFile, StudioError
from studio.options import SampleOptions
from studio.sampling.events import StepDone, StepInfo

if TYPE_CHECKING:
    from PIL import Image

    from studio.media.previews import RgbMap

__all__ = ["Trajectory", "Recorder", "STREAMS", "EXTRA_STREAMS"]

FORMAT = "diffusion-studio-run"
VERSION = 2
READABLE = ("1", "2")
STREAMS = ("x_t", "x0_hat", "eps_hat")
# Recorded only where there was guidance, where it was asked for, and where CLIP guided.
EXTRA_STREAMS = ("x0_uncond", "x0_cond", "attention", "clip_gradient")


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """A finished or stopped run of S steps and B pictures.

    options: what was asked. steps: S of StepInfo. model: facts of the model needed to read it later.
    x_t, x0_hat, eps_hat: (S, B, C, H, W) float16 on the CPU. x_final: (B, C, H, W) float32, the state after the
    last step: the picture itself (or its latents), or the noisy state where the run was stopped.
    extras: further streams of EXTRA_STREAMS, (S, B, ...) float16; those of guidance hold x0_hat at steps without it.
    final_pixels: (B, H, W, 3) uint8, what the decoder made of a latent run; None in a pixel run.
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

    @property
    def complete(self) -> bool:
        """Whether every step was taken."""
        return bool(self.steps) and len(self.steps) == self.steps[0].num_steps

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept, the picture that the run started from among it."""
        tensors = [self.x_final, *(self.stream(name) for name in self.streams), *([] if self.final_pixels is None else [self.final_pixels])]
        start = self.options.init_image
        return sum(tensor.nbytes for tensor in tensors) + (3 * start.width * start.height if start else 0)

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of all that was recorded, in the order of STREAMS and EXTRA_STREAMS."""
        return STREAMS + tuple(name for name in EXTRA_STREAMS if name in self.extras)

    @property
    def latent(self) -> bool:
        """Whether the states are latents, not pictures."""
        return self.model.get("kind") == "latent"

    @property
    def rgb_map(self) -> "RgbMap | None":
        """How latents look; None in a pixel run."""
        from studio.media.previews import RgbMap

        return RgbMap.from_json(self.model["rgb_map"]) if self.latent else None

    def stream(self, name: str) -> Tensor:
        """(S, B, C, H, W) by name: one of `streams`; "attention" is (S, B, tokens, h, w)."""
        if name not in self.streams:
            raise KeyError(name)
        return self.extras[name] if name in self.extras else getattr(self, name)

    def pictures(self, stream: str, index: int | slice | Sequence[int] = slice(None)) -> Tensor:
        """Steps of a stream as pictures to look at, in about [-1, 1]; no model is needed.

        Returns (S, B, 3, h, w), one pixel a latent, or (S, B, C, H, W) of a pixel run; without S for a single index.
        """
        from studio.media.previews import as_pictures

        return as_pictures(self.stream(stream)[index], stream, self.rgb_map)

    @property
    def images(self) -> "list[Image.Image]":
        """The pictures that the run ended with, the best belief where it was stopped; no model is needed."""
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
        tensors = {name: self.stream(name).contiguous() for name in self.streams} | {"x_final": self.x_final.contiguous()}
        if self.final_pixels is not None:
            tensors["final_pixels"] = self.final_pixels.contiguous()
        if self.options.init_image is not None:
            tensors["init_image"] = torch.from_numpy(np.array(self.options.init_image.convert("RGB")))
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
            options, model = SampleOptions.from_dict(json.loads(metadata["options"])), json.loads(metadata["model"])
            _check_tensors(tensors, len(steps), model)
        except BadRunFile:
            raise
        except (OSError, SafetensorError) as error:
            raise BadRunFile("This run file cannot be read: it is cut short or not a run file. Save it again from the studio.") from error
        except (KeyError, TypeError, ValueError, StudioError) as error:
            raise BadRunFile(f"This run file is damaged ({error}). Save it again from the studio.") from error
        if "init_image" in tensors:
            options = dataclasses.replace(options, init_image=_image(tensors["init_image"]))
        return cls(
            options=options, steps=steps, model=model, x_final=tensors["x_final"], final_pixels=tensors.get("final_pixels"),
            extras={name: tensors[name] for name in EXTRA_STREAMS if name in tensors}, **{name: tensors[name] for name in STREAMS},
        )


def _step_to_json(step: StepInfo) -> dict[str, Any]:
    # JSON has no infinity: sigma at zero SNR is written as null, and log_snr follows from sigma.
    values = {"index": step.index, "num_steps": step.num_steps, "timestep": step.timestep, "sigma": step.sigma if math.isfinite(step.sigma) else None}
    return values | {"guidance_scale": step.guidance_scale, "clip_gradient_norm": step.clip_gradient_norm}


def _step_from_json(values: dict[str, Any]) -> dict[str, Any]:
    norms = values.get("clip_gradient_norm")
    return {**values, "sigma": math.inf if values["sigma"] is None else values["sigma"], "clip_gradient_norm": norms and tuple(norms)}


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
    states = [name for name in (*STREAMS, *EXTRA_STREAMS) if name in tensors and name != "attention"]
    fits = num_steps >= 1 and x_final.ndim == 4 and all(tensors[name].shape == (num_steps, *x_final.shape) for name in {*states, *STREAMS})
    if fits and "attention" in tensors:
        fits = tensors["attention"].ndim == 5 and tensors["attention"].shape[:2] == (num_steps, len(x_final))
    for name, ndim in (("final_pixels", 4), ("init_image", 3)):
        if name in tensors:
            fits = fits and tensors[name].dtype == torch.uint8 and tensors[name].ndim == ndim and tensors[name].shape[-1] == 3
    if not fits:
        raise BadRunFile("This run file is damaged: its pictures and its steps do not match. Save it again from the studio.")
    if model.get("kind") == "latent":
        from studio.media.previews import RgbMap

        if RgbMap.from_json(model["rgb_map"]).weight.shape[1] != x_final.shape[1]:
            raise BadRunFile("The colours of this run's latents are damaged; save it again from the studio.")


def _image(pixels: Tensor) -> "Image.Image":
    from studio.media.images import to_image

    return to_image(pixels.numpy())


class Recorder:
    """Collects steps into a Trajectory, in float16 on the CPU. It never holds more than the run itself."""

    def __init__(self, options: SampleOptions, model: dict[str, Any]):
        self.options, self.model = options, model
        self.steps: list[StepInfo] = []
        self._frames: dict[str, list[Tensor | None]] = {name: [] for name in (*STREAMS, *EXTRA_STREAMS)}

    def add(self, step: StepDone) -> None:
        """Keep one step."""
        self.steps.append(StepInfo(**{name: getattr(step, name) for name in _INFO_FIELDS}))
        for name, frames in self._frames.items():
            frame = getattr(step, name)
            frames.append(None if frame is None else frame.to("cpu", torch.float16))

    def trajectory(self, x_final: Tensor, final_pixels: np.ndarray | None = None) -> Trajectory:
        """The run so far, ending in the state `x_final`; final_pixels: (B, H, W, 3) uint8 of a latent run."""
        stacked = {name: torch.stack(self._filled(frames)) for name, frames in self._frames.items() if any(frame is not None for frame in frames)}
        return Trajectory(
            options=self.options, steps=list(self.steps), model=self.model, x_final=x_final.float().cpu(),
            final_pixels=None if final_pixels is None else torch.from_numpy(final_pixels),
            extras={name: stacked.pop(name) for name in EXTRA_STREAMS if name in stacked}, **stacked,
        )

    def _filled(self, frames: list[Tensor | None]) -> list[Tensor]:
        """Steps without guidance have no two beliefs: there the one that there is stands for both."""
        return [self._instead(frames, index) if frame is None else frame for index, frame in enumerate(frames)]

    def _instead(self, frames: list[Tensor | None], index: int) -> Tensor:
        if frames is self._frames["clip_gradient"] or frames is self._frames["attention"]:
            return torch.zeros_like(next(frame for frame in frames if frame is not None))
        x0_hat = self._frames["x0_hat"][index]
        assert x0_hat is not None
        return x0_hat


_INFO_FIELDS = tuple(info.name for info in dataclasses.fields(StepInfo))
