"""CLIP as a scorer (Hessel et al. 2021, arXiv:2104.08718): score = 100 cos(picture, prompt)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from studio.errors import ModelUnavailable
from studio.rewards.contract import RewardInfo, RewardSource, Score
from studio.rewards.pixels import squared

if TYPE_CHECKING:
    from torch import Tensor

    from studio.models.companions import Clip

__all__ = ["OTHERS", "REWARDS", "cosine_score", "clip_at"]

PER_CENT = 100.0


def clip_at(source: RewardSource, processor: str = "") -> "Clip":
    """The CLIP of a source. Raises ModelUnavailable with what to do."""
    from studio.models.companions import READING_FAILS, read_clip

    try:
        return read_clip(source.name, source.place, source.device, source.dtype, processor)
    except READING_FAILS as error:
        raise ModelUnavailable(
            f"{source.place!r} is in no cache and cannot be fetched, or is no CLIPModel; name the folder of one with its tokenizer and processor."
        ) from error


def cosine_score(clip: "Clip", scale: float) -> Score:
    """scale cos(picture, prompt)."""
    def score(images: "Tensor", prompts: Sequence[str]) -> "Tensor":
        # A prompt that many pictures share is read once.
        different = list(dict.fromkeys(prompts))
        texts = clip.embed_texts(different)[[different.index(prompt) for prompt in prompts]]
        return scale * (clip.embed_pictures(squared(images, clip.side)) * texts).sum(dim=-1).float()
    return score


def load(source: RewardSource) -> Score:
    """A CLIP score."""
    return cosine_score(clip_at(source), PER_CENT)


OTHERS = RewardInfo(
    label="CLIP score", about="100 times the cosine between picture and prompt, by the CLIP of a folder or Hub id.", load=load, size_mib=600,
)
REWARDS: dict[str, RewardInfo] = {
    "toybox-clip": RewardInfo(
        label="CLIP score (Toybox)", about="100 times the cosine between picture and prompt, by the embedded CLIP of the toy world.", load=load,
        source="models/toybox-clip",
    ),
    "openai/clip-vit-base-patch32": RewardInfo(
        label="CLIP score (ViT-B/32)", about="100 times the cosine between picture and prompt, by OpenAI's smallest CLIP.", load=load,
        source="openai/clip-vit-base-patch32", size_mib=605,
    ),
}
