"""The contract of a scorer: what its menu entry says, and what it is once it is loaded.

    reward(images, prompts) -> (B,)        images (B, 3, H, W) in [-1, 1], a prompt each; higher is better
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio.errors import InvalidOption

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Reward", "RewardInfo", "RewardSource", "Score"]

# (B, 3, H, W) in [-1, 1] on the scorer's device, a prompt each -> (B,).
Score = Callable[["Tensor", Sequence[str]], "Tensor"]


@dataclass(frozen=True, kw_only=True)
class RewardSource:
    """What to load. name: as it was asked for. place: a folder, a file or a Hub id, "" where nothing is read. dtype: of the weights."""

    name: str
    place: str
    device: "torch.device"
    dtype: "torch.dtype"


@dataclass(frozen=True, kw_only=True)
class RewardInfo:
    """A menu entry.

    load(source): gives the scoring function. source: a folder under assets/, a folder, a file, or a Hub id. size_mib: what a download
    takes, 0 = none. reads_prompt: whether the prompt matters to it. differentiable: whether gradients flow to the pixels.
    """

    label: str
    about: str
    load: Callable[[RewardSource], Score]
    source: str = ""
    size_mib: int = 0
    reads_prompt: bool = True
    differentiable: bool = True
    licence: str = "MIT"

    @property
    def embedded(self) -> bool:
        """Whether it needs no download."""
        return self.size_mib == 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Reward:
    """A loaded scorer."""

    name: str
    info: RewardInfo
    device: "torch.device"
    score: Score

    def __call__(self, images: "Tensor", prompts: Sequence[str]) -> "Tensor":
        """How good each picture is for its prompt.

        Args:
            images: (B, 3, H, W) in [-1, 1] on any device.
            prompts: B of them.
        Returns:
            (B,) float32 on the scorer's device; gradients flow to `images` where info.differentiable.
        Raises InvalidOption for other shapes, and for a prompt that the scorer cannot judge by.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise InvalidOption(f"A reward is of pictures (B, 3, H, W), but these are {tuple(images.shape)}.")
        if isinstance(prompts, str) or len(prompts) != len(images):
            raise InvalidOption(f"There must be a prompt for each of the {len(images)} pictures, but it is {prompts!r:.60}.")
        return self.score(images.to(self.device), list(prompts)).float()
