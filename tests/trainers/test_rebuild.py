"""The recipes of the embedded models: what they are, what they refuse in a sentence, where their results go."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from studio.errors import ModelUnavailable, RunFailed
from studio.models.scene_reader import load_reader
from studio.runs.trainers.clip import ClipOptions
from studio.runs.trainers.latent import LatentOptions
from studio.runs.trainers.vae import VaeOptions
from trainers import cards, clip, latent, rebuild, vae
from trainers.ddpm import make_network


def test_every_recipe_can_be_written_as_commands_and_has_a_judge():
    for name, stages in rebuild.RECIPES.items():
        assert all(cards.command(stage()).startswith("python -m trainers.") for stage in stages)
        assert name in cards.JUDGES
        # The reward's rankings came in three lots.
        assert len(stages) <= (5 if name == "toybox-reward" else 3) or name in rebuild.EXAMPLE_RUNS, name


def test_the_pixel_model_fits_its_budget():
    (stage,) = rebuild.RECIPES["toybox-ddpm"]
    network = make_network(stage(), 3, 20)
    assert 2 * sum(parameter.numel() for parameter in network.parameters()) < 3.9 * 2**20


def test_what_a_recipe_builds_on_is_made_by_a_recipe():
    made = {f"{stage().output}/model" for stages in rebuild.RECIPES.values() for stage in stages} | {f"assets/models/{name}" for name in rebuild.RECIPES}
    for name, stages in rebuild.RECIPES.items():
        if name not in rebuild.EXAMPLE_RUNS:
            parts = [getattr(stage(), part, "") for stage in stages for part in ("start", "vae", "clip", "decoder")]
            # A part of an embedded pipeline is made with it.
            assert all(part in made or str(Path(part).parent) in made for part in filter(None, parts)), name


def test_a_recipe_without_its_predecessor_says_which_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFailed, match="rebuild toybox-clip"):
        rebuild._finish(LatentOptions(output="runs/x", vae=str(tmp_path), clip="runs/toybox-clip/model"))


def test_a_recipe_on_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(rebuild.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 2**20))
    with pytest.raises(RunFailed, match="Free some space"):
        rebuild._finish(VaeOptions(output=str(tmp_path / "run")))


def test_a_stage_that_fails_says_why(tmp_path, in_this_process):
    options = VaeOptions(output=str(tmp_path / "run"), data=str(tmp_path / "no pictures"), steps=1, tensorboard=False)
    with pytest.raises(RunFailed, match="no folder of captioned pictures"):
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


@pytest.fixture
def small_recipe(tmp_path, monkeypatch):
    """A recipe of two stages of one step each, in a folder of its own, whose judge counts how often it is asked."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # a stage is a program of its own, started where its run lies
    monkeypatch.chdir(tmp_path)
    small = {"data": "toybox", "widths": "8,16", "resolution": 32, "data_limit": 8, "batch_size": 4, "steps": 1, "sample_every": 0, "tensorboard": False}
    first = VaeOptions(output="runs/first", **small)
    second = VaeOptions(output="runs/second", start="runs/first/model", **small)
    judged: list[str] = []
    monkeypatch.setattr(rebuild, "ASSETS", tmp_path / "assets")
    monkeypatch.setitem(rebuild.RECIPES, "toybox-sd", (lambda: first, lambda: second))
    monkeypatch.setitem(cards.JUDGES, "toybox-sd", lambda folder: judged.append(folder.name) or {"times": len(judged)})
    monkeypatch.setattr(cards, "latent_card", lambda *args: f"made by today's recipe\n\n{cards.MEASURED}\n\n{args[-1]}\n")
    return judged


@pytest.fixture
def in_this_process(monkeypatch):
    """The programs of the stages, run here: that they are programs is proved by the test that goes on where one was cut off."""
    def run(command):
        monkeypatch.setattr("signal.signal", lambda *_: None)
        try:
            vae.main(command[3:])
        except SystemExit as end:
            return subprocess.CompletedProcess(command, end.code)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(rebuild.subprocess, "run", run)


def folder_of(tmp_path):
    return tmp_path / "assets/models/toybox-sd"


def test_one_command_goes_on_where_it_was_cut_off_and_then_has_nothing_left_to_do(tmp_path, small_recipe, capsys, request):
    first, second = (stage() for stage in rebuild.RECIPES["toybox-sd"])
    rebuild._finish(first)
    request.getfixturevalue("in_this_process")
    made = (tmp_path / "runs/first/model").stat().st_mtime_ns
    rebuild.rebuild("toybox-sd")  # the second stage was still to be trained
    assert (tmp_path / "runs/first/model").stat().st_mtime_ns == made
    assert (folder_of(tmp_path) / "config.json").is_file() and small_recipe == ["toybox-sd"]
    kept = (tmp_path / "runs/second/model").stat().st_mtime_ns
    rebuild.rebuild("toybox-sd")
    assert "trained and judged already" in capsys.readouterr().out
    assert (tmp_path / "runs/second/model").stat().st_mtime_ns == kept and small_recipe == ["toybox-sd"]
    (folder_of(tmp_path) / "quality.json").unlink()  # cut off while it was judged
    rebuild.rebuild("toybox-sd")
    assert small_recipe == ["toybox-sd"] * 2 and (folder_of(tmp_path) / "quality.json").is_file()


def test_a_model_built_on_an_older_one_is_not_taken_for_finished(tmp_path, small_recipe, in_this_process):
    rebuild.rebuild("toybox-sd")
    made = (tmp_path / "runs/second/model").stat().st_mtime
    os.utime(tmp_path / "runs/first/model", (made + 5, made + 5))
    with pytest.raises(RunFailed, match="Delete runs/second to train it again"):
        rebuild.rebuild("toybox-sd")


def test_judging_anew_what_another_recipe_made_keeps_what_the_card_says_of_it(tmp_path, small_recipe, in_this_process):
    folder = folder_of(tmp_path)
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"made long ago\n\n{cards.MEASURED}\n\nold figures\n")
    rebuild.rebuild("toybox-sd", judge_only=True)
    assert (folder / "README.md").read_text() == f"made long ago\n\n{cards.MEASURED}\n\n{{'times': 1}}\n"
    rebuild.rebuild("toybox-sd")
    assert (folder / "README.md").read_text().startswith("made by today's recipe")


def test_a_reader_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(ModelUnavailable, match="rebuild toybox-reader"):
        load_reader(tmp_path)
