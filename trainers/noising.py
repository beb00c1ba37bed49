"""How a base was taught to take noise away, as training asks: which timesteps, what a noisy state is, what the answer should be.

    betas   z_t = sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) noise    t evenly from 0..T-1           the answer: noise, or v
    flow    z_t = (1 - s) z + s noise, s = t / T                       t of the base's shifted table  the answer: noise - z

Ho et al. 2020 (arXiv:2006.11239), Salimans & Ho 2022 (arXiv:2202.00512); Esser et al. 2024 (arXiv:2403.03206).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from studio.process.conversions import NoiseLevel
from studio.runs.trainers.controlnet import ControlNetOptions
from trainers.loop import min_snr_weights, snr_of

__all__ = ["Betas", "Flow", "Noising"]


class Noising(ABC):
    """One kind of process. kind: what the base answers, one of studio.process.conversions.PREDICTION_TYPES. num_timesteps: T."""

    kind: str
    num_timesteps: int

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) timesteps on the CPU, as the base is told them."""

    @abstractmethod
    def noised(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The states z_t of latents z (B, C, h, w) at timesteps t (B,)."""

    @abstractmethod
    def target(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """(B, C, h, w): what the base should answer at z_t."""

    @abstractmethod
    def weights(self, t: Tensor) -> Tensor:
        """(B,): how much the errors at t weigh."""

    @abstractmethod
    def level(self, t: Tensor) -> NoiseLevel:
        """How much of the picture and of noise is in z_t at t (B,), as (B, 1, 1, 1) each."""


class Betas(Noising):
    """A process of betas, drawn evenly. config: of the base's scheduler."""

    def __init__(self, config: Mapping[str, Any], options: ControlNetOptions):
        from diffusers import DDPMScheduler

        self.scheduler, self.options = DDPMScheduler.from_config(config), options
        self.kind, self.num_timesteps = self.scheduler.config.prediction_type, self.scheduler.config.num_train_timesteps

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(self.num_timesteps, (count,), generator=generator)

    def noised(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return self.scheduler.add_noise(z, noise, t)

    def target(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise if self.kind == "epsilon" else self.scheduler.get_velocity(z, noise, t)

    def weights(self, t: Tensor) -> Tensor:
        gamma, snr = self.options.min_snr_gamma, snr_of(self.scheduler.alphas_cumprod, t)
        return min_snr_weights(self.kind, snr, gamma, self.options.min_snr_offset) if gamma else torch.ones_like(snr)

    def level(self, t: Tensor) -> NoiseLevel:
        alpha_bar = self.scheduler.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
        return NoiseLevel(timestep=0.0, alpha=alpha_bar.sqrt(), sigma=(1 - alpha_bar).sqrt())


class Flow(Noising):
    """A rectified flow, whose timesteps the base's own shift has moved towards noise. config: of the base's scheduler.

    It weighs no errors: where they count more, timesteps are drawn more often.
    """

    kind = "flow_prediction"

    def __init__(self, config: Mapping[str, Any], options: ControlNetOptions):
        from diffusers import FlowMatchEulerDiscreteScheduler

        # Never the scheduler that pictures are drawn with: a drawing leaves its own few timesteps in it.
        self.scheduler, self.options = FlowMatchEulerDiscreteScheduler.from_config(config), options
        self.num_timesteps = self.scheduler.config.num_train_timesteps

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        from diffusers.training_utils import compute_density_for_timestep_sampling

        options = self.options
        share = compute_density_for_timestep_sampling(
            options.timestep_sampling, count, logit_mean=options.logit_mean, logit_std=options.logit_std, generator=generator,
        )
        # A share may be rounded up to 1, which is no place of the table.
        return self.scheduler.timesteps[(share * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)]

    def noised(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        level = self.level(t)
        return level.alpha * z + level.sigma * noise

    def target(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - z

    def weights(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def level(self, t: Tensor) -> NoiseLevel:
        sigma = (t / self.num_timesteps).view(-1, 1, 1, 1)
        return NoiseLevel(timestep=0.0, alpha=1 - sigma, sigma=sigma)
