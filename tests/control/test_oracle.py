"""Our loop with ControlNets against diffusers' pipelines on the same random folders: the same pictures within 1/255."""

import diffusers
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

from studio.errors import ModelUnavailable
from studio.models import load_model
from studio.options import SampleOptions
from studio.process.schedulers import FLOW_CLASSES, SCHEDULERS
from studio.sampling.loop import sample
from studio.units import ControlUnit
from tests.tiny_control import save_tiny_controlnet, save_tiny_sd3_controlnet

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
    anew = {"init_image": maps[1], "init_mask": mask, "mask_overlay": False, "strength": strength, "scheduler": scheduler}
    picture = ours(tiny_sd, [ControlUnit(net=tiny_net, map=maps[0])], **anew)
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


@pytest.mark.parametrize(("guidance_scale", "scheduler"), [(4.0, "euler"), (1.0, "dpm++_2m")])
def test_two_units_on_sdxl_give_the_picture_of_multicontrolnet(tiny_sdxl, xl_net, maps, tmp_path, guidance_scale, scheduler):
    second = save_tiny_controlnet(tmp_path / "second", tiny_sdxl, seed=6)
    units = [ControlUnit(net=xl_net, map=maps[0], scale=0.7), ControlUnit(net=second, map=maps[1], scale=1.2, start=0.2)]
    picture = ours(tiny_sdxl, units, scheduler=scheduler, guidance_scale=guidance_scale)
    told = {"controlnet_conditioning_scale": [0.7, 1.2], "control_guidance_start": [0.0, 0.2], "control_guidance_end": [1.0, 1.0], "height": 32, "width": 32}
    kind = getattr(diffusers, SCHEDULERS[scheduler].diffusers_class)
    assert_same(picture, theirs(StableDiffusionXLControlNetPipeline, tiny_sdxl, [xl_net, second], maps, kind=kind, guidance_scale=guidance_scale, **told))


def sd3_pictures(model, nets, maps, scheduler, monkeypatch, guidance_scale=4.0, num_images=1, **options) -> np.ndarray:
    """What StableDiffusion3ControlNetPipeline makes; it draws from the VAE's posterior of the map, without a seed, where the studio takes its middle."""
    from diffusers import SD3ControlNetModel, SD3MultiControlNetModel, StableDiffusion3ControlNetPipeline
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    loaded = [SD3ControlNetModel.from_pretrained(net) for net in nets]
    absent = dict.fromkeys(("text_encoder_3", "tokenizer_3", "feature_extractor", "image_encoder"))
    controlnet = loaded[0] if len(loaded) == 1 else SD3MultiControlNetModel(loaded)
    pipeline = StableDiffusion3ControlNetPipeline.from_pretrained(model, controlnet=controlnet, **absent)
    pipeline.set_progress_bar_config(disable=True)
    if scheduler != "euler":
        flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": pipeline.scheduler.config.shift}
        pipeline.scheduler = getattr(diffusers, FLOW_CLASSES[scheduler]).from_config(dict(pipeline.scheduler.config), **flow)
    generators = [torch.Generator().manual_seed(i) for i in range(num_images)]
    return np.asarray(pipeline(
        PROMPT, control_image=maps if len(maps) > 1 else maps[0], height=32, width=32, num_inference_steps=STEPS, guidance_scale=guidance_scale,
        num_images_per_prompt=num_images, generator=generators, output_type="np", **options,
    ).images[-1] * 255, np.float32)


SD3_NETS = {
    "as InstantX's": {"layers": 1}, "told the pooled prompt": {"layers": 2, "force_zeros_for_pooled_projection": False},
    "as those of the 8B model": {"large": True, "force_zeros_for_pooled_projection": False},
}


@pytest.mark.parametrize("kind", SD3_NETS)
def test_sd3_gives_the_picture_of_diffusers(tiny_sd3, maps, tmp_path, monkeypatch, kind):
    net = save_tiny_sd3_controlnet(tmp_path / "net", tiny_sd3, **SD3_NETS[kind])
    unit = ControlUnit(net=net, map=maps[0], scale=0.8, end=0.8)
    told = {"controlnet_conditioning_scale": 0.8, "control_guidance_end": 0.8}
    for scheduler, guidance_scale, num_images in (("euler", 4.0, 2), ("dpm++_2m", 1.0, 1)):
        finished = list(sample(load_model(tiny_sd3), sd3_options(tiny_sd3, [unit], scheduler, guidance_scale, num_images)))[-1]
        free = list(sample(load_model(tiny_sd3), sd3_options(tiny_sd3, [], scheduler, guidance_scale, num_images)))[-1]
        picture = np.asarray(finished.images[-1], np.float32)
        assert_same(picture, sd3_pictures(tiny_sd3, [net], maps[:1], scheduler, monkeypatch, guidance_scale, num_images, **told))
        assert np.abs(picture - np.asarray(free.images[-1], np.float32)).max() > 2
        # How much it added is recorded, block by block: nothing once its window is over.
        sizes = finished.trajectory.stream("residual_sizes")
        assert sizes.shape == (STEPS, num_images, 1, SD3_NETS[kind].get("layers", 1)) and sizes[:4].min() > 0 and sizes[4].max() == 0


def sd3_options(model, units, scheduler, guidance_scale=4.0, num_images=1):
    return SampleOptions(
        model=model, prompt=PROMPT, num_steps=STEPS, guidance_scale=guidance_scale, num_images=num_images, scheduler=scheduler, control=tuple(units),
    )


def test_two_units_on_sd3_give_the_picture_of_multicontrolnet_and_other_nets_are_refused(tiny_sd3, tiny_net, tiny_sd, maps, tmp_path, monkeypatch):
    nets = [save_tiny_sd3_controlnet(tmp_path / f"net-{seed}", tiny_sd3, seed=seed, layers=2) for seed in (5, 6)]
    units = [ControlUnit(net=nets[0], map=maps[0], scale=0.7), ControlUnit(net=nets[1], map=maps[1], scale=1.2)]
    picture = np.asarray(list(sample(load_model(tiny_sd3), sd3_options(tiny_sd3, units, "euler")))[-1].images[0], np.float32)
    assert_same(picture, sd3_pictures(tiny_sd3, nets, maps, "euler", monkeypatch, controlnet_conditioning_scale=[0.7, 1.2]))
    # A mask keeps it to a part, in patches; a net of fewer blocks adds each of its own to several.
    half = Image.new("L", (32, 32))
    half.paste(255, (0, 0, 16, 32))
    short = save_tiny_sd3_controlnet(tmp_path / "short", tiny_sd3, seed=7)
    more = [*units, ControlUnit(net=short, map=maps[0], mask=half, mode="control")]
    assert np.abs(np.asarray(list(sample(load_model(tiny_sd3), sd3_options(tiny_sd3, more, "euler")))[-1].images[0], np.float32) - picture).max() > 1
    for model, net in ((tiny_sd3, tiny_net), (tiny_sd, nets[0])):
        with pytest.raises(ModelUnavailable, match="networks of different kinds"):
            next(sample(load_model(model), sd3_options(model, [ControlUnit(net=net, map=maps[0])], "euler")))


def test_another_scheduler_and_no_guidance_give_the_picture_of_diffusers(tiny_sd, tiny_net, maps):
    unit = ControlUnit(net=tiny_net, map=maps[0], mode="control")
    told = {"guidance_scale": 1.0, "guess_mode": True}
    assert_same(ours(tiny_sd, [unit], guidance_scale=1.0), theirs(StableDiffusionControlNetPipeline, tiny_sd, [tiny_net], maps[:1], **told))
