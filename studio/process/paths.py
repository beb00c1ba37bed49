"""Noise paths: how much of the picture and how much noise is in a state at time t, and which times a shorter run visits.

    x_t = alpha(t) x0 + sigma(t) eps        log-SNR = log(alpha^2 / sigma^2), the axis on which all paths can be compared
    discrete betas    alpha = sqrt(alpha_bar_t), sigma = sqrt(1 - alpha_bar_t), t in 0..T-1; between two, log-SNR is interpolated
    rectified flow    alpha = 1 - s, sigma = s, s = t / T; fewer steps are spaced in s and shifted, s <- k s / (1 + (k - 1) s)

Esser et al. 2024 (arXiv:2403.03206), section 3, for flow and its shift.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from studio.errors import InvalidOption
from studio.process import schedules
from studio.process.conversions import NoiseLevel
from studio.process.diffusion import GaussianDiffusion

__all__ = ["NoisePath", "DiscretePath", "FlowPath", "Discretization"]


@dataclass(frozen=True, kw_only=True)
class Discretization:
    """The levels that a run visits, noisiest first, and the level that it ends at.

    process: of the same steps, in the other order, as a discrete diffusion process; None where the path is no such process.
    """

    levels: Sequence[NoiseLevel]
    end: NoiseLevel
    process: GaussianDiffusion | None = None


class NoisePath(Protocol):
    """What a network was trained on. prediction_type: one of conversions.PREDICTION_TYPES. num_timesteps: T.
    clip_x0: whether its makers clip x0_hat to [-1, 1]. learns_variance: whether it says 2C channels."""

    prediction_type: str
    num_timesteps: int
    clip_x0: bool
    learns_variance: bool

    def alpha(self, t: float) -> float:
        """How much of the picture is in x_t, at a continuous t from 0 to T (T - 1 of a discrete process)."""

    def sigma(self, t: float) -> float:
        """How much noise is in x_t."""

    def log_snr(self, t: float) -> float:
        """log(alpha^2 / sigma^2) at t."""

    def level(self, t: float) -> NoiseLevel:
        """All of them at t."""

    def discretize(self, num_steps: int, respacing: str | None = None) -> Discretization:
        """The levels of a run of `num_steps`, or of a respacing such as "ddim50". Raises InvalidOption."""

    def with_shift(self, shift: float | None) -> "NoisePath":
        """The same path with its steps shifted otherwise, where it has a shift; None = as it is."""

    def curve(self) -> dict[str, list[float]]:
        """"t", "log_snr", "signal" (alpha), "noise" (sigma), least noise first, to be drawn."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DiscretePath:
    """A process of T betas.

    timestep_spacing: "leading", "trailing" or "linspace", how its makers choose fewer steps; steps_offset: added to
    "leading". final_alpha_bar: of the state after DDIM's last step (Stable Diffusion ends at alpha_bar_0, not at 1).
    """

    diffusion: GaussianDiffusion
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    final_alpha_bar: float = 1.0
    clip_x0: bool = False

    @property
    def prediction_type(self) -> str:
        """One of PREDICTION_TYPES."""
        return self.diffusion.mean_type

    @property
    def num_timesteps(self) -> int:
        """T."""
        return self.diffusion.num_timesteps

    @property
    def learns_variance(self) -> bool:
        """Whether the network says 2C channels."""
        return self.diffusion.learns_variance

    def alpha(self, t: float) -> float:
        """sqrt(alpha_bar)."""
        return self.level(t).alpha

    def sigma(self, t: float) -> float:
        """sqrt(1 - alpha_bar)."""
        return self.level(t).sigma

    def log_snr(self, t: float) -> float:
        """log(alpha_bar / (1 - alpha_bar))."""
        return self.level(t).log_snr

    def level(self, t: float) -> NoiseLevel:
        """At a whole t the table's own; between two, log-SNR is interpolated, as sigma-based solvers do."""
        if float(t).is_integer() and 0 <= t < self.num_timesteps:
            return level_of(self.diffusion, int(t))
        finite = [level_of(self.diffusion, i).log_snr for i in range(self.num_timesteps)]
        log_snr = float(np.interp(t, np.arange(self.num_timesteps), np.clip(finite, -24, 24)))
        alpha_bar = 1 / (1 + math.exp(-log_snr))
        return NoiseLevel(timestep=t, alpha=math.sqrt(alpha_bar), sigma=math.sqrt(1 - alpha_bar))

    def discretize(self, num_steps: int, respacing: str | None = None) -> Discretization:
        """num_steps by the makers' own spacing, or the timesteps that a respacing keeps. Raises InvalidOption."""
        total = self.num_timesteps
        kept = schedules.space_timesteps(total, respacing) if respacing else self._shifted(schedules.spaced_timesteps(total, num_steps, self.timestep_spacing))
        process = self.diffusion.respaced(kept)
        end = self.final_alpha_bar
        return Discretization(
            levels=[level_of(process, i) for i in reversed(range(process.num_timesteps))], process=process,
            end=NoiseLevel(timestep=0.0, alpha=math.sqrt(end), sigma=math.sqrt(1 - end)),
        )

    def with_shift(self, shift: float | None) -> "DiscretePath":
        """Itself: it has no shift."""
        return self

    def _shifted(self, timesteps: list[int]) -> list[int]:
        """Stable Diffusion's "leading" spacing starts at timestep 1; where every timestep is used there is no room for it."""
        offset = self.steps_offset if self.timestep_spacing == "leading" else 0
        return [t + offset for t in timesteps] if timesteps[-1] + offset < self.num_timesteps else timesteps

    def curve(self) -> dict[str, list[float]]:
        """T numbers each."""
        table = schedules.curves(self.diffusion.betas)
        return {
            "t": list(range(self.num_timesteps)), "log_snr": table["log_snr"].tolist(),
            "signal": table["sqrt_alpha_bar"].tolist(), "noise": table["sqrt_one_minus_alpha_bar"].tolist(),
        }


def level_of(process: GaussianDiffusion, index: int) -> NoiseLevel:
    """The level of one step of a process, with what its own timestep is told as."""
    coefficient = process.coefficient
    return NoiseLevel(
        timestep=float(process.timesteps[index]), alpha=coefficient("sqrt_alpha_bar", index), sigma=coefficient("sqrt_one_minus_alpha_bar", index),
        posterior=(coefficient("posterior_mean_coef1", index), coefficient("posterior_mean_coef2", index)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowPath:
    """A rectified flow from noise (s = 1) to the picture (s = 0); the network is told t = s T.

    shift: k in s <- k s / (1 + (k - 1) s), more of the steps at the noisy end; larger pictures want more.
    """

    shift: float = 1.0
    num_timesteps: int = 1000
    clip_x0: bool = False
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)

    prediction_type = "flow_prediction"
    learns_variance = False

    def alpha(self, t: float) -> float:
        """1 - s."""
        return 1 - t / self.num_timesteps

    def sigma(self, t: float) -> float:
        """s."""
        return t / self.num_timesteps

    def log_snr(self, t: float) -> float:
        """2 log((1 - s) / s)."""
        return self.level(t).log_snr

    def level(self, t: float) -> NoiseLevel:
        """Both at t."""
        return NoiseLevel(timestep=float(t), alpha=self.alpha(t), sigma=self.sigma(t))

    def with_shift(self, shift: float | None) -> "FlowPath":
        """The same flow, whose steps are spaced by another shift."""
        return self if shift is None else replace(self, shift=shift)

    def shifted(self, s: np.ndarray) -> np.ndarray:
        """The noise levels as the shift moves them, in [0, 1]."""
        return self.shift * s / (1 + (self.shift - 1) * s)

    def discretize(self, num_steps: int, respacing: str | None = None) -> Discretization:
        """num_steps evenly in s between the flow's ends, then shifted (as FlowMatchEulerDiscreteScheduler spaces them)."""
        if respacing:
            raise InvalidOption(f"A flow has no betas to respace; set num_steps in place of {respacing!r}.")
        ends = self.shifted(np.array([1.0, 1 / self.num_timesteps]))
        levels = self.shifted(np.linspace(ends[0], ends[1], num_steps))
        return Discretization(levels=[self.level(float(s) * self.num_timesteps) for s in levels], end=self.level(0.0))

    def curve(self) -> dict[str, list[float]]:
        """T numbers each, at the middle of every thousandth."""
        t = [i + 0.5 for i in range(self.num_timesteps)]
        return {"t": t, "log_snr": [self.log_snr(x) for x in t], "signal": [self.alpha(x) for x in t], "noise": [self.sigma(x) for x in t]}
