"""Denoisers: what a sampler asks. Each answers a Prediction; guidance wraps one and is one.

    network   raw = model.predict(x_t, t, conditioning), read as x0_hat and eps_hat
    guided, CLIP-guided, watched (studio.sampling.guidance, attention): what they saw is in the parts of their answer
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from studio.models.conditioning import Conditioning
from studio.process.conversions import NoiseLevel, eps_from, x0_from
from studio.process.paths import NoisePath

__all__ = ["Prediction", "Denoiser", "Network", "Reader"]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a denoiser answers at one state.

    x0_hat, eps_hat: (B, C, H, W) float32. output: in the path's own prediction type, guided, with the channels of a
    learned variance behind it where there is one. parts: streams that the denoisers saw, by name. figures: numbers of the
    step, by the names of StepInfo.
    """

    x0_hat: Tensor
    eps_hat: Tensor
    output: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)


Denoiser = Callable[[Tensor, NoiseLevel], Prediction]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads a raw answer as x0_hat and eps_hat. clip_x0: clip x0_hat to [-1, 1] and take eps_hat from it again."""

    path: NoisePath
    clip_x0: bool

    def both(self, output: Tensor, x_t: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(x0_hat, eps_hat) of an answer at x_t (B, C, H, W); a learned variance behind it is left out."""
        kind, said = self.path.prediction_type, output[:, : x_t.shape[1]]
        x0_hat = x0_from(kind, said, x_t, level)
        if self.clip_x0:
            x0_hat = x0_hat.clamp(-1, 1)
            return x0_hat, eps_from("sample", x0_hat, x_t, x0_hat, level)
        return x0_hat, eps_from(kind, said, x_t, x0_hat, level)

    def __call__(self, output: Tensor, x_t: Tensor, level: NoiseLevel, parts: Mapping[str, Tensor] | None = None, **figures: Any) -> Prediction:
        """The whole Prediction."""
        x0_hat, eps_hat = self.both(output, x_t, level)
        if self.path.prediction_type == "flow_prediction":
            parts = {**(parts or {}), "velocity": output[:, : x_t.shape[1]]}
        return Prediction(x0_hat=x0_hat, eps_hat=eps_hat, output=output, parts=parts or {}, figures=figures)


@dataclass(frozen=True, kw_only=True)
class Network:
    """The model alone, told one conditioning, of as many pictures as it is asked about."""

    model: Any
    conditioning: Conditioning
    read: Reader

    def __call__(self, x_t: Tensor, level: NoiseLevel) -> Prediction:
        """Its answer at x_t (B, C, H, W)."""
        return self.read(self.model.predict(x_t, level.timestep, self.conditioning), x_t, level)
