"""The areas Compare and Grid without a browser: what the page is sent, and what a stop leaves."""

import base64
import json
from dataclasses import replace
from io import BytesIO
from threading import Event

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from studio.additions import Lora
from studio.conditions import Added
from studio.errors import InvalidOption
from studio.media.maps import map_to_text
from studio.models.families import FAMILIES
from studio.options import SampleOptions
from studio.sampling.compare import plan_grid, with_weights
from studio.sampling.export import MARGIN
from tabs.compare import compared, drawn, grid_shown, pair, read_values, side_values, told_apart
from tabs.parts.conditions import create_conditions
from tabs.text_to_image import create_tab
from tests.tabs.fake_text import FACTOR, SIDE, FakeTextStudio

BASE = SampleOptions(model="words", prompt="a red star", num_steps=5, guidance_scale=4.0)


def run_of(**changes):
    return list(FakeTextStudio().sample(SampleOptions(**{**BASE.to_dict(), **changes})))[-1].trajectory


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


def test_the_difference_that_is_sent_is_that_of_the_pictures_that_are_sent():
    told = pair(run_of(), run_of(guidance_scale=8.0, num_steps=9))
    sheet, last = told["differences"]["x0_hat"], len(told["meetings"]) - 1
    assert told["end"]["from"] == last and len(sheet["mean"]) == last + 1
    ends = [pixels_of(told["end"][side]["src"]).astype(float) for side in ("a", "b")]
    assert ends[0].shape == (SIDE * FACTOR, SIDE * FACTOR, 3)
    assert np.allclose(pixels_of(told["end"]["difference"]["src"]), np.abs(ends[0] - ends[1]).mean(axis=2), atol=0.51)
    assert told["end"]["mean"] == pytest.approx(np.abs(ends[0] - ends[1]).mean() / 255)


def test_a_run_against_itself_differs_nowhere():
    assert max(pair(run_of(), run_of())["differences"]["x_t"]["mean"]) == 0


def test_titles_say_what_sets_the_sides_apart():
    other = SampleOptions(**{**BASE.to_dict(), "scheduler": "euler", "num_steps": 9})
    assert (told_apart(BASE, other), told_apart(other, BASE), told_apart(BASE, BASE)) == ("DDIM, 5 steps", "Euler, 9 steps", "DDIM")


@pytest.fixture
def conditions():
    """What a tab knows of its controls, for models that are told pictures."""
    studio = FakeTextStudio()
    studio.models |= {name: replace(studio.models["words"], family=family) for name, family in (("mixes", "unclip"), ("enlarges", "sd-upscaler"))}
    studio.takes = lambda name: FAMILIES[studio.models[name].family].takes
    with gr.Blocks():
        return create_conditions(studio, "t", "words")


def test_a_side_without_a_prompt_or_model_takes_those_of_the_tab(conditions):
    side, of_tab = {"prompt": " ", "scheduler": "ddim", "num_steps": 5, "guidance_scale": 4.0}, {"model": "words", "prompt": "a cat"}
    wanted = SampleOptions(model="words", prompt="a cat", seed=3, num_steps=5, guidance_scale=4.0)
    assert conditions.options(side_values(of_tab, 3, side)) == wanted
    assert conditions.options(side_values(of_tab, 3, {**side, "model": "mixes "})) == replace(wanted, model="mixes")
    with pytest.raises(InvalidOption, match="Choose a model"):
        side_values({"model": None, "prompt": ""}, 0, side)


def test_a_side_is_told_what_its_own_model_knows_of_the_pictures_and_conditions_of_the_tab(conditions, tmp_path):
    photo, small = tmp_path / "photo.png", tmp_path / "small.png"
    Image.new("RGB", (32, 24), "red").save(photo)
    Image.new("RGB", (8, 8), "blue").save(small)
    mask = map_to_text(Image.linear_gradient("L").point(lambda value: 255 * (value > 128)))
    of_tab = {
        "model": "mixes", "prompt": "a cat", "init_image": str(photo), "strength": 0.5, "init_mask": mask, "mask_blur": 2.0, "mask_padding": 0,
        "mask_overlay": True, "cond_image": str(small), "cond_image_2": str(photo), "cond_mix": 0.25, "noise_level": 300, "depth_model": "some/one",
        "negative_prompt": "a dog", "width": 0, "height": 0, "added.vae": "own", "size.original": "64x24",
    }
    side = {"prompt": "", "scheduler": "ddim", "num_steps": 5, "guidance_scale": 4.0}
    same, plain, larger = (conditions.options(side_values(of_tab, 0, {**side, "model": name})) for name in ("", "words", "enlarges"))
    assert (same.cond_image.size, same.cond_image_2.size, same.cond_mix, same.noise_level) == ((8, 8), (32, 24), 0.25, 300)
    assert plain.cond_image is plain.cond_image_2 is plain.noise_level is None
    # The upscaler's own noise level, and no second picture.
    assert larger.cond_image.size == (8, 8) and larger.cond_image_2 is larger.noise_level is None
    for one in (same, plain, larger):
        assert one.init_image.size == (32, 24) and one.strength == 0.5 and one.init_mask is not None and one.mask_blur == 2 and one.negative_prompt == "a dog"
        assert one.added.vae == "own" and one.depth_model == "" and not one.size.changed


def test_the_page_sends_pictures_and_masks_with_comparisons_and_grids():
    with gr.Blocks() as demo:
        create_tab(FakeTextStudio())
    for name in ("t2i", "pair", "grid"):
        [run] = [block for block in demo.blocks.values() if block.elem_id == f"{name}-run"]
        [inputs] = [fn.inputs for fn in demo.fns.values() if (run._id, "click") in fn.targets and len(fn.inputs) > 5]
        sent = {block.elem_id for block in inputs}
        assert {"t2i-init", "t2i-strength", "t2i-feather", "t2i-told-picture", "t2i-told-mix", "t2i-size-original", "t2i-added-loras"} <= sent
        assert any(isinstance(block, gr.State) and block.value == "" for block in inputs)


def test_both_runs_of_a_comparison_go_to_their_end_unless_stopped():
    changes = list(compared(FakeTextStudio(), BASE, BASE, Event()))
    assert "stage" in changes[-1] and "Compared 5 with 5" in changes[-1]["status"]
    stopped = Event()
    stopped.set()
    assert "stage" not in list(compared(FakeTextStudio(), BASE, BASE, stopped))[-1]


def test_values_are_read_as_they_are_written():
    assert read_values("seed", "1, 2;3 ,") == [1, 2, 3] and read_values("guidance_scale", "1, 7.5") == [1.0, 7.5]
    assert read_values("prompt", "a\n\n b ") == ["a", "b"] and read_values("scheduler", ["ddim"]) == ["ddim"]
    assert read_values("cond_mix", "0, 0.5") == [0, 0.5] and read_values("noise_level", "3") == [3]
    assert read_values("added.loras", "0, -0.5; 1") == [0, -0.5, 1]
    with pytest.raises(InvalidOption, match="numbers with commas between them for weight of the LoRA"):
        read_values("added.loras", "style 0.5")
    with pytest.raises(InvalidOption, match="whole numbers with commas"):
        read_values("num_steps", "5, ten")


def test_a_grid_is_drawn_cell_by_cell_and_kept_as_one_picture():
    cells = plan_grid("prompt_seed", BASE, {"prompt": ["a", "b"], "seed": [1, 2, 332163598]})
    changes = []
    for change in drawn(FakeTextStudio(), "prompt_seed", cells, Event()):
        changes.append(change)
        if "sheet" in change and change["sheet"].get("value"):
            # The file is there for as long as the page takes to copy it.
            with Image.open(change["sheet"]["value"]) as file:
                sheet = np.asarray(file)
    done = [sum(map(bool, json.loads(change["stage"])["cells"])) for change in changes if "stage" in change]
    assert done == list(range(7)) and "6 pictures, about" in changes[1]["status"]
    assert json.loads(changes[0]["stage"])["columns"] == ["1", "2", "332163598"]
    # Every picture is there at twice its size; what is left of them and above holds their names.
    pictures = [np.asarray([*FakeTextStudio().sample(cell.options)][-1].images[0].convert("RGB")) for cell in cells]
    side = 2 * SIDE * FACTOR
    top, left = (sheet.shape[0] - 2 * (side + MARGIN), sheet.shape[1] - 3 * (side + MARGIN))
    for cell, picture in zip(cells, pictures):
        y, x = top + cell.row * (side + MARGIN), left + cell.column * (side + MARGIN)
        assert np.array_equal(sheet[y : y + side : 2, x : x + side : 2], picture)
    assert top > 20 and left > 40 and len(np.unique(sheet[:top])) > 2 and len(np.unique(sheet[:, :left])) > 2


def test_columns_of_a_loras_weight_are_called_by_it():
    base = replace(BASE, added=Added(loras=(Lora(file="style"), Lora(file="other"))))
    cells = plan_grid("added_loras", base, {"seed": [1], "added.loras": with_weights(base, [0.0, 0.5])})
    shown = grid_shown("added_loras", cells, {})
    assert (shown["columns"], shown["column_name"]) == (["0", "0.5"], "weight of the LoRA")


def test_a_stopped_grid_keeps_what_is_drawn():
    cells, switch, last = plan_grid("seed_scale", BASE, {"seed": [1, 2], "guidance_scale": [1.0, 4.0]}), Event(), {}
    for last in drawn(FakeTextStudio(), "seed_scale", cells, switch):
        if "stage" in last and sum(map(bool, json.loads(last["stage"])["cells"])) == 2:
            switch.set()
    assert last["status"].startswith("Stopped: 2 of 4") and "sheet" not in last
