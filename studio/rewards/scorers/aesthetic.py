"""The aesthetic predictor of LAION: a linear head on CLIP-L's picture, trained on people's marks of 1 to 10. It reads no prompt.

    score = head(embedding / |embedding|)       768 -> 1024 -> 128 -> 64 -> 16 -> 1, no activations
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from studio.errors import ModelUnavailable
from studio.rewards.contract import RewardInfo, RewardSource, Score
from studio.rewards.pixels import squared
from studio.rewards.scorers.clip import clip_at
from studio.rewards.weights import file_of, read_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["OTHERS", "REWARDS", "head_from"]

FILE, CLIP = "aesthetic-model.pth", "openai/clip-vit-large-patch14"
# "HEAD+CLIP" names another CLIP than the one that the head was trained on.
BESIDE = "+"


def head_from(tensors: "dict[str, Tensor]") -> "nn.Sequential":
    """The linear layers in the order of their numbers. Raises ModelUnavailable where there are none."""
    from torch import nn

    places = sorted({int(match[1]) for name in tensors if (match := re.fullmatch(r"(?:\w+\.)*(\d+)\.weight", name))})
    own = {int(match[1]): name.rpartition(".")[0] for name in tensors if (match := re.fullmatch(r"(?:\w+\.)*(\d+)\.weight", name))}
    if not places:
        raise ModelUnavailable("These weights are no aesthetic head: there are no numbered linear layers in them.")
    layers = []
    for place in places:
        weight, bias = tensors[f"{own[place]}.weight"], tensors[f"{own[place]}.bias"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    return nn.Sequential(*layers)


def load(source: RewardSource) -> Score:
    """Raises ModelUnavailable."""
    place, _, clip_place = source.place.partition(BESIDE)
    head = head_from(read_weights(file_of(place, FILE))).to(source.device).requires_grad_(False).eval()
    clip = clip_at(replace(source, place=clip_place or CLIP))

    def score(images: "Tensor", prompts: Sequence[str]) -> "Tensor":
        return head(clip.embed_pictures(squared(images, clip.side)).float())[:, 0]

    return score


OTHERS = RewardInfo(
    label="Aesthetic", about="An aesthetic head on a CLIP: a file of its weights, and after a + the CLIP where it is another than CLIP-L.", load=load,
    size_mib=1_700, reads_prompt=False,
)
REWARDS: dict[str, RewardInfo] = {
    "trl-lib/ddpo-aesthetic-predictor": RewardInfo(
        label="Aesthetic", about="How people marked pictures, 1 to 10, whatever was asked for.", load=load, source="trl-lib/ddpo-aesthetic-predictor",
        size_mib=1_700, reads_prompt=False,
    ),
}
