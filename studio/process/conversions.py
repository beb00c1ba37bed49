"""A network's answer, whatever it predicts, as the clean picture and the noise that it implies. The one place for it.

    x_t = alpha x0 + sigma eps                    alpha, sigma: how much of either is in the state
    epsilon           out = eps                   x0 = (x_t - sigma eps) / alpha
    sample            out = x0                    eps = (x_t - alpha x0) / sigma
    v_prediction      out = alpha eps - sigma x0  alpha^2 + sigma^2 = 1: x0 = alpha x_t - sigma v, eps = sigma x_t + alpha v
    flow_prediction   out = eps - x0              alpha + sigma = 1:     x0 = x_t - sigma v,       eps = x_t + alpha v
    previous          out = mean of x_{t-1}       x0 = (out - coef2 x_t) / coef1

v: Salimans & Ho 2022 (arXiv:2202.00512); flow: Lipman et al. 2023 (arXiv:2210.02747), Liu et al. 2023 (arXiv:2209.03003).
"""

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["PREDICTION_TYPES", "NoiseLevel", "x0_from", "eps_from", "output_from"]

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "flow_prediction", "previous")


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseLevel:
    """One place on a noise path: x_t = alpha x0 + sigma eps.

    timestep: what the network is told. posterior: the two coefficients of the mean of q(x_{t-1} | x_t, x_0), which a
    network that predicts the previous state needs; None elsewhere.
    """

    timestep: float
    alpha: Any
    sigma: Any
    posterior: tuple[Any, Any] | None = None

    @property
    def noise_to_signal(self) -> float:
        """sigma / alpha: the sigma of k-diffusion; infinite in pure noise."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @property
    def log_snr(self) -> float:
        """log(alpha^2 / sigma^2); minus infinity in pure noise, infinity where there is none."""
        ratio = self.noise_to_signal
        return -math.inf if math.isinf(ratio) else math.inf if ratio == 0 else -2 * math.log(ratio)


def x0_from(prediction_type: str, output: Any, x_t: Any, level: NoiseLevel) -> Any:
    """x0_hat, shaped as x_t, from what the network said at x_t. At pure noise epsilon says nothing of x0: not finite there."""
    if prediction_type == "epsilon":
        return (x_t - level.sigma * output) / level.alpha
    if prediction_type == "v_prediction":
        return level.alpha * x_t - level.sigma * output
    if prediction_type == "flow_prediction":
        return x_t - level.sigma * output
    if prediction_type == "previous":
        assert level.posterior is not None
        return (output - level.posterior[1] * x_t) / level.posterior[0]
    return output


def eps_from(prediction_type: str, output: Any, x_t: Any, x0: Any, level: NoiseLevel) -> Any:
    """eps_hat that goes with `x0` = x0_from(...): said by the network itself where it is, else what is left of x_t."""
    if prediction_type == "epsilon":
        return output
    if prediction_type == "v_prediction":
        return level.sigma * x_t + level.alpha * output
    if prediction_type == "flow_prediction":
        return x_t + level.alpha * output
    return (x_t - level.alpha * x0) / level.sigma


def output_from(prediction_type: str, x0: Any, eps: Any, level: NoiseLevel) -> Any:
    """What a network of this prediction type would have said: the inverse of the two above. "previous" has none."""
    if prediction_type == "epsilon":
        return eps
    if prediction_type == "v_prediction":
        return level.alpha * eps - level.sigma * x0
    return eps - x0 if prediction_type == "flow_prediction" else x0
