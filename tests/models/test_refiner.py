"""SDXL's refiner, alone and after the base model, against diffusers' own pipelines of the same folders, and what is refused."""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from studio import SampleOptions, Studio
from studio.conditions import AestheticTold, Refined, SizeTold, TextsTold
from studio.errors import InvalidOption, ModelUnavailable
from studio.media.images import fit
from studio.models import load_model
from studio.models.memory import Residents
from studio.process.schedulers import SCHEDULERS
from studio.sampling.loop import resume, sample
from studio.sampling.refining import refining
from studio.sampling.trajectory import Trajectory
from tests.tiny_families import save_tiny_refiner, save_tiny_sd3, save_tiny_sdxl
from tests.tiny_sd import save_tiny_sd

PROMPT = "a red star on a blue butterfly"
START = Image.effect_noise((32, 32), 90).convert("RGB").rotate(20)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("refiner")
    return {"base": save_tiny_sdxl(root / "base"), "refiner": save_tiny_refiner(root / "refiner")}


@pytest.fixture(scope="module")
def models(folders):
    return {folder: load_model(folder) for folder in folders.values()}


@pytest.fixture(scope="module")
def pipelines(folders):
    classes = {"base": diffusers.StableDiffusionXLPipeline, "refiner": diffusers.StableDiffusionXLImg2ImgPipeline}
    made = {name: cls.from_pretrained(folders[name]) for name, cls in classes.items()}
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
        pipeline.own_config = dict(pipeline.scheduler.config)
    return made


def scheduled(pipeline, scheduler):
    known = SCHEDULERS[scheduler]
    pipeline.scheduler = getattr(diffusers, known.diffusers_class or "DDIMScheduler").from_config(pipeline.own_config, **known.config)
    return pipeline


def run(models, folder, **changes):
    options = SampleOptions(**{"model": folder, "prompt": PROMPT, "seed": 3, "num_steps": 8, "scheduler": "euler", **changes})
    *steps, finished = sample(models[folder], options, get_model=models.__getitem__)
    return steps, np.stack([np.asarray(image) for image in finished.images]).astype(int), finished.trajectory


def seeds(count):
    return [torch.Generator().manual_seed(3 + i) for i in range(count)]


REFINED = [("euler", 1.0, 1), ("euler", 4.0, 2), ("dpm++_2m", 4.0, 1), ("ddim", 4.0, 1)]


@pytest.mark.parametrize(("scheduler", "guidance_scale", "num_images"), REFINED)
def test_the_refiner_alone_goes_on_from_a_picture_as_its_pipeline_does(models, folders, pipelines, scheduler, guidance_scale, num_images):
    told = {"size": SizeTold(original=(40, 36), crop=(2, 3)), "aesthetic": AestheticTold(score=7.0, negative=1.5)}
    _, picture, _ = run(
        models, folders["refiner"], scheduler=scheduler, guidance_scale=guidance_scale, num_images=num_images, init_image=START, strength=0.5, **told,
    )
    images = scheduled(pipelines["refiner"], scheduler)(
        prompt=PROMPT, image=fit(START, 32, 32), strength=0.5, num_inference_steps=8, guidance_scale=guidance_scale, num_images_per_prompt=num_images,
        generator=seeds(num_images), original_size=(36, 40), crops_coords_top_left=(3, 2), aesthetic_score=7.0, negative_aesthetic_score=1.5,
    ).images
    assert np.abs(picture - np.stack([np.asarray(image) for image in images]).astype(int)).max() <= 1 and np.ptp(picture) > 20


@pytest.mark.parametrize(("scheduler", "guidance_scale", "num_images"), REFINED)
def test_base_and_refiner_hand_over_as_two_pipelines_do(models, folders, pipelines, scheduler, guidance_scale, num_images):
    changes = {"refined": Refined(model=folders["refiner"], start=0.6), "texts": TextsTold(prompt_2="a butterfly"), "num_steps": 10}
    steps, picture, _ = run(models, folders["base"], scheduler=scheduler, guidance_scale=guidance_scale, num_images=num_images, **changes)
    call = {"prompt": PROMPT, "prompt_2": "a butterfly", "num_inference_steps": 10, "guidance_scale": guidance_scale, "num_images_per_prompt": num_images}
    begun = scheduled(pipelines["base"], scheduler)(**call, generator=seeds(num_images), height=32, width=32, denoising_end=0.6, output_type="latent").images
    images = scheduled(pipelines["refiner"], scheduler)(**call, image=begun, denoising_start=0.6, generator=seeds(num_images)).images
    assert np.abs(picture - np.stack([np.asarray(image) for image in images]).astype(int)).max() <= 1 and np.ptp(picture) > 20
    # The scrubber marks where it was handed over, and either did something.
    assert [step.refined for step in steps] == [False] * 6 + [True] * 4
    alone = run(models, folders["base"], scheduler=scheduler, guidance_scale=guidance_scale, num_images=num_images, num_steps=10)[1]
    assert np.abs(alone - picture).max() > 5


def test_a_run_with_a_refiner_is_kept_and_goes_on_from_either_side_of_the_hand_over(models, folders, tmp_path):
    refined = Refined(model=folders["refiner"], start=0.6)
    _, _, whole = run(models, folders["base"], scheduler="dpm++_2m", guidance_scale=3.0, num_steps=10, refined=refined, record_attention=True)
    back = Trajectory.load(whole.save(tmp_path / "run.safetensors"))
    assert back.options == whole.options and [step.refined for step in back.steps] == [False] * 6 + [True] * 4
    for index in (3, 6, 8):
        *_, fork = resume(models[folders["base"]], back, index, get_model=models.__getitem__)
        assert (fork.trajectory.x_final - whole.x_final).abs().max() < 2e-3 * whole.x_final.std()
    # The studio lends both, and neither gives way to the other.
    studio = Studio()
    *_, finished = studio.sample(whole.options)
    assert (finished.trajectory.x_final - whole.x_final).abs().max() == 0 and {one.name for one in studio.residents()} == set(folders.values())


def test_what_a_refiner_cannot_do_is_said_in_a_sentence(models, folders, tmp_path):
    base, refiner = folders["base"], folders["refiner"]
    for folder, changes, said in (
        (refiner, {}, "only finishes pictures"), (base, {"aesthetic": AestheticTold(score=8.0)}, "name a refiner"),
        (refiner, {"init_image": START, "size": SizeTold(target=(9, 9))}, "'Target size'"),
        (refiner, {"init_image": START, "refined": Refined(model=base)}, "'Refiner'"),
        (base, {"refined": Refined(model=refiner), "num_steps": 1}, "none is left to the base model"),
        (base, {"refined": Refined(model=refiner, start=0.2), "init_image": START, "strength": 0.3}, "none is left to the base model"),
    ):
        with pytest.raises(InvalidOption, match=said):
            run(models, folder, **changes)
    with pytest.raises(InvalidOption, match="Of 3 steps none is left to the refiner"):
        refining(models[base], SampleOptions(refined=Refined(model=refiner, start=0.95)), (999, 500, 99), 0, models.__getitem__)
    others = {"sd3": save_tiny_sd3(tmp_path / "sd3"), "v": save_tiny_sd(tmp_path / "v", scheduler={"prediction_type": "v_prediction"})}
    for name, said in (("sd3", "its latents are others"), ("v", "trained on other noise")):
        with pytest.raises(ModelUnavailable, match=said):
            run({**models, others[name]: load_model(others[name])}, base, refined=Refined(model=others[name]))


def test_two_models_that_do_not_fit_beside_each_other_are_refused_in_numbers():
    held = Residents(load=lambda name, offload: name, estimate=lambda name: 3.0, measure=lambda model: 3.0, budget=lambda: 5.0, can_offload=lambda: False)
    held.get("base")
    with pytest.raises(ModelUnavailable, match="need 1.0 GiB more"):
        held.get("refiner", beside="base")
    assert held.get("refiner") == "refiner" and [one.name for one in held.list()] == ["refiner"]
