"""Tuning by a reward, from the person's side: started with prompts or rankings, watched for signs that only the number gets better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from studio.checks import is_number, quoted, require_texts
from studio.errors import InvalidOption
from studio.records import read_record

__all__ = ["BASE_FILE", "MEASURED", "BaseFacts", "alarm_of", "base_facts"]

BASE_FILE = "base.json"
# What is measured at every look, by name, and in the base before it learns anything.
MEASURED = (
    "reward_trained", "reward_held_out", "reward_spread", "reward_capped", "reward_t", "judge", "judge_t", "diversity", "distance", "edges", "colours",
    "dark", "output_norm",
)
# A change counts when it is larger than chance by so many standard errors of the paired differences.
SURE = 2.0
# Diversity may fall by this share of the base's.
DIVERSITY_FALL = 0.15


@dataclass(frozen=True, kw_only=True)
class BaseFacts:
    """base.json of a run: what was measured of the base, by the names of MEASURED; prompts: the rows of the run's sheets; judge, follow: which
    scorers judged and were followed; units: (mean, deviation) of each that is followed."""

    measured: Mapping[str, float | None] = field(default_factory=dict)
    prompts: Sequence[str] = ()
    samples: int = 1
    judge: str = ""
    follow: str = ""
    units: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_texts("prompts", self.prompts, 400)
        if not isinstance(self.measured, dict) or not all(value is None or is_number(value) for value in self.measured.values()):
            raise InvalidOption(f"measured must be an object of numbers, but it is {quoted(self.measured)}.")


def base_facts(run: Path) -> BaseFacts | None:
    """What was measured of the base of a run; None where it is not written yet. Raises DamagedFile."""
    return read_record(BaseFacts, run / BASE_FILE)


def alarm_of(base: Mapping[str, float | None], now: Mapping[str, float | None]) -> str:
    """Whether the reward rises while the held-out scorer or the diversity falls, in a sentence with the figures; "" where it does not."""
    rise, fall = now.get("reward_t"), now.get("judge_t")
    if rise is None or rise < SURE:
        return ""
    wrong = []
    if fall is not None and fall < -SURE:
        wrong.append(f"the held-out scorer fell from {figure(base.get('judge'))} to {figure(now.get('judge'))}, {-fall:.1f} standard errors")
    before, after = base.get("diversity"), now.get("diversity")
    if before and after is not None and after < (1 - DIVERSITY_FALL) * before:
        wrong.append(f"the diversity fell from {figure(before)} to {figure(after)}, by {1 - after / before:.0%}")
    if not wrong:
        return ""
    said = f"The reward on held-out prompts rose from {figure(base.get('reward_held_out'))} to {figure(now.get('reward_held_out'))}, but "
    return said + " and ".join(wrong) + ": the model serves the number, not the pictures."


def figure(value: float | None) -> str:
    """A number as a sentence has it."""
    return "?" if value is None else f"{value:.3g}"
