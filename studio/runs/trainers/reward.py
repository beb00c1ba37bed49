"""The knobs of the reward trainer."""

from dataclasses import dataclass
from pathlib import Path

from studio.errors import InvalidOption
from studio.rankings.formats import FORMATS
from studio.rewards import reward_info
from studio.runs.trainers.options import MOST_STEPS, LoopOptions, option

__all__ = ["LEARNS", "RewardOptions", "check"]

LEARNS = ("head", "full")
DATABASE, TOYBOX = "database", "toybox"


@dataclass(frozen=True, kw_only=True)
class RewardOptions(LoopOptions):
    """The knobs of a run; `python -m trainers.reward --help` prints them."""

    data: str = option("rankings", "the rankings: the studio's folder of them, a folder or file of an export, or toybox: made up, by a known rule", path="name")
    format: str = option("studio", "what the data is: the studio's database, or the format of an export", (DATABASE, *FORMATS))
    collection: str = option("", "only tasks of this name; empty = all")
    output: str = option("runs/reward", "the run folder; an unfinished run in it is resumed", path="write")
    data_limit: int = option(100_000, "the most pictures taken", low=2, high=10_000_000)
    held_out: float = option(0.2, "share of prompts that are never trained on and judged by, 0.05 to 0.9", low=0.05, high=0.9)
    toybox_tasks: int = option(4000, "how many tasks of five pictures toybox has", low=10, high=1_000_000)
    toybox_model: str = option("toybox-sd", "the model of the catalogue that draws some of toybox's pictures; empty = renders alone")
    # what is learned
    start: str = option("", "the reward to go on from: a name of the menu or a folder; empty = a small network from nothing", path="name")
    learns: str = option("full", "the head alone, from features that are computed once, or the whole network", LEARNS)
    fix_rate: float = option(0.0, "share of both towers' layers that stay as they are, from the first on, 0 to 1; 0.7 in arXiv:2304.05977", low=0, high=1)
    tie_band: float = option(0.0, "0 = ties are skipped; else the rewards of tied pictures are held this close to each other", low=0, high=10)
    # the small network
    clip: str = option("", "a CLIP folder whose picture tower and vocabulary the small network begins with; empty = the embedded one's vocabulary", path="read")
    width: int = option(128, "features of both towers, a multiple of 32", low=32, high=2048)
    vision_layers: int = option(4, "blocks of the picture tower", low=1, high=48)
    text_layers: int = option(3, "blocks of the text tower", low=1, high=48)
    patch: int = option(8, "pixels a side of a patch", low=1, high=256)
    resolution: int = option(64, "pixels a side of the pictures, a multiple of the patch", low=8, high=1024)
    # the loop's own, for pairs
    steps: int = option(600, "optimiser steps in all", low=1, high=MOST_STEPS)
    batch_size: int = option(16, "rankings a step, each with all its pairs", low=1, high=4096)
    lr: float = option(3e-4, "peak learning rate of AdamW, between 0 and 1", low=0, high=1)
    warmup: int = option(30, "steps over which the learning rate rises", low=0, high=MOST_STEPS)
    weight_decay: float = option(0.05, "AdamW's weight decay", low=0, high=100)
    ema_decay: float = option(0.99, "decay of the averaged weights, which are the ones kept, 0 to 1", low=0, high=1)
    sample_every: int = option(200, "steps between looks at the held-out prompts, 0 = none", low=0, high=MOST_STEPS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 32:
            raise InvalidOption(f"width must be a multiple of 32, but it is {self.width}.")
        if self.resolution % self.patch:
            raise InvalidOption(f"resolution must be a multiple of the patch, but {self.resolution=} and {self.patch=}.")
        if self.learns == "head" and not self.start:
            raise InvalidOption("The head alone can learn only on a reward that has learned to see: name one with start, or let the whole network learn.")


def check(options: RewardOptions) -> None:
    """What else can be known before a run begins. Raises InvalidOption, UnknownName."""
    if options.data != TOYBOX and not Path(options.data).exists():
        raise InvalidOption(f"There are no rankings at {options.data!r}: rank some pictures in the tab Rank first, or name an export.")
    if options.start:
        info = reward_info(options.start)
        if "/" not in options.start and not info.source.startswith("models/"):
            raise InvalidOption(f"{info.label} is no network that can be trained on; start from a reward, or from nothing.")
