"""Graphs in place of a small network: the same numbers, and the network itself wherever it does something else."""

import numpy as np
import pytest
import torch

from studio import SampleOptions
from studio.models import load_model
from studio.models.anatomy import anatomy
from studio.sampling.loop import sample


@pytest.fixture
def model(tiny_sd):
    return load_model(tiny_sd)


def drawn(model, **changes):
    told = {"prompt": "a red star"} if model.info.text else {"class_label": "b"}
    options = SampleOptions(**{"model": model.name, "num_steps": 4, "guidance_scale": 3.0, **told, **changes})
    return options, lambda: list(sample(model, options))


@pytest.mark.parametrize("changes", [
    {}, {"num_images": 3}, {"guidance_scale": 1.0}, {"guidance_start": 0.5, "scheduler": "heun"}, {"record_attention": True, "num_images": 2},
])
def test_a_run_by_graphs_is_the_run_to_the_last_bit(model, changes):
    options, run = drawn(model, **changes)
    before = run()
    model.make_ready(options)
    assert model.traced._graphs
    # A network that would be asked now would say so.
    model.traced.module.forward = lambda *inputs: pytest.fail("the network was asked")
    after = run()
    assert np.array_equal(before[-1].images[0], after[-1].images[0])
    for name in before[-1].trajectory.streams:
        assert torch.equal(before[-1].trajectory.stream(name), after[-1].trajectory.stream(name)), name


def test_pixel_models_have_graphs_too(tiny_model):
    model = load_model(tiny_model)
    options, run = drawn(model, num_images=2)
    before = run()[-1].trajectory.x_final
    model.make_ready(options)
    assert len(model.traced._graphs) == 1 and torch.equal(run()[-1].trajectory.x_final, before)


def test_hooks_gradients_and_another_forward_are_answered_by_the_network(model, tiny_clip, monkeypatch):
    options, run = drawn(model)
    model.make_ready(options)
    assert next(part for part in anatomy(model, "a star") if part.name == "unet").shape_out
    pulled = drawn(model, clip_guidance_scale=50.0, clip_model=tiny_clip)[1]()
    assert pulled[0].clip_gradient.abs().max() > 0
    calls, inner = [], model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda *args, **kwargs: calls.append(1) or inner(*args, **kwargs))
    run()
    assert len(calls) == 4


def test_large_networks_are_left_alone(model, monkeypatch):
    monkeypatch.setattr("studio.models.tracing.MAX_PARAMETERS", 1000)
    model.make_ready(drawn(model)[0])
    assert not model.traced._graphs
