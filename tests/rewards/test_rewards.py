"""The scorers: one contract, and each does what its menu entry says."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from studio.errors import InvalidOption, ModelUnavailable, UnknownName
from studio.media.images import from_images
from studio.rewards import REWARDS, load_reward, reward_info
from studio.rewards.scoring import agreement_of_scorers, batches, score_pictures
from studio.toybox import caption, render, scene_stream

HERE = [name for name, info in REWARDS.items() if info.embedded]


@pytest.fixture(scope="module")
def scenes():
    stream = scene_stream(5, "held_out")
    return [next(stream) for _ in range(4)]


@pytest.fixture(scope="module")
def pictures(scenes):
    return [Image.fromarray(render(scene)) for scene in scenes]


@pytest.mark.parametrize("name", HERE)
def test_every_scorer_gives_a_number_a_picture_and_a_gradient_where_it_says_so(name, scenes, pictures):
    reward = load_reward(name, torch.device("cpu"))
    x, prompts = from_images(pictures).requires_grad_(), [caption(scene) for scene in scenes]
    values = reward(x, prompts)
    assert values.shape == (4,) and values.dtype == torch.float32 and values.isfinite().all()
    # A batch is its pictures one by one.
    assert torch.allclose(values[1:2], reward(x[1:2], prompts[1:2]), atol=1e-3)
    assert values.requires_grad == reward.info.differentiable
    if reward.info.differentiable:
        (gradient,) = torch.autograd.grad(values.sum(), x)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0
    other = reward(x, [prompts[-1], *prompts[:-1]])
    assert torch.equal(other, values) != reward.info.reads_prompt


@pytest.mark.parametrize("name", ["toybox-clip", "toybox-examiner"])
def test_the_right_prompt_scores_above_another_scenes(name, scenes, pictures):
    reward, x, prompts = load_reward(name), from_images(pictures), [caption(scene) for scene in scenes]
    assert (reward(x, prompts) > reward(x, [*prompts[1:], prompts[0]])).all()


def test_plain_scorers_order_pictures_as_the_eye_does():
    red, blue = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    x, prompts = from_images([red, blue, noisy]), [""] * 3
    redness, sharpness, size = (load_reward(name)(x, prompts) for name in ("redness", "sharpness", "jpeg_size"))
    assert redness.tolist()[:2] == [255, -127.5]
    assert sharpness[2] > 50 and max(sharpness[:2]) < 0.01
    assert size[2] > size[0]


def test_the_estimated_jpeg_size_goes_with_the_size_itself(pictures):
    rng = np.random.default_rng(1)
    noisy = [Image.fromarray(np.clip(np.asarray(one) + rng.normal(0, 6 * k, (64, 64, 3)), 0, 255).astype(np.uint8)) for k, one in enumerate(pictures)]
    x = from_images([*pictures, *noisy])
    estimated, size = (load_reward(name)(x, [""] * len(x)) for name in ("jpeg_bits", "jpeg_size"))
    assert np.corrcoef(estimated, size)[0, 1] > 0.9


def test_names_are_of_the_menu_of_a_kind_or_of_a_folder():
    assert reward_info("clip:some/clip").source == "some/clip"
    with pytest.raises(UnknownName, match="scorer"):
        load_reward("beauty")
    with pytest.raises(ModelUnavailable, match="folder"):
        load_reward("clip:no/such-clip")


def test_pictures_of_other_shapes_and_missing_prompts_are_refused_in_a_sentence():
    reward = load_reward("redness")
    with pytest.raises(InvalidOption, match="B, 3, H, W"):
        reward(torch.zeros(3, 8, 8), ["x"])
    with pytest.raises(InvalidOption, match="prompt for each"):
        reward(torch.zeros(2, 3, 8, 8), ["x"])
    with pytest.raises(InvalidOption, match="toy world"):
        load_reward("toybox-examiner")(torch.zeros(1, 3, 64, 64), ["an astronaut"])


def test_any_clip_folder_is_a_scorer(tiny_clip):
    values = load_reward(f"clip:{tiny_clip}")(torch.rand(2, 3, 40, 56) * 2 - 1, ["a cat", "a dog"])
    assert values.shape == (2,) and values.abs().max() <= 100


def test_pictures_of_several_sizes_are_scored_in_batches_and_told_in_their_order():
    sizes = [(8, 8), (16, 8), (8, 8)] * 9
    assert [len(batch) for batch in batches(sizes)] == [16, 2, 9]
    assert [len(batch) for batch in batches([(4096, 4096)] * 2)] == [1, 1]
    pictures = [Image.new("RGB", size, (10 * i, 0, 0)) for i, size in enumerate(sizes[:6])]
    *_, last = score_pictures([load_reward("redness"), load_reward("jpeg_size")], pictures, [""] * 6)
    assert last.done == last.total == 12
    assert last.scores["redness"] == pytest.approx([10 * i for i in range(6)], abs=1e-3)


def test_scorers_agree_as_their_orders_do():
    found = agreement_of_scorers({"a": [1, 2, 3], "b": [5, 7, 9], "c": [3, 2, 1], "d": [1, 1, 1]})
    assert found[0] == [1, 1, -1, None]


def test_the_public_studio_scores_with_embedded_scorers_alone():
    from studio import Studio

    studio = Studio(public=True)
    assert set(studio.rewards) == set(HERE)
    with pytest.raises(UnknownName, match="public"):
        studio.reward("clip:openai/clip-vit-large-patch14")


def test_a_menu_entry_refuses_to_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        REWARDS["redness"].label = "x"
