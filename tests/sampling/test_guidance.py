"""Guidance: its interval, its arithmetic, and CLIP's gradient."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from studio import SampleOptions
from studio.errors import ModelUnavailable
from studio.models import load_model
from studio.models.conditioning import Conditioning
from studio.process.conversions import NoiseLevel
from studio.process.diffusion import GaussianDiffusion
from studio.process.paths import DiscretePath
from studio.sampling.denoisers import Network, Reader
from studio.sampling.guidance import ClassifierFree, ClipGuided, acts_between, great_circle
from studio.sampling.loop import resume, sample
from studio.sampling.samplers import make_sampler


@pytest.fixture(scope="module")
def model(tiny_sd):
    return load_model(tiny_sd)


def test_the_interval_is_counted_in_steps():
    timesteps = [900.0, 700.0, 500.0, 300.0, 100.0]
    inside = lambda start, end: [t for t in timesteps if acts_between(timesteps, start, end)[0] < t <= acts_between(timesteps, start, end)[1]]  # noqa: E731
    assert inside(0, 1) == timesteps and inside(0, 0) == [] and inside(1, 1) == []
    assert inside(0, 0.4) == [900, 700] and inside(0.4, 1) == [500, 300, 100] and inside(0.2, 0.6) == [700, 500]
    assert inside(0.5, 0.59) == []  # narrower than a step


class TwoAnswers:
    """A network that says 1 without its condition, and 2 and 4 with it."""

    uncond, cond = torch.full((1, 1, 1, 2), 1.0), torch.tensor([[[[2.0, 4.0]]]])

    def predict(self, x_t, t, conditioning):
        return self.cond if len(x_t) == 1 else torch.cat([self.uncond, self.cond])


def test_the_blend_by_hand():
    model = TwoAnswers()
    read = Reader(path=DiscretePath(diffusion=GaussianDiffusion([0.1, 0.2], mean_type="sample")), clip_x0=False)
    alone = Network(model=model, conditioning=Conditioning(), read=read)
    guided = ClassifierFree(alone=alone, both=Conditioning(), scale=3.0, rescale=0.0, low=10, high=math.inf)
    at = lambda t: guided(model.uncond, NoiseLevel(timestep=t, alpha=0.6, sigma=0.8))  # noqa: E731
    inside, outside = at(11), at(10)
    assert inside.x0_hat.tolist() == [[[[4.0, 10.0]]]] and inside.figures == {"guidance_scale": 3.0}  # 1 + 3 (2 - 1), 1 + 3 (4 - 1)
    assert inside.parts["x0_uncond"].tolist() == [[[[1.0, 1.0]]]] and inside.parts["x0_cond"].tolist() == [[[[2.0, 4.0]]]]
    assert outside.x0_hat.tolist() == model.cond.tolist() and not outside.parts and not outside.figures
    guided = replace(guided, rescale=0.5)
    # The deviation of (4, 10) is three times that of (2, 4): half of it and half of (4, 10).
    torch.testing.assert_close(at(11).x0_hat, torch.tensor([[[[4 * (0.5 + 0.5 / 3), 10 * (0.5 + 0.5 / 3)]]]]))


def test_great_circle_distance_is_half_the_squared_angle():
    angles = torch.tensor([0.0, 0.3, 1.5])
    a = torch.stack([angles.cos(), angles.sin()], dim=-1)
    torch.testing.assert_close(great_circle(a, torch.tensor([[1.0, 0.0]])), angles**2 / 2, atol=1e-6, rtol=1e-5)


def clip_options(model, clip, **changes):
    return SampleOptions(**{
        "model": model.name, "prompt": "a red star", "num_steps": 4, "clip_guidance_scale": 50.0, "clip_model": clip, "num_images": 2, **changes,
    })


def test_clip_guidance_records_its_gradient_and_moves_the_picture(model, tiny_clip):
    for scheduler in ("ddim", "heun"):
        options = clip_options(model, tiny_clip, guidance_scale=3.0, scheduler=scheduler)
        *steps, finished = sample(model, options)
        plain = list(sample(model, clip_options(model, tiny_clip, guidance_scale=3.0, scheduler=scheduler, clip_guidance_scale=0.0)))
        assert steps[0].clip_gradient.shape == steps[0].x_t.shape and all(norm > 0 for norm in steps[0].clip_gradient_norm)
        assert steps[0].clip_gradient_norm[0] == pytest.approx(steps[0].clip_gradient[0].norm().item(), rel=1e-4)
        assert not steps[0].x0_cond.requires_grad and steps[0].x0_uncond is not None
        assert "clip_gradient" in finished.trajectory.streams and finished.trajectory.steps[1].clip_gradient_norm == steps[1].clip_gradient_norm
        assert np.abs(np.asarray(finished.images[0]).astype(int) - np.asarray(plain[-1].images[0])).max() > 1
        assert finished.trajectory.pictures("clip_gradient").shape == (4, 2, 3, 8, 8)


def test_attention_is_recorded_under_clip_guidance_and_keeps_no_graph(model, tiny_clip):
    *steps, finished = sample(model, clip_options(model, tiny_clip, guidance_scale=3.0, record_attention=True))
    assert not any(step.attention.requires_grad for step in steps)
    assert torch.allclose(finished.trajectory.stream("attention").float().sum(2), torch.ones(()), atol=2e-2)


@pytest.mark.parametrize("mean_type", ["epsilon", "v_prediction", "sample"])
def test_the_gradient_is_that_of_the_distance_and_moves_x0_against_it(model, tiny_clip, mean_type):
    """Checked by finite differences with a network that is a plain function of x_t."""
    from studio.models.companions import load_clip

    options = clip_options(model, tiny_clip, num_images=1)
    level = replace(model.path.level(400), posterior=None)
    read = Reader(path=DiscretePath(diffusion=GaussianDiffusion(model.path.diffusion.betas, mean_type=mean_type)), clip_x0=False)
    plain = lambda x, level: read(0.3 * x, x, level)  # noqa: E731
    guided = ClipGuided(inner=plain, model=model, read=read, clip=load_clip(tiny_clip, model.device), options=options)
    x_t = torch.randn(1, *model.state_shape(options), generator=torch.Generator().manual_seed(0))
    prediction = guided(x_t, level)
    gradient = prediction.parts["clip_gradient"]
    with torch.no_grad():
        direction = gradient / gradient.norm()
        ends = [guided.distance(model.decode(plain(x_t + h * direction, level).x0_hat), 400.0).item() for h in (0.02, -0.02)]
    assert (ends[0] - ends[1]) / 0.04 == pytest.approx(gradient.norm().item(), rel=0.1)
    assert prediction.figures["clip_gradient_norm"] == pytest.approx((gradient.norm().item(),))
    torch.testing.assert_close(prediction.x0_hat, plain(x_t, level).x0_hat - 50 * level.sigma**2 * gradient, atol=1e-4, rtol=1e-3)


def test_a_clip_guided_run_is_the_same_alone_in_a_batch_and_forked(model, tiny_clip):
    together = list(sample(model, clip_options(model, tiny_clip)))[-1].trajectory
    alone = list(sample(model, clip_options(model, tiny_clip, num_images=1, seed=1)))[-1].trajectory
    torch.testing.assert_close(together.x_final[1:], alone.x_final, atol=2e-3, rtol=1e-3)
    forked = list(resume(model, together, 2))[-1].trajectory
    torch.testing.assert_close(forked.x_final, together.x_final, atol=3e-2, rtol=3e-2)


def test_without_a_clip_it_is_refused_in_a_sentence(model, tmp_path):
    for clip, said in (("", "none is known"), (str(tmp_path), "is no CLIPModel"), ("toybox-clip-of-nobody", "cannot be fetched")):
        with pytest.raises(ModelUnavailable, match=said):
            next(sample(model, clip_options(model, clip)))


def test_samplers_know_nothing_of_guidance(model):
    import inspect

    from studio.sampling.samplers import DDIM, DDPM, DiffusersSampler

    make_sampler(model, SampleOptions(model=model.name))
    for sampler in (DDIM, DDPM, DiffusersSampler):
        assert "guidance" not in inspect.getsource(sampler)
