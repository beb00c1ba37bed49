"""The sampling loop, once, for every scheduler: a generator of events.

    noise -> x_{T-1} -> ... -> x_0        each step: ask the model at x_t, estimate x0_hat and eps_hat, move on

The states are pictures or latents: the loop does not ask. x_t, x0_hat and eps_hat of an event belong to the same
timestep. All states are reported in variance-preserving scale, x_t = sqrt(ab) x0 + sqrt(1-ab) eps, whatever scale the
scheduler works in. Guidance is in the denoiser (studio.sampling.guidance); no sampler knows of it.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from studio.errors import InvalidOption
from studio.media.images import to_image, to_pixels
from studio.models import Model
from studio.options import SampleOptions
from studio.process.diffusion import GaussianDiffusion
from studio.process.schedulers import SCHEDULERS
from studio.process.schedules import alphas_cumprod, betas_from_alphas_cumprod, space_timesteps, spaced_timesteps
from studio.sampling.attention import AttentionRecorder
from studio.sampling.events import Finished, StepDone
from studio.sampling.guidance import ClipGuided, guided
from studio.sampling.trajectory import Recorder, Trajectory

__all__ = ["sample", "resume", "make_sampler", "Sampler", "Stop"]

Denoiser = Callable[[Tensor, Tensor | int], Tensor]


class Stop(Protocol):
    """Anything like threading.Event: the loop ends after the step in which it is set."""

    def is_set(self) -> bool: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Belief:
    """What the model said of one state. x_t in variance-preserving scale; `output` is what the sampler's step takes."""

    x_t: Tensor
    x0_hat: Tensor
    eps_hat: Tensor
    output: Any


class Sampler(Protocol):
    """A rule that takes a state from one timestep to the next; `state` is in the sampler's own scale.

    timesteps: one per step, descending. sigmas: their noise-to-signal ratios.
    """

    timesteps: list[float]
    sigmas: list[float]

    def start(self, noise: Tensor, x0: Tensor | None, first: int) -> Tensor:
        """The state at step `first`: pure noise, or x0 noised to that step."""

    def own_scale(self, x_t: Tensor, index: int) -> Tensor:
        """The sampler's state for x_t in variance-preserving scale at step `index`."""

    def believe(self, denoiser: Denoiser, state: Tensor, index: int) -> Belief:
        """Ask the model at the state."""

    def read(self, output: Tensor, x_t: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """(x0_hat, eps_hat) of a raw prediction at x_t (in variance-preserving scale) of step `index`."""

    def step(self, denoiser: Denoiser, belief: Belief, state: Tensor, index: int, generators: list[torch.Generator]) -> Tensor:
        """The state at step index + 1; after the last step, the picture."""


# --- the loop ------------------------------------------------------------------------------------------------

def sample(model: Model, options: SampleOptions, stop: Stop | None = None) -> Iterator[StepDone | Finished]:
    """Draw pictures: a StepDone for every step, then one Finished with the pictures and the whole trajectory.

    Setting `stop` ends the run after the current step, with Finished holding what there is. Closing the generator
    ends it at once and frees what it holds. Raises StudioError before the first step if the options do not fit.
    """
    shape = model.state_shape(options)
    sampler = make_sampler(model, options)
    denoiser = guided(model, options, sampler.timesteps)
    first = first_step(len(sampler.timesteps), options)
    generators = [torch.Generator().manual_seed(options.seed + i) for i in range(options.num_images)]
    x0 = None if options.init_image is None else model.encode(options.init_image, options, lambda: draw_noise(generators, shape, model.device))
    noise = draw_noise(generators, shape, model.device)
    state = sampler.start(noise, x0, first)
    yield from _loop(model, options, sampler, denoiser, state, first, generators, stop)


def resume(model: Model, trajectory: Trajectory, index: int, stop: Stop | None = None, **changes: Any) -> Iterator[StepDone | Finished]:
    """Fork a run: go on from step `index` of a trajectory, with some options changed (prompt, class, eta, seed, ...).

    With nothing changed the rest is the run's own, to the half precision in which trajectories are kept.
    """
    if not 0 <= index < len(trajectory.steps):
        raise InvalidOption(f"The run has the steps 0 to {len(trajectory.steps) - 1}, so it cannot go on from {index=}.")
    options = dataclasses.replace(trajectory.options, **changes)
    shape = model.state_shape(options)
    if shape != tuple(trajectory.x_final.shape[1:]) or options.num_images != len(trajectory.x_final):
        raise InvalidOption("A fork keeps the number and the size of the pictures; change them in a new run.")
    sampler = make_sampler(model, options)
    whole = make_sampler(model, trajectory.options)
    if sampler.timesteps != whole.timesteps:
        raise InvalidOption("A fork keeps the scheduler's timesteps; change the number of steps in a new run.")
    first = index + len(whole.timesteps) - trajectory.steps[0].num_steps
    generators = [torch.Generator().manual_seed(options.seed + i) for i in range(options.num_images)]
    for _ in range(_draws_before(model, options, index)):
        draw_noise(generators, shape, model.device)
    x_t = trajectory.x_t[index].to(model.device, torch.float32)
    denoiser = guided(model, options, sampler.timesteps)
    yield from _loop(model, options, sampler, denoiser, sampler.own_scale(x_t, first), first, generators, stop)


def _draws_before(model: Model, options: SampleOptions, index: int) -> int:
    """How often a run has drawn noise when it comes to its step `index`."""
    encoding = model.encode_draws if options.init_image is not None else 0
    return encoding + 1 + (index if _draws_noise(options) else 0)


def _loop(
    model: Model, options: SampleOptions, sampler: Sampler, denoiser: Denoiser, state: Tensor, first: int, generators: list[torch.Generator],
    stop: Stop | None,
) -> Iterator[StepDone | Finished]:
    recorder = Recorder(options, model.facts())
    watch = _watch(model, options)
    for index in range(first, len(sampler.timesteps)):
        # Neither may stay on across the yield: it would leak into whoever consumes the events. CLIP's gradient is taken
        # with respect to x_t, which inference mode would forbid.
        with torch.no_grad() if options.clip_guidance_scale else torch.inference_mode():
            with watch.recording() if watch else nullcontext():
                belief = sampler.believe(denoiser, state, index)
            parts = _parts(options, sampler, denoiser, belief, index)
            state = sampler.step(denoiser, belief, state, index, generators)
        sigma = sampler.sigmas[index]
        event = StepDone(
            index=index - first, num_steps=len(sampler.timesteps) - first, timestep=sampler.timesteps[index], sigma=sigma, log_snr=_log_snr(sigma),
            x_t=belief.x_t, x0_hat=belief.x0_hat, eps_hat=belief.eps_hat, attention=watch.maps() if watch else None, rgb_map=model.rgb_map, **parts,
        )
        recorder.add(event)
        yield event
        if stop is not None and stop.is_set() and index + 1 < len(sampler.timesteps):
            # The picture of a stopped run is the model's belief at the last step taken, not the noisy state.
            yield _finished(model, recorder, state, belief.x0_hat)
            return
    yield _finished(model, recorder, state, state)


def _watch(model: Model, options: SampleOptions) -> AttentionRecorder | None:
    if not options.record_attention:
        return None
    _, height, width = model.state_shape(options)
    return AttentionRecorder(model.network, options.num_images, height, width)


def _parts(options: SampleOptions, sampler: Sampler, denoiser: Denoiser, belief: Belief, index: int) -> dict[str, Any]:
    """What guidance adds to an event: the beliefs without and with the condition, the scale that acted, CLIP's gradient."""
    parts: dict[str, Any] = {}
    if (raw := getattr(denoiser, "parts", None)) is not None:
        (x0_uncond, eps_uncond), (x0_cond, eps_cond) = (sampler.read(output, belief.x_t, index) for output in raw)
        parts = {"x0_uncond": x0_uncond, "eps_uncond": eps_uncond, "x0_cond": x0_cond, "eps_cond": eps_cond, "guidance_scale": options.guidance_scale}
    if isinstance(denoiser, ClipGuided):
        parts |= {"clip_gradient": denoiser.gradient, "clip_gradient_norm": denoiser.norms}
    return parts


def _finished(model: Model, recorder: Recorder, state: Tensor, x0: Tensor) -> Finished:
    with torch.inference_mode():
        pictures = model.decode(x0)
    pixels = to_pixels(pictures)
    return Finished(images=[to_image(one) for one in pixels], trajectory=recorder.trajectory(state, pixels if model.kind == "latent" else None))


def first_step(num_steps: int, options: SampleOptions) -> int:
    """The step at which a run begins: 0 from pure noise; from a picture, so late that `strength` of the steps are left."""
    if options.init_image is None:
        return 0
    # Rounded down, as diffusers' image-to-image pipelines do.
    return num_steps - max(1, int(num_steps * options.strength))


def draw_noise(generators: list[torch.Generator], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """(B, *shape) standard normal, each picture from its own generator on the CPU, so that a seed means one picture."""
    return torch.cat([torch.randn((1, *shape), generator=generator) for generator in generators]).to(device)


def _log_snr(sigma: float) -> float:
    return -math.inf if math.isinf(sigma) else -2 * math.log(sigma)


def _draws_noise(options: SampleOptions) -> bool:
    return SCHEDULERS[options.scheduler].stochastic or options.eta > 0


# --- the studio's own samplers -------------------------------------------------------------------------------

def make_sampler(model: Model, options: SampleOptions) -> Sampler:
    """The sampler that the options name, set up for the model. Raises InvalidOption where they do not fit."""
    clip_x0 = model.clip_sample if options.clip_x0 is None else options.clip_x0
    if SCHEDULERS[options.scheduler].diffusers_class:
        return DiffusersSampler(model, options, clip_x0=clip_x0)
    total = model.diffusion.num_timesteps
    if options.timesteps:
        kept = space_timesteps(total, options.timesteps)
    else:
        kept = _shifted(spaced_timesteps(total, options.num_steps, model.timestep_spacing), total, model)
    eta = None if options.scheduler == "ddpm" else options.eta
    return OwnSampler(model.diffusion.respaced(kept), eta=eta, clip_x0=clip_x0, final_alpha_bar=model.final_alpha_bar)


def _shifted(timesteps: list[int], total: int, model: Model) -> list[int]:
    """Stable Diffusion's "leading" spacing starts at timestep 1; where every timestep is used there is no room for it."""
    offset = model.steps_offset if model.timestep_spacing == "leading" else 0
    return [t + offset for t in timesteps] if timesteps[-1] + offset < total else timesteps


class OwnSampler:
    """DDPM (eta None) or DDIM by studio.process.diffusion, over the timesteps of a respaced process."""

    def __init__(self, diffusion: GaussianDiffusion, *, eta: float | None, clip_x0: bool, final_alpha_bar: float = 1.0):
        self.diffusion, self.eta, self.clip_x0, self.final_alpha_bar = diffusion, eta, clip_x0, final_alpha_bar
        self.timesteps = [float(t) for t in reversed(diffusion.timesteps)]
        self.sigmas = [diffusion.coefficient("sigma", t) for t in reversed(range(diffusion.num_timesteps))]

    def start(self, noise: Tensor, x0: Tensor | None, first: int) -> Tensor:
        return noise if x0 is None else self.diffusion.q_sample(x0, self._t(first), noise)

    def own_scale(self, x_t: Tensor, index: int) -> Tensor:
        return x_t

    def believe(self, denoiser: Denoiser, state: Tensor, index: int) -> Belief:
        t = self._t(index)
        output = denoiser(state, self.diffusion.timesteps[t])
        estimate = self.diffusion.estimate(output, state, t, clip_x0=self.clip_x0)
        return Belief(x_t=state, x0_hat=estimate.x0_hat, eps_hat=estimate.eps_hat, output=estimate)

    def read(self, output: Tensor, x_t: Tensor, index: int) -> tuple[Tensor, Tensor]:
        t = self._t(index)
        x0_hat = self.diffusion.x0_from_prediction(x_t, output, t)
        x0_hat = x0_hat.clamp(-1, 1) if self.clip_x0 else x0_hat
        return x0_hat, self.diffusion.eps_from_x0(x_t, x0_hat, t)

    def step(self, denoiser: Denoiser, belief: Belief, state: Tensor, index: int, generators: list[torch.Generator]) -> Tensor:
        t = self._t(index)
        ends_early = t == 0 and self.eta is not None and self.final_alpha_bar < 1
        # The last step draws nothing: its mean is the picture.
        noise = draw_noise(generators, state.shape[1:], state.device) if (t > 0 or ends_early) and self.eta != 0 else None
        if self.eta is None:
            return self.diffusion.p_step(belief.output, t, noise)
        if ends_early:
            return self._last_step(belief, self.eta, noise)
        return self.diffusion.ddim_step(belief.output, t, eta=self.eta, noise=noise)

    def _last_step(self, belief: Belief, eta: float, noise: Tensor | None) -> Tensor:
        """DDIM's last step where it does not end at alpha_bar = 1 (Stable Diffusion's set_alpha_to_one = False)."""
        alpha_bar, end = self.diffusion.coefficient("alpha_bar", 0), self.final_alpha_bar
        sigma = eta * math.sqrt((1 - end) / (1 - alpha_bar) * max(0.0, 1 - alpha_bar / end))
        x = math.sqrt(end) * belief.x0_hat + math.sqrt(1 - end - sigma**2) * belief.eps_hat
        return x if noise is None else x + sigma * noise

    def _t(self, index: int) -> int:
        return self.diffusion.num_timesteps - 1 - index


# --- diffusers' schedulers -----------------------------------------------------------------------------------

# Where a schedule ends in nearly pure noise, its last alpha_bar are lifted to sigma = 164 (half log-SNR -5.1, as in
# DPM-Solver++, arXiv:2211.01095): solvers that work in sigma would divide by zero, or lose float32's last digits.
SMALLEST_ALPHA_BAR = 1 / (1 + math.exp(10.2))


class DiffusersSampler:
    """A scheduler of diffusers behind the same calls.

    Two-stage solvers ask the model twice a step; the second answer belongs to a trial state, so `step` asks it itself
    and it is never reported.
    """

    def __init__(self, model: Model, options: SampleOptions, *, clip_x0: bool):
        info = SCHEDULERS[options.scheduler]
        if model.diffusion.mean_type == "previous":
            raise InvalidOption(f"{info.label} needs a model that predicts epsilon, x0 or v; use ddpm or ddim with this one.")
        self.mean_type, self.learns_variance = model.diffusion.mean_type, model.diffusion.learns_variance
        self.clip_x0 = clip_x0
        self.scheduler = _make_scheduler(model, options)
        self.calls = self.scheduler.timesteps.tolist()
        self.two_stage = hasattr(self.scheduler, "state_in_first_order")
        self.is_pndm = hasattr(self.scheduler, "plms_timesteps")
        own_calls = _own_calls(len(self.calls), self.two_stage, self.is_pndm)
        self.timesteps = [float(self.calls[call]) for call in own_calls]
        self.sigmas = [self._sigma_of_call(call) for call in own_calls]
        # Schedulers that work in sigma start from noise that is larger than 1.
        self.in_sigma_scale = float(self.scheduler.init_noise_sigma) != 1.0
        self._step_kwargs = set(inspect.signature(self.scheduler.step).parameters)
        self._begun_at: int | None = None

    def start(self, noise: Tensor, x0: Tensor | None, first: int) -> Tensor:
        if x0 is None:
            return noise * float(self.scheduler.init_noise_sigma)
        signal, noise_scale = _scales(self.sigmas[first])
        return self.own_scale(signal * x0 + noise_scale * noise, first)

    def own_scale(self, x_t: Tensor, index: int) -> Tensor:
        return x_t * math.sqrt(self.sigmas[index] ** 2 + 1) if self.in_sigma_scale else x_t

    def believe(self, denoiser: Denoiser, state: Tensor, index: int) -> Belief:
        if self._begun_at is None:
            self._begin(index)
        return self._believe(denoiser, state, self.timesteps[index], self.sigmas[index])

    def step(self, denoiser: Denoiser, belief: Belief, state: Tensor, index: int, generators: list[torch.Generator]) -> Tensor:
        state = self._advance(belief, state, self.timesteps[index], generators)
        if not self._has_trial(index):
            return state
        call = 2 * index + 1
        timestep = self.timesteps[index + 1] if self.is_pndm else float(self.calls[call])
        sigma = self.sigmas[index + 1] if self.is_pndm else self._sigma_of_call(call)
        return self._advance(self._believe(denoiser, state, timestep, sigma), state, timestep, generators)

    def _has_trial(self, index: int) -> bool:
        """Whether this step asks the model a second time. PNDM does so in the first step it takes."""
        if self.is_pndm:
            return index == self._begun_at and index + 1 < len(self.timesteps)
        return self.two_stage and 2 * index + 1 < len(self.calls)

    def _begin(self, index: int) -> None:
        self._begun_at = index
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(2 * index if self.two_stage else index)

    def _believe(self, denoiser: Denoiser, state: Tensor, timestep: float, sigma: float) -> Belief:
        # The scheduler's own call is made for its side effect too: it finds its place in the schedule.
        x_t = self.scheduler.scale_model_input(state, self._own_timestep(timestep))
        output = denoiser(x_t, torch.tensor(timestep))
        if self.learns_variance:
            output = output[:, : state.shape[1]]
        signal, noise = _scales(sigma)
        x0_hat, eps_hat = self._read(output, x_t, signal, noise)
        # A clipped x0_hat must reach the solver too, in the terms in which it expects the model's answer.
        if self.mean_type == "v_prediction":
            output = signal * eps_hat - noise * x0_hat if self.clip_x0 else output
        elif self.mean_type == "sample" or self.clip_x0:
            output = eps_hat
        return Belief(x_t=x_t, x0_hat=x0_hat, eps_hat=eps_hat, output=output)

    def read(self, output: Tensor, x_t: Tensor, index: int) -> tuple[Tensor, Tensor]:
        return self._read(output, x_t, *_scales(self.sigmas[index]))

    def _read(self, output: Tensor, x_t: Tensor, signal: float, noise: float) -> tuple[Tensor, Tensor]:
        x0_hat = _x0_from(self.mean_type, output, x_t, signal, noise)
        if self.clip_x0:
            x0_hat = x0_hat.clamp(-1, 1)
        return x0_hat, (x_t - signal * x0_hat) / noise

    def _advance(self, belief: Belief, state: Tensor, timestep: float, generators: list[torch.Generator]) -> Tensor:
        extra = {"generator": generators} if "generator" in self._step_kwargs else {}
        return self.scheduler.step(belief.output, self._own_timestep(timestep), state, return_dict=False, **extra)[0]

    def _own_timestep(self, timestep: float) -> Tensor:
        return torch.tensor(timestep, dtype=self.scheduler.timesteps.dtype)

    def _sigma_of_call(self, call: int) -> float:
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


def _make_scheduler(model: Model, options: SampleOptions) -> Any:
    """The scheduler on the model's own betas, told to leave clipping to us, with its timesteps set."""
    import diffusers

    info = SCHEDULERS[options.scheduler]
    total = model.diffusion.num_timesteps
    if not info.min_steps <= options.num_steps <= total:
        raise InvalidOption(f"With {info.label} and this model the number of steps must be {info.min_steps} to {total}, but {options.num_steps=}.")
    scheduler = getattr(diffusers, info.diffusers_class or "").from_config({
        **model.scheduler_config, "num_train_timesteps": total, "clip_sample": False, "thresholding": False,
        "prediction_type": "v_prediction" if model.diffusion.mean_type == "v_prediction" else "epsilon",
        **_betas(model), **info.config, **({f"use_{options.sigmas}_sigmas": True} if options.sigmas else {}),
    })
    scheduler.set_timesteps(options.num_steps)
    return scheduler


def _betas(model: Model) -> dict[str, Any]:
    """The scheduler's noise levels: the model's own, lifted off pure noise where they reach it."""
    alpha_bar = alphas_cumprod(model.diffusion.betas)
    # The floor falls a little towards the end, because two timesteps must not have the same noise level.
    floor = SMALLEST_ALPHA_BAR * 1.001 ** np.arange(len(alpha_bar) - 1, -1, -1)
    if model.kind == "latent" and (alpha_bar >= floor).all():
        # Left as the checkpoint says it, to the last digit of diffusers' own float32 tables.
        return {}
    return {"trained_betas": betas_from_alphas_cumprod(np.maximum(alpha_bar, floor)).tolist(), "rescale_betas_zero_snr": False}


def _scales(sigma: float) -> tuple[float, float]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar) of a noise-to-signal ratio."""
    signal = 1 / math.sqrt(1 + sigma**2)
    return signal, sigma * signal


def _x0_from(mean_type: str, output: Tensor, x_t: Tensor, signal: float, noise: float) -> Tensor:
    if mean_type == "epsilon":
        return (x_t - noise * output) / signal
    return signal * x_t - noise * output if mean_type == "v_prediction" else output
