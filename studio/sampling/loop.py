"""The sampling loop, once, for every scheduler and every family: a generator of events.

    noise -> x_{T-1} -> ... -> x_0        each step: ask the denoiser at x_t, report, move on

The states are pictures or latents: the loop does not ask. x_t, x0_hat and eps_hat of an event belong to the same
timestep. All states are reported as the model sees them, x_t = alpha x0 + sigma eps, whatever scale the scheduler works
in. Guidance is in the denoiser (studio.sampling.guidance); no sampler knows of it.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from studio.errors import InvalidOption
from studio.media.images import fit, from_images, to_image, to_pixels
from studio.models.classes import refuse_untold
from studio.models.contract import DiffusionModel
from studio.models.device import Stop
from studio.options import SampleOptions
from studio.process.conversions import output_from
from studio.process.noise import draw_noise
from studio.sampling.controlled import GetNet, bound_units, controlled
from studio.sampling.denoisers import Denoiser, Prediction
from studio.sampling.events import Finished, StepDone
from studio.sampling.guidance import guided
from studio.sampling.refining import GetModel, Refining, refining
from studio.sampling.samplers import Sampler, clips, make_sampler
from studio.sampling.trajectory import Lineage, Recorder, Trajectory

__all__ = ["sample", "resume"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Kept:
    """Inpainting: what stays of the picture to start from. x0, noise: (B, C, h, w); mask: (1, 1, h, w), 1 where it is drawn anew."""

    x0: Tensor
    noise: Tensor
    mask: Tensor

    def put_back(self, sampler: Sampler, state: Tensor, index: int) -> Tensor:
        """The state at step `index`, with what stays as noisy as the step wants it."""
        there = sampler.start(self.noise, self.x0, index) if index < len(sampler.levels) else self.x0
        return (1 - self.mask) * there + self.mask * state


@dataclasses.dataclass(kw_only=True)
class _Run:
    """What a run works with. first: the step of the whole schedule at which it begins. refining: what takes over on the way."""

    model: DiffusionModel
    options: SampleOptions
    sampler: Sampler
    denoiser: Denoiser
    generators: list[torch.Generator]
    first: int
    recorder: Recorder
    kept: "_Kept | None" = None
    refining: "Refining | None" = None

    def hand_over(self, index: int) -> None:
        """Let the refiner take over where its turn has come; its sampler remembers nothing of the steps before."""
        if self.refining is not None and index >= self.refining.first:
            self.sampler, self.denoiser, self.refining = self.refining.sampler, self.refining.denoiser, None


def sample(
    model: DiffusionModel, options: SampleOptions, stop: Stop | None = None, get_net: GetNet | None = None, get_model: GetModel | None = None,
) -> Iterator[StepDone | Finished]:
    """Draw pictures: a StepDone for every step, then one Finished with the pictures and the whole trajectory.

    Setting `stop` ends the run after the current step, with Finished holding what there is. Closing the generator
    ends it at once and frees what it holds. get_net, get_model: give the loaded ControlNets of the units, and the refiner, by
    name; None loads them anew.
    Raises StudioError before the first step if the options do not fit.
    """
    shape = model.state_shape(options)
    run = _prepared(model, options, Recorder(options, model.facts()), get_net, get_model)
    x0, noise = _start(run, shape)
    run.kept = _kept(run, x0, noise)
    # Of what is drawn anew nothing is left at full strength.
    state = run.sampler.start(noise, None if run.kept is not None and options.strength == 1 else x0, run.first)
    yield from _loop(run, state, stop)


def _start(run: _Run, shape: tuple[int, int, int]) -> tuple[Tensor | None, Tensor]:
    """What the picture to start from is encoded to, where there is one, and the noise, both drawn from the run's generators."""
    model, options = run.model, run.options
    x0 = None if options.init_image is None else model.encode(_start_pictures(model, options, shape), run.generators)
    return x0, draw_noise(run.generators, shape, model.device)


def _kept(run: _Run, x0: Tensor | None, noise: Tensor) -> _Kept | None:
    if run.options.init_mask is None or x0 is None:
        return None
    height, width = (side * run.model.factor for side in x0.shape[-2:])
    anew = from_images([fit(run.options.init_mask.convert("L"), width, height)], 1)[..., :: run.model.factor, :: run.model.factor] >= 0
    return _Kept(x0=x0, noise=noise, mask=anew.to(x0))


def _prepared(model: DiffusionModel, options: SampleOptions, recorder: Recorder, get_net: GetNet | None, get_model: GetModel | None) -> _Run:
    refuse_untold(model.info, options)
    sampler = make_sampler(model, options)
    timesteps, first = [level.timestep for level in sampler.levels], first_step(len(sampler.levels), options)
    units = bound_units(model, options, timesteps[first:], get_net)
    return _Run(
        model=model, options=options, sampler=sampler, recorder=recorder, first=first,
        denoiser=controlled(guided(model, options, timesteps, clips(model, options), units), units),
        generators=[torch.Generator().manual_seed(options.seed + i) for i in range(options.num_images)],
        refining=refining(model, options, timesteps, first, get_model),
    )


def _start_pictures(model: DiffusionModel, options: SampleOptions, shape: tuple[int, int, int]) -> Tensor:
    """(B, C, H, W) in [-1, 1]: the picture to start from, cut and resized to fit, once for every seed."""
    assert options.init_image is not None
    _, height, width = shape
    picture = fit(options.init_image.convert("RGB"), width * model.factor, height * model.factor)
    return from_images([picture] * options.num_images, model.info.channels).to(model.device)


def first_step(num_steps: int, options: SampleOptions) -> int:
    """The step at which a run begins: 0 from pure noise; from a picture, so late that `strength` of the steps are left."""
    if options.init_image is None:
        return 0
    # Rounded down, as diffusers' image-to-image pipelines do.
    return num_steps - max(1, int(num_steps * options.strength))


def _loop(run: _Run, state: Tensor, stop: Stop | None) -> Iterator[StepDone | Finished]:
    levels, model = run.sampler.levels, run.model
    for index in range(run.first, len(levels)):
        run.hand_over(index)
        # Neither may stay on across the yield: it would leak into whoever consumes the events. CLIP's gradient is taken
        # with respect to x_t, which inference mode would forbid.
        with torch.no_grad() if run.options.clip_guidance_scale else torch.inference_mode():
            x_t = run.sampler.to_model_scale(state, index)
            prediction = run.denoiser(x_t, levels[index])
            state = run.sampler.step(run.denoiser, prediction, state, index, run.generators)
            if run.kept is not None:
                state = run.kept.put_back(run.sampler, state, index + 1)
        event = _event(run, index, x_t, prediction)
        run.recorder.add(event)
        yield event
        if stop is not None and stop.is_set() and index + 1 < len(levels):
            # The picture of a stopped run is the model's prediction at the last step taken, not the noisy state.
            yield _finished(model, run.recorder, state, prediction.x0_hat)
            return
    yield _finished(model, run.recorder, state, state)


def _event(run: _Run, index: int, x_t: Tensor, prediction: Prediction) -> StepDone:
    level = run.sampler.levels[index]
    return StepDone(
        index=index - run.first, num_steps=len(run.sampler.levels) - run.first, timestep=level.timestep, sigma=level.noise_to_signal,
        log_snr=level.log_snr, alpha=level.alpha, x_t=x_t, x0_hat=prediction.x0_hat, eps_hat=prediction.eps_hat, parts=prediction.parts,
        rgb_map=run.model.rgb_map,
        **prediction.figures,
    )


def _finished(model: DiffusionModel, recorder: Recorder, state: Tensor, x0: Tensor) -> Finished:
    with torch.inference_mode():
        pixels = to_pixels(model.decode(x0))
    return Finished(images=[to_image(one) for one in pixels], trajectory=recorder.trajectory(state, pixels if model.rgb_map is not None else None))


# --- forks ---------------------------------------------------------------------------------------------------

def resume(
    model: DiffusionModel, trajectory: Trajectory, index: int, stop: Stop | None = None, get_net: GetNet | None = None, get_model: GetModel | None = None,
    **changes: Any,
) -> Iterator[StepDone | Finished]:
    """Fork a run: go on from step `index` of a trajectory, with some options changed (prompt, class, eta, seed, ...).

    With nothing changed the rest is the run's own, to the half precision in which trajectories are kept, for every
    scheduler: what the sampler remembers of the steps before, and the noise that it drew, is replayed. Raises StudioError.
    """
    if not 0 <= index < len(trajectory.steps):
        raise InvalidOption(f"The run has the steps 0 to {len(trajectory.steps) - 1}, so it cannot go on from {index=}.")
    options = dataclasses.replace(trajectory.options, **changes)
    shape = model.state_shape(options)
    if shape != tuple(trajectory.x_final.shape[1:]) or options.num_images != len(trajectory.x_final):
        raise InvalidOption("A fork keeps the number and the size of the pictures; change them in a new run.")
    history = trajectory.before(index)
    run = _prepared(model, options, Recorder(options, model.facts(), history, Lineage.of(trajectory, index, changes)), get_net, get_model)
    _check_levels(run, model, trajectory)
    _replay(run, history, shape)
    run.first = len(run.sampler.levels) - trajectory.steps[0].num_steps + index
    x_t = trajectory.exact("x_t", index).to(model.device)
    yield from _loop(run, run.sampler.from_model_scale(x_t, run.first), stop)


def _check_levels(run: _Run, model: DiffusionModel, trajectory: Trajectory) -> None:
    whole = make_sampler(model, trajectory.options)
    if [level.timestep for level in run.sampler.levels] != [level.timestep for level in whole.levels]:
        raise InvalidOption("A fork keeps the scheduler's timesteps; change the number of steps in a new run.")


def _replay(run: _Run, history: Any, shape: tuple[int, int, int]) -> None:
    """Let the sampler remember the steps before the fork, and every generator draw what it drew by then."""
    if run.options.init_mask is not None:
        run.kept = _kept(run, *_start(run, shape))
    else:
        for _ in range(1 + (run.model.encode_draws if run.options.init_image is not None else 0)):
            draw_noise(run.generators, shape, run.model.device)
    kind = run.model.path.prediction_type
    # The steps that the first run of the line skipped (img2img) were never taken.
    for index, (x0_hat, eps_hat) in enumerate(zip(history["x0_hat"], history["eps_hat"]), start=run.first):
        run.hand_over(index)
        level = run.sampler.levels[index]
        x0, eps = (part.to(run.model.device, torch.float32) for part in (x0_hat, eps_hat))
        # Made of the two, the state agrees with both to the last digit: a state in half precision would not.
        x_t = level.alpha * x0 + level.sigma * eps
        output = x0 if kind == "previous" else output_from(kind, x0, eps, level)
        run.sampler.replay(Prediction(x0_hat=x0, eps_hat=eps, output=output), run.sampler.from_model_scale(x_t, index), index, run.generators)
