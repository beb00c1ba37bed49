"""The folder of one training run, which anything can follow while the run is its own process.

Its layout is described in studio.runs.folder, which reads it; this module writes it.
"""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.errors import DamagedFile, RunFailed
from studio.files import ASIDE, read_object, remove, write_text, written_aside
from studio.manifest import write_manifest
from studio.runs.checkpoints import FACTS, Choice, list_checkpoints, newest_good, read_facts
from studio.runs.tuned import promoted_in

__all__ = ["RunFolder", "pack_optimizer", "read_parts", "save_whole", "unpack_optimizer"]

# The look that a task liked best: {"step", "score"}.
BEST = "best.json"


class RunFolder:
    """Paths and writers of a run folder. What is written appears whole or not at all, so a kill corrupts nothing."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.samples, self.checkpoints = self.path / "samples", self.path / "checkpoints"
        for folder in (self.samples, self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)

    def sweep(self) -> None:
        """Remove what a process that was killed had only begun to write."""
        for folder in (self.samples, self.checkpoints):
            for leftover in folder.glob(f"*{ASIDE}"):
                remove(leftover)

    def event(self, **values: Any) -> None:
        """Append one line to events.jsonl."""
        with open(self.path / "events.jsonl", "a") as file:
            file.write(json.dumps(values) + "\n")

    def forget_events_after(self, step: int) -> None:
        """Drop the lines of steps that a resumed run will take again, and a line that a kill cut short."""
        path = self.path / "events.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines(keepends=True) if _step_of(line) <= step]
            write_text(path, "".join(kept))

    def save_checkpoint(self, step: int, parts: dict[str, dict[str, Tensor]], facts: dict[str, Any], keep: int) -> Path:
        """Write checkpoints/step-NNNNNN: a safetensors file a part, facts.json, and the manifest that tells later whether they
        are still what was written; then remove all but the newest `keep`, the best, and the one in the menus.

        What could not be written whole is removed, so that a full disk has room again for the word that it was full.
        """
        final = self.checkpoints / f"step-{step:06d}"
        self.sweep()
        with written_aside(final) as aside:
            aside.mkdir()
            for name, tensors in parts.items():
                save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, aside / f"{name}.safetensors")
            (aside / FACTS).write_text(json.dumps(facts | {"step": step}))
            write_manifest(aside)
        kept = [self.best_checkpoint()]
        with suppress(DamagedFile):
            kept.append(promoted_in(self.path))
        for old in self.list_checkpoints()[:-keep]:
            if old not in kept:
                shutil.rmtree(old)
        return final

    def note_best(self, step: int, score: float) -> None:
        """Remember the checkpoint of this step as the best one, unless one of a higher score is there."""
        best = self._best()
        if best is None or score > best[1] or best[0] > step:
            write_text(self.path / BEST, json.dumps({"step": step, "score": score}) + "\n")

    def _best(self) -> tuple[int, float] | None:
        """(step, score) of the best look whose checkpoint is there."""
        with suppress(DamagedFile, KeyError, TypeError, ValueError):
            said = read_object(self.path / BEST) or {}
            if (self.checkpoints / f"step-{int(said['step']):06d}").is_dir():
                return int(said["step"]), float(said["score"])
        return None

    def measured_at(self, step: int) -> dict[str, float] | None:
        """What was measured after a step; None where nothing was."""
        path = self.path / "events.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines() if '"measured"' in line] if path.exists() else []
        return next((event["measured"] for event in events if event.get("step") == step), None)

    def best_checkpoint(self) -> Path | None:
        """The checkpoint of the best look; where none was judged, that with the lowest smoothed loss, or None where none has a loss."""
        if best := self._best():
            return self.checkpoints / f"step-{best[0]:06d}"
        known: dict[Path, float] = {}
        for path in self.list_checkpoints():
            # One whose facts cannot be read is not the best.
            with suppress(DamagedFile):
                loss = read_facts(path).loss
                if loss is not None:
                    known[path] = loss
        return min(known, key=lambda path: known[path]) if known else None

    def stop_requested(self) -> bool:
        """Whether someone asks the run to save and stop."""
        return (self.path / "stop").exists()

    def list_checkpoints(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        return list_checkpoints(self.path)

    def choose_checkpoint(self) -> Choice:
        """The newest good checkpoint, and the damaged ones. Raises RunFailed where all are damaged."""
        choice = newest_good(self.path)
        if choice.damaged and choice.good is None:
            raise RunFailed(choice.said)
        return choice


def read_parts(checkpoint: Path) -> dict[str, dict[str, Tensor]]:
    """The parts of a checkpoint: {"network": {name: tensor}, "ema": ..., "optimizer": ...}."""
    return {file.stem: load_file(file) for file in checkpoint.glob("*.safetensors")}


def save_whole(picture: Image.Image, path: Path) -> None:
    """Write a PNG aside and rename it: neither a kill nor a full disk leaves half a picture."""
    with written_aside(path) as aside:
        picture.save(aside, "PNG")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors: "<parameter index>.<name>". No pickle is needed for it."""
    # Not from state_dict(), in which bitsandbytes nests what is quantised. Its tables are shared by all weights, so each gets a copy.
    return {
        f"{index}.{name}": value if torch.is_tensor(value) and value.shape == parameter.shape else torch.as_tensor(value).clone()
        for index, parameter in enumerate(_parameters(optimizer)) for name, value in optimizer.state.get(parameter, {}).items()
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `pack_optimizer` took out."""
    parameters = _parameters(optimizer)
    state: dict[int, dict[str, Tensor | int]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = _as_it_was(value, parameters[int(index)])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _as_it_was(value: Tensor, parameter: Tensor) -> Tensor | int:
    # bitsandbytes counts its steps in a plain number, torch in a tensor with parts.
    if value.ndim == 0 and not value.is_floating_point():
        return int(value)
    # A fused optimiser walks the memory of both at once, so moments have to lie as their weights do (channels last, say).
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value) if value.shape == parameter.shape else value
