"""The knobs of the pixel DDPM trainer."""

from dataclasses import dataclass

from studio.errors import InvalidOption
from studio.process.kinds import LOSS_TYPES, MEAN_TYPES, VAR_TYPES
from studio.process.schedules import MAX_TIMESTEPS, SCHEDULES
from studio.runs.trainers.options import LoopOptions, option, parse_widths, require_room_for_data

__all__ = ["DDPMOptions"]


@dataclass(frozen=True, kw_only=True)
class DDPMOptions(LoopOptions):
    """The knobs of a run; `python -m trainers.ddpm --help` prints them."""

    data: str = option("digits", "digits, toybox, toybox-large, a folder of pictures, or a `datasets` id", path="name")
    output: str = option("runs/ddpm", "the run folder; an unfinished run in it is resumed", path="write")
    resolution: int = option(16, "pixels a side, a multiple of 2 per level of the network", low=1, high=1024)
    channels: int = option(3, "3 = colour, 1 = grey (folders and datasets; digits are grey)", low=1, high=3)
    data_limit: int = option(40_000, "the most pictures taken; for toybox, how many scenes are drawn", low=1, high=10_000_000)
    # the process
    schedule: str = option("cosine", "noise schedule", SCHEDULES)
    num_timesteps: int = option(1000, "T", low=1, high=MAX_TIMESTEPS)
    mean_type: str = option("epsilon", "what the network predicts", MEAN_TYPES)
    var_type: str = option("fixed_small", "variance of a reverse step; learned ones double the output channels", VAR_TYPES)
    loss_type: str = option("mse", "rescaled_mse and the kl losses: arXiv:2102.09672", LOSS_TYPES)
    min_snr_gamma: float = option(0.0, "weigh the mse by min(SNR, gamma), 0 = off; 5 in arXiv:2303.09556", low=0, high=1000)
    min_snr_offset: float = option(
        0.0, "added to it; 1 keeps the noisiest steps, which decide what stands where, at the weight that v-prediction gives them", low=0, high=1000,
    )
    label_drop: float = option(0.1, "share of pictures trained without their label, 0 to 1", low=0, high=1)
    # the network
    widths: str = option("32,64,96", "channels of each level, comma-separated multiples of 16")
    layers: int = option(1, "residual blocks a level", low=1, high=8)
    attention_from: int = option(1, "self-attention from this level down (0 = the full resolution)", low=0, high=8)
    time_scales: bool = option(False, "timestep and class scale the features besides shifting them (arXiv:2105.05233, section 3.1)")
    dropout: float = option(0.0, "dropout inside the residual blocks, 0 to 1", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_room_for_data(self.data_limit, self.resolution)
        if self.channels == 2:
            raise InvalidOption("channels must be 3 (colour) or 1 (grey), but it is 2.")
        if self.resolution % 2 ** (len(self.level_widths) - 1):
            raise InvalidOption(f"{len(self.level_widths)} levels halve the picture {len(self.level_widths) - 1} times; {self.resolution=} cannot be.")

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels a level."""
        return parse_widths(self.widths, 16)
