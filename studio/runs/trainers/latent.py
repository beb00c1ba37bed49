"""The knobs of the text-to-image trainer."""

from dataclasses import dataclass
from pathlib import Path

from studio.errors import InvalidOption
from studio.runs.trainers.options import MOST_STEPS, LoopOptions, option, parse_widths, require_room_for_data

__all__ = ["LatentOptions", "check"]


@dataclass(frozen=True, kw_only=True)
class LatentOptions(LoopOptions):
    """The knobs of a run; `python -m trainers.latent --help` prints them."""

    data: str = option(
        "toybox", "toybox (one object a picture), toybox-pairs (two), toybox-world (half of each), or a folder of captioned pictures", path="name",
    )
    output: str = option("runs/toybox-sd", "the run folder; an unfinished run in it is resumed", path="write")
    vae: str = option("runs/toybox-vae/model", "an AutoencoderKL folder, frozen", path="read")
    clip: str = option("runs/toybox-clip/model", "a CLIP folder with its tokenizer, frozen", path="read")
    decoder: str = option("", "an AutoencoderKL folder with the same encoder whose decoder the result takes, or nothing", path="read")
    resolution: int = option(64, "pixels a side", low=1, high=1024)
    data_limit: int = option(40_000, "the most pictures taken; for toybox, how many scenes are drawn", low=1, high=10_000_000)
    wordings: int = option(2, "captions kept for each picture", low=1, high=100)
    only: str = option("", "train on those pictures alone whose caption holds this word, e.g. large: kinds of objects are learned sooner; empty = all")
    steps: int = option(10_000, "optimiser steps in all", low=1, high=MOST_STEPS)
    batch_size: int = option(48, "pictures a step", low=1, high=4096)
    lr: float = option(1e-3, "peak learning rate of AdamW, between 0 and 1", low=0, high=1)
    lr_plan: str = option("trapezoid", "see --help of trainers.ddpm", ("cosine", "trapezoid", "constant"))
    prediction_type: str = option("v_prediction", "what the network predicts", ("epsilon", "v_prediction"))
    zero_terminal_snr: bool = option(False, "let the last step be pure noise, as sampling begins (arXiv:2305.08891); with v_prediction only")
    min_snr_gamma: float = option(5.0, "weigh the error of x0 by min(SNR, gamma) + the offset, 0 = off", low=0, high=1000)
    min_snr_offset: float = option(
        1.0, "0 as in arXiv:2303.09556; 1 keeps the noisiest steps, which decide what stands where, at their full weight", low=0, high=1000,
    )
    caption_drop: float = option(0.1, "share of captions replaced by the empty one, 0 to 1", low=0, high=1)
    widths: str = option("64,96,112", "channels of each level, comma-separated multiples of 16")
    layers: int = option(1, "residual blocks a level", low=1, high=8)
    attention_from: int = option(1, "cross-attention from this level down (0 = the full latent)", low=0, high=8)
    text_in_time: bool = option(True, "add the pooled caption to the time embedding, so that every residual block hears it (as DeepFloyd IF does)")
    early: int = option(0, "steps after which the model is kept besides, in <output>/early; 0 = never", low=0, high=MOST_STEPS)
    start: str = option("", "a StableDiffusionPipeline folder whose UNet to go on from, or nothing", path="read")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_room_for_data(self.data_limit, self.resolution)
        parse_widths(self.widths, 16)
        if self.zero_terminal_snr and self.prediction_type != "v_prediction":
            raise InvalidOption("At the end of a process with zero terminal SNR only v says anything of the picture; set prediction_type to v_prediction.")

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels a level."""
        return parse_widths(self.widths, 16)


def check(options: LatentOptions) -> None:
    """What can be known to go wrong before a run begins. Raises InvalidOption."""
    for name in ("vae", "clip"):
        if not Path(getattr(options, name)).is_dir():
            raise InvalidOption(f"{name} must name a folder, but {getattr(options, name)!r} is none; train it first or give its path.")
