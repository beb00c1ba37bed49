"""What is resident on the device, and what gives way: models by least-recent use within a budget in GiB.

A model that does not fit beside the others evicts those used longest ago; one that does not fit alone is held in the first
way of HOLDINGS that fits; one that fits in none is refused in numbers.
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
from studio.models.wanted import Wanted, name_of

if TYPE_CHECKING:
    import torch

__all__ = ["Resident", "Residents", "budget_gib", "estimate_gib", "free_bytes", "largest_part_bytes", "measured_gib", "out_of_memory_said"]

GIB = 2**30
VARIABLE = "DIFFUSION_STUDIO_MEMORY_GIB"
# Of what the device has, so much is left to the activations of a run and to others.
SHARE_OF_GPU, SHARE_OF_RAM = 0.85, 0.5
RUN_GIB = 0.05
TILED = "VAE in tiles"
# By these a folder says that it holds a model.
SAID = ("model_index.json", "config.json", "studio.json", "unet/config.json", "transformer/config.json")
# Second copies of the weights, which are not loaded.
VARIANTS = (".fp16.safetensors", ".non_ema.safetensors")


@dataclass(frozen=True, kw_only=True)
class Holding:
    """A way to hold a model. name: as models.load_model takes it, "" = whole. about: in words. share: of its weights, what the device holds at a time."""

    name: str
    about: str
    share: float


# From quick to slow. Before weights are rounded they are lent; layer by layer is exact as well, and by far the slowest.
HOLDINGS = (
    Holding(name="", about="", share=1.0),
    # One part at a time; the UNet is the largest, about this share of the whole.
    Holding(name="parts", about="lent part by part", share=0.65),
    # Its layers in 8 bits (float8_e4m3fn, diffusers' layerwise casting), norms and embeddings whole.
    Holding(name="fp8", about="network in 8 bits, lent part by part", share=0.36),
    # diffusers' sequential offload: the largest layer, and what torch keeps at hand.
    Holding(name="layers", about="lent layer by layer", share=0.12),
)


def holding_for(needed_gib: float, budget_gib: float, able: bool = True) -> Holding | None:
    """The first way to hold a model of that size that fits into the budget; None where none does. able: to hold it otherwise than whole."""
    return next((one for one in HOLDINGS if needed_gib * one.share <= budget_gib and (able or not one.name)), None)


@dataclass(frozen=True, kw_only=True)
class Resident:
    """A loaded model. memory_gib: what it takes on the device; last_used: seconds since 1970; offloaded: not held whole.

    added: what was put into it; about: how it is held; both in words.
    """

    name: str
    memory_gib: float
    last_used: float
    offloaded: bool = False
    added: str = ""
    about: str = ""


class Residents:
    """The loaded models. One lock guards all: two threads never load at once.

    Args:
        load: (name, name of a Holding) -> model.
        estimate: name -> GiB that it will take, before it is loaded.
        measure: model -> GiB that it takes.
        budget: () -> GiB in all, asked at every load.
        can_offload: () -> whether the device is another one than the computer's own memory.
    """

    def __init__(
        self, *, load: Callable[[Any, str], Any], estimate: Callable[[Any], float], measure: Callable[[Any], float], budget: Callable[[], float],
        can_offload: Callable[[], bool],
    ):
        self._load, self._estimate, self._measure, self._budget, self._can_offload = load, estimate, measure, budget, can_offload
        self._models: OrderedDict[str | Wanted, tuple[Any, Resident]] = OrderedDict()
        self._lock = RLock()
        self._listed: tuple[Resident, ...] = ()

    def get(self, name: str | Wanted, beside: str | Wanted = "") -> Any:
        """The model, loaded if need be. beside: one that must not give way to it. Raises ModelUnavailable with the numbers where it cannot fit."""
        with self._lock:
            if name not in self._models:
                self._models[name] = self._fit(name, beside)
            model, resident = self._models[name]
            self._models[name] = model, replace(resident, last_used=time.time(), about=_about(model, resident))
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

    def offloads(self, name: str | Wanted) -> bool:
        """Whether whole networks of a model are lent to the device, one at a time."""
        resident = self._models[name][1] if name in self._models else None
        return resident is not None and resident.offloaded and not resident.about.startswith(HOLDINGS[-1].about)

    def only(self, name: str | Wanted) -> bool:
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

    def _fit(self, name: str | Wanted, beside: str | Wanted) -> tuple[Any, Resident]:
        budget, needed = self._budget(), self._estimate(name)
        able = needed > budget and self._can_offload()
        holding = holding_for(needed, budget, able)
        if holding is None:
            needed *= HOLDINGS[-1].share if able else 1
            raise ModelUnavailable(
                f"{str(name)!r} needs about {needed:.1f} GiB{' even layer by layer' if able else ''} and the studio may use {budget:.1f} GiB: "
                f"{needed - budget:.1f} GiB are missing. Choose a smaller model, or raise {VARIABLE} if the device has more."
            )
        needed *= holding.share
        self._make_room(budget - needed, beside)
        model = self._load(name, holding.name)
        # What is measured has its 8 bits in it already.
        measured = self._measure(model) * (HOLDINGS[1].share if holding.name == "fp8" else holding.share)
        # The estimate may have been too low: what is known now decides.
        self._make_room(budget - measured, beside)
        added = "" if isinstance(name, str) else str(name.added)
        return model, Resident(name=name_of(name), added=added, memory_gib=measured, last_used=time.time(), offloaded=bool(holding.name), about=holding.about)

    def _make_room(self, limit: float, beside: str | Wanted) -> None:
        """Evict by least-recent use until the others take at most `limit` GiB."""
        evicted = False
        while self._models and (taken := sum(resident.memory_gib for _, resident in self._models.values())) > limit:
            name = next((name for name in self._models if name != beside), None)
            if name is None:
                raise ModelUnavailable(
                    f"There is no room for a second model beside {str(beside)!r}: together they need {taken - limit:.1f} GiB more than the studio may use. "
                    f"Leave it out, or raise {VARIABLE} if the device has more."
                )
            del self._models[name]
            evicted = True
        if evicted:
            release()


def _about(model: Any, resident: Resident) -> str:
    """How a model is held, with what it does to spare memory."""
    holding = resident.about.removesuffix(TILED).removesuffix(", ")
    return ", ".join(part for part in (holding, TILED if getattr(model, "tiles_early", False) else "") if part)


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
