"""The ControlNet tab without a browser: what cards become, how units are moved, what is said; then its handlers over the wire."""

import base64
import dataclasses
import json
from io import BytesIO

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from studio import Studio
from studio.control.annotators import MapRequest, make_map
from studio.control.drawn import scene_of
from studio.errors import InvalidOption, StudioError
from studio.media.maps import map_to_text
from studio.options import SampleOptions
from studio.runs import Runs
from studio.sampling.compare import plan_grid
from studio.sampling.events import Finished
from studio.toybox import render
from studio.units import ControlUnit
from tabs.compare import grid_shown
from tabs.controlnet import create_tab, moved, read_scales, scaled
from tabs.endpoints import create_control_endpoints
from tabs.parts.blocks import StudioBlocks
from tabs.parts.control_training import create_training
from tabs.parts.filmstrip import film
from tabs.parts.units import FIRST, SETTINGS, map_asked, preview, read_blocks, size_of_run, unit_of, window_line
from tests.tabs.fake_control import BLOCKS, FakeControlStudio
from tests.tiny_control import save_tiny_controlnet
from tests.tiny_families import save_tiny_sd3

SIZE = (64, 64)
SCENE = {**FIRST, "net": "edges", "annotator": "toybox-edges"}


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[20:60, 30:70] = (250, 120, 20)
    Image.fromarray(pixels).save(path)
    return str(path)


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(base64.b64decode(uri.split(",", 1)[1]))).convert("RGB"))


# --- cards ---------------------------------------------------------------------------------------------------

def test_the_preview_is_the_very_map_of_the_run(photo):
    studio = FakeControlStudio()
    for values in (SCENE, {**FIRST, "net": "edges", "picture": photo}, {**FIRST, "annotator": "scribble", "picture": photo, "first": 20.0}):
        shown, _ = preview(studio, values, SIZE)
        told = json.loads(shown)
        assert np.array_equal(pixels_of(told["map"]), np.asarray(unit_of(values, SIZE, 1).map)) and (told["width"], told["height"]) == SIZE
        assert told["binary"]


def test_thresholds_reach_the_annotator_by_its_own_names(photo):
    asked = map_asked({**FIRST, "picture": photo, "first": 30.0, "second": 90.0}, SIZE)
    assert asked.numbers() == {"low": 30.0, "high": 90.0} and len(SETTINGS) == 2


def test_a_drawing_is_the_map_where_the_map_is_taken_as_it_is(photo):
    drawing = Image.fromarray(np.eye(64, dtype=np.uint8) * 255).convert("RGB")
    values = {**FIRST, "annotator": "map", "picture": photo, "drawing": map_to_text(drawing), "mask": map_to_text(drawing)}
    unit = unit_of(values, SIZE, 1)
    assert np.array_equal(np.asarray(unit.map), np.asarray(drawing)) and np.array_equal(np.asarray(unit.mask), np.asarray(drawing))


@pytest.mark.parametrize(("changes", "words"), [
    ({"annotator": "canny"}, "Unit 2: There is no picture"), ({"annotator": "eyes"}, "Unit 2: There is no annotator"), ({"scale": 3.0}, "Unit 2: scale"),
    ({"start": 0.9, "end": 0.1}, "Unit 2: A ControlNet must start before"), ({"blocks": "1, x"}, "Unit 2: Weights of the blocks"),
    ({"resize": "tile"}, "Unit 2: resize"), ({"annotator": "canny", "picture": "/nowhere.png"}, "Unit 2: "), ({"mask": "data:x"}, "Unit 2: A map must be"),
])
def test_a_card_that_makes_no_sense_is_refused_by_its_number(changes, words):
    with pytest.raises(StudioError, match=words):
        unit_of({**SCENE, **changes}, SIZE, 2)


def test_weights_and_scales_are_read_from_text():
    assert read_blocks(" 1, 0.5;0 ") == (1.0, 0.5, 0.0) and read_blocks("") == read_blocks(None) == ()
    assert read_scales("0, .5, 2") == [0, 0.5, 2]
    with pytest.raises(InvalidOption):
        read_scales("much")
    units = (ControlUnit(muted=True), ControlUnit(net="edges"))
    assert [[unit.scale for unit in made] for made in scaled(units, [0.0, 2.0])] == [[1.0, 0.0], [1.0, 2.0]]


def test_lines_say_which_steps_are_controlled():
    assert window_line({**FIRST, "start": 0.1, "end": 0.6}, 20, None) == "Acts in steps 3 to 12 of 20."
    assert window_line({**FIRST, "start": 0.0, "end": 1.0}, 20, 0.5) == "Acts in steps 1 to 10 of 10."
    assert "none of the 20 steps" in window_line({**FIRST, "start": 0.51, "end": 0.54}, 20, None)
    assert "scale is 0" in window_line({**FIRST, "scale": 0.0}, 20, None) and window_line({**FIRST, "muted": True}, 20, None) == "Muted."
    assert "must start before" in window_line({**FIRST, "start": 0.7, "end": 0.2}, 20, None)
    assert "from 0 to 1" in window_line({**FIRST, "start": None}, 20, None)
    assert "Steps must be" in window_line(FIRST, None, None) and "Strength must be" in window_line(FIRST, 20, 7.0)


def test_what_is_to_be_known_of_map_and_net_is_said(photo):
    def line(studio=None, **changes) -> str:
        return preview(studio or FakeControlStudio(), {**SCENE, **changes}, SIZE)[1]

    assert line() == ""
    assert "will hardly be followed" in line(net="depth") and "Choose a ControlNet" in line(net=None)
    assert "Train one" in line(FakeControlStudio(nets={}), net=None) and "Train one" in line(FakeControlStudio(nets={}), net=3.0)
    assert line(net="a/b" * 400) == line(net="some/folder") == ""
    assert "100 x 80, cropped to 64 x 64" in line(annotator="canny", picture=photo)
    assert "press “Make the map”" in line(annotator="midas", picture=photo)
    assert "There is no picture" in line(annotator="canny")


def test_units_are_added_duplicated_reordered_and_removed_and_none_is_lost():
    one, two = {**SCENE, "scale": 0.1}, {**SCENE, "scale": 0.2}
    assert moved([one], "add", 0) == [one, FIRST] and moved([one, two, one], "add", 0) == [one, two, one]
    assert moved([one, two], "duplicate", 0) == [one, one, two] and moved([one, two, one], "duplicate", 0) == [one, two, one]
    assert moved([one, two], "up", 1) == [two, one] and moved([one, two], "up", 0) == [one, two]
    assert moved([one, two], "remove", 0) == [two] and moved([one], "remove", 0) == [one] and moved([one], "up", 2) == [one]


def test_the_size_of_the_run_is_as_asked_or_the_models_own():
    studio = FakeControlStudio()
    assert size_of_run(studio, "words", 0, None) == (64, 64) and size_of_run(studio, "words", 128, 0) == (128, 64)
    assert size_of_run(studio, "some/folder", 0, 0) == (512, 512)


def test_a_strip_says_how_well_each_scale_obeys():
    drawing = make_map(MapRequest(annotator="toybox-edges", scene="a red heart", width=64, height=64)).map
    units = (ControlUnit(net="edges", map=drawing, annotator="toybox-edges"),)
    cells = plan_grid("control_scale", SampleOptions(model="words", control=units), {"seed": [0], "control": scaled(units, [0.0, 1.5])})
    heart = Image.fromarray(render(scene_of("a red heart", 0)))
    assert grid_shown("control_scale", cells, {1: heart})["columns"][0] == "0"
    shown = grid_shown("control_scale", cells, {0: Image.new("RGB", (64, 64)), 1: heart})["columns"]
    assert shown == ["0 (obeys 0.00)", "1.5 (obeys 1.00)"]
    assert "curve" not in grid_shown("control_scale", cells, {})
    assert grid_shown("control_scale", cells, {1: heart, 0: Image.new("RGB", (64, 64))})["curve"] == {"x": [0.0, 1.5], "y": [0.0, pytest.approx(1, abs=0.05)]}
    plain = [dataclasses.replace(cells[0], options=SampleOptions(model="words"))]
    assert grid_shown("seed_scale", plain, {0: heart})["columns"] == ["1"]


# --- the film ------------------------------------------------------------------------------------------------

def test_a_film_holds_the_maps_and_how_much_every_block_added():
    first, second = (ControlUnit(net=net, map=Image.new("RGB", (64, 64), colour)) for net, colour in (("a/edges", "red"), ("runs/mine/model", "blue")))
    options = SampleOptions(model="words", num_steps=4, num_images=2, control=(first, ControlUnit(net="x", muted=True), second))
    *_, last = FakeControlStudio().sample(options)
    assert isinstance(last, Finished)
    shown = film(last.trajectory, run="r")["control"]
    assert [unit["name"] for unit in shown["units"]] == ["edges", "mine"] and len(shown["maps"]) == 2
    assert shown["sizes"][1] == [[10.0, 11.0, 12.0, 13.0, 14.0], [15.0, 16.0, 17.0, 18.0, 19.0]] and len(shown["sizes"]) == 4
    assert pixels_of(shown["maps"][0])[0, 0].tolist() == [255, 0, 0] and len(shown["sizes"][0][0]) == BLOCKS


# --- over the wire -------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def served(tmp_path_factory, tiny_sd):
    """The tab over the fake studio, and the endpoints over the real one."""
    studio = Studio(runs_root=tmp_path_factory.mktemp("runs"))
    with StudioBlocks(analytics_enabled=False) as blocks:
        create_tab(FakeControlStudio())
        create_control_endpoints(studio)
    _, url, _ = blocks.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield Client(url, verbose=False)
    blocks.close()


@pytest.fixture(scope="module")
def tiny_net(tmp_path_factory, tiny_sd) -> str:
    return save_tiny_controlnet(tmp_path_factory.mktemp("net") / "net", tiny_sd)


def test_annotate_gives_the_map_in_the_size_asked_for(served, photo):
    made, notes = served.predict(
        picture=handle_file(photo), annotator="canny", settings={"low": 20, "high": 60}, width=64, height=48, api_name="/annotate",
    )
    path = made["path"] if isinstance(made, dict) else made
    assert notes == [] and Image.open(path).size == (64, 48)
    for changes, words in (
        ({"annotator": "eyes"}, "no annotator"), ({"settings": {"low": -1}}, "low must be"), ({"width": 0}, "width must be"), ({"picture": None}, "no picture"),
    ):
        with pytest.raises(Exception, match=words):
            served.predict(**{"picture": handle_file(photo), "annotator": "canny", **changes}, api_name="/annotate")


def test_controlnet_draws_what_follows_maps_and_refuses_what_does_not_fit(served, photo, tiny_sd, tiny_net):
    asked = {"model": tiny_sd, "prompt": "a star", "num_steps": 2, "maps": [handle_file(photo)], "units": [{"net": tiny_net, "scale": 0.5}]}
    stage, status, pictures = served.predict(**asked, api_name="/controlnet")
    assert status.startswith("Done: 2 steps") and len(pictures) == 1
    assert json.loads(stage)["control"]["units"] == [{"name": "net", "scale": 0.5}]
    for changes, words in (
        ({"units": []}, "Every unit needs a map"), ({"units": [{"net": tiny_net, "scale": 5}]}, "scale must be"),
        ({"units": [{"net": "nowhere"}]}, "no ControlNet"),
        ({"units": [{"nets": 1}]}, "must say some of"), ({"units": [{"net": tiny_net, "map": "x"}]}, "files beside"),
    ):
        with pytest.raises(Exception, match=words):
            served.predict(**{**asked, **changes}, api_name="/controlnet")


def test_every_handler_of_the_tab_is_private():
    with gr.Blocks() as blocks:
        create_tab(FakeControlStudio())
    assert all(fn.api_visibility != "public" for fn in blocks.fns.values())


# --- training ------------------------------------------------------------------------------------------------

def test_a_base_of_sd3_is_chosen_in_the_form_and_its_run_is_queued(tmp_path, monkeypatch):
    monkeypatch.setattr(Runs, "start_due", lambda self: None)
    base, other = save_tiny_sd3(tmp_path / "bases" / "sd3"), tmp_path / "bases" / "other"
    other.mkdir()
    (other / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline"}))
    studio = Studio(runs_root=tmp_path / "runs", folders=[tmp_path / "bases"])
    with StudioBlocks() as page:
        create_training(studio)
    parts = {part.elem_id: part for part in page.blocks.values() if getattr(part, "elem_id", None)}
    families = {studio.models[name].family for _, name in parts["ctl-train-base"].choices}
    assert {"stable-diffusion", "sdxl", "sd3"} == families
    press = next(handler for handler in page.fns.values() if (parts["ctl-train"]._id, "click") in handler.targets)
    values = {part: part.value for part in press.inputs}
    changes = press.fn({**values, parts["ctl-train-base"]: base, parts["ctl-train-name"]: "mine"})
    assert "mine was started" in changes[parts["ctl-train-status"]]
    asked = json.loads((tmp_path / "runs" / "mine" / "config.json").read_text())
    assert asked["base"] == base and asked["timestep_sampling"] == "logit_normal"
    with pytest.raises(gr.Error, match="choose a Stable Diffusion 1, 2, XL or 3 model"):
        press.fn({**values, parts["ctl-train-base"]: str(other), parts["ctl-train-name"]: "not-mine"})
