"""Samplers: rules that take a state from one noise level to the next.

    DDIM    x_s = alpha_s x0_hat + sqrt(sigma_s^2 - v) eps_hat + sqrt(v) z,  v = eta^2 sigma_s^2 (1 - SNR_t / SNR_s)
    DDPM    x_s = mean of q(x_s | x_t, x0_hat) + its deviation z             (studio.process.diffusion)
    others  diffusers' schedulers, asked through the same calls

DDIM (Song et al. 2021, arXiv:2010.02502) is written for any path: on a flow it is Euler's step, with eta = 1 it draws as much
as DDPM. Of a respaced process v is the posterior's variance.
"""

import inspect
import json
import math
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from studio.errors import InvalidOption
from studio.models.contract import DiffusionModel
from studio.options import SampleOptions
from studio.process.conversions import NoiseLevel, output_from
from studio.process.noise import draw_noise
from studio.process.paths import DiscretePath, Discretization
from studio.process.schedulers import FLOW_CLASSES, SCHEDULERS
from studio.process.schedules import alphas_cumprod, betas_from_alphas_cumprod
from studio.sampling.denoisers import Denoiser, Prediction

__all__ = ["Sampler", "DDIM", "DDPM", "DiffusersSampler", "make_sampler"]

Generators = Sequence[torch.Generator]


class Sampler(Protocol):
    """A rule that takes a state from one level to the next; `state` is in the sampler's own scale.

    levels: one a step, noisiest first.
    """

    levels: Sequence[NoiseLevel]

    def start(self, noise: Tensor, x0: Tensor | None, first: int) -> Tensor:
        """The state at step `first`: pure noise, or x0 noised to that step."""

    def to_model_scale(self, state: Tensor, index: int) -> Tensor:
        """x_t, as the model sees it, of the sampler's state at step `index`."""

    def from_model_scale(self, x_t: Tensor, index: int) -> Tensor:
        """The inverse."""

    def step(self, denoiser: Denoiser, prediction: Prediction, state: Tensor, index: int, generators: Generators) -> Tensor:
        """The state at step index + 1; after the last step, the picture. prediction: the denoiser's at step `index`."""

    def replay(self, prediction: Prediction, state: Tensor, index: int, generators: Generators) -> None:
        """Remember a step that was taken before, and draw what it drew, without asking anyone."""


def make_sampler(model: DiffusionModel, options: SampleOptions) -> Sampler:
    """The sampler that the options name, set up for the model. Raises InvalidOption where they do not fit."""
    info = SCHEDULERS[options.scheduler]
    if info.diffusers_class:
        return DiffusersSampler(model, options)
    steps = model.path.with_shift(options.flow.shift).discretize(options.num_steps, options.timesteps)
    if options.scheduler == "ddim":
        return DDIM(steps, eta=options.eta)
    if steps.process is None:
        raise InvalidOption(f"{info.label} is of processes with betas, and {model.info.label} is a flow; choose DDIM (eta 1: as much noise) or Euler.")
    return DDPM(steps, clip_x0=clips(model, options))


def clips(model: DiffusionModel, options: SampleOptions) -> bool:
    """Whether x0_hat is clipped to [-1, 1]."""
    return model.path.clip_x0 if options.clip_x0 is None else options.clip_x0


# --- the studio's own ----------------------------------------------------------------------------------------

class _Own:
    """What the studio's own samplers share: states are the model's own."""

    def __init__(self, steps: Discretization):
        self.levels, self.end = steps.levels, steps.end

    def start(self, noise: Tensor, x0: Tensor | None, first: int) -> Tensor:
        level = self.levels[first]
        return noise if x0 is None else level.alpha * x0 + level.sigma * noise

    def to_model_scale(self, state: Tensor, index: int) -> Tensor:
        return state

    def from_model_scale(self, x_t: Tensor, index: int) -> Tensor:
        return x_t

    def replay(self, prediction: Prediction, state: Tensor, index: int, generators: Generators) -> None:
        if self.draws_at(index):
            draw_noise(generators, state.shape[1:], state.device)

    def draws_at(self, index: int) -> bool:
        """Whether this step draws noise."""
        raise NotImplementedError


class DDIM(_Own):
    """Of any noise path."""

    def __init__(self, steps: Discretization, *, eta: float):
        super().__init__(steps)
        self.eta = eta

    def step(self, denoiser: Denoiser, prediction: Prediction, state: Tensor, index: int, generators: Generators) -> Tensor:
        goal, sigma = self._goal(index), self._drawn(index)
        x_s = goal.alpha * prediction.x0_hat + math.sqrt(max(0.0, goal.sigma**2 - sigma**2)) * prediction.eps_hat
        return x_s + sigma * draw_noise(generators, state.shape[1:], state.device) if self.draws_at(index) else x_s

    def draws_at(self, index: int) -> bool:
        # The last step of a path that ends in the picture draws nothing.
        return self.eta > 0 and self._goal(index).sigma > 0

    def _goal(self, index: int) -> NoiseLevel:
        return self.levels[index + 1] if index + 1 < len(self.levels) else self.end

    def _drawn(self, index: int) -> float:
        """The deviation of the noise that the step adds."""
        level, goal = self.levels[index], self._goal(index)
        if not self.draws_at(index):
            return 0.0
        falls = 1 - (level.alpha * goal.sigma / (level.sigma * goal.alpha)) ** 2
        return self.eta * goal.sigma * math.sqrt(max(0.0, falls))


class DDPM(_Own):
    """Over the timesteps of a respaced process, with the variance that the model learned where it did."""

    def __init__(self, steps: Discretization, *, clip_x0: bool):
        super().__init__(steps)
        assert steps.process is not None
        self.process, self.clip_x0 = steps.process, clip_x0

    def step(self, denoiser: Denoiser, prediction: Prediction, state: Tensor, index: int, generators: Generators) -> Tensor:
        t = len(self.levels) - 1 - index
        estimate = self.process.estimate(prediction.output, state, t, clip_x0=self.clip_x0)
        noise = draw_noise(generators, state.shape[1:], state.device) if self.draws_at(index) else None
        return self.process.p_step(estimate, t, noise)

    def draws_at(self, index: int) -> bool:
        # The last step draws nothing: its mean is the picture.
        return index + 1 < len(self.levels)


# --- diffusers' schedulers -----------------------------------------------------------------------------------

# Where a schedule ends in nearly pure noise, its last alpha_bar are lifted to sigma = 164 (half log-SNR -5.1, as in
# DPM-Solver++, arXiv:2211.01095): solvers that work in sigma would divide by zero, or lose float32's last digits.
SMALLEST_ALPHA_BAR = 1 / (1 + math.exp(10.2))


class DiffusersSampler:
    """A scheduler of diffusers behind the same calls.

    Two-stage solvers ask the model twice a step; the second answer belongs to a trial state, so `step` asks it itself
    and it is never reported.
    """

    def __init__(self, model: DiffusionModel, options: SampleOptions):
        info = SCHEDULERS[options.scheduler]
        if model.path.prediction_type == "previous":
            raise InvalidOption(f"{info.label} needs a model that predicts epsilon, x0 or v; use ddpm or ddim with this one.")
        self.path, self.clip_x0 = model.path, clips(model, options)
        self.flows = model.path.prediction_type == "flow_prediction"
        self.scheduler = _make_scheduler(model, options)
        # What the scheduler is told the network says: x0 is told as the noise that it implies.
        self.told = {"sample": "epsilon"}.get(model.path.prediction_type, model.path.prediction_type)
        self.calls = self.scheduler.timesteps.tolist()
        self.two_stage = hasattr(self.scheduler, "state_in_first_order")
        self.is_pndm = hasattr(self.scheduler, "plms_timesteps")
        self.levels: Sequence[NoiseLevel] = [self._level_of_call(call) for call in _own_calls(len(self.calls), self.two_stage, self.is_pndm)]
        # Schedulers that work in sigma start from noise that is larger than 1.
        self.in_sigma_scale = not self.flows and float(self.scheduler.init_noise_sigma) != 1.0
        self._step_kwargs = set(inspect.signature(self.scheduler.step).parameters)
        self._begun_at: int | None = None

    def start(self, noise: Tensor, x0: Tensor | None, first: int) -> Tensor:
        level = self.levels[first]
        if x0 is None:
            return noise * (float(self.scheduler.init_noise_sigma) if self.in_sigma_scale else 1.0)
        return self.from_model_scale(level.alpha * x0 + level.sigma * noise, first)

    def to_model_scale(self, state: Tensor, index: int) -> Tensor:
        if self._begun_at is None:
            self._begin(index)
        return self._scaled(state, self.levels[index])

    def from_model_scale(self, x_t: Tensor, index: int) -> Tensor:
        return x_t * math.sqrt(self.levels[index].noise_to_signal ** 2 + 1) if self.in_sigma_scale else x_t

    def step(self, denoiser: Denoiser, prediction: Prediction, state: Tensor, index: int, generators: Generators) -> Tensor:
        state = self._advance(prediction, state, self.levels[index], generators)
        if not self._has_trial(index):
            return state
        level = self._trial_level(index)
        return self._advance(denoiser(self._scaled(state, level), level), state, level, generators)

    def replay(self, prediction: Prediction, state: Tensor, index: int, generators: Generators) -> None:
        if self._begun_at is None:
            self._begin(index)
        self._scaled(state, self.levels[index])
        trial = self._advance(prediction, state, self.levels[index], generators)
        if self._has_trial(index):
            # What the model said of the trial state is not remembered beyond its step.
            self._scaled(trial, self._trial_level(index))
            self._advance(prediction, trial, self._trial_level(index), generators)

    def _scaled(self, state: Tensor, level: NoiseLevel) -> Tensor:
        # The scheduler's own call is made for its side effect too: it finds its place in the schedule.
        scale = getattr(self.scheduler, "scale_model_input", None)
        return state if scale is None or self.flows else scale(state, self._own_timestep(level))

    def _has_trial(self, index: int) -> bool:
        """Whether this step asks the model a second time. PNDM does so in the first step it takes."""
        if self.is_pndm:
            return index == self._begun_at and index + 1 < len(self.levels)
        return self.two_stage and 2 * index + 1 < len(self.calls)

    def _trial_level(self, index: int) -> NoiseLevel:
        return self.levels[index + 1] if self.is_pndm else self._level_of_call(2 * index + 1)

    def _begin(self, index: int) -> None:
        self._begun_at = index
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(2 * index if self.two_stage else index)

    def _advance(self, prediction: Prediction, state: Tensor, level: NoiseLevel, generators: Generators) -> Tensor:
        extra = {"generator": list(generators)} if "generator" in self._step_kwargs else {}
        return self.scheduler.step(self._told(prediction, state, level), self._own_timestep(level), state, return_dict=False, **extra)[0]

    def _told(self, prediction: Prediction, state: Tensor, level: NoiseLevel) -> Tensor:
        """What the network said, in the terms in which the scheduler expects it; a clipped x0_hat must reach it too."""
        if self.clip_x0 or self.told != self.path.prediction_type:
            return output_from(self.told, prediction.x0_hat, prediction.eps_hat, level)
        return prediction.output[:, : state.shape[1]]

    def _own_timestep(self, level: NoiseLevel) -> Tensor:
        return torch.tensor(level.timestep, dtype=self.scheduler.timesteps.dtype)

    def _level_of_call(self, call: int) -> NoiseLevel:
        timestep, sigma = float(self.calls[call]), self._sigma_of_call(call)
        if self.flows:
            return NoiseLevel(timestep=timestep, alpha=1 - sigma, sigma=sigma)
        alpha = 1 / math.sqrt(1 + sigma**2)
        return NoiseLevel(timestep=timestep, alpha=alpha, sigma=sigma * alpha)

    def _sigma_of_call(self, call: int) -> float:
        """The noise-to-signal ratio of a call; of a flow, how much noise there is."""
        scheduler = self.scheduler
        if self.is_pndm:
            alpha_bar = float(scheduler.alphas_cumprod[int(self.calls[call])])
            return math.sqrt((1 - alpha_bar) / alpha_bar)
        # The midpoint solvers keep the noise levels of their trial states apart, the ancestral one an entry earlier.
        if self.two_stage and call % 2 and hasattr(scheduler, "sigmas_interpol"):
            return float(scheduler.sigmas_interpol[call - hasattr(scheduler, "sigmas_up")])
        return float(scheduler.sigmas[call])


def _own_calls(num_calls: int, two_stage: bool, is_pndm: bool) -> list[int]:
    """Which of the scheduler's model calls are at a state of the run, not at a trial state."""
    if two_stage:
        return list(range(0, num_calls, 2))
    return [call for call in range(num_calls) if not (is_pndm and call == 1)]


def _make_scheduler(model: DiffusionModel, options: SampleOptions) -> Any:
    """The scheduler on the model's own noise levels, told to leave clipping to us, with its timesteps set."""
    info, total = SCHEDULERS[options.scheduler], model.path.num_timesteps
    if not info.min_steps <= options.num_steps <= total:
        raise InvalidOption(f"With {info.label} and this model the number of steps must be {info.min_steps} to {total}, but {options.num_steps=}.")
    name, levels = _on_flow(model, options) if model.path.prediction_type == "flow_prediction" else _on_betas(model, options.scheduler)
    scheduler = deepcopy(_constructed(name, json.dumps({
        **model.scheduler_config, "num_train_timesteps": total, "clip_sample": False, "thresholding": False, **levels, **info.config,
        **({f"use_{options.sigmas}_sigmas": True} if options.sigmas else {}),
    }, default=lambda value: value.tolist())))
    scheduler.set_timesteps(options.num_steps)
    return scheduler


@lru_cache(maxsize=32)
def _constructed(name: str, config: str) -> Any:
    """A scheduler of diffusers as its constructor leaves it, which takes some up to half a second; to be copied, not to be used. config: JSON."""
    import diffusers

    return getattr(diffusers, name).from_config(json.loads(config))


def _on_flow(model: DiffusionModel, options: SampleOptions) -> tuple[str, dict[str, Any]]:
    """The class of diffusers, and what tells it the flow. Raises InvalidOption where there is none."""
    scheduler, path = options.scheduler, model.path.with_shift(options.flow.shift)
    if scheduler not in FLOW_CLASSES:
        able = ", ".join(SCHEDULERS[name].label for name in FLOW_CLASSES)
        raise InvalidOption(f"{SCHEDULERS[scheduler].label} is not made for flows, and {model.info.label} is one; choose DDIM, {able}.")
    name = FLOW_CLASSES[scheduler]
    if name.startswith("FlowMatch"):
        return name, {"shift": path.shift}  # type: ignore[attr-defined]
    return name, {"use_flow_sigmas": True, "flow_shift": path.shift, "prediction_type": "flow_prediction"}  # type: ignore[attr-defined]


def _on_betas(model: DiffusionModel, scheduler: str) -> tuple[str, dict[str, Any]]:
    """The class of diffusers, and what tells it the betas and how to read the answers."""
    told = "v_prediction" if model.path.prediction_type == "v_prediction" else "epsilon"
    return SCHEDULERS[scheduler].diffusers_class or "", {"prediction_type": told, **_betas(model)}


def _betas(model: DiffusionModel) -> dict[str, Any]:
    """The model's own betas, lifted off pure noise where they reach it; nothing where the checkpoint's config says them itself."""
    path = model.path
    assert isinstance(path, DiscretePath)
    alpha_bar = alphas_cumprod(path.diffusion.betas)
    # The floor falls a little towards the end, because two timesteps must not have the same noise level.
    floor = SMALLEST_ALPHA_BAR * 1.001 ** np.arange(len(alpha_bar) - 1, -1, -1)
    if "beta_schedule" in model.scheduler_config and (alpha_bar >= floor).all():
        # Left as the checkpoint says it, to the last digit of diffusers' own float32 tables.
        return {}
    return {"trained_betas": betas_from_alphas_cumprod(np.maximum(alpha_bar, floor)).tolist(), "rescale_betas_zero_snr": False}
