"""Finished runs as models: what the menus need to know of them, read from their folders without loading anything."""

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from studio.errors import StudioError
from studio.models.catalogue import MODELS, ModelInfo
from studio.models.controlnet_menu import ControlNetInfo, control_info, is_controlnet
from studio.models.facts import model_facts, network_shape
from studio.models.families import family_in
from studio.models.taught import base_of
from studio.runs.checkpoints import steps_of
from studio.runs.folder import read_state, run_folders
from studio.runs.trainers import TRAINERS
from studio.runs.tuned import promoted_in

__all__ = ["results", "controlnet_results"]


def results(root: Path) -> dict[str, ModelInfo]:
    """Menu entries of checkpoints that were put into the menus, then of the runs under `root` that have finished, the newest first, by their paths.

    A run or a result that cannot be read is in no menu; the list of runs says what is wrong with it.
    """
    return {**_promoted(root), **_finished(root, _entry)}


def _promoted(root: Path) -> dict[str, ModelInfo]:
    """Checkpoints that were put into the menus, whether their runs have finished or not."""
    found = {}
    for path in run_folders(root):
        with suppress(StudioError, OSError):
            checkpoint = promoted_in(path)
            base = base_of(str(checkpoint)) if checkpoint else None
            info = _base_entry(base) if base else None
            if checkpoint is not None and info is not None:
                step = steps_of(checkpoint)
                found[str(checkpoint)] = dataclasses.replace(
                    info, label=f"{path.name}, step {step} (promoted)", about=f"The checkpoint of step {step} of the run {path.name}.", source=str(checkpoint),
                    size_mib=0,
                )
    return found


def controlnet_results(root: Path) -> dict[str, ControlNetInfo]:
    """The same of runs whose result is a ControlNet."""
    return _finished(root, _net_entry)


Info = TypeVar("Info")


def _finished(root: Path, entry_of: Callable[[str, str, int], Info | None]) -> dict[str, Info]:
    """What `entry_of` (model, trainer, when it was written) says of finished runs, the newest first; None leaves one out."""
    found: list[tuple[float, str, Info]] = []
    for path in run_folders(root):
        model = path / "model"
        try:
            state = read_state(path)
            if state.state == "finished" and _result_of(state.trainer) and model.is_dir():
                info = entry_of(str(model), state.trainer, model.stat().st_mtime_ns)
                if info is not None:
                    found.append((state.created, str(model), info))
        except (StudioError, OSError):
            continue
    return {name: info for _, name, info in sorted(found, key=lambda entry: (-entry[0], entry[1]))}


def _result_of(trainer: str) -> str:
    """What the result of a trainer is called in a menu of models; "" where it belongs in none."""
    return TRAINERS[trainer].result if trainer in TRAINERS else ""


@lru_cache(maxsize=256)
def _entry(model: str, trainer: str, changed: int) -> ModelInfo | None:
    """changed: when the folder was written, so that another one of the same name is read anew. Raises DamagedFile, ModelUnavailable."""
    folder = Path(model)
    facts = model_facts(folder)
    taught_to = base_of(model)
    base = _base_entry(taught_to) if taught_to else _shape(folder, facts)
    if base is None:
        return None
    said = f", taught {facts['prompt']!r}" if facts.get("prompt") else ""
    return dataclasses.replace(
        base, label=f"{folder.parent.name} ({_result_of(trainer)} run)", about=f"The result of the run {folder.parent.name}{said}.", source=model, size_mib=0,
    )


@lru_cache(maxsize=256)
def _net_entry(model: str, trainer: str, changed: int) -> ControlNetInfo | None:
    """changed: as of `_entry`. Raises DamagedFile."""
    folder = Path(model)
    if not is_controlnet(folder):
        return None
    info = control_info(model)
    return dataclasses.replace(info, label=f"{folder.parent.name} ({_result_of(trainer)} run)", about=f"The result of the run {folder.parent.name}.")


def _base_entry(base: str) -> ModelInfo | None:
    return MODELS.get(base) or _shape(Path(base), {})


def _shape(folder: Path, facts: dict[str, Any]) -> ModelInfo | None:
    """An entry with what the networks' own configurations say; None where there is none. Raises DamagedFile."""
    network, vae = network_shape(folder / "unet") or network_shape(folder / "transformer"), network_shape(folder / "vae")
    if network is None or not all(network.sides):
        return None
    factor = 2 ** (len(vae.block_out_channels) - 1) if vae else 1
    named = MODELS.get(facts.get("base", ""))
    return ModelInfo(
        label=folder.name, about="", source=str(folder), family=(family_in(folder) or "stable-diffusion") if vae else "pixel",
        width=network.sides[-1] * factor, height=network.sides[0] * factor, channels=3 if vae else network.in_channels,
        class_names=tuple(facts.get("class_names", ())), default_steps=25 if vae else 50,
        default_guidance=(named.default_guidance if named else 4.0) if vae else 1.0, clip=named.clip if named else "",
        memory_gib=named.memory_gib if named else 0.1,
    )
