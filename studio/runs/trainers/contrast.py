"""The naive contrast as data: what is asked of a training, and what it tells. The training itself is trainers.contrast."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from studio.checks import MAX_SEED, require_float, require_int
from studio.errors import InvalidOption
from studio.options import OptionInfo

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NUM_TIMESTEPS", "ContrastEvent", "ContrastFinished", "ContrastOptions", "ContrastSamples", "ContrastStep", "Figures"]

NUM_TIMESTEPS = 1000


def _option(default: Any, low: float, high: float, label: str = "", info: str = "", step: float | None = None) -> Any:
    return field(default=default, metadata={"option": OptionInfo(label=label, info=info, low=low, high=high, step=step)})


@dataclass(frozen=True, kw_only=True)
class ContrastOptions:
    """One comparison.

    Args:
        seconds: of training, 1 to 600. Both learn at the same time, a core each; drawing pictures comes on top,
            about a tenth of it.
        num_steps: exactly so many updates of each network in place of `seconds`, 1 to 20,000.
        batch_size: digits an update, 1 to 512.
        width: channels at full resolution, a multiple of 8 from 8 to 64; twice as many at 8x8 and 4x4.
        learning_rate: of AdamW, 1e-5 to 0.1.
        sample_steps: how often DDPM is asked for a picture, 2 to 1000.
        num_samples: pictures shown, 1 to 64.
        seed: of the weights, the data order and the noise. Update k is the same however long the training.
    Raises:
        InvalidOption.
    """

    seconds: float = _option(75.0, 1.0, 600.0, "Seconds of training", "More: DDPM's digits get better, and the one step stays a blur.", 1)
    num_steps: int | None = _option(None, 1, 20_000)
    batch_size: int = _option(32, 1, 512, "Digits an update", "More: smoother losses, and fewer updates in the time.", 8)
    width: int = _option(16, 8, 64, "Width of the networks", "More channels: learns more from an update, and makes fewer in the time.", 8)
    learning_rate: float = _option(3e-3, 1e-5, 0.1)
    sample_steps: int = _option(50, 2, NUM_TIMESTEPS, "Times DDPM is asked", "More: smaller steps, better pictures, and slower previews.", 1)
    num_samples: int = _option(16, 1, 64)
    seed: int = _option(0, 0, MAX_SEED, "Seed", "Of the weights, the order of the digits and the noise.")

    def __post_init__(self) -> None:
        for option in fields(self):
            info, value = option.metadata["option"], getattr(self, option.name)
            if value is not None or option.default is not None:
                # A range of whole numbers is of whole numbers.
                (require_int if isinstance(info.low, int) else require_float)(option.name, value, info.low, info.high)
        if self.width % 8:
            raise InvalidOption(f"width must be a multiple of 8, but {self.width=}.")


# --- events --------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class ContrastStep:
    """Both networks made update `index` (from 0) of about `num_steps`; with a budget in seconds that is a forecast.

    loss_one_step: mean squared error of x_0; loss_ddpm: of v. samples_per_s: digits that the two saw together.
    seconds_left: of training.
    """

    index: int
    num_steps: int
    loss_one_step: float
    loss_ddpm: float
    samples_per_s: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class ContrastSamples:
    """What both make of the same noise after `step` updates: (n, 1, 16, 16) float32 in [-1, 1] on the CPU."""

    step: int
    one_step: "Tensor"
    ddpm: "Tensor"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Three numbers of a set of pictures, in units where black to white is 2.

    variety: standard deviation across the pictures, averaged over pixels; 0 = all alike.
    sharpness: mean step between neighbouring pixels.
    distance: root mean square difference to the nearest training digit, averaged over the pictures.
    """

    variety: float
    sharpness: float
    distance: float


@dataclass(frozen=True, kw_only=True)
class ContrastFinished:
    """The end, after `step` updates and `seconds` of training both networks.

    one_step, ddpm: as in ContrastSamples; repeated: the one-step network asked `sample_steps` times; real: held-out
    digits. figures: of 64 pictures of each, under the same names.
    """

    step: int
    seconds: float
    one_step: "Tensor"
    ddpm: "Tensor"
    repeated: "Tensor"
    real: "Tensor"
    figures: Mapping[str, Figures]


ContrastEvent = ContrastStep | ContrastSamples | ContrastFinished
