"""The embedded folders in plain diffusers and transformers, with no argument but the folder: as their cards say."""

import ast
import json
import re
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from studio.control.obedience import obedience
from studio.models.controlnet_menu import CONTROLNETS
from studio.models.examiner import load_examiner, read_attributes
from studio.models.scene_reader import examine_scenes, load_reader
from studio.toybox import WORLDS, caption, render_batch, scene_stream
from trainers.data import load_pictures

MODELS = Path(__file__).parents[1] / "assets" / "models"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def card_code(name: str) -> str:
    return BLOCK.search((MODELS / name / "README.md").read_text("utf-8")).group(1)


def run_card(name: str, monkeypatch) -> dict:
    """The names that the code of a card leaves behind, run in the project's folder."""
    monkeypatch.chdir(MODELS.parents[1])
    torch.manual_seed(0)
    left: dict = {}
    exec(compile(card_code(name), f"{name}/README.md", "exec"), left)
    return left


def loads(code: str) -> list[ast.Call]:
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "from_pretrained"]


def precisions(network: torch.nn.Module) -> set[torch.dtype]:
    return {value.dtype for value in network.state_dict().values() if value.is_floating_point()}


@pytest.mark.parametrize("name", sorted(path.name for path in MODELS.iterdir() if (path / "config.json").exists() or (path / "model_index.json").exists()))
def test_a_card_loads_its_folder_with_no_further_argument(name):
    own = [call for call in loads(card_code(name)) if [ast.literal_eval(argument) for argument in call.args] == [f"assets/models/{name}"]]
    assert own and not any(call.keywords for call in own)


@pytest.mark.parametrize("name", sorted(name for name, info in CONTROLNETS.items() if info.embedded))
def test_a_controlnet_folder_steers_the_text_to_image_folder_in_plain_diffusers(name, monkeypatch):
    left = run_card(name, monkeypatch)
    assert precisions(left["net"]) == {torch.float32} and (MODELS / name / "diffusion_pytorch_model.safetensors").stat().st_size < 5 * 2**20
    assert obedience(CONTROLNETS[name].annotators[0], np.asarray(left["picture"]), np.asarray(left["hint"])) > 0.75
    measured = json.loads((MODELS / name / "quality.json").read_text())["measured"]
    assert all(figures["empty_prompt"] > 0.88 > 0.6 > figures["chance"] for figures in measured.values())


def test_the_text_to_image_folder_draws_what_it_is_asked_for(monkeypatch):
    left = run_card("toybox-sd", monkeypatch)
    assert [precisions(left["pipeline"].components[name]) for name in ("text_encoder", "unet", "vae")] == [{torch.float32}] * 3
    seen = read_attributes(load_examiner(), torch.from_numpy(np.array(left["picture"])).movedim(-1, 0)[None])
    assert {name: seen[name] for name in ("object", "colour", "background")} == {"object": ["heart"], "colour": ["red"], "background": ["white"]}


def test_the_clip_folder_finds_the_caption_of_each_picture(monkeypatch):
    left = run_card("toybox-clip", monkeypatch)
    model, tokenizer = left["model"], left["tokenizer"]
    assert precisions(model) == {torch.float32} and left["similarity"].shape == (1, 2)
    scenes = list(islice(scene_stream(5, split="all"), 8))
    pixels = torch.from_numpy(render_batch(scenes, 64)).movedim(-1, 1) / 127.5 - 1
    similarity = model(**tokenizer([caption(scene) for scene in scenes], padding="max_length", return_tensors="pt"), pixel_values=pixels).logits_per_image
    assert similarity.argmax(1).tolist() == list(range(8))


def test_the_digits_folder_draws_the_digit_that_it_is_asked_for(monkeypatch):
    left = run_card("digits-ddpm", monkeypatch)
    assert precisions(left["unet"]) == {torch.float32} and left["x_t"].shape == (1, 1, 16, 16)
    pictures = load_pictures("digits", 16)
    means = torch.stack([pictures.pixels[pictures.labels == digit].float().mean(0).flatten() for digit in range(10)])
    drawn = ((left["x_t"] + 1) * 127.5).flatten()
    assert torch.corrcoef(torch.stack([drawn, *means]))[0, 1:].argmax() == 3


def test_the_pixel_folder_of_the_toy_world_draws_on_an_even_background(monkeypatch):
    left = run_card("toybox-ddpm", monkeypatch)
    assert precisions(left["unet"]) == {torch.float32} and left["x_t"].shape == (1, 3, 32, 32)
    border = torch.cat([left["x_t"][..., 0, :], left["x_t"][..., -1, :], left["x_t"][..., 0], left["x_t"][..., -1]], dim=-1)
    assert border.std(dim=-1).max() < 0.1 < left["x_t"].flatten(2).std(dim=-1).max()


@pytest.mark.parametrize("world", ["toybox", "toybox-pairs"])
def test_the_reader_finds_one_object_and_two_in_renders(world):
    scenes = list(islice(WORLDS[world](17, "all"), 100))
    pixels = torch.from_numpy(render_batch(scenes, 64)).movedim(-1, 1)
    right = examine_scenes(load_reader(MODELS / "toybox-reader"), pixels, scenes)
    assert right["all"].mean() >= 0.96 and right["background"].all()


def test_the_pixel_model_of_the_toy_world_keeps_its_promises():
    folder = MODELS / "toybox-ddpm"
    quality = json.loads((folder / "quality.json").read_text())
    assert quality["recognised_as_asked"] >= 0.97 and min(quality["recognised_per_class"]) >= 0.9
    assert (folder / "unet/diffusion_pytorch_model.safetensors").stat().st_size < 4 * 2**20
