"""The knobs of the autoencoder trainer."""

from dataclasses import dataclass

from studio.errors import InvalidOption
from studio.runs.trainers.options import LoopOptions, option, parse_widths

__all__ = ["VaeOptions"]


@dataclass(frozen=True, kw_only=True)
class VaeOptions(LoopOptions):
    """The knobs of a run; `python -m trainers.vae --help` prints them."""

    data: str = option("toybox", "toybox, or a folder of captioned pictures")
    output: str = option("runs/toybox-vae", "the run folder; an unfinished run in it is resumed")
    resolution: int = option(64, "pixels a side, a multiple of 2 per level of the network")
    data_limit: int = option(40_000, "the most pictures taken; for toybox, how many scenes are drawn")
    steps: int = option(5000, "optimiser steps in all")
    batch_size: int = option(32, "pictures a step")
    lr: float = option(1e-3, "peak learning rate of AdamW, between 0 and 1")
    lr_plan: str = option("trapezoid", "see --help of trainers.ddpm", ("cosine", "trapezoid", "constant"))
    weight_decay: float = option(0.0, "AdamW's weight decay")
    ema_decay: float = option(0.998, "decay of the averaged weights, which are the ones kept, 0 to 1")
    widths: str = option("32,64,64", "channels of each level, comma-separated multiples of 8; one level fewer halvings")
    latent_channels: int = option(4, "channels of a latent")
    kl_weight: float = option(1e-5, "weight of the KL term (mean over latents) beside the mean squared error")
    perceptual_weight: float = option(0.0, "weight of the perceptual term, 0 = off")
    perceptual_model: str = option("runs/toybox-clip/model", "the CLIP folder whose features it compares")
    start: str = option("", "a VAE folder to go on from, or nothing")
    decoder_only: bool = option(False, "leave the encoder as it is")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_at_least(1, "latent_channels", "data_limit")
        self.require_at_least(0, "kl_weight", "perceptual_weight")
        if self.resolution % 2 ** (len(self.level_widths) - 1):
            raise InvalidOption(f"{len(self.level_widths)} levels halve the picture {len(self.level_widths) - 1} times; {self.resolution=} cannot be.")
        if self.decoder_only and not self.start:
            raise InvalidOption("decoder_only needs a VAE to go on from: name its folder with start.")

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels a level."""
        return parse_widths(self.widths, 8)
