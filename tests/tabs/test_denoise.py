"""The Denoising tab without a browser: its payloads, then its handlers over the wire."""

import base64
import copy
import json
import time
from dataclasses import fields
from io import BytesIO
from threading import Event

import numpy as np
import pytest
from PIL import Image

from studio.additions import Lora
from studio.conditions import CONDITIONS, Added, AestheticTold, FlowTold, LayersSkipped, Refined, SizeTold, TextsTold
from studio.errors import InvalidOption
from studio.media.images import to_pixels
from studio.options import SampleOptions
from studio.sampling.export import read_options
from tabs.denoise import create_tab
from tabs.endpoints import create_sample_endpoint
from tabs.parts import filmstrip, live
from tabs.parts.blocks import StudioBlocks
from tabs.parts.controls import options_from
from tabs.parts.keeping import KEEPERS
from tabs.parts.running import how_it_went, run_shown
from tabs.parts.session import Session
from tabs.parts.stage import to_stage
from tests.tabs.fakes import FakeStudio


def run_of(**options):
    studio = FakeStudio()
    *steps, finished = studio.sample(SampleOptions(**{"model": "disc", "num_steps": 6, "num_images": 2, **options}))
    return steps, finished.trajectory


def pixels_of(uri: str) -> np.ndarray:
    head, data = uri.split(",", 1)
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))))


def tile(sheet: np.ndarray, index: int, columns: int, width: int, height: int) -> np.ndarray:
    y, x = index // columns * height, index % columns * width
    return sheet[y : y + height, x : x + width]


# --- payloads ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("model", ["disc", "ring"])
def test_every_tile_of_a_film_is_the_picture_of_its_step(model):
    _, trajectory = run_of(model=model, num_images=3)
    film = filmstrip.film(trajectory, run="a")
    width, height = film["tile"]
    for stream in film["streams"]:
        sheet = pixels_of(stream["src"])
        states = trajectory.stream(stream["name"]).float() / (3 if stream["name"] == "eps_hat" else 1)
        for frame in range(6):
            for image in range(3):
                expected = np.squeeze(to_pixels(states[frame, image]))
                assert np.array_equal(tile(sheet, frame * 3 + image, film["sprite_columns"], width, height), expected)


def test_a_long_film_is_thinned_evenly_and_keeps_both_ends(monkeypatch):
    _, trajectory = run_of(num_steps=40)
    monkeypatch.setattr(filmstrip, "MAX_SPRITE_PIXELS", 2 * 32 * 32 * 9)
    film = filmstrip.film(trajectory, run="a")
    assert film["frames"] == [0, 5, 10, 15, 20, 25, 30, 35, 39] and film["every"] == 5 and len(film["steps"]) == 40
    for stream in film["streams"]:
        sheet = pixels_of(stream["src"])
        last = tile(sheet, 8 * 2, film["sprite_columns"], 32, 32)
        if stream["name"] == "x_t":
            assert np.array_equal(last, to_pixels(trajectory.x_t[39, 0]))


def test_pictures_that_no_sprite_holds_are_shown_smaller(monkeypatch):
    steps, trajectory = run_of(num_images=3, num_steps=5)
    for name in ("MAX_SPRITE_PIXELS", "MAX_LIVE_PIXELS", "MAX_DECODED_PIXELS"):
        monkeypatch.setattr(filmstrip, name, 2 * 3 * 12 * 12)
    film = filmstrip.film(trajectory, run="a")
    assert film["frames"] == [0, 4] and film["tile"] == [10, 10]  # three by three pixels in one
    live = filmstrip.live_frame(steps[0])
    done = filmstrip.decoded("x0_hat", 0, trajectory.images)
    sizes = [pixels_of(film["streams"][0]["src"]).size, len(base64.b64decode(live["pictures"]["x_t"])), pixels_of(done["src"]).size]
    for size, (width, _) in zip(sizes, (film["tile"], live["tile"], done["tile"])):
        assert size <= 4 * 3 * 12 * 12 * 3 and width < 32
    exact = to_pixels(trajectory.x0_hat[4, 0]).astype(float)[:30, :30].reshape(10, 3, 10, 3, 3).mean(axis=(1, 3))
    shown = next(stream["src"] for stream in film["streams"] if stream["name"] == "x0_hat")
    assert np.abs(tile_of(film, shown, 3) - exact).max() <= 0.5 + 1e-3


def tile_of(film: dict, uri: str, index: int) -> np.ndarray:
    return tile(pixels_of(uri), index, film["sprite_columns"], *film["tile"])


def test_infinities_travel_as_null():
    steps, trajectory = run_of()
    first = json.loads(to_stage(filmstrip.film(trajectory, run="a")))["steps"][0]
    assert first["sigma"] is None and first["log_snr"] is None and first["signal"] == 0 and first["noise"] == 1
    live = json.loads(to_stage(filmstrip.live_frame(steps[0])))
    assert live["step"]["sigma"] is None and live["columns"] == 2


def test_signal_and_noise_of_a_step_are_the_scales_of_its_sigma():
    _, trajectory = run_of()
    for step, shown in zip(trajectory.steps, filmstrip.film(trajectory, run="a")["steps"]):
        assert shown["signal"] ** 2 + shown["noise"] ** 2 == pytest.approx(1, abs=1e-5)
        if shown["sigma"]:
            assert shown["noise"] / shown["signal"] == pytest.approx(step.sigma, rel=1e-4)


def test_a_curve_is_thinned_with_both_ends_kept():
    curve = filmstrip.curve_of(FakeStudio().noise_curve(SampleOptions(model="disc")))
    assert curve["t"][0] == 0 and curve["t"][-1] == 999 and len(curve["t"]) <= filmstrip.MAX_CURVE_POINTS + 1
    assert curve["log_snr"][-1] is None


# --- the run as the page sees it -----------------------------------------------------------------------------

def wait_for_step(begun: dict, index: int) -> None:
    """Until the run that has begun took a step; it goes on meanwhile, as nobody need look at it."""
    running, deadline = live.RUNS[begun["address"].split("/")[-1]], time.monotonic() + 60
    while (running.newest is None or running.newest.index < index) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert running.newest is not None and running.newest.index >= index


def test_a_stopped_run_says_where_and_keeps_its_steps():
    session, switch, studio = Session(), Event(), FakeStudio(step_s=0.01)
    last = {}
    for change in run_shown(studio, SampleOptions(model="disc", num_steps=500), switch, session):
        last = change
        if "stage" in change and (begun := json.loads(change["stage"]))["kind"] == "begin":
            wait_for_step(begun, 3)
            switch.set()
    film, done = json.loads(last["stage"]), len(session.trajectory.steps)
    assert film["kind"] == "film" and not film["complete"] and len(film["steps"]) == done
    assert 4 <= done < 500 and f"Stopped at step {done} of 500" in last["status"]


def test_a_run_stopped_while_it_waits_touches_nothing():
    studio, switch = FakeStudio(), Event()
    switch.set()
    changes = list(run_shown(studio, SampleOptions(model="disc"), switch, Session()))
    assert studio.asked == [] and "before the first step" in changes[-1]["status"]


def test_a_new_run_replaces_what_runs_and_what_waits():
    session, switches = Session(), []

    def ask() -> Event:
        session.ask(lambda switch: switches.append(switch) or iter([]))
        return switches[-1]

    running = ask()
    with session.begun() as first:
        assert first and first.switch is running and not running.is_set()
        waiting = ask()
        assert running.is_set() and not waiting.is_set()
        newest = ask()
        assert waiting.is_set() and not newest.is_set()
        with session.begun() as second, session.begun() as third:
            assert second and second.switch is newest and third is None
        assert session.running == [running]
    assert session.running == [] and not session.stop()


def test_each_session_has_its_own_stop():
    first = Session()
    first.ask(lambda switch: iter([]))
    second = copy.deepcopy(first)
    assert not second.stop() and first.stop() and first.waiting and first.waiting.switch.is_set()


def test_a_press_that_is_refused_stops_nothing():
    session = Session()
    session.ask(lambda switch: iter([]))
    with session.begun() as running, pytest.raises(InvalidOption):
        session.ask(lambda switch: iter([SampleOptions(num_steps=0)]))
    assert running and not running.switch.is_set() and session.waiting is None


def test_strength_counts_only_with_a_picture(tmp_path):
    values = {
        "model": "disc", "num_steps": 5, "scheduler": "ddim", "eta": 0, "clip_x0": True, "seed": 0, "num_images": 1,
        "class_label": "", "timesteps": " ", "strength": 0.4,
    }
    assert options_from({"init_image": None, **values}).strength == 1.0 and options_from({"init_image": None, **values}).timesteps is None
    path = tmp_path / "grey.png"
    Image.new("L", (9, 5), 80).save(path)
    options = options_from({"init_image": str(path), **values})
    assert options.strength == 0.4 and options.init_image.mode == "RGB"


@pytest.mark.parametrize("kind", KEEPERS)
@pytest.mark.parametrize("stream", ["x_t", "x0_hat", "both"])
def test_everything_can_be_kept(kind, stream, tmp_path):
    _, trajectory = run_of()
    path = KEEPERS[kind][1](trajectory, stream, tmp_path)
    assert path.stat().st_size > 0 and path.parent == tmp_path


def test_a_kept_picture_makes_itself_alone(tmp_path):
    _, trajectory = run_of(seed=40, class_label="red")
    KEEPERS["png"][1](trajectory, "both", tmp_path)
    second = read_options(tmp_path / "disc-ddim-seed41.png")
    assert second == SampleOptions(model="disc", num_steps=6, num_images=1, seed=41, class_label="red")
    alone = list(FakeStudio().sample(second))[-1].trajectory
    assert np.array_equal(np.asarray(Image.open(tmp_path / "disc-ddim-seed41.png")), to_pixels(alone.x_final[0]))


def test_how_it_went_counts_the_steps_taken():
    assert how_it_went(run_of()[1], 1.24) == "Done: 6 steps in 1.2 s."


# --- over the wire -------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def served():
    studio = FakeStudio(step_s=0.005)
    with StudioBlocks() as demo:
        create_tab(studio)
        create_sample_endpoint(studio)
    _, url, _ = demo.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield studio, url
    demo.close()


@pytest.fixture
def client(served):
    from gradio_client import Client

    return Client(served[1], verbose=False)


def test_only_sample_is_public_and_its_arguments_have_names(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(endpoints) == ["/sample"]
    names = [parameter["parameter_name"] for parameter in endpoints["/sample"]["parameters"]]
    assert names == [
        "model", "class_label", "num_steps", "timesteps", "scheduler", "eta", "clip_x0", "seed", "num_images", "strength", "init_image",
        "prompt", "negative_prompt", "guidance_scale", "guidance_start", "guidance_end", "guidance_rescale", "clip_guidance_scale", "sigmas",
        "width", "height", "record_attention", "init_mask", "mask_blur", "mask_padding", "mask_overlay", "cond_image", "cond_image_2", "cond_mix",
        "noise_level", "depth_model", *CONDITIONS,
    ]
    described = {one["parameter_name"]: one["type"] for one in endpoints["/sample"]["parameters"]}
    for name, group in CONDITIONS.items():
        assert list(described[name]["properties"]) == [field.name for field in fields(group)]
        assert all(one["description"] and set(one) - {"description"} for one in described[name]["properties"].values())
    assert described["size"]["properties"]["original"]["items"] == {"type": "integer", "minimum": 1, "maximum": 16384}
    assert all(parameter["parameter_has_default"] for parameter in endpoints["/sample"]["parameters"])


TOLD = {
    "size": ({"original": [640, 480], "negative_crop": [3, 4], "target": None}, SizeTold(original=(640, 480), negative_crop=(3, 4))),
    "texts": ({"prompt_2": "a ring", "clip_skip": 2, "encoders": ["t5"]}, TextsTold(prompt_2="a ring", clip_skip=2, encoders=("t5",))),
    "aesthetic": ({"score": 7}, AestheticTold(score=7)), "refined": ({"model": "disc", "start": 0.5}, Refined(model="disc", start=0.5)),
    "flow": ({"shift": 2.5}, FlowTold(shift=2.5)), "skipped": ({"layers": [7, 8], "end": 0.4}, LayersSkipped(layers=(7, 8), end=0.4)),
    "added": (
        {"loras": [{"file": "a.safetensors", "weight": 0.5}, {"file": "b.safetensors"}], "embeddings": ["word.safetensors"], "vae": "own"},
        Added(loras=(Lora(file="a.safetensors", weight=0.5), Lora(file="b.safetensors")), embeddings=("word.safetensors",), vae="own"),
    ),
}


def test_a_client_tells_what_only_some_families_can_be_told(client, served):
    assert set(TOLD) == set(CONDITIONS)
    client.predict(model="ring", num_steps=2, num_images=1, **{name: told for name, (told, _) in TOLD.items()}, api_name="/sample")
    asked = served[0].asked[-1]
    assert {name: getattr(asked, name) for name in TOLD} == {name: group for name, (_, group) in TOLD.items()}
    # The same values of run files and pictures.
    assert SampleOptions.from_dict(json.loads(json.dumps(asked.to_dict()))) == asked


def test_a_client_samples_by_name_and_gets_film_sentence_and_pictures(client, served):
    stage, status, pictures = client.predict(model="ring", num_steps=7, num_images=2, seed=3, api_name="/sample")[:3]
    film = json.loads(stage)
    assert film["kind"] == "film" and film["complete"] and film["images"] == 2 and film["num_steps"] == 7
    assert status.startswith("Done: 7 steps") and len(pictures) == 2
    assert served[0].asked[-1] == SampleOptions(model="ring", num_steps=7, num_images=2, seed=3, clip_x0=True)
    paths = [picture["image"] if isinstance(picture["image"], str) else picture["image"]["path"] for picture in pictures]
    assert [read_options(path).seed for path in paths] == [3, 4]


@pytest.mark.parametrize(("arguments", "sentence"), [
    ({"num_steps": 0}, "num_steps must be a whole number from 1 to 10000, but it is 0."),
    ({"num_steps": -3}, "num_steps must be a whole number"),
    ({"num_steps": 2000}, "so num_steps can be 1 to 1000"),
    ({"timesteps": "ddim50", "scheduler": "euler"}, "Respacing works with ddpm and ddim"),
    ({"timesteps": "many"}, "Respacing is written like"),
    ({"num_images": 100}, "num_images must be a whole number from 1 to 64"),
    ({"seed": -1}, "seed must be a whole number"),
    ({"eta": 1.5}, "eta must be a number from 0 to 1, but it is 1.5."),
    ({"model": "dics"}, "There is no model named 'dics'; did you mean 'disc'?"),
    ({"scheduler": "dddim"}, "did you mean 'ddim'?"),
    ({"size": {"crops": [0, 0]}}, "size: the options are crop, negative_crop, negative_original, negative_target, original, target, but"),
    ({"size": {"original": "large"}}, "size: original must be two whole numbers, but it is 'large'."),
    ({"size": {"original": [640, 480.5]}}, "size: original must be a whole number from 1 to 16384, but it is 480.5."),
    ({"size": [640, 480]}, "size must be an object, but it is a list of 2."),
    ({"texts": {"encoders": ["clip"]}}, "texts: encoders must be some of clip_l, clip_g, t5, but it is ('clip',)."),
    ({"texts": {"prompt_2": 3}}, "texts: prompt_2 must be a text"), ({"texts": {"clip_skip": 99}}, "texts: clip_skip must be a whole number from 0 to 23"),
    ({"flow": {"shift": "far"}}, "flow: shift must be a number from 0.1 to 20, but it is 'far'."),
    ({"skipped": {"layers": [7], "start": 0.5, "end": 0.1}}, "skipped: Skip-layer guidance must start before it ends"),
    ({"added": {"loras": {"file": "a"}}}, "added: loras must be a list"), ({"added": {"loras": [{"weight": 1}]}}, "added: A LoRA must say its file and weight"),
    ({"added": {"loras": [{"file": "a", "weight": 9}]}}, "added: the weight of a LoRA must be a number from -4 to 4, but it is 9."),
    ({"added": {"vae": 5}}, "added: vae must be a text"), ({"added": {"embeddings": "word"}}, "added: embeddings must be at most 16 files"),
])
def test_nonsense_gets_one_sentence(client, arguments, sentence, capfd):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as caught:
        client.predict(**{"num_steps": 4, **arguments}, api_name="/sample")
    assert sentence in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


def test_a_broken_picture_gets_one_sentence(client, tmp_path):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(AppError) as caught:
        client.predict(init_image=handle_file(path), num_steps=4, api_name="/sample")
    assert "picture" in str(caught.value).lower() and "Traceback" not in str(caught.value)
