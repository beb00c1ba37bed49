"""What comes up from the backend: a stream of frozen events."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from studio.media.previews import RgbMap
    from studio.sampling.trajectory import Trajectory

__all__ = ["StepInfo", "StepDone", "Finished"]


@dataclass(frozen=True, kw_only=True)
class StepInfo:
    """The numbers of one step. All belong to the timestep at which the model was asked.

    index: 0..num_steps-1 in the order of sampling. timestep: what the model was told, T-1..0.
    sigma: noise-to-signal ratio sqrt((1-ab)/ab); log_snr: -2 log sigma. Both may be infinite at zero SNR.
    guidance_scale: what acted at this step, 1 where there was no guidance. clip_gradient_norm: of each picture, where
    CLIP guidance acted.
    """

    index: int
    num_steps: int
    timestep: float
    sigma: float
    log_snr: float
    guidance_scale: float = 1.0
    clip_gradient_norm: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class StepDone(StepInfo):
    """A step was taken. x_t: the state the model saw, in variance-preserving scale, whatever the scheduler's own;
    x0_hat and eps_hat: what it made of it. (B, C, H, W) float32 on the model's device; do not write into them.

    Where guidance acted: x0_uncond, x0_cond, eps_uncond, eps_cond, what the model made of it without and with its
    condition; else None. attention: (B, L, h, w), where each token was looked at, 0 to 1, if it was asked for.
    clip_gradient: (B, C, H, W), of CLIP's distance in x_t, where CLIP guidance acted.
    rgb_map: of a latent run, how its states look; None in a pixel run.
    """

    x_t: "Tensor"
    x0_hat: "Tensor"
    eps_hat: "Tensor"
    x0_uncond: "Tensor | None" = None
    x0_cond: "Tensor | None" = None
    eps_uncond: "Tensor | None" = None
    eps_cond: "Tensor | None" = None
    attention: "Tensor | None" = None
    clip_gradient: "Tensor | None" = None
    rgb_map: "RgbMap | None" = None

    def pictures(self, stream: str) -> "Tensor":
        """A stream of this step as pictures to look at: (B, 3, h, w), or (B, C, H, W) of a pixel run, about [-1, 1]."""
        from studio.media.previews import as_pictures

        return as_pictures(getattr(self, stream), stream, self.rgb_map)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run is over. images: one PIL picture per seed; trajectory: everything that happened."""

    images: "list[Image.Image]"
    trajectory: "Trajectory"
