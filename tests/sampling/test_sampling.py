"""The loop: its contract, its numbers against closed forms and diffusers' own pipelines, seeds, stops and forks."""

import gc
import math
import threading
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from studio import Finished, SampleOptions, StepDone, Studio
from studio.errors import InvalidOption, ModelUnavailable, StudioError, UnknownName
from studio.models import load_model
from studio.process.schedulers import SCHEDULERS
from studio.sampling.guidance import guided
from studio.sampling.loop import sample
from studio.sampling.samplers import make_sampler


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model)


@pytest.fixture(scope="module")
def models(tiny_model_folder):
    """A model for every target and schedule end that schedulers treat differently."""
    kinds = [("epsilon", "linear"), ("v_prediction", "cosine"), ("sample", "linear"), ("v_prediction", "flow")]
    return {kind: load_model(tiny_model_folder(mean_type=kind[0], schedule=kind[1])) for kind in kinds}


def options(model, **changes) -> SampleOptions:
    return SampleOptions(**{"model": model.name, "num_steps": 6, "num_images": 2, "class_label": "b", **changes})


def run(model, **changes) -> tuple[list[StepDone], Finished]:
    *steps, finished = sample(model, options(model, **changes))
    return steps, finished


# --- the contract of the generator ---------------------------------------------------------------------------

@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_run_is_num_steps_steps_and_one_finish(model, scheduler):
    steps, finished = run(model, scheduler=scheduler)
    assert [step.index for step in steps] == list(range(6)) and {step.num_steps for step in steps} == {6}
    assert isinstance(finished, Finished) and len(finished.images) == 2 and finished.trajectory.complete
    assert [step.timestep for step in steps] == sorted((step.timestep for step in steps), reverse=True)


def test_two_stage_solvers_report_a_step_once_though_they_ask_twice(model, monkeypatch):
    calls = []
    inner = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda *args, **kwargs: calls.append(1) or inner(*args, **kwargs))
    assert len(run(model, scheduler="heun")[0]) == 6
    assert len(calls) == 11  # twice a step, and once in the last, which ends at sigma 0


def test_closing_after_two_steps_frees_the_states(model):
    events = sample(model, options(model))
    next(events)
    state = weakref.ref(next(events).x0_hat)
    events.close()
    gc.collect()
    assert state() is None
    with pytest.raises(StopIteration):
        next(events)


def test_stop_ends_after_the_current_step_and_keeps_what_there_is(model):
    stop = threading.Event()
    events = sample(model, options(model), stop)
    next(events), next(events)
    stop.set()
    rest = list(events)
    assert [type(event) for event in rest] == [Finished]
    trajectory = rest[0].trajectory
    assert len(trajectory.steps) == 2 and not trajectory.complete and len(rest[0].images) == 2


def test_inference_mode_does_not_leak_to_the_consumer(model):
    for _ in sample(model, options(model)):
        assert not torch.is_inference_mode_enabled()


# --- x_t, x0_hat and eps_hat belong together -----------------------------------------------------------------

@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_x_t_is_made_of_x0_hat_and_eps_hat_at_every_step_of_every_scheduler(models, scheduler, clip):
    for model in models.values():
        for step in run(model, scheduler=scheduler, clip_x0=clip, num_steps=4)[0]:
            if math.isinf(step.sigma):
                continue
            signal = 1 / math.sqrt(1 + step.sigma**2)
            rebuilt = signal * step.x0_hat + step.sigma * signal * step.eps_hat
            torch.testing.assert_close(rebuilt, step.x_t, atol=1e-4, rtol=1e-4)
            assert step.log_snr == pytest.approx(-2 * math.log(step.sigma))


@pytest.mark.parametrize("scheduler", [name for name, info in SCHEDULERS.items() if info.diffusers_class])
def test_x0_hat_is_the_schedulers_own_pred_original_sample(models, scheduler):
    for model in models.values():
        sampler = make_sampler(model, options(model, scheduler=scheduler, clip_x0=False))
        denoiser = guided(model, options(model, class_label="b", num_images=2), [], clip_x0=False)
        state = sampler.start(torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), None, 0)
        prediction = denoiser(sampler.to_model_scale(state, 0), sampler.levels[0])
        kwargs = {"generator": [torch.Generator().manual_seed(i) for i in range(2)]} if "generator" in sampler._step_kwargs else {}
        result = sampler.scheduler.step(sampler._told(prediction, state, sampler.levels[0]), sampler.scheduler.timesteps[0], state, **kwargs)
        theirs = getattr(result, "pred_original_sample", None)
        if theirs is not None:
            torch.testing.assert_close(prediction.x0_hat, theirs, atol=1e-3, rtol=1e-4)


class ExactGaussian(torch.nn.Module):
    """The perfect network for pictures whose pixels are N(mu, s^2): it predicts E[eps | x_t]."""

    def __init__(self, alpha_bar: torch.Tensor, mu: float, s: float):
        super().__init__()
        self.alpha_bar, self.mu, self.s = alpha_bar, mu, s

    def forward(self, x, t, return_dict=False):
        t = torch.as_tensor(t, dtype=torch.float64)
        low = t.floor().long()
        # Solvers also ask between timesteps: log sigma is interpolated there, as they do.
        high = (low + 1).clamp(max=len(self.alpha_bar) - 1)
        log_sigma = 0.5 * torch.log((1 - self.alpha_bar) / self.alpha_bar)
        sigma = torch.exp(torch.lerp(log_sigma[low], log_sigma[high], t - low))
        ab = 1 / (1 + sigma**2)
        variance = ab * self.s**2 + 1 - ab
        return ((1 - ab).sqrt() * (x - ab.sqrt() * self.mu) / variance,)


@pytest.fixture(scope="module")
def gaussian_model(model):
    import dataclasses

    alpha_bar = torch.from_numpy(np.cumprod(1 - model.path.diffusion.betas))
    info = dataclasses.replace(model.info, class_names=())
    network = ExactGaussian(alpha_bar, mu=0.3, s=0.2)
    network.register_parameter("anchor", torch.nn.Parameter(torch.zeros(1), requires_grad=False))
    return dataclasses.replace(model, network=network, info=info, null_class=None)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_samples_the_gaussian_that_the_exact_model_knows(gaussian_model, scheduler):
    # 64 pictures of 64 independent pixels: standard errors are s/64 for the mean and s/sqrt(2*4096) for the deviation.
    _, finished = run(gaussian_model, scheduler=scheduler, num_steps=250, num_images=64, class_label=None, clip_x0=False)
    x = finished.trajectory.x_final
    assert abs(x.mean().item() - 0.3) < 4 * 0.2 / 64 + 0.01
    # 250 steps of a first-order sampler leave a bias of a few percent in the deviation; it is 0.004 at 1,000.
    assert abs(x.std().item() - 0.2) < 4 * 0.2 / math.sqrt(2 * 4096) + 0.012


def test_ddim_is_euler_and_ddpm_is_euler_ancestral(gaussian_model):
    """The same algorithm in two scales (arXiv:2206.00364, appendix C): the pictures agree, noise and all."""
    for ours, theirs in (("ddim", "euler"), ("ddpm", "euler_ancestral")):
        runs = [run(gaussian_model, scheduler=name, num_steps=30, num_images=4, class_label=None, clip_x0=False)[1] for name in (ours, theirs)]
        torch.testing.assert_close(*(finished.trajectory.x_final for finished in runs), atol=2e-3, rtol=0)


# --- the same picture as diffusers' own pipelines ------------------------------------------------------------

def pipeline_picture(model, kind: str, **call) -> torch.Tensor:
    """What diffusers' pipeline makes of the same folder, seeds and steps, (B, 1, 8, 8) in [0, 1]."""
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline

    pipeline = DDPMPipeline.from_pretrained(model.name)
    inner = pipeline.unet.forward
    pipeline.unet.forward = lambda x, t: inner(x, t, class_labels=torch.full((len(x),), 1))
    if kind == "ddim":
        pipeline = DDIMPipeline(pipeline.unet, DDIMScheduler.from_config(pipeline.scheduler.config, set_alpha_to_one=True))
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    pictures = pipeline(batch_size=2, generator=generators, num_inference_steps=10, output_type="np", **call).images
    return torch.from_numpy(pictures).movedim(-1, 1)


@pytest.mark.parametrize(("scheduler", "eta"), [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.7)])
def test_the_picture_is_that_of_diffusers_own_pipeline(model, scheduler, eta):
    ours = run(model, scheduler=scheduler, num_steps=10, eta=eta)[1].trajectory.x_final
    theirs = pipeline_picture(model, scheduler, **({"eta": eta, "use_clipped_model_output": True} if scheduler == "ddim" else {}))
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs.float(), atol=1e-4, rtol=0)


# --- seeds, starts, forks, respacing -------------------------------------------------------------------------

@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_seed_gives_the_same_picture_alone_and_in_a_batch(model, scheduler):
    together = run(model, scheduler=scheduler, num_images=3, seed=5)[1].trajectory.x_final
    alone = run(model, scheduler=scheduler, num_images=1, seed=7)[1].trajectory.x_final
    # A batch adds up in another order; at sigma 164 that reaches the fourth digit. Other noise would differ by about 1.
    torch.testing.assert_close(together[2:], alone, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_start_from_a_picture_runs_the_last_steps_from_its_noised_state(model, scheduler):
    white = Image.new("L", (20, 20), 255)
    whole, _ = run(model, scheduler=scheduler, num_steps=8)
    steps, finished = run(model, scheduler=scheduler, num_steps=8, init_image=white, strength=0.5)
    assert [step.timestep for step in steps] == [step.timestep for step in whole[4:]] and steps[0].num_steps == 4
    signal = 1 / math.sqrt(1 + steps[0].sigma**2)
    # The picture is all ones, so the mean of x_t is the signal scale, and its deviation the noise scale.
    noise = (steps[0].x_t - signal) / (steps[0].sigma * signal)
    assert abs(noise.mean().item()) < 4 / math.sqrt(noise.numel()) and abs(noise.std().item() - 1) < 4 / math.sqrt(2 * noise.numel())
    assert finished.trajectory.complete


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "euler", "euler_ancestral"])
def test_a_fork_with_nothing_changed_is_the_rest_of_the_run(model, scheduler):
    from studio.sampling.loop import resume

    trajectory = run(model, scheduler=scheduler)[1].trajectory
    *_, finished = resume(model, trajectory, 3)
    torch.testing.assert_close(finished.trajectory.x_final, trajectory.x_final, atol=2e-2, rtol=0)  # kept in half precision
    *_, other = resume(model, trajectory, 3, class_label="c")
    assert (other.trajectory.x_final - trajectory.x_final).abs().max() > 1e-3


def test_respacing_visits_exactly_the_kept_timesteps(model):
    steps, _ = run(model, timesteps="ddim50")
    assert [step.timestep for step in steps] == list(range(980, -1, -20))
    assert len(run(model, scheduler="ddpm", timesteps="3,2")[0]) == 5


def test_learned_variance_changes_ddpm_and_is_ignored_by_solvers(tiny_model_folder):
    model = load_model(tiny_model_folder(var_type="learned_range", schedule="linear"))
    assert model.network.config.out_channels == 2
    for scheduler in ("ddpm", "ddim", "euler"):
        assert run(model, scheduler=scheduler)[1].trajectory.x_final.isfinite().all()


# --- refusals ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_steps": 0}, "0"), ({"num_steps": -3}, "-3"), ({"num_steps": 1001}, "1001"), ({"num_steps": 2.5}, "2.5"),
        ({"scheduler": "eulr"}, "did you mean 'euler'"), ({"eta": 1.5}, "1.5"), ({"eta": float("nan")}, "nan"), ({"eta": -0.1}, "-0.1"),
        ({"num_images": 0}, "0"), ({"num_images": 65}, "65"), ({"seed": -1}, "-1"), ({"strength": 2.0}, "2.0"), ({"class_label": "zebra"}, "zebra"),
        ({"class_label": 99}, "99"), ({"timesteps": "ddim333"}, "ddim334"), ({"timesteps": "fast"}, "fast"), ({"timesteps": "2000"}, "2000"),
        ({"scheduler": "euler", "timesteps": "ddim50"}, "ddpm and ddim"), ({"scheduler": "euler", "num_steps": 1001}, "1001"),
        ({"scheduler": "heun", "num_steps": 5000}, "5000"),
    ],
)
def test_nonsense_is_refused_in_a_sentence_before_the_first_step(model, changes, said):
    with pytest.raises(StudioError) as error:
        next(sample(model, options(model, **changes)))
    assert said in str(error.value) and str(error.value).rstrip()[-1] in ".?"


def test_unknown_models_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(UnknownName, match="toybox-ddpm"):
        next(Studio().sample(SampleOptions(model="toybox-dpm")))
    with pytest.raises(ModelUnavailable, match="no pixel diffusion model"):
        next(Studio().sample(SampleOptions(model=str(tmp_path))))
    with pytest.raises(ModelUnavailable, match="could not be fetched"):
        next(Studio().sample(SampleOptions(model="nobody/nothing-of-this-name")))


def test_a_public_studio_takes_neither_folders_nor_hub_ids(tiny_model):
    for name in (tiny_model, "google/ddpm-cifar10-32"):
        with pytest.raises(UnknownName, match="public"):
            next(Studio(public=True).sample(SampleOptions(model=name)))


def test_a_model_of_the_previous_kind_is_for_ddpm_and_ddim(tiny_model_folder):
    model = load_model(tiny_model_folder(mean_type="previous", schedule="linear"))
    assert run(model, scheduler="ddpm")[1].trajectory.complete
    with pytest.raises(InvalidOption, match="ddpm or ddim"):
        run(model, scheduler="euler")
