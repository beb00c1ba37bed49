"""Inpainting against diffusers' own pipelines of the same folders: UNets that are told the mask, and masks put back at every step."""

import dataclasses

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from studio import SampleOptions
from studio.errors import InvalidOption, ModelUnavailable
from studio.media.inpainting import canvas_of
from studio.models import load_model
from studio.process.schedulers import SCHEDULERS
from studio.sampling.loop import resume, sample
from studio.sampling.trajectory import Trajectory
from tests.tiny_families import save_tiny_sdxl
from tests.tiny_sd import save_tiny_sd
from tests.tiny_told import save_tiny_inpainting, save_tiny_xl_inpainting

PROMPT = "a red star on a blue butterfly"
# Of Stable Diffusion 2's network: linear layers around attention, and heads that grow in number with the width.
LAYOUT_2 = {"use_linear_projection": True, "attention_head_dim": (2, 4)}
# By name: how it is written, and the pipeline of diffusers. "sd2" predicts v.
SAVERS = {
    "sd": (save_tiny_inpainting, "StableDiffusionInpaintPipeline"),
    "sd2": (lambda folder: save_tiny_inpainting(folder, unet=LAYOUT_2, prediction_type="v_prediction"), "StableDiffusionInpaintPipeline"),
    "sdxl": (save_tiny_xl_inpainting, "StableDiffusionXLInpaintPipeline"),
    "sd-4": (save_tiny_sd, "StableDiffusionInpaintPipeline"), "sdxl-4": (save_tiny_sdxl, "StableDiffusionXLInpaintPipeline"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {name: load_model(save(tmp_path_factory.mktemp("inpaint") / name)) for name, (save, _) in SAVERS.items()}


@pytest.fixture(scope="module")
def pipelines(models):
    absent = {"safety_checker": None, "requires_safety_checker": False}
    made = {name: getattr(diffusers, SAVERS[name][1]).from_pretrained(model.name, **({} if "xl" in name else absent)) for name, model in models.items()}
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
    return made


def picture(width: int = 32, height: int = 32, seed: int = 0) -> Image.Image:
    """Smooth colours, with something to see everywhere."""
    rough = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


def mask(width: int = 32, height: int = 32, box: tuple[int, int, int, int] = (9, 6, 26, 21)) -> Image.Image:
    black = Image.new("L", (width, height))
    black.paste(255, box)
    return black


def options(model, **changes):
    told = {"model": model.name, "prompt": PROMPT, "num_steps": 5, "seed": 3, "init_image": picture(), "init_mask": mask()}
    return SampleOptions(**{**told, **changes})


def ours(model, **changes):
    *steps, finished = sample(model, options(model, **changes))
    return np.stack([np.asarray(image) for image in finished.images]).astype(int), finished.trajectory


def theirs(pipeline, scheduler, guidance_scale, num_images, **call):
    kind = getattr(diffusers, SCHEDULERS[scheduler].diffusers_class or "DDIMScheduler")
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **SCHEDULERS[scheduler].config)
    told = {"image": [picture()] * num_images, "mask_image": mask(), "width": 32, "height": 32, "strength": 1.0, **call}
    images = pipeline(
        [PROMPT] * num_images, num_inference_steps=5, guidance_scale=guidance_scale,
        generator=[torch.Generator().manual_seed(3 + i) for i in range(num_images)], **told,
    ).images
    return np.stack([np.asarray(image) for image in images]).astype(int)


@pytest.mark.parametrize("name", SAVERS)
def test_the_picture_is_that_of_the_inpainting_pipeline(models, pipelines, name):
    model, plain = models[name], {"mask_overlay": False}
    for scheduler, guidance_scale, num_images, strength in (("ddim", 1.0, 1, 1.0), ("ddim", 4.0, 2, 0.6), ("euler", 4.0, 1, 1.0), ("dpm++_2m", 1.0, 2, 1.0)):
        if scheduler == "euler" and name == "sd2":
            continue  # its pipeline takes no other default here than DDIM's, of which Euler's start differs by its leading spacing
        told = {"scheduler": scheduler, "guidance_scale": guidance_scale, "num_images": num_images, "strength": strength}
        drawn, _ = ours(model, **told, **plain)
        assert np.abs(drawn - theirs(pipelines[name], scheduler, guidance_scale, num_images, strength=strength)).max() <= 1, told
        assert np.ptp(drawn) > 20  # a flat picture would prove nothing


@pytest.mark.parametrize("name", ["sd", "sdxl-4"])
def test_what_is_kept_is_kept_exactly_and_the_feathered_edge_is_blended_as_by_diffusers(models, pipelines, name):
    kept = np.asarray(mask()) == 0
    drawn, _ = ours(models[name])
    assert np.abs(drawn[0] - np.asarray(picture()).astype(int))[kept].max() == 0 and np.abs(drawn[0] - np.asarray(picture()))[~kept].max() > 20
    processor = pipelines[name].mask_processor
    soft = processor.blur(mask(), blur_factor=3)
    other = theirs(pipelines[name], "ddim", 1.0, 1, mask_image=soft)[0]
    blended = pipelines[name].image_processor.apply_overlay(soft, picture(), Image.fromarray(other.astype(np.uint8)))
    drawn, _ = ours(models[name], mask_blur=3.0)
    assert np.abs(drawn[0] - np.asarray(blended).astype(int)).max() <= 2
    untouched = np.asarray(soft) == 0
    assert np.abs(drawn[0] - np.asarray(picture()))[untouched].max() == 0 and 0 < untouched.mean() < kept.mean()


@pytest.mark.parametrize("name", ["sd", "sd-4"])
def test_only_the_masked_part_is_worked_on_and_put_back_as_by_diffusers(models, pipelines, name):
    large, small = picture(96, 64), mask(96, 64, (50, 20, 66, 30))
    drawn, run = ours(models[name], init_image=large, init_mask=small, mask_padding=4)
    other = theirs(pipelines[name], "ddim", 1.0, 1, image=large, mask_image=small, padding_mask_crop=4)
    assert drawn.shape == (1, 64, 96, 3) and np.abs(drawn - other).max() <= 2
    assert np.abs(drawn[0] - np.asarray(large))[np.asarray(small) == 0].max() == 0
    assert run.x_t.shape[-2:] == (8, 8) and run.images[0].size == (96, 64)
    # The same mask, painted on what the run shows of the picture: its middle, 64 pixels wide.
    shown = small.crop((16, 0, 80, 64)).resize((32, 32))
    canvas = canvas_of(options(models[name], init_image=large, init_mask=shown, mask_padding=4), 32, 32)
    assert abs(canvas.box[0] - 46) <= 4 and abs(canvas.box[2] - 70) <= 4


def test_a_run_keeps_its_mask_and_what_it_was_told_and_is_forked_from_its_file(models, tmp_path):
    for name in ("sd", "sdxl", "sd-4"):
        _, run = ours(models[name], num_images=2, guidance_scale=3.0, mask_blur=1.0, strength=0.8)
        back = Trajectory.load(run.save(tmp_path / "run.safetensors"))
        assert back.options.mask_blur == 1.0 and back.options.init_mask.size == (32, 32) and back.told_pictures("mask").shape == (1, 1, 8, 8)
        assert "mask_blur" in back.options.to_dict() and not {"init_image", "init_mask"} & set(back.options.to_dict())
        if name != "sd-4":
            assert back.told_pictures("masked").shape == (2, 3, 8, 8)
        *_, fork = resume(models[name], back, 2)
        assert (fork.trajectory.x_final - run.x_final).abs().max() < 2e-3
        assert np.array_equal(np.asarray(back.images[1]), np.asarray(run.images[1]))


def test_a_seed_gives_the_same_picture_alone_and_in_a_batch(models):
    pair, alone = ours(models["sd"], num_images=2)[0], ours(models["sd"], seed=4)[0]
    assert np.abs(pair[1] - alone[0]).max() <= 1


def test_the_family_is_told_by_the_channels_of_the_unet(models, tmp_path):
    assert {name: model.info.family for name, model in models.items()} == {
        "sd": "sd-inpainting", "sd2": "sd-inpainting", "sdxl": "sdxl-inpainting", "sd-4": "stable-diffusion", "sdxl-4": "sdxl",
    }
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(models["sd"].name, safety_checker=None, requires_safety_checker=False)
    pipeline.save_pretrained(tmp_path / "named-otherwise")
    assert load_model(str(tmp_path / "named-otherwise")).info.family == "sd-inpainting"
    from tests.tiny_told import widened

    pipeline.unet = widened(pipeline.unet, 6)
    pipeline.save_pretrained(tmp_path / "six")
    with pytest.raises(ModelUnavailable, match="6 channels"):
        load_model(str(tmp_path / "six"))


REFUSED = {
    "no picture": ({"init_image": None, "init_mask": None}, "made for inpainting: give it a picture, and a mask"),
    "no mask": ({"init_mask": None}, "give it a mask of what is to be drawn anew"),
    "another size": ({"init_mask": mask(20, 32)}, "The mask is 20x32 pixels and the picture 32x32"),
    "feathered away": ({"init_mask": mask(32, 32, (9, 9, 10, 10)), "mask_blur": 20.0}, "Nothing of the mask is left"),
    "covered": ({"init_image": picture(64, 32), "init_mask": mask(64, 32, (10, 0, 54, 32))}, "covers all of this part"),
    "told": ({"cond_image": picture()}, "cond_image is set, but"), "noise": ({"noise_level": 3}, "noise_level is set, but"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_inpainted_is_said_before_the_first_step(models, case):
    changes, words = REFUSED[case]
    with pytest.raises(InvalidOption, match=words):
        next(sample(models["sd"], options(models["sd"], **changes)))


def test_masks_of_one_colour_and_values_of_no_kind_are_refused_at_once(models):
    good = options(models["sd"])
    for changes, words in (
        ({"init_mask": Image.new("L", (32, 32))}, "something white"), ({"init_mask": Image.new("L", (32, 32), 255)}, "white all over"),
        ({"init_image": None}, "give the picture"), ({"mask_blur": -1.0}, "mask_blur"), ({"mask_padding": -1}, "mask_padding"),
        ({"mask_overlay": 3}, "mask_overlay"), ({"init_image": "x.png"}, "init_image must be a picture"),
    ):
        with pytest.raises(InvalidOption, match=words):
            dataclasses.replace(good, **changes)
