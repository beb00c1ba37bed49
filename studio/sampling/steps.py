"""One step of a run: its numbers, and the streams that belong to it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from studio.sampling.streams import ALWAYS, STREAMS

if TYPE_CHECKING:
    from torch import Tensor

    from studio.media.previews import RgbMap

__all__ = ["StepInfo", "StepDone"]


@dataclass(frozen=True, kw_only=True)
class StepInfo:
    """The numbers of one step. All belong to the timestep at which the model was asked.

    index: 0..num_steps-1 in the order of sampling. timestep: what the model was told, T-1..0.
    sigma: noise-to-signal ratio; log_snr: -2 log sigma. Both may be infinite at zero SNR. alpha: how much of x0 is in x_t;
    None where it follows from sigma, as in every process with betas (1 / sqrt(1 + sigma^2)).
    guidance_scale: what acted at this step, 1 where there was no guidance. clip_gradient_norm: of each picture, where
    CLIP guidance acted. refined: whether a refiner was asked in place of the model.
    """

    index: int
    num_steps: int
    timestep: float
    sigma: float
    log_snr: float
    guidance_scale: float = 1.0
    clip_gradient_norm: tuple[float, ...] | None = None
    alpha: float | None = None
    refined: bool = False

    @property
    def scales(self) -> tuple[float, float]:
        """(signal, noise): x_t = signal x0 + noise eps."""
        signal = 1 / math.hypot(1, self.sigma) if self.alpha is None else self.alpha
        return signal, 1.0 if math.isinf(self.sigma) else self.sigma * signal


@dataclass(frozen=True, kw_only=True)
class StepDone(StepInfo):
    """A step was taken. x_t: the state the model saw, in the scale in which it sees it, whatever the scheduler's own;
    x0_hat and eps_hat: what it made of it. (B, C, H, W) float32 on the model's device; do not write into them.

    parts: the further streams of this step by their names in studio.sampling.streams.STREAMS; each can also be read as an
    attribute, None where the step has none. rgb_map: of a latent run, how its states look; None in a pixel run.
    """

    x_t: "Tensor"
    x0_hat: "Tensor"
    eps_hat: "Tensor"
    parts: "Mapping[str, Tensor]" = field(default_factory=dict)
    rgb_map: "RgbMap | None" = None

    def __getattr__(self, name: str) -> Any:
        if name in STREAMS and name not in ALWAYS:
            return self.parts.get(name)
        raise AttributeError(name)

    def pictures(self, stream: str) -> "Tensor":
        """A stream of this step as pictures to look at: (B, 3, h, w), or (B, C, H, W) of a pixel run, about [-1, 1]."""
        from studio.media.previews import as_pictures

        return as_pictures(getattr(self, stream), STREAMS[stream].kind, self.rgb_map)
