"""The recipes of the embedded models: what they are, what they refuse in a sentence, where their results go."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from studio.errors import RunFailed
from studio.runs.trainers.clip import ClipOptions
from studio.runs.trainers.latent import LatentOptions
from studio.runs.trainers.vae import VaeOptions
from trainers import cards, clip, latent, rebuild, vae
from trainers.ddpm import make_network


def test_every_recipe_can_be_written_as_commands_and_has_a_judge():
    for name, stages in rebuild.RECIPES.items():
        assert all(cards.command(stage()).startswith("python -m trainers.") for stage in stages)
        assert name in cards.JUDGES
        assert len(stages) <= 2 or name == "domino", name


def test_the_pixel_model_fits_its_budget():
    (stage,) = rebuild.RECIPES["toybox-ddpm"]
    network = make_network(stage(), 3, 20)
    assert 2 * sum(parameter.numel() for parameter in network.parameters()) < 3.9 * 2**20


def test_what_a_recipe_builds_on_is_made_by_a_recipe():
    made = {f"{stage().output}/model" for stages in rebuild.RECIPES.values() for stage in stages}
    for name, stages in rebuild.RECIPES.items():
        if name != "domino":
            parts = [getattr(stage(), part, "") for stage in stages for part in ("start", "vae", "clip", "decoder")]
            assert set(filter(None, parts)) <= made, name


def test_a_recipe_without_its_predecessor_says_which_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFailed, match="rebuild toybox-clip"):
        rebuild._finish(LatentOptions(output="runs/x", vae=str(tmp_path), clip="runs/toybox-clip/model"))


def test_a_recipe_on_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(rebuild.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 2**20))
    with pytest.raises(RunFailed, match="Free some space"):
        rebuild._finish(VaeOptions(output=str(tmp_path / "run")))


def test_a_stage_that_fails_says_why(tmp_path):
    options = VaeOptions(output=str(tmp_path / "run"), data=str(tmp_path / "no pictures"), steps=1, tensorboard=False)
    with pytest.raises(RunFailed, match="nor a folder of captioned pictures"):
        rebuild._finish(options)


def test_an_unknown_recipe_is_a_sentence(monkeypatch):
    monkeypatch.setattr("sys.argv", ["rebuild", "toybox-sdd"])
    with pytest.raises(SystemExit, match="did you mean 'toybox-sd'"):
        rebuild.main()


def test_the_early_model_shares_all_but_its_unet_and_is_a_pipeline(tmp_path):
    from diffusers import StableDiffusionPipeline

    small = {"resolution": 32, "data_limit": 16, "batch_size": 4, "warmup": 1, "sample_every": 0, "tensorboard": False}
    list(clip.train(ClipOptions(output=str(tmp_path / "clip"), width=32, text_layers=1, vision_layers=1, steps=1, **small), progress=False))
    list(vae.train(VaeOptions(output=str(tmp_path / "vae"), widths="8,16", steps=1, **small), progress=False))
    parts = {"vae": str(tmp_path / "vae/model"), "clip": str(tmp_path / "clip/model")}
    options = LatentOptions(output=str(tmp_path / "sd"), **parts, widths="16,32", steps=2, early=1, **small)
    list(latent.train(options, progress=False))
    assets = tmp_path / "assets"
    rebuild._put_into_assets([options], assets / "toybox-sd")
    early = assets / "toybox-sd-early"
    whole, part = (load_file(folder / "unet/diffusion_pytorch_model.safetensors") for folder in (assets / "toybox-sd", early))
    assert not all(torch.equal(whole[name], part[name]) for name in whole)
    assert all((early / name).is_symlink() for name in ("vae", "text_encoder", "tokenizer", "scheduler")) and not (early / "unet").is_symlink()
    moved = tmp_path / "elsewhere"
    assets.rename(moved)  # links are relative
    pipeline = StableDiffusionPipeline.from_pretrained(moved / "toybox-sd-early", torch_dtype=torch.float32)
    assert pipeline("a red star", num_inference_steps=1).images[0].size == (32, 32)
