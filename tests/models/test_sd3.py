"""What Stable Diffusion 3 can be told, against diffusers' own pipeline of the same folder, and what is refused."""

import diffusers
import numpy as np
import pytest
import torch

from studio import SampleOptions
from studio.conditions import FlowTold, LayersSkipped, TextsTold
from studio.errors import InvalidOption
from studio.models import load_model
from studio.process.schedulers import FLOW_CLASSES
from studio.sampling.loop import resume, sample
from studio.sampling.trajectory import Trajectory
from tests.tiny_families import save_tiny_sd3

PROMPT = "a red star on a blue butterfly"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_sd3(tmp_path_factory.mktemp("sd3") / "model")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def pipeline(folder):
    made = diffusers.StableDiffusion3Pipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    made.own_config = dict(made.scheduler.config)
    return made


def ours(model, **changes):
    *steps, finished = sample(model, SampleOptions(**{"model": model.name, "prompt": PROMPT, "seed": 3, "num_steps": 6, "scheduler": "euler", **changes}))
    return steps, np.stack([np.asarray(image) for image in finished.images]).astype(int), finished.trajectory


def theirs(pipeline, scheduler, guidance_scale, num_images, shift=3.0, **call):
    name = FLOW_CLASSES[scheduler]
    told = {"shift": shift} if name.startswith("FlowMatch") else {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.own_config, **told)
    generators = [torch.Generator().manual_seed(3 + i) for i in range(num_images)]
    call = {**({} if "prompt_embeds" in call else {"prompt": PROMPT}), **call}
    images = pipeline(
        **call, height=32, width=32, num_inference_steps=6, guidance_scale=guidance_scale, num_images_per_prompt=num_images, generator=generators,
    ).images
    return np.stack([np.asarray(image) for image in images]).astype(int)


TOLD = {
    "shift": ({"flow": FlowTold(shift=1.5)}, {"shift": 1.5}),
    "texts": (
        {"texts": TextsTold(prompt_2="a star", prompt_3="red", negative_prompt_2="blue", negative_prompt_3="star", clip_skip=1), "negative_prompt": "a"},
        {"prompt_2": "a star", "prompt_3": "red", "negative_prompt_2": "blue", "negative_prompt_3": "star", "clip_skip": 1, "negative_prompt": "a"},
    ),
    "layers": (
        {"skipped": LayersSkipped(layers=(1,), scale=2.0, start=0.1, end=0.7)},
        {"skip_guidance_layers": [1], "skip_layer_guidance_scale": 2.0, "skip_layer_guidance_start": 0.1, "skip_layer_guidance_stop": 0.7},
    ),
}


@pytest.mark.parametrize("told", TOLD)
def test_what_sd3_is_told_acts_as_in_its_pipeline(model, pipeline, told):
    changes, call = TOLD[told]
    plain = ours(model, guidance_scale=4.0)[1][0]
    for scheduler, guidance_scale, num_images in (("euler", 4.0, 2), ("dpm++_2m", 4.0, 1), ("euler", 1.0, 1)):
        if guidance_scale == 1 and told == "layers":
            continue
        picture = ours(model, scheduler=scheduler, guidance_scale=guidance_scale, num_images=num_images, **changes)[1]
        assert np.abs(picture - theirs(pipeline, scheduler, guidance_scale, num_images, **call)).max() <= 1
        assert guidance_scale == 1 or np.abs(picture[0] - plain).max() > 1


@pytest.mark.parametrize("encoders", [("clip_l", "clip_g"), ("t5",), ("clip_l", "t5"), ("clip_g",)])
def test_an_encoder_that_is_off_is_zeros_in_its_places(model, pipeline, encoders):
    places, widths = model.prompts.limit, {"clip_l": slice(0, 32), "clip_g": slice(32, 80)}
    embeds = pipeline.encode_prompt(PROMPT, PROMPT, PROMPT)
    for states, pooled in ((embeds[0], embeds[2]), (embeds[1], embeds[3])):
        for name, width in widths.items():
            if name not in encoders:
                states[:, :places, width] = 0
                pooled[:, width] = 0
        if "t5" not in encoders:
            states[:, places:] = 0
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    picture = ours(model, guidance_scale=4.0, texts=TextsTold(encoders=encoders))[1]
    assert np.abs(picture - theirs(pipeline, "euler", 4.0, 1, **dict(zip(names, embeds)))).max() <= 1
    assert np.abs(picture - ours(model, guidance_scale=4.0)[1]).max() > 1


def test_velocity_and_the_belief_without_layers_are_streams_that_are_kept(model, tmp_path):
    told = {"skipped": LayersSkipped(layers=(0, 1), start=0.1, end=0.7), "flow": FlowTold(shift=2.0), "guidance_scale": 3.0, "record_attention": True}
    steps, _, run = ours(model, **told, num_images=2)
    for step in steps:
        torch.testing.assert_close(step.velocity, step.eps_hat - step.x0_hat, atol=1e-4, rtol=1e-4)
    # Step i of 6 is inside where 0.6 < i < 4.2; there the attention is still that of the pass with all layers.
    assert [step.x0_skipped is not None for step in steps] == [False, True, True, True, True, False]
    watched = [ours(model, **{**told, "skipped": LayersSkipped()}, num_images=2)[0][i].attention for i in (0, 1)]
    torch.testing.assert_close(steps[1].attention, watched[1])
    back = Trajectory.load(run.save(tmp_path / "run.safetensors"))
    assert back.options == run.options and {"velocity", "x0_skipped"} <= set(back.streams) and back.pictures("velocity").shape == (6, 2, 3, 8, 8)
    *_, fork = resume(model, back, 3)
    assert (fork.trajectory.x_final - run.x_final).abs().max() < 1e-3 * run.x_final.std()


@pytest.mark.parametrize(("changes", "said"), [
    ({"skipped": LayersSkipped(layers=(2,)), "guidance_scale": 3.0}, "has the layers 0 to 1"),
    ({"skipped": LayersSkipped(layers=(1,))}, "acts where there is guidance"), ({"texts": TextsTold(clip_skip=7)}, "clip_skip can be at most"),
])
def test_what_sd3_cannot_be_told_is_said_in_a_sentence(model, changes, said):
    with pytest.raises(InvalidOption, match=said):
        ours(model, **changes)


def test_without_t5_its_prompt_is_refused_and_groups_check_themselves(tmp_path):
    short = load_model(save_tiny_sd3(tmp_path / "short", t5=False))
    for texts in (TextsTold(prompt_3="a"), TextsTold(encoders=("t5",))):
        with pytest.raises(InvalidOption, match="kept without T5"):
            ours(short, texts=texts)
    for make, said in (
        (lambda: TextsTold(encoders=()), "At least one"), (lambda: TextsTold(encoders=("bert",)), "some of clip_l"), (lambda: FlowTold(shift=0.0), "0.1 to 20"),
        (lambda: LayersSkipped(layers=(1.5,)), "whole number"), (lambda: LayersSkipped(start=0.5, end=0.2), "before it ends"),
        (lambda: LayersSkipped.from_dict({"layer": [1]}), "the options are end, layers"), (lambda: SampleOptions(flow=3.0), "must be FlowTold"),
    ):
        with pytest.raises(InvalidOption, match=said):
            make()
