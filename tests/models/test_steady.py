"""What a network is spared while its words and weights stay the same: the same answers, and nothing left behind."""

import pytest
import torch

from studio.models.loading import load_text_model
from studio.models.steady import of_the_words, steady
from studio.options import SampleOptions
from tests.tiny_families import save_tiny_sd3, save_tiny_sdxl
from trainers.rollout import Tuned


@pytest.fixture(scope="module", params=["sd", "sdxl", "sd3"])
def model(request, tiny_sd, tmp_path_factory):
    folder = tmp_path_factory.mktemp("steady")
    base = tiny_sd if request.param == "sd" else (save_tiny_sdxl if request.param == "sdxl" else save_tiny_sd3)(folder / "base")
    return load_text_model(base, torch.device("cpu"), dtype=torch.float32)


@torch.no_grad()
def test_the_answers_are_those_of_the_network_whatever_it_is_told_next(model):
    told = [model.condition(SampleOptions(model=model.name, prompt=prompt, width=32, height=32))[0] for prompt in ("a red star", "a blue star")]
    states = torch.randn(3, 1, *model.state_shape(SampleOptions(model=model.name, width=32, height=32)), generator=torch.Generator().manual_seed(0))
    asked = [(states[0], 10.0, told[0]), (states[1], 500.0, told[0]), (states[2], 900.0, told[1]), (states[0], 10.0, told[0])]
    network = Tuned(model)
    plain = [network(*question) for question in asked]
    with steady(model.network):
        answers = [network(*question) for question in asked]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(answers, plain)) and not torch.allclose(plain[0], plain[2], atol=1e-2)


@torch.no_grad()
def test_keys_and_values_of_the_same_words_are_computed_once_and_anew_once_weights_have_changed(tiny_sd):
    model = load_text_model(tiny_sd, torch.device("cpu"), dtype=torch.float32)
    layer, states = of_the_words(model.network)[0], torch.randn(1, 77, model.network.config.cross_attention_dim)
    own = layer.forward
    with steady(model.network):
        first = layer(states)
        layer.weight += 1
        assert layer(states) is first and not torch.equal(layer(states.clone()), first)
    assert "forward" not in vars(layer) and torch.equal(layer(states), own(states)) and not torch.equal(layer(states), first)


def test_layers_and_upsamplers_are_as_before_even_where_it_fails(tiny_sd):
    model = load_text_model(tiny_sd, torch.device("cpu"), dtype=torch.float32)
    with pytest.raises(ValueError, match="within"), steady(model.network):
        raise ValueError("within")
    assert not any("forward" in vars(module) for module in model.network.modules())
