"""What comes up from the backend: a stream of frozen events."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from studio.trajectory import Trajectory

__all__ = ["StepInfo", "StepDone", "Finished"]


@dataclass(frozen=True, kw_only=True)
class StepInfo:
    """The numbers of one step. All belong to the timestep at which the model was asked.

    index: 0..num_steps-1 in the order of sampling. timestep: what the model was told, T-1..0.
    sigma: noise-to-signal ratio sqrt((1-ab)/ab); log_snr: -2 log sigma. Both may be infinite at zero SNR.
    """

    index: int
    num_steps: int
    timestep: float
    sigma: float
    log_snr: float


@dataclass(frozen=True, kw_only=True)
class StepDone(StepInfo):
    """A step was taken. x_t: the state the model saw, in variance-preserving scale, whatever the scheduler's own;
    x0_hat and eps_hat: what it made of it. (B, C, H, W) float32 on the model's device; do not write into them."""

    x_t: "Tensor"
    x0_hat: "Tensor"
    eps_hat: "Tensor"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run is over. images: one PIL picture per seed; trajectory: everything that happened."""

    images: "list[Image.Image]"
    trajectory: "Trajectory"
