"""Why a picture has its score: which pixels, and which words.

    saliency    |d reward / d pixel|, the length over the three colours: where a small change would change the score most
    occlusion   reward(picture) - reward(picture with a patch painted over): what the score would lose (Zeiler and Fergus 2014, arXiv:1311.2901)

They answer different questions, and a gradient can mislead where the score is flat; where both point to the same place, it matters.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from studio.checks import require_int, require_text
from studio.errors import InvalidOption
from studio.rewards.scoring import BATCH

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from studio.rewards.contract import Reward

__all__ = ["Explanation", "WordScores", "alternatives_for", "explain", "occlusion", "saliency", "word_scores"]

# Patches along a side of the picture, and how often each place is covered in each direction.
PATCHES, OVERLAP = 8, 2
MAX_WORDS, MAX_ALTERNATIVES = 40, 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """score: of the picture. saliency: (H, W) float32, 0 or more, None where the scorer has no gradient. occlusion: (h, w) float32, what
    the score loses when the patch around a place is painted over, negative where it gains. agreement: Spearman's rank correlation of the two."""

    score: float
    saliency: np.ndarray | None
    occlusion: np.ndarray
    agreement: float | None


def explain(reward: "Reward", picture: "Image.Image", prompt: str) -> Iterator[Explanation | float]:
    """The share that is done by now, then the explanation. Raises InvalidOption."""
    from studio.media.images import from_images

    x = from_images([picture])
    gradient = saliency(reward, x, prompt) if reward.info.differentiable else None
    last = (0.0, 0.0, np.zeros((1, 1)))
    for last in occlusion(reward, x, prompt):
        yield last[0]
    _, score, loss = last
    yield Explanation(score=score, saliency=gradient, occlusion=loss, agreement=None if gradient is None else agreement(gradient, loss))


def saliency(reward: "Reward", x: "Tensor", prompt: str) -> np.ndarray:
    """(1, 3, H, W) -> (H, W) the length of the gradient at each pixel."""
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        pixels = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(reward(pixels, [prompt]).sum(), pixels)
    return gradient[0].norm(dim=0).cpu().numpy()


def occlusion(reward: "Reward", x: "Tensor", prompt: str, patches: int = PATCHES) -> Iterator[tuple[float, float, np.ndarray]]:
    """(share done, score of the whole, (h, w) losses so far) batch by batch; patches of the picture's own mean colour."""
    import torch

    require_int("patches", patches, 2, 64)
    height, width = x.shape[-2:]
    count = (patches - 1) * OVERLAP + 1
    tops, lefts = (np.linspace(0, extent - extent // patches, count).round().astype(int) for extent in (height, width))
    places = [(int(top), int(left)) for top in tops for left in lefts]
    mean = x.mean(dim=(2, 3), keepdim=True)
    with torch.no_grad():
        whole = float(reward(x, [prompt]))
        losses = np.zeros(len(places), np.float32)
        for first in range(0, len(places), BATCH):
            some = places[first : first + BATCH]
            covered = x.repeat(len(some), 1, 1, 1)
            for i, (top, left) in enumerate(some):
                covered[i, :, top : top + max(1, height // patches), left : left + max(1, width // patches)] = mean[0]
            losses[first : first + len(some)] = whole - reward(covered, [prompt] * len(some)).cpu().numpy()
            yield (first + len(some)) / len(places), whole, losses.reshape(count, count)


def agreement(gradient: np.ndarray, loss: np.ndarray) -> float | None:
    """Spearman's correlation of the two maps, the finer one averaged over the coarser one's cells; None where either is flat."""
    from scipy.stats import spearmanr

    rows, columns = (np.array_split(np.arange(extent), count) for extent, count in zip(gradient.shape, loss.shape))
    if min(map(len, (*rows, *columns))) == 0:
        return None
    coarse = np.array([[gradient[np.ix_(row, column)].mean() for column in columns] for row in rows])
    found = float(spearmanr(coarse.ravel(), np.abs(loss).ravel()).statistic)
    return found if found == found else None


# --- words ---------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class WordScores:
    """A word of the prompt, its place, and the scores of the same picture with another word there; "" stands for none."""

    word: str
    place: int
    scores: dict[str, float]


def alternatives_for(word: str) -> list[str]:
    """What may stand in a word's place: nothing, and the other words of its kind where the toy world knows it."""
    from studio.toybox import ATTRIBUTES

    kind = next((names for names in ATTRIBUTES.values() if word.lower() in names), ())
    return ["", *(name for name in kind if name != word.lower())][:MAX_ALTERNATIVES]


def word_scores(reward: "Reward", picture: "Image.Image", prompt: str, more: Sequence[str] = ()) -> Iterator[WordScores | float]:
    """First the score of the prompt as it is, then each word with others in its place. more: words that are tried everywhere.

    Raises InvalidOption.
    """
    import torch

    from studio.media.images import from_images

    require_text("prompt", prompt)
    words = re.findall(r"\S+", prompt)
    if not 1 <= len(words) <= MAX_WORDS:
        raise InvalidOption(f"The prompt must have 1 to {MAX_WORDS} words, but it has {len(words)}.")
    x = from_images([picture])
    with torch.no_grad():
        yield float(reward(x, [prompt]))
        for place, word in enumerate(words):
            others = list(dict.fromkeys([*alternatives_for(word), *more]))
            prompts = [" ".join([*words[:place], *([other] if other else []), *words[place + 1 :]]) for other in others]
            yield WordScores(word=word, place=place, scores=dict(zip(others, batch_of(reward, x, [text or " " for text in prompts]))))


def batch_of(reward: "Reward", x: "Tensor", prompts: Sequence[str]) -> list[float]:
    """Scores of one picture for several prompts; a prompt that the scorer cannot judge by scores nothing (NaN)."""
    values: list[float] = []
    for first in range(0, len(prompts), BATCH):
        some = prompts[first : first + BATCH]
        try:
            values += reward(x.expand(len(some), -1, -1, -1), some).tolist()
        except InvalidOption:
            values += [float("nan")] if len(some) == 1 else [value for prompt in some for value in batch_of(reward, x, [prompt])]
    return values
