"""Rewards of ImageReward's architecture (arXiv:2304.05977): the released one, the embedded one, and every one that was trained here."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.errors import ModelUnavailable
from studio.rewards.contract import RewardInfo, RewardSource, Score
from studio.rewards.weights import file_of, read_weights

if TYPE_CHECKING:
    from torch import Tensor

    from studio.rewards.blip import BlipReward, RewardFacts

__all__ = ["OTHERS", "REWARDS", "scorer_of"]

RELEASED_FILE, RELEASED_TOKENIZER = "ImageReward.pt", "bert-base-uncased"


def load(source: RewardSource) -> Score:
    """(r - mean) / std of a folder that was trained here, else of the released weights (Hub id, folder or file). Raises ModelUnavailable."""
    from studio.rewards.blip import FACTS, RELEASED_FACTS, from_released, load_folder

    if (Path(source.place) / FACTS).is_file():
        return scorer_of(*load_folder(Path(source.place), source.device, source.dtype))
    network = from_released(read_weights(file_of(source.place, RELEASED_FILE)))
    return scorer_of(network.to(source.device, source.dtype).eval(), released_tokenizer(source.place), RELEASED_FACTS)


def released_tokenizer(place: str) -> Any:
    """BERT's, from the folder of the weights where it is there, else from the Hub."""
    from transformers import AutoTokenizer

    beside = Path(place) if Path(place).is_dir() else Path(place).parent
    try:
        return AutoTokenizer.from_pretrained(str(beside) if (beside / "vocab.txt").is_file() else RELEASED_TOKENIZER)
    except (OSError, ValueError) as error:
        raise ModelUnavailable(
            f"The tokenizer {RELEASED_TOKENIZER} is in no cache and cannot be fetched; put its vocab.txt and tokenizer_config.json beside the weights."
        ) from error


def scorer_of(network: "BlipReward", tokenizer: Any, facts: "RewardFacts") -> Score:
    """The network as a scoring function; gradients flow to the pictures, none to the weights."""
    from studio.rewards.blip import pixels_of, tokens_of

    network.requires_grad_(False)

    def score(images: "Tensor", prompts: Sequence[str]) -> "Tensor":
        ids, mask = (part.to(images.device) for part in tokens_of(tokenizer, prompts, facts.max_tokens))
        return (network(pixels_of(images, facts.side), ids, mask).float() - facts.mean) / facts.std

    return score


OTHERS = RewardInfo(label="Reward", about="A reward that was trained on rankings: deviations above the mean of what it was trained on.", load=load)
REWARDS: dict[str, RewardInfo] = {
    "toybox-reward": RewardInfo(
        label="Toybox reward", about="Trained on ranked pictures of the toy world: deviations above their mean.", load=load, source="models/toybox-reward",
    ),
    "zai-org/ImageReward": RewardInfo(
        label="ImageReward", about="Trained on 137,000 pairs that people ranked: deviations above their mean.", load=load, source="zai-org/ImageReward",
        size_mib=1_710, licence="Apache-2.0",
    ),
}
