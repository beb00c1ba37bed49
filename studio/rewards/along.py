"""Rewards of sampling: of what the model believes at every step of a run, and of the best of N seeds.

    along a run   reward(decode(x0_hat)) at each step: when did the picture become good?
    best of N     draw N seeds, keep the best; expected best of n of them, drawn without replacement, over the order statistics
                  s_1 <= ... <= s_N:  E_n = sum_i s_i C(i - 1, n - 1) / C(N, n)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import TYPE_CHECKING

from studio.checks import require_int
from studio.errors import InvalidOption
from studio.rewards.scoring import MAX_PICTURES, scored
from studio.sampling.events import Finished

if TYPE_CHECKING:
    from PIL import Image

    from studio.options import SampleOptions
    from studio.rewards.contract import Reward
    from studio.sampling.trajectory import Trajectory

__all__ = ["Along", "BestSoFar", "best_of", "expected_best", "rewards_along"]

MAX_STEPS = 250
AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class Along:
    """rewards: by scorer, for each step that is done a number for each picture of the run. done: steps of total."""

    rewards: Mapping[str, Sequence[Sequence[float]]]
    done: int
    total: int


def rewards_along(
    rewards: "Sequence[Reward]", trajectory: "Trajectory", decode: "Callable[[Trajectory, str, int], list[Image.Image]]",
) -> Iterator[Along]:
    """The rewards of x0_hat, step by step. decode: as Studio.decode. Raises InvalidOption for a run of too many steps."""
    total = len(trajectory.steps)
    if total > MAX_STEPS:
        raise InvalidOption(f"The run has {total} steps, and at most {MAX_STEPS} are scored; draw it again in fewer.")
    found: dict[str, list[list[float]]] = {reward.name: [] for reward in rewards}
    for index in range(total):
        pictures = decode(trajectory, "x0_hat", index)
        for reward in rewards:
            values = dict(pair for batch in scored(reward, pictures, [trajectory.options.prompt] * len(pictures)) for pair in zip(*batch))
            found[reward.name].append([values[i] for i in range(len(pictures))])
        yield Along(rewards=found, done=index + 1, total=total)


# --- best of N -----------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True, eq=False)
class BestSoFar:
    """pictures, seeds, scores: of what is drawn by now. expected: the mean best of 1, 2, ... of them."""

    pictures: "Sequence[Image.Image]"
    seeds: Sequence[int]
    scores: Sequence[float]
    total: int

    @property
    def expected(self) -> list[float]:
        return expected_best(self.scores)

    @property
    def best(self) -> int:
        """Which has the highest score."""
        return max(range(len(self.scores)), key=self.scores.__getitem__)


def best_of(reward: "Reward", options: "SampleOptions", count: int, sample: "Callable[[SampleOptions], Iterator[object]]") -> Iterator[BestSoFar | None]:
    """Draw `count` seeds from options.seed on, a few at once, and score each; None between two steps of a drawing.

    sample: as Studio.sample. Raises InvalidOption, and what sampling raises.
    """
    require_int("count", count, 2, MAX_PICTURES)
    pictures: list[Image.Image] = []
    scores: list[float] = []
    while len(pictures) < count:
        asked = replace(options, seed=options.seed + len(pictures), num_images=min(AT_ONCE, count - len(pictures)))
        drawn: list[Image.Image] = []
        for event in sample(asked):
            if isinstance(event, Finished):
                drawn = event.images
            yield None
        values = dict(pair for batch in scored(reward, drawn, [options.prompt] * len(drawn)) for pair in zip(*batch))
        pictures += drawn
        scores += [values[i] for i in range(len(drawn))]
        yield BestSoFar(pictures=list(pictures), seeds=[options.seed + i for i in range(len(pictures))], scores=list(scores), total=count)


def expected_best(scores: Sequence[float]) -> list[float]:
    """The mean of the best of n scores, n = 1 to all of them."""
    ordered, count = sorted(scores), len(scores)
    return [sum(score * comb(place, n - 1) for place, score in enumerate(ordered)) / comb(count, n) for n in range(1, count + 1)]
