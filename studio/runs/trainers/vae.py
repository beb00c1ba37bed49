"""The knobs of the autoencoder trainer."""

from dataclasses import dataclass

from studio.errors import InvalidOption
from studio.runs.trainers.options import MOST_STEPS, LoopOptions, option, parse_widths, require_room_for_data

__all__ = ["VaeOptions"]


@dataclass(frozen=True, kw_only=True)
class VaeOptions(LoopOptions):
    """The knobs of a run; `python -m trainers.vae --help` prints them."""

    data: str = option(
        "toybox", "toybox (one object a picture), toybox-pairs (two), toybox-world (half of each), or a folder of captioned pictures", path="name",
    )
    output: str = option("runs/toybox-vae", "the run folder; an unfinished run in it is resumed", path="write")
    resolution: int = option(64, "pixels a side, a multiple of 2 per level of the network", low=1, high=1024)
    data_limit: int = option(40_000, "the most pictures taken; for toybox, how many scenes are drawn", low=1, high=10_000_000)
    steps: int = option(5000, "optimiser steps in all", low=1, high=MOST_STEPS)
    batch_size: int = option(32, "pictures a step", low=1, high=4096)
    lr: float = option(1e-3, "peak learning rate of AdamW, between 0 and 1", low=0, high=1)
    lr_plan: str = option("trapezoid", "see --help of trainers.ddpm", ("cosine", "trapezoid", "constant"))
    weight_decay: float = option(0.0, "AdamW's weight decay", low=0, high=100)
    ema_decay: float = option(0.998, "decay of the averaged weights, which are the ones kept, 0 to 1", low=0, high=1)
    widths: str = option("32,64,64", "channels of each level, comma-separated multiples of 8; one level fewer halvings")
    latent_channels: int = option(4, "channels of a latent", low=1, high=64)
    kl_weight: float = option(1e-5, "weight of the KL term (mean over latents) beside the mean squared error", low=0, high=1000)
    preview_weight: float = option(
        0.0, "weight of the error of the best linear map from latents to small pictures, which previews live on; 0 = off", low=0, high=1000,
    )
    perceptual_weight: float = option(0.0, "weight of the perceptual term, 0 = off", low=0, high=1000)
    perceptual_model: str = option("runs/toybox-clip/model", "the CLIP folder whose features it compares", path="read")
    start: str = option("", "a VAE folder to go on from, or nothing", path="read")
    decoder_only: bool = option(False, "leave the encoder as it is")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_room_for_data(self.data_limit, self.resolution)
        if self.resolution % 2 ** (len(self.level_widths) - 1):
            raise InvalidOption(f"{len(self.level_widths)} levels halve the picture {len(self.level_widths) - 1} times; {self.resolution=} cannot be.")
        if self.decoder_only and not self.start:
            raise InvalidOption("decoder_only needs a VAE to go on from: name its folder with start.")

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels a level."""
        return parse_widths(self.widths, 8)
