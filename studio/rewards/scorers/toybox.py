"""The toy world's examiner as an oracle: how surely a picture shows what the prompt says of object, colour, background, size and position."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from studio.errors import InvalidOption
from studio.rewards.contract import RewardInfo, RewardSource, Score
from studio.rewards.pixels import squared
from studio.toybox import ATTRIBUTES, parse_caption

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OTHERS", "REWARDS", "said_of"]


def said_of(prompt: str) -> dict[str, str]:
    """The attributes that a prompt names. Raises InvalidOption for one that names nothing of the toy world."""
    said = parse_caption(prompt)
    if not said:
        raise InvalidOption(f"The examiner judges by what a prompt says of the toy world, and {prompt[:60]!r} says nothing of it; say an object or a colour.")
    return said


def load(source: RewardSource) -> Score:
    """(B,) mean over what the prompt names of the examiner's probability that it is so, 0 to 1."""
    import torch

    from studio.models.examiner import RESOLUTION, load_examiner, split_logits

    examiner = load_examiner(source.place).to(source.device).requires_grad_(False)

    def score(images: "Tensor", prompts: Sequence[str]) -> "Tensor":
        said = [said_of(prompt) for prompt in prompts]
        likely = {name: logits.softmax(dim=1) for name, logits in split_logits(examiner(squared(images, RESOLUTION).float())).items()}
        return torch.stack([
            torch.stack([likely[name][row, ATTRIBUTES[name].index(value)] for name, value in named.items()]).mean() for row, named in enumerate(said)
        ])

    return score


OTHERS = None
REWARDS: dict[str, RewardInfo] = {
    "toybox-examiner": RewardInfo(
        label="Toybox examiner", about="How surely a picture of the toy world shows what the prompt names: 0 to 1, the mean over what it names.",
        load=load, source="models/toybox-examiner",
    ),
}
