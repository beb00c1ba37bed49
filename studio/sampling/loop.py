"""The sampling loop, once, for every scheduler and every family: a generator of events.

    noise -> x_{T-1} -> ... -> x_0        each step: ask the denoiser at x_t, report, move on

The states are pictures or latents: the loop does not ask. x_t, x0_hat and eps_hat of an event belong to the same
timestep. All states are reported as the model sees them, x_t = alpha x0 + sigma eps, whatever scale the scheduler works
in. Guidance is in the denoiser (studio.sampling.guidance); no sampler knows of it.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studio.errors import InvalidOption
from studio.media.images import to_image, to_pixels
from studio.models.beginning import Beginning
from studio.models.classes import refuse_untold
from studio.models.contract import DiffusionModel
from studio.models.device import Stop
from studio.options import SampleOptions
from studio.process.conversions import output_from
from studio.sampling.controlled import GetNet, bound_units, controlled
from studio.sampling.denoisers import Denoiser, Prediction
from studio.sampling.events import Finished, StepDone
from studio.sampling.guidance import guided
from studio.sampling.refining import GetModel, Refining, refining
from studio.sampling.samplers import Sampler, clips, make_sampler
from studio.sampling.trajectory import Lineage, Recorder, Trajectory

__all__ = ["sample", "resume"]


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
    start: Beginning
    refining: "Refining | None" = None

    def put_back(self, state: Tensor, index: int) -> Tensor:
        """The state at step `index`; of inpainting with what stays of the picture to start from as noisy as the step wants it."""
        anew, x0 = self.start.anew, self.start.x0
        if anew is None or x0 is None:
            return state
        there = self.sampler.start(self.start.noise, x0, index) if index < len(self.sampler.levels) else x0
        return (1 - anew) * there + anew * state

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
    run = _prepared(model, options, Recorder(options, model.facts()), get_net, get_model)
    # Of what is drawn anew nothing is left at full strength.
    x0 = None if run.start.anew is not None and options.strength == 1 else run.start.x0
    yield from _loop(run, run.sampler.start(run.start.noise, x0, run.first), stop)


def _prepared(model: DiffusionModel, options: SampleOptions, recorder: Recorder, get_net: GetNet | None, get_model: GetModel | None) -> _Run:
    refuse_untold(model.info, options)
    sampler = make_sampler(model, options)
    timesteps, first = [level.timestep for level in sampler.levels], first_step(len(sampler.levels), options)
    units = bound_units(model, options, timesteps[first:], get_net)
    generators = [torch.Generator().manual_seed(options.seed + i) for i in range(options.num_images)]
    start = model.begin(options, generators)
    recorder.tell(start.shown)
    denoiser = controlled(guided(model, options, timesteps, clips(model, options), units, start), units)
    return _Run(
        model=model, options=options, sampler=sampler, recorder=recorder, first=first, denoiser=denoiser, generators=generators, start=start,
        refining=refining(model, options, timesteps, first, get_model),
    )


def first_step(num_steps: int, options: SampleOptions) -> int:
    """The step at which a run begins: 0 from pure noise; from a picture, so late that `strength` of the steps are left."""
    if options.init_image is None:
        return 0
    # Rounded down, as diffusers' image-to-image pipelines do.
    return num_steps - max(1, int(num_steps * options.strength))


def _loop(run: _Run, state: Tensor, stop: Stop | None) -> Iterator[StepDone | Finished]:
    levels = run.sampler.levels
    for index in range(run.first, len(levels)):
        run.hand_over(index)
        # Neither may stay on across the yield: it would leak into whoever consumes the events. CLIP's gradient is taken
        # with respect to x_t, which inference mode would forbid.
        with torch.no_grad() if run.options.clip_guidance_scale else torch.inference_mode():
            x_t = run.sampler.to_model_scale(state, index)
            prediction = run.denoiser(x_t, levels[index])
            state = run.sampler.step(run.denoiser, prediction, state, index, run.generators)
            state = run.put_back(state, index + 1)
        event = _event(run, index, x_t, prediction)
        run.recorder.add(event)
        yield event
        if stop is not None and stop.is_set() and index + 1 < len(levels):
            # The picture of a stopped run is the model's prediction at the last step taken, not the noisy state.
            yield _finished(run, state, prediction.x0_hat)
            return
    yield _finished(run, state, state)


def _event(run: _Run, index: int, x_t: Tensor, prediction: Prediction) -> StepDone:
    level = run.sampler.levels[index]
    return StepDone(
        index=index - run.first, num_steps=len(run.sampler.levels) - run.first, timestep=level.timestep, sigma=level.noise_to_signal,
        log_snr=level.log_snr, alpha=level.alpha, x_t=x_t, x0_hat=prediction.x0_hat, eps_hat=prediction.eps_hat, parts=prediction.parts,
        rgb_map=run.model.rgb_map,
        **prediction.figures,
    )


def _finished(run: _Run, state: Tensor, x0: Tensor) -> Finished:
    with torch.inference_mode():
        pixels = to_pixels(run.model.decode(x0))
    images, canvas = [to_image(one) for one in pixels], run.start.canvas
    if canvas is not None and (canvas.box is not None or run.options.mask_overlay):
        images = [canvas.put_back(image) for image in images]
        pixels = np.stack([np.asarray(image) for image in images])
    return Finished(images=images, trajectory=run.recorder.trajectory(state, None if run.model.rgb_map is None and canvas is None else pixels))


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
    _replay(run, history)
    run.first = len(run.sampler.levels) - trajectory.steps[0].num_steps + index
    x_t = trajectory.exact("x_t", index).to(model.device)
    yield from _loop(run, run.sampler.from_model_scale(x_t, run.first), stop)


def _check_levels(run: _Run, model: DiffusionModel, trajectory: Trajectory) -> None:
    whole = make_sampler(model, trajectory.options)
    if [level.timestep for level in run.sampler.levels] != [level.timestep for level in whole.levels]:
        raise InvalidOption("A fork keeps the scheduler's timesteps; change the number of steps in a new run.")


def _replay(run: _Run, history: Any) -> None:
    """Let the sampler remember the steps before the fork, and every generator draw what it drew by then."""
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
