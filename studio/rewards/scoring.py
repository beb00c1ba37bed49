"""Pictures scored in batches by one or several scorers, and how far scorers agree."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio.checks import require_text, require_texts
from studio.errors import InvalidOption

if TYPE_CHECKING:
    from PIL import Image

    from studio.rewards.contract import Reward

__all__ = ["MAX_PICTURES", "ScoresSoFar", "agreement_of_scorers", "require_pictures", "score_pictures", "scored"]

BATCH = 16
# Pixels of a batch: larger pictures come fewer at a time.
BATCH_PIXELS = 2**22
MAX_PICTURES = 100
MAX_PROMPT = 10_000
MAX_SCORERS = 8


@dataclass(frozen=True, kw_only=True)
class ScoresSoFar:
    """scores: by scorer, one for each picture, None where it is still to come. done: of total, over all scorers."""

    scores: Mapping[str, Sequence[float | None]]
    done: int
    total: int


def require_pictures(pictures: "Sequence[Image.Image]", prompts: Sequence[str], names: Sequence[str]) -> None:
    """Refuse what cannot be scored. Raises InvalidOption."""
    require_texts("prompts", prompts)
    require_texts("rewards", names)
    for prompt in prompts:
        require_text("A prompt", prompt, MAX_PROMPT)
    if not 1 <= len(pictures) <= MAX_PICTURES:
        raise InvalidOption(f"Give 1 to {MAX_PICTURES} pictures to score; there are {len(pictures)}.")
    if len(prompts) != len(pictures):
        raise InvalidOption(f"Give one prompt for all pictures or one for each of the {len(pictures)}; there are {len(prompts)}.")
    if not 1 <= len(set(names)) <= MAX_SCORERS:
        raise InvalidOption(f"Choose 1 to {MAX_SCORERS} scorers; there are {len(set(names))}.")


def scored(reward: "Reward", pictures: "Sequence[Image.Image]", prompts: Sequence[str]) -> Iterator[tuple[list[int], list[float]]]:
    """(which pictures, their scores) batch by batch: up to 16 of one size at a time. No gradient is kept."""
    import torch

    from studio.media.images import from_images

    for batch in batches([picture.size for picture in pictures]):
        with torch.no_grad():
            values = reward(from_images([pictures[i] for i in batch]), [prompts[i] for i in batch])
        yield batch, values.tolist()


def batches(sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Indices of pictures of one size, as many at a time as a batch takes."""
    for size in dict.fromkeys(sizes):
        same = [i for i, one in enumerate(sizes) if one == size]
        most = max(1, min(BATCH, BATCH_PIXELS // (size[0] * size[1])))
        yield from (same[first : first + most] for first in range(0, len(same), most))


def score_pictures(rewards: "Sequence[Reward]", pictures: "Sequence[Image.Image]", prompts: Sequence[str]) -> Iterator[ScoresSoFar]:
    """The scores after each batch, the last with all of them. Raises InvalidOption."""
    scores: dict[str, list[float | None]] = {reward.name: [None] * len(pictures) for reward in rewards}
    done, total = 0, len(pictures) * len(rewards)
    for reward in rewards:
        for batch, values in scored(reward, pictures, prompts):
            for i, value in zip(batch, values):
                scores[reward.name][i] = value
            done += len(batch)
            yield ScoresSoFar(scores={name: list(of) for name, of in scores.items()}, done=done, total=total)


def agreement_of_scorers(scores: Mapping[str, Sequence[float]]) -> list[list[float | None]]:
    """Kendall's tau-b of the orders that every two scorers put the pictures in, None where one says nothing but ties."""
    from scipy.stats import kendalltau

    rows = list(scores.values())
    found = [[float(kendalltau(a, b).statistic) for b in rows] for a in rows]
    return [[round(value, 4) if value == value else None for value in row] for row in found]
