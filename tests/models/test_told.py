"""Depth, upscaling and image variations against diffusers' own pipelines of the same folders, and what each is refused."""

import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from studio import SampleOptions, Studio
from studio.errors import InvalidOption, ModelUnavailable
from studio.models import DiffusionModel, load_model
from studio.models.families import upscaler
from studio.models.families.unclip import slerp
from studio.process.schedulers import SCHEDULERS
from studio.sampling.loop import sample
from studio.sampling.trajectory import Trajectory
from tests.models.test_inpainting import PROMPT, mask, picture
from tests.tiny_told import save_tiny_depth, save_tiny_estimator, save_tiny_unclip, save_tiny_upscaler

SAVERS = {"depth": save_tiny_depth, "upscaler": save_tiny_upscaler, "unclip": save_tiny_unclip}
SMALL = picture(8, 8, seed=1)
# What each is told at least.
TOLD = {"depth": {"init_image": picture(), "strength": 0.8}, "upscaler": {"cond_image": SMALL}, "unclip": {"cond_image": picture()}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: save(tmp_path_factory.mktemp(name) / name) for name, save in SAVERS.items()}


@pytest.fixture(scope="module")
def models(folders):
    return {name: load_model(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def pipelines(folders):
    made = {name: diffusers.DiffusionPipeline.from_pretrained(folder) for name, folder in folders.items()}
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
    return made


def options(models, name, **changes):
    return SampleOptions(**{"model": models[name].name, "prompt": PROMPT, "num_steps": 5, "seed": 3, **TOLD[name], **changes})


def ours(models, name, **changes):
    *_, finished = sample(models[name], options(models, name, **changes))
    return np.stack([np.asarray(image) for image in finished.images]).astype(int), finished.trajectory


def theirs(pipelines, name, scheduler="ddim", guidance_scale=1.0, num_images=1, **call):
    pipeline, shown = pipelines[name], {"depth": picture(), "upscaler": SMALL, "unclip": picture()}[name]
    kind = getattr(diffusers, SCHEDULERS[scheduler].diffusers_class or "DDIMScheduler")
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **SCHEDULERS[scheduler].config)
    told = {"depth": {"strength": 0.8}, "upscaler": {}, "unclip": {}}[name]
    images = pipeline(
        prompt=[PROMPT] * num_images, num_inference_steps=5, guidance_scale=guidance_scale,
        generator=[torch.Generator().manual_seed(3 + i) for i in range(num_images)],
        **{"image": shown if num_images == 1 else [shown] * num_images, **told, **call},
    ).images
    return np.stack([np.asarray(image) for image in images]).astype(int)


@pytest.mark.parametrize("name", SAVERS)
def test_the_picture_is_that_of_the_familys_own_pipeline(models, pipelines, name):
    assert isinstance(models[name], DiffusionModel)
    for scheduler, guidance_scale, num_images in (("ddim", 1.0, 1), ("ddim", 4.0, 2), ("dpm++_2m", 4.0, 1), ("dpm++_2m", 1.0, 2)):
        drawn, _ = ours(models, name, scheduler=scheduler, guidance_scale=guidance_scale, num_images=num_images)
        assert np.abs(drawn - theirs(pipelines, name, scheduler, guidance_scale, num_images)).max() <= 1, (scheduler, guidance_scale, num_images)
        assert np.ptp(drawn) > 20  # a flat picture would prove nothing


def test_an_uploaded_depth_map_and_the_noise_levels_are_the_pipelines_own(models, pipelines):
    depth = picture(seed=5).convert("L")
    grey = torch.from_numpy(np.array(depth)).float()[None] / 127.5
    drawn, run = ours(models, "depth", cond_image=depth.convert("RGB"), guidance_scale=4.0)
    assert np.abs(drawn - theirs(pipelines, "depth", guidance_scale=4.0, depth_map=grey)).max() <= 1
    assert float(run.told["depth"].min()) == -1 and float(run.told["depth"].max()) == 1
    for name, levels in (("upscaler", (0, 20, 300)), ("unclip", (0, 400))):
        drawn = [ours(models, name, noise_level=level, guidance_scale=3.0)[0] for level in levels]
        for level, one in zip(levels, drawn):
            assert np.abs(one - theirs(pipelines, name, guidance_scale=3.0, noise_level=level)).max() <= 1, (name, level)
        assert np.abs(drawn[0] - drawn[-1]).max() > 2


def test_a_mix_of_two_pictures_is_the_pipelines_of_the_embedding_between_theirs(models, pipelines):
    pair = [picture(), picture(seed=7)]
    with torch.no_grad():
        pixels = pipelines["unclip"].feature_extractor(images=pair, return_tensors="pt").pixel_values
        first, second = (pipelines["unclip"].image_encoder(pixels).image_embeds[i].double() for i in (0, 1))
    angle = torch.arccos(first @ second / first.norm() / second.norm())
    between = (torch.sin(0.7 * angle) * first + torch.sin(0.3 * angle) * second) / torch.sin(angle)
    mixed, run = ours(models, "unclip", cond_image_2=pair[1], cond_mix=0.3, noise_level=50)
    other = theirs(pipelines, "unclip", image=None, image_embeds=between.float()[None], noise_level=50)
    assert np.abs(mixed - other).max() <= 1 and run.told_pictures("varied").shape[0] == 2
    ends = [ours(models, "unclip", cond_image_2=pair[1], cond_mix=mix)[0] for mix in (0.0, 1.0)]
    for end, one in zip(ends, pair):
        assert np.abs(end - ours(models, "unclip", cond_image=one)[0]).max() <= 1
    assert np.abs(ends[0] - mixed).max() > 2


def test_the_arc_between_vectors_has_their_length_and_parallel_ones_a_line():
    a, b = torch.nn.functional.normalize(torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    middle = slerp(a, b, 0.5)
    torch.testing.assert_close(middle.norm(), torch.ones(()))
    torch.testing.assert_close(middle @ a.T, middle @ b.T)
    torch.testing.assert_close(slerp(a, 2 * a, 0.25), 1.25 * a)


@pytest.mark.parametrize("name", SAVERS)
def test_a_run_is_kept_reopened_without_the_model_and_forked(models, name, tmp_path):
    _, run = ours(models, name, num_images=2, guidance_scale=3.0, scheduler="dpm++_2m", **({"noise_level": 30} if name != "depth" else {}))
    back = Trajectory.load(run.save(tmp_path / "run.safetensors"))
    stream = {"depth": "depth", "upscaler": "low_res", "unclip": "varied"}[name]
    assert list(back.told) == [stream] and back.told_pictures(stream).abs().max() <= 3 and back.nbytes > sum(told.nbytes for told in back.told.values())
    assert back.options.noise_level == (None if name == "depth" else 30) and back.options.to_dict()["cond_mix"] == 0.5
    for field in ("cond_image", "init_image"):
        kept, was = getattr(back.options, field), getattr(run.options, field)
        assert (kept is None) == (was is None) and (was is None or kept.tobytes() == was.tobytes())
    assert np.array_equal(np.asarray(back.images[1]), np.asarray(run.images[1])) and back.pictures("x0_hat").shape[:2] == (len(run.steps), 2)
    *_, fork = Studio().resume(back, 2)
    assert (fork.trajectory.x_final - run.x_final).abs().max() < 2e-3 * run.x_final.std()


def test_any_depth_estimator_of_transformers_makes_the_map(models, pipelines, tmp_path):
    other = save_tiny_estimator(tmp_path / "other", seed=9)
    drawn, run = ours(models, "depth", depth_model=other)
    from transformers import DPTForDepthEstimation

    own = pipelines["depth"].depth_estimator
    pipelines["depth"].depth_estimator = DPTForDepthEstimation.from_pretrained(other)
    assert np.abs(drawn - theirs(pipelines, "depth")).max() <= 1
    pipelines["depth"].depth_estimator = own
    assert (run.told["depth"] - ours(models, "depth")[1].told["depth"]).abs().max() > 0.1
    with pytest.raises(ModelUnavailable, match="is no depth estimator"):
        ours(models, "depth", depth_model=str(tmp_path))


def test_a_depth_model_draws_from_pure_noise_and_inpaints_too_and_may_lack_its_estimator(models, tmp_path):
    free = {"init_image": None, "strength": 1.0, "cond_image": picture(seed=5)}
    drawn, _ = ours(models, "depth", **free)
    assert np.ptp(drawn) > 20
    anew, run = ours(models, "depth", init_mask=mask())
    assert np.abs(anew[0] - np.asarray(picture()))[np.asarray(mask()) == 0].max() == 0 and set(run.told) == {"mask", "depth"}
    bare = {"depth": load_model(save_tiny_depth(tmp_path / "bare", estimator=False))}
    assert np.abs(ours(bare, "depth", **free)[0] - drawn).max() <= 1
    with pytest.raises(InvalidOption, match="without its depth estimator"):
        ours(bare, "depth")


# --- tiles of the upscaler ------------------------------------------------------------------------------------

def test_tiles_cover_everything_and_blend_to_what_a_network_of_places_would_say(models, monkeypatch):
    monkeypatch.setattr(upscaler, "TILE", 16)
    monkeypatch.setattr(upscaler, "OVERLAP", 4)
    for side in (8, 16, 17, 40, 100):
        tiles = upscaler.tiles_of(side)
        assert tiles[0].start == 0 and tiles[-1].stop == side
        assert all(one.stop - two.start >= 4 for one, two in zip(tiles, tiles[1:]))
    large = picture(40, 24, seed=1)
    asked = []
    network = models["upscaler"].network

    def of_places(x, t, **told):
        asked.append(tuple(x.shape[-2:]))
        return (x[:, :4] * 2 + x[:, 4:5],)

    monkeypatch.setattr(network, "forward", of_places)
    x_t = torch.randn(2, 4, 24, 40)
    told, _ = models["upscaler"].condition(options(models, "upscaler", cond_image=large))
    from studio.models.conditioning import batched

    said = models["upscaler"].predict(x_t, 1.0, batched([told], 2))
    assert set(asked) == {(16, 16)} and len(asked) == 2 * 3
    torch.testing.assert_close(said, 2 * x_t)


def test_a_picture_larger_than_a_tile_is_drawn_near_what_it_is_drawn_at_once(models, monkeypatch):
    large = picture(24, 16, seed=1)
    whole, _ = ours(models, "upscaler", cond_image=large, num_steps=3)
    monkeypatch.setattr(upscaler, "TILE", 16)
    monkeypatch.setattr(upscaler, "OVERLAP", 8)
    tiled, _ = ours(models, "upscaler", cond_image=large, num_steps=3)
    assert tiled.shape == whole.shape == (1, 64, 96, 3) and 0 < np.abs(tiled - whole).mean() < np.abs(whole - whole.mean()).mean()
    with pytest.raises(InvalidOption, match="drawn in tiles"):
        ours(models, "upscaler", cond_image=large, record_attention=True)


def test_a_wider_result_is_asked_for_by_its_size_and_odd_pictures_lose_their_edge(models):
    assert ours(models, "upscaler", cond_image=picture(11, 9), num_steps=2)[0].shape == (1, 32, 32, 3)
    assert ours(models, "upscaler", cond_image=picture(11, 9), width=64, height=32, num_steps=2)[0].shape == (1, 32, 64, 3)


# --- refusals ------------------------------------------------------------------------------------------------

REFUSED = {
    "flat depth": ("depth", {"cond_image": Image.new("RGB", (32, 32), (80, 80, 80))}, "of one value all over"),
    "no depth": ("depth", {"init_image": None, "strength": 1.0}, "is told a depth map: give one"),
    "depth noise": ("depth", {"noise_level": 3}, "noise_level is set, but"),
    "too large": ("upscaler", {"cond_image": Image.new("RGB", (1100, 40))}, "at most 1024 a side"),
    "too small": ("upscaler", {"cond_image": Image.new("RGB", (3, 40))}, "at least 4 a side"),
    "nothing small": ("upscaler", {"cond_image": None}, "enlarges a picture: give it a small one"),
    "noisy": ("upscaler", {"noise_level": 351}, "noise levels from 0 to 350"),
    "two small": ("upscaler", {"cond_image_2": SMALL}, "cond_image_2 is set, but"),
    "nothing to vary": ("unclip", {"cond_image": None}, "draws variations of a picture: give it one"),
    "noisier": ("unclip", {"noise_level": 1000}, "noise levels from 0 to 999"),
    "estimator": ("unclip", {"depth_model": "x/y"}, "depth_model is set, but"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_family_is_not_told_is_said_before_the_first_step(models, case):
    name, changes, words = REFUSED[case]
    with pytest.raises(InvalidOption, match=words):
        next(sample(models[name], options(models, name, **changes)))
    for wrong in ({"cond_image": None, "cond_image_2": SMALL}, {"cond_image": "x.png"}, {"cond_mix": 1.5}):
        with pytest.raises(InvalidOption):
            options(models, "unclip", **wrong)


def test_parts_that_do_not_belong_together_and_estimators_on_a_public_studio(folders, tmp_path):
    for name, words in (("depth", "a depth model takes 5"), ("upscaler", "is no upscaler")):
        broken = Path(shutil.copytree(folders[name], tmp_path / name))
        shutil.rmtree(broken / "unet")
        shutil.copytree(Path(folders["unclip"]) / "unet", broken / "unet")
        with pytest.raises(ModelUnavailable, match=words):
            load_model(str(broken))
    broken = Path(shutil.copytree(folders["unclip"], tmp_path / "unclip"))
    config = json.loads((broken / "image_normalizer" / "config.json").read_text())
    shutil.rmtree(broken / "image_encoder")
    with pytest.raises(ModelUnavailable, match="holds no model of image variations"):
        load_model(str(broken))
    assert config["embedding_dim"] == 16
    with pytest.raises(InvalidOption, match="public studio"):
        next(Studio(public=True).sample(SampleOptions(model="toybox-sd", depth_model="someone/else")))


@pytest.mark.parametrize("name", SAVERS)
def test_anatomy_and_memory_know_its_parts(folders, models, name):
    studio = Studio()
    parts = {part.name: part for part in studio.anatomy(folders[name], "a red star")}
    assert parts["unet"].shape_out and {"depth": "depth_estimator", "unclip": "image_encoder", "upscaler": "vae.decoder"}[name] in parts
    studio.require_room(options(models, name, num_images=2, guidance_scale=3.0))
