"""What is resident on the device, and what gives way: models by least-recent use within a budget in GiB.

A model that does not fit beside the others evicts those used longest ago; one that does not fit alone is kept in the
computer's memory and lent to the device part by part (diffusers' cpu offload); one that does not fit even so is
refused in numbers.
"""

import gc
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from studio.errors import InvalidOption, ModelUnavailable, RunFailed
from studio.machine import free_ram

if TYPE_CHECKING:
    import torch

__all__ = ["Resident", "Residents", "budget_gib", "estimate_gib", "free_bytes", "largest_part_bytes", "measured_gib", "out_of_memory_said"]

GIB = 2**30
VARIABLE = "DIFFUSION_STUDIO_MEMORY_GIB"
# Of what the device has, so much is left to the activations of a run and to others.
SHARE_OF_GPU, SHARE_OF_RAM = 0.85, 0.5
# Offloaded, the device holds one part at a time; the UNet is the largest, about this share of the whole.
OFFLOADED_SHARE = 0.65
RUN_GIB = 0.05
# By these a folder says that it holds a model.
SAID = ("model_index.json", "config.json", "studio.json", "unet/config.json", "transformer/config.json")
# Second copies of the weights, which are not loaded.
VARIANTS = (".fp16.safetensors", ".non_ema.safetensors")


@dataclass(frozen=True, kw_only=True)
class Resident:
    """A loaded model. memory_gib: what it takes on the device; last_used: seconds since 1970; offloaded: lent part by part."""

    name: str
    memory_gib: float
    last_used: float
    offloaded: bool = False


class Residents:
    """The loaded models. One lock guards all: two threads never load at once.

    Args:
        load: (name, offload) -> model.
        estimate: name -> GiB that it will take, before it is loaded.
        measure: model -> GiB that it takes.
        budget: () -> GiB in all, asked at every load.
        can_offload: () -> whether the device is another one than the computer's own memory.
    """

    def __init__(
        self, *, load: Callable[[str, bool], Any], estimate: Callable[[str], float], measure: Callable[[Any], float], budget: Callable[[], float],
        can_offload: Callable[[], bool],
    ):
        self._load, self._estimate, self._measure, self._budget, self._can_offload = load, estimate, measure, budget, can_offload
        self._models: OrderedDict[str, tuple[Any, Resident]] = OrderedDict()
        self._lock = RLock()
        self._listed: tuple[Resident, ...] = ()

    def get(self, name: str, beside: str = "") -> Any:
        """The model, loaded if need be. beside: one that must not give way to it. Raises ModelUnavailable with the numbers where it cannot fit."""
        with self._lock:
            if name not in self._models:
                self._models[name] = self._fit(name, beside)
            model, resident = self._models[name]
            self._models[name] = model, replace(resident, last_used=time.time())
            self._models.move_to_end(name)
            self._listed = self._residents()
            return model

    def list(self) -> "list[Resident]":
        """What is loaded, used last first."""
        # As of the last change: whoever looks must not wait for a model that is being loaded.
        return [*self._listed]

    def clear(self) -> None:
        """Let go of every model."""
        with self._lock:
            self._models.clear()
            self._listed = ()
        release()

    def only(self, name: str) -> bool:
        """Let go of every model but this one; whether there were others."""
        with self._lock:
            others = [other for other in self._models if other != name]
            for other in others:
                del self._models[other]
            self._listed = self._residents()
        if others:
            release()
        return bool(others)

    def _residents(self) -> tuple[Resident, ...]:
        return tuple(resident for _, resident in reversed(self._models.values()))

    def _fit(self, name: str, beside: str) -> tuple[Any, Resident]:
        budget, needed = self._budget(), self._estimate(name)
        offload = needed > budget and self._can_offload()
        if offload:
            needed *= OFFLOADED_SHARE
        if needed > budget:
            raise ModelUnavailable(
                f"{name!r} needs about {needed:.1f} GiB{' even part by part' if offload else ''} and the studio may use {budget:.1f} GiB: "
                f"{needed - budget:.1f} GiB are missing. Choose a smaller model, or raise {VARIABLE} if the device has more."
            )
        self._make_room(budget - needed, beside)
        model = self._load(name, offload)
        measured = self._measure(model) * (OFFLOADED_SHARE if offload else 1)
        # The estimate may have been too low: what is known now decides.
        self._make_room(budget - measured, beside)
        return model, Resident(name=name, memory_gib=measured, last_used=time.time(), offloaded=offload)

    def _make_room(self, limit: float, beside: str) -> None:
        """Evict by least-recent use until the others take at most `limit` GiB."""
        evicted = False
        while self._models and (taken := sum(resident.memory_gib for _, resident in self._models.values())) > limit:
            name = next((name for name in self._models if name != beside), None)
            if name is None:
                raise ModelUnavailable(
                    f"There is no room for a second model beside {beside!r}: together they need {taken - limit:.1f} GiB more than the studio may use. "
                    f"Leave it out, or raise {VARIABLE} if the device has more."
                )
            del self._models[name]
            evicted = True
        if evicted:
            release()


def release() -> None:
    """Give back to the device what nobody holds any more."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def budget_gib(device: "torch.device") -> float:
    """GiB that models may take: DIFFUSION_STUDIO_MEMORY_GIB, else a share of what the device has. Raises InvalidOption."""
    if said := os.environ.get(VARIABLE):
        try:
            return float(said)
        except ValueError as error:
            raise InvalidOption(f"{VARIABLE} must be a number of GiB, but it is {said!r}.") from error
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / GIB * SHARE_OF_GPU
    if device.type == "mps":
        return torch.mps.recommended_max_memory() / GIB * SHARE_OF_GPU
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB * SHARE_OF_RAM


def free_bytes(device: "torch.device") -> int:
    """What a run can still take on the device, with what torch holds there and does not use."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return free_ram()


def estimate_gib(source: str, known_gib: float | None, half: bool) -> float:
    """GiB before loading: the menu's figure (which is for half precision), else the weights' files of what says that it is a model."""
    if known_gib is not None:
        return known_gib if half else 2 * known_gib
    path = Path(source)
    # Whatever folder is named, such as that of all a user's files, is not looked through.
    files = path.rglob("*.safetensors") if any((path / said).is_file() for said in SAID) else [path] if path.is_file() else []
    files = [file for file in files if not file.name.endswith(VARIANTS)]
    return sum(file.stat().st_size for file in files) / GIB + RUN_GIB


def measured_gib(model: Any) -> float:
    """GiB of a loaded model's weights, and a little for a run."""
    held = (tensor for network in model.parts.values() for tensor in (*network.parameters(), *network.buffers()))
    return sum(tensor.numel() * tensor.element_size() for tensor in held) / GIB + RUN_GIB


def largest_part_bytes(model: Any) -> int:
    """Weights of the largest network: what a model that is lent part by part takes on the device while it works."""
    return max(sum(weight.numel() * weight.element_size() for weight in part.parameters()) for part in model.parts.values())


@contextmanager
def out_of_memory_said(residents: Residents, doing: str) -> Iterator[None]:
    """Within it, running out of memory frees every model and becomes RunFailed, in a sentence; the next request works."""
    failed = False
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        # Its traceback holds the frames, and they hold the tensors: the new error must not carry it along.
        failed = True
    if failed:
        residents.clear()
        raise RunFailed(f"The device ran out of memory while {doing}; all models were let go. Make fewer or smaller pictures at once, or close other programs.")


def is_out_of_memory(error: BaseException) -> bool:
    """torch.OutOfMemoryError is a RuntimeError; the CPU's allocator says it in words only."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error) or "out of memory" in str(error)
