"""Graphs in place of a small network: the same numbers, and the network itself wherever it does something else."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from diffusers.models.upsampling import Upsample2D

from studio import SampleOptions
from studio.models import load_model
from studio.models.anatomy import anatomy
from studio.models.folding import folded, folds_of, learning_folds_of
from studio.models.graphs import Graph
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


@pytest.mark.parametrize("output_size", [None, (10, 6), (9, 6)])
def test_a_folded_upsampler_gives_the_same_numbers(output_size):
    torch.manual_seed(0)
    upsampler, state = Upsample2D(6, use_conv=True, out_channels=4), torch.randn(2, 6, 5, 3)
    expected = upsampler(state, output_size)
    folds = folds_of(torch.nn.Sequential(upsampler))
    with folded(folds), torch.no_grad():
        answer = upsampler(state, output_size)
    assert len(folds) == 1 and answer.shape == expected.shape and torch.allclose(answer, expected, atol=1e-6)
    assert torch.equal(upsampler(state, output_size), expected), "it does not unfold"


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("output_size", [None, (10, 6), (9, 6)])
def test_what_is_learned_through_a_folded_upsampler_is_the_same(memory_format, output_size):
    torch.manual_seed(0)
    upsampler = Upsample2D(6, use_conv=True, out_channels=4).to(memory_format=memory_format)
    state = torch.randn(2, 6, 5, 3).contiguous(memory_format=memory_format).requires_grad_()

    def learned() -> list[torch.Tensor]:
        answer = upsampler(state, output_size)
        pull = torch.linspace(-1, 1, answer.numel()).reshape(answer.shape).contiguous(memory_format=memory_format)
        return [answer.detach(), *torch.autograd.grad((answer * pull).sum(), [state, *upsampler.parameters()])]

    expected = learned()
    with folded(learning_folds_of(torch.nn.Sequential(upsampler))):
        found = learned()
        with folded(folds_of(torch.nn.Sequential(upsampler))), torch.no_grad():
            assert torch.allclose(upsampler(state, output_size), expected[0], atol=1e-6)
        assert torch.equal(upsampler(state, output_size), found[0]), "what is folded inside leaves what was folded outside"
        # A copy learns by its own weights.
        copied = deepcopy(upsampler)
        torch.nn.init.zeros_(copied.conv.weight), torch.nn.init.zeros_(copied.conv.bias)
        assert not copied(state, output_size).any() and torch.equal(upsampler(state, output_size), found[0])
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, expected))
    assert torch.equal(upsampler(state, output_size), expected[0]), "it does not unfold"


def test_only_plain_upsamplers_are_folded():
    small = Upsample2D(6, use_conv=True, kernel_size=1, padding=0)
    assert folds_of(torch.nn.Sequential(Upsample2D(6), Upsample2D(6, use_conv_transpose=True), small, Upsample2D(6, use_conv=True).half())) == []


class _Telling(torch.nn.Module):
    """Something of a state and of what it is told."""

    def __init__(self):
        super().__init__()
        self.told, self.out = torch.nn.Linear(4, 3), torch.nn.Linear(3, 3)

    def forward(self, x, told):
        early = torch.cat([self.told(told), told[:, :1]], dim=1) / 1.0
        return self.out(x) * early.reshape(early.shape[0], 2, 2).sum(dim=-1).sum(dim=-1, keepdim=True) + self.told(told)


def test_what_hangs_on_a_steady_input_is_worked_out_once_for_as_long_as_it_is_the_same():
    torch.manual_seed(0)
    module, x, told = _Telling().eval(), torch.randn(2, 3), torch.randn(2, 4)
    with torch.no_grad():
        graph = Graph(torch.jit.freeze(torch.jit.trace(module, (x, told))), steady=(1,))
        first, asked = graph._first, []
        graph._first = lambda *inputs: asked.append(1) or first(*inputs)
        for state in (x, x + 1, x + 2):
            assert torch.equal(graph(state, told), module(state, told))
        assert len(asked) == 1
        other = told + 1
        assert torch.equal(graph(x, other), module(x, other)) and len(asked) == 2


def test_graphs_leave_out_what_stays_the_same():
    module, x, told = _Telling().eval(), torch.randn(2, 3), torch.randn(2, 4)
    with torch.no_grad():
        graph = Graph(torch.jit.freeze(torch.jit.trace(module, (x, told))), steady=(1,))
    kinds = [node.kind() for node in graph._rest.graph.nodes()]
    assert "aten::div" not in kinds and "aten::cat" not in kinds and kinds.count("aten::linear") == 1
    with torch.no_grad():
        assert Graph(torch.jit.freeze(torch.jit.trace(module, (x, told))))._first is None


def test_the_decoder_has_a_graph_of_its_own(model):
    options, run = drawn(model)
    latents = torch.randn(1, *model.state_shape(options))
    with torch.no_grad():
        before = model.decode(latents)
        model.make_ready(options)
        assert model.decoder._graphs and torch.equal(model.decode(latents), before)
        plain = model.vae.decode(latents / model.vae.config.scaling_factor, return_dict=False)[0]
    assert torch.allclose(before, plain, atol=1e-5)
