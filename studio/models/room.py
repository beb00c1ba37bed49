"""Whether there is room for what a model is asked: the need, bounded quickly and then counted, against what is free."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from studio.errors import TooLarge
from studio.machine import free_ram, in_words
from studio.models.memory import free_bytes, largest_part_bytes

if TYPE_CHECKING:
    from studio.models.contract import DiffusionModel

__all__ = ["Need", "require_room"]


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes that work takes, beside the loaded model.

    phases: one after the other, each of bytes where the networks are and of bytes in the computer's own memory, which is the
    same where there is no other device. kept: of the latter, what stays when the work is done.
    """

    phases: tuple[tuple[int, int], ...]
    kept: int = 0

    @property
    def device(self) -> int:
        """The most that the device holds."""
        return max(device for device, _ in self.phases)

    @property
    def host(self) -> int:
        """The most that the computer's own memory holds."""
        return max(host for _, host in self.phases)

    @property
    def together(self) -> int:
        """The most where both are the same memory."""
        return max(device + host for device, host in self.phases)

    def beside(self, held: int) -> "Need":
        """The same while so many bytes are held in the computer's memory for other reasons."""
        return replace(self, phases=tuple((device, host + held) for device, host in self.phases))


def require_room(model: "DiffusionModel", need: Callable[[bool], Need], *, offloaded: bool, let_others_go: Callable[[], bool]) -> None:
    """Refuse, in numbers, what does not fit, neither beside other models nor in smaller pieces. Raises TooLarge.

    Args:
        need: (quick) -> Need; quick: a bound that is much too high, in no time.
        offloaded: the model's networks are lent to the device one by one, so the largest has to fit as well.
        let_others_go: frees what other models take; whether there were any.
    """
    lent = largest_part_bytes(model) if offloaded else 0
    if not _missing(model, need(True), lent):
        return
    counted = need(False)
    missing = _missing(model, counted, lent)
    if missing and let_others_go():
        missing = _missing(model, counted, lent)
    if missing and model.spare_memory():
        counted = need(False)
        missing = _missing(model, counted, lent)
    if missing:
        raise TooLarge(f"This needs about {missing}: make it smaller, or take fewer pictures or steps.")


def _missing(model: "DiffusionModel", need: Need, lent: int) -> str:
    """What is too much, in words; "" where all of it fits."""
    if model.device.type == "cpu":
        return _too_much(need.together + lent, free_ram(), "")
    return _too_much(need.device + lent, free_bytes(model.device), " of the GPU's memory") or _too_much(need.host, free_ram(), " of the computer's memory")


def _too_much(needed: int, free: int, where: str) -> str:
    return f"{in_words(needed)}{where} and {in_words(free)} are free" if needed > free else ""
