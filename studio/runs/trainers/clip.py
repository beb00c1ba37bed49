"""The knobs of the CLIP trainer."""

from dataclasses import dataclass

from studio.errors import InvalidOption
from studio.runs.trainers.options import MOST_STEPS, LoopOptions, option, require_room_for_data
from studio.toybox import WORLDS

__all__ = ["ClipOptions"]


@dataclass(frozen=True, kw_only=True)
class ClipOptions(LoopOptions):
    """The knobs of a run; `python -m trainers.clip --help` prints them."""

    data: str = option(
        "toybox", "toybox (one object a picture), toybox-pairs (two), toybox-world (half of each), or a folder of captioned pictures", path="name",
    )
    output: str = option("runs/toybox-clip", "the run folder; an unfinished run in it is resumed", path="write")
    resolution: int = option(64, "pixels a side of the pictures, a multiple of the patch", low=1, high=1024)
    data_limit: int = option(40_000, "the most pictures taken; for toybox, how many scenes are drawn", low=1, high=10_000_000)
    steps: int = option(2000, "optimiser steps in all", low=1, high=MOST_STEPS)
    batch_size: int = option(128, "pictures a step: each caption has this many to choose from", low=2, high=4096)
    lr_plan: str = option("trapezoid", "see --help of trainers.ddpm", ("cosine", "trapezoid", "constant"))
    weight_decay: float = option(0.05, "AdamW's weight decay", low=0, high=100)
    near_captions: int = option(
        2, "captions a picture that nearly fit (see trainers.near), as further wrong answers; the toybox worlds only, 0 = none", low=0, high=64,
    )
    # the towers
    patch: int = option(8, "pixels a side of a patch of the picture tower", low=1, high=256)
    width: int = option(128, "features of both towers, a multiple of 32", low=32, high=2048)
    text_layers: int = option(3, "blocks of the text tower", low=1, high=48)
    vision_layers: int = option(4, "blocks of the picture tower", low=1, high=48)
    max_tokens: int = option(32, "longest text in tokens, with start and end", low=4, high=1024)
    start: str = option("", "a CLIP folder to go on from, or nothing", path="read")
    towers: str = option("both", "what learns: both towers; text alone, from two wordings of each scene (as arXiv:2104.08821 does; toybox only); "
                         "picture alone, to a text tower that is fixed (arXiv:2111.07991)", ("both", "text", "picture"))

    def __post_init__(self) -> None:
        super().__post_init__()
        require_room_for_data(self.data_limit, self.resolution)
        if self.width % 32:
            raise InvalidOption(f"width must be a multiple of 32, but it is {self.width}.")
        if self.towers not in ("both", "text", "picture"):
            raise InvalidOption(f"towers must be both, text or picture, but it is {self.towers!r}.")
        if self.towers == "picture" and not self.start:
            raise InvalidOption("The picture tower alone needs a text tower to learn from: name a CLIP folder with start.")
        if self.towers == "text" and self.data not in WORLDS:
            raise InvalidOption("The text tower alone learns from several wordings of a scene, which only toybox has; set data to toybox.")
        if self.resolution % self.patch:
            raise InvalidOption(f"resolution must be a multiple of the patch, but {self.resolution=} and {self.patch=}.")
