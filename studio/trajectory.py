"""Everything of a run, kept: every state and every belief, replayable and forkable at any step.

A run file is one .safetensors file: the tensors below, with the options, steps and format version in its metadata.
Pixel trajectories are pictures themselves, so a file opens without the model.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from studio.errors import BadRunFile, StudioError
from studio.events import StepDone, StepInfo
from studio.options import SampleOptions

__all__ = ["Trajectory", "Recorder", "STREAMS"]

FORMAT = "diffusion-studio-run"
VERSION = 1
STREAMS = ("x_t", "x0_hat", "eps_hat")


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """A finished or stopped run of S steps and B pictures.

    options: what was asked. steps: S of StepInfo. model: facts of the model needed to read it later.
    x_t, x0_hat, eps_hat: (S, B, C, H, W) float16 on the CPU. x_final: (B, C, H, W) float32, the state after the
    last step: the picture itself, or the noisy state where the run was stopped.
    """

    options: SampleOptions
    steps: Sequence[StepInfo]
    model: dict[str, Any]
    x_t: Tensor
    x0_hat: Tensor
    eps_hat: Tensor
    x_final: Tensor

    @property
    def complete(self) -> bool:
        """Whether every step was taken."""
        return bool(self.steps) and len(self.steps) == self.steps[0].num_steps

    def stream(self, name: str) -> Tensor:
        """(S, B, C, H, W) by name: "x_t", "x0_hat" or "eps_hat"."""
        if name not in STREAMS:
            raise KeyError(name)
        return getattr(self, name)

    def save(self, path: str | Path) -> Path:
        """Write the run file; returns its path."""
        metadata = {
            "format": FORMAT, "version": str(VERSION), "options": json.dumps(self.options.to_dict()),
            "steps": json.dumps([_step_to_json(step) for step in self.steps]), "model": json.dumps(self.model),
        }
        tensors = {name: getattr(self, name).contiguous() for name in (*STREAMS, "x_final")}
        save_file(tensors, path, metadata=metadata)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "Trajectory":
        """Read a run file. Raises BadRunFile with what to do when it is cut short, foreign or of another version."""
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata = file.metadata() or {}
                _check_format(metadata)
                tensors = {name: file.get_tensor(name) for name in (*STREAMS, "x_final")}
            steps = [StepInfo(**{**step, "log_snr": _log_snr(step["sigma"])}) for step in map(_step_from_json, json.loads(metadata["steps"]))]
            options, model = SampleOptions.from_dict(json.loads(metadata["options"])), json.loads(metadata["model"])
        except BadRunFile:
            raise
        except (OSError, SafetensorError) as error:
            raise BadRunFile("This run file cannot be read: it is cut short or not a run file. Save it again from the studio.") from error
        except (KeyError, TypeError, ValueError, StudioError) as error:
            raise BadRunFile(f"This run file is damaged ({error}). Save it again from the studio.") from error
        _check_shapes(tensors, len(steps))
        return cls(options=options, steps=steps, model=model, **tensors)


def _step_to_json(step: StepInfo) -> dict[str, Any]:
    # JSON has no infinity: sigma at zero SNR is written as null, and log_snr follows from sigma.
    return {"index": step.index, "num_steps": step.num_steps, "timestep": step.timestep, "sigma": step.sigma if math.isfinite(step.sigma) else None}


def _step_from_json(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "sigma": math.inf if values["sigma"] is None else values["sigma"]}


def _log_snr(sigma: float) -> float:
    return -math.inf if math.isinf(sigma) else math.inf if sigma == 0 else -2 * math.log(sigma)


def _check_format(metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise BadRunFile("This is a safetensors file, but not a run of the studio; open one that 'Save run' wrote.")
    if metadata.get("version") != str(VERSION):
        raise BadRunFile(f"This run file has version {metadata.get('version')} and this studio reads version {VERSION}; open it with the studio that wrote it.")


def _check_shapes(tensors: dict[str, Tensor], num_steps: int) -> None:
    x_final = tensors["x_final"]
    if num_steps < 1 or x_final.ndim != 4 or any(tensors[name].shape != (num_steps, *x_final.shape) for name in STREAMS):
        raise BadRunFile("This run file is damaged: its pictures and its steps do not match. Save it again from the studio.")


class Recorder:
    """Collects steps into a Trajectory, in float16 on the CPU. It never holds more than the run itself."""

    def __init__(self, options: SampleOptions, model: dict[str, Any]):
        self.options, self.model = options, model
        self.steps: list[StepInfo] = []
        self._frames: dict[str, list[Tensor]] = {name: [] for name in STREAMS}

    def add(self, step: StepDone) -> None:
        """Keep one step."""
        self.steps.append(StepInfo(**{field.name: getattr(step, field.name) for field in dataclasses.fields(StepInfo)}))
        for name, frames in self._frames.items():
            frames.append(getattr(step, name).to("cpu", torch.float16))

    def trajectory(self, x_final: Tensor) -> Trajectory:
        """The run so far, ending in the state `x_final`."""
        stacked = {name: torch.stack(frames) for name, frames in self._frames.items()}
        return Trajectory(options=self.options, steps=list(self.steps), model=self.model, x_final=x_final.float().cpu(), **stacked)
