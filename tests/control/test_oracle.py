"""Our loop with ControlNets against diffusers' pipelines on the same random folders: the same pictures within 1/255."""

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)
from PIL import Image

from studio.models import load_model
from studio.options import SampleOptions
from studio.sampling.loop import sample
from studio.units import ControlUnit

PROMPT, STEPS = "a red star on the background", 5


def ours(model: str, units: list[ControlUnit], **changes) -> np.ndarray:
    options = SampleOptions(**{"model": model, "prompt": PROMPT, "num_steps": STEPS, "guidance_scale": 4.0, "control": tuple(units), **changes})
    finished = list(sample(load_model(model), options))[-1]
    return np.asarray(finished.images[0], np.float32)


def theirs(pipeline_class, model: str, nets: list[str], maps: list, **options) -> np.ndarray:
    loaded = [ControlNetModel.from_pretrained(net) for net in nets]
    pipeline = pipeline_class.from_pretrained(model, controlnet=loaded if len(loaded) > 1 else loaded[0])
    pipeline.set_progress_bar_config(disable=True)
    if options.get("ddim") or "kind" in options:
        pipeline.scheduler = options.pop("kind", DDIMScheduler).from_config(pipeline.scheduler.config)
        options.pop("ddim", None)
    where = "control_image" if any(kind in pipeline_class.__name__ for kind in ("Img2Img", "Inpaint")) else "image"
    told = {"num_inference_steps": STEPS, "guidance_scale": 4.0, "output_type": "np", "generator": torch.Generator().manual_seed(0)}
    result = pipeline(PROMPT, **{where: maps if len(maps) > 1 else maps[0]}, **{**told, **options})
    return np.asarray(result.images[0] * 255, np.float32)


def assert_same(one: np.ndarray, other: np.ndarray) -> None:
    assert one.shape == other.shape and float(np.abs(one - other).max()) <= 1.01
    # Both draw something.
    assert one.std() > 3


CASES = {
    "plain": ({}, {}),
    "scale": ({"scale": 0.4}, {"controlnet_conditioning_scale": 0.4}),
    "window": ({"start": 0.2, "end": 0.8}, {"control_guidance_start": 0.2, "control_guidance_end": 0.8}),
    "guess": ({"mode": "control"}, {"guess_mode": True}),
}


@pytest.mark.parametrize(("unit", "told"), CASES.values(), ids=CASES)
def test_a_unit_gives_the_picture_of_diffusers(tiny_sd, tiny_net, maps, unit, told):
    picture = ours(tiny_sd, [ControlUnit(net=tiny_net, map=maps[0], **unit)])
    assert_same(picture, theirs(StableDiffusionControlNetPipeline, tiny_sd, [tiny_net], maps[:1], **told))
    assert float(np.abs(picture - ours(tiny_sd, [])).max()) > 2


def test_two_units_give_the_picture_of_multicontrolnet(tiny_sd, tiny_net, other_net, maps):
    units = [ControlUnit(net=tiny_net, map=maps[0], scale=0.7, end=0.6), ControlUnit(net=other_net, map=maps[1], scale=1.2, start=0.2)]
    told = {"controlnet_conditioning_scale": [0.7, 1.2], "control_guidance_start": [0.0, 0.2], "control_guidance_end": [0.6, 1.0]}
    assert_same(ours(tiny_sd, units), theirs(StableDiffusionControlNetPipeline, tiny_sd, [tiny_net, other_net], maps, **told))


def test_image_to_image_gives_the_picture_of_diffusers(tiny_sd, tiny_net, maps):
    unit = ControlUnit(net=tiny_net, map=maps[0], start=0.25)
    picture = ours(tiny_sd, [unit], init_image=maps[1], strength=0.8)
    # The scale of this pipeline is 0.8 where none is said.
    told = {"image": maps[1], "strength": 0.8, "control_guidance_start": 0.25, "controlnet_conditioning_scale": 1.0}
    assert_same(picture, theirs(StableDiffusionControlNetImg2ImgPipeline, tiny_sd, [tiny_net], maps[:1], **told))


@pytest.mark.parametrize(("strength", "scheduler"), [(1.0, "unipc"), (0.6, "ddim"), (0.8, "euler")])
def test_inpainting_gives_the_picture_of_diffusers(tiny_sd, tiny_net, maps, strength, scheduler):
    from diffusers import EulerDiscreteScheduler, UniPCMultistepScheduler

    pixels = np.zeros((32, 32), np.uint8)
    pixels[6:27, 10:30] = 255
    mask, told = Image.fromarray(pixels), {"controlnet_conditioning_scale": 1.0, "strength": strength}
    picture = ours(tiny_sd, [ControlUnit(net=tiny_net, map=maps[0])], init_image=maps[1], init_mask=mask, strength=strength, scheduler=scheduler)
    kind = {"unipc": UniPCMultistepScheduler, "ddim": DDIMScheduler, "euler": EulerDiscreteScheduler}[scheduler]
    other = theirs(StableDiffusionControlNetInpaintPipeline, tiny_sd, [tiny_net], maps[:1], image=maps[1], mask_image=mask, kind=kind, **told)
    assert_same(picture, other)
    free = ours(tiny_sd, [ControlUnit(net=tiny_net, map=maps[0])], init_image=maps[1], strength=strength, scheduler=scheduler)
    assert float(np.abs(picture - free).max()) > 2


def test_sdxl_gives_the_picture_of_diffusers(tiny_sdxl, xl_net, maps):
    unit = ControlUnit(net=xl_net, map=maps[0], scale=0.8)
    picture = ours(tiny_sdxl, [unit], scheduler="ddim")
    told = {"controlnet_conditioning_scale": 0.8, "ddim": True, "height": 32, "width": 32}
    assert_same(picture, theirs(StableDiffusionXLControlNetPipeline, tiny_sdxl, [xl_net], maps[:1], **told))


def test_another_scheduler_and_no_guidance_give_the_picture_of_diffusers(tiny_sd, tiny_net, maps):
    unit = ControlUnit(net=tiny_net, map=maps[0], mode="control")
    told = {"guidance_scale": 1.0, "guess_mode": True}
    assert_same(ours(tiny_sd, [unit], guidance_scale=1.0), theirs(StableDiffusionControlNetPipeline, tiny_sd, [tiny_net], maps[:1], **told))
