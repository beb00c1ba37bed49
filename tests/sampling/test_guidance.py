"""Guidance: its interval, its arithmetic, and CLIP's gradient."""

import math

import numpy as np
import pytest
import torch

from studio import SampleOptions
from studio.errors import ModelUnavailable
from studio.models import load_model
from studio.sampling.guidance import ClassifierFree, ClipGuided, acts_between, great_circle
from studio.sampling.loop import make_sampler, resume, sample


@pytest.fixture(scope="module")
def model(tiny_sd):
    return load_model(tiny_sd)


def test_the_interval_is_counted_in_steps():
    timesteps = [900.0, 700.0, 500.0, 300.0, 100.0]
    inside = lambda start, end: [t for t in timesteps if acts_between(timesteps, start, end)[0] < t <= acts_between(timesteps, start, end)[1]]  # noqa: E731
    assert inside(0, 1) == timesteps and inside(0, 0) == [] and inside(1, 1) == []
    assert inside(0, 0.4) == [900, 700] and inside(0.4, 1) == [500, 300, 100] and inside(0.2, 0.6) == [700, 500]
    assert inside(0.5, 0.59) == []  # narrower than a step


def test_the_blend_by_hand():
    uncond, cond = torch.full((1, 1, 1, 2), 1.0), torch.tensor([[[[2.0, 4.0]]]])
    guided = ClassifierFree(
        alone=lambda x, t: cond, both=lambda x, t: torch.cat([uncond, cond]), scale=3.0, rescale=0.0, low=10, high=math.inf, channels=1,
    )
    assert guided(uncond, 11).tolist() == [[[[4.0, 10.0]]]] and guided.parts is not None  # 1 + 3 (2 - 1), 1 + 3 (4 - 1)
    assert guided(uncond, 10).tolist() == cond.tolist() and guided.parts is None
    guided.rescale = 0.5
    # The deviation of (4, 10) is three times that of (2, 4): half of it and half of (4, 10).
    torch.testing.assert_close(guided(uncond, 11), torch.tensor([[[[4 * (0.5 + 0.5 / 3), 10 * (0.5 + 0.5 / 3)]]]]))


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
    guided = ClipGuided(inner=lambda x, t: 0.3 * x, model=model, clip=load_clip(tiny_clip, model.device), options=options)
    guided.mean_type = mean_type
    x_t = torch.randn(1, *model.shape, generator=torch.Generator().manual_seed(0))
    output = guided(x_t, 400)
    signal, noise = guided._scales(400.0)

    def x0_of(output, x):
        return {"epsilon": (x - noise * output) / signal, "v_prediction": signal * x - noise * output, "sample": output}[mean_type]

    with torch.no_grad():
        direction = guided.gradient / guided.gradient.norm()
        ends = [guided.distance(model.decode(x0_of(0.3 * (x_t + h * direction), x_t + h * direction)), 400.0).item() for h in (0.02, -0.02)]
    assert (ends[0] - ends[1]) / 0.04 == pytest.approx(guided.gradient.norm().item(), rel=0.1)
    torch.testing.assert_close(x0_of(output, x_t), x0_of(0.3 * x_t, x_t) - 50 * noise**2 * guided.gradient, atol=1e-4, rtol=1e-3)


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

    from studio.sampling.loop import DiffusersSampler, OwnSampler

    make_sampler(model, SampleOptions(model=model.name))
    for sampler in (OwnSampler, DiffusersSampler):
        assert "guidance" not in inspect.getsource(sampler)
