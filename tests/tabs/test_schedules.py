"""The Noise schedules tab without a browser: what it sends, what it keeps, and its endpoints over the wire."""

import ast
import base64
import csv
import inspect
import json
from io import BytesIO

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from studio.errors import StudioError
from studio.media.pictures import load_picture
from studio.process.noising import ChainFinished, ChainProgress, NoiseOptions, compare_chain, noise_image, working_copy
from studio.process.schedules import CURVES, SCHEDULES, curves, make_betas
from tabs import schedules as tab
from tabs.endpoints import create_schedule_endpoints
from tabs.parts.blocks import StudioBlocks


@pytest.fixture(scope="module")
def demo():
    with StudioBlocks() as blocks:
        tab.create_tab(None)
        create_schedule_endpoints()
    return blocks


def unpack(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def handler(demo, name):
    """A handler of the tab, and the components that it takes and gives, by elem_id."""
    found = next(fn for fn in demo.fns.values() if fn.name == name)
    return found.fn, found


def by_id(demo, elem_id):
    return next(block for block in demo.blocks.values() if getattr(block, "elem_id", None) == elem_id)


def settings(demo, **changes):
    """The value of every input of on_settings, by component, with changes by the end of the elem_id."""
    _, found = handler(demo, "on_settings")
    values = {component: component.value for component in found.inputs}
    for name, value in changes.items():
        values[by_id(demo, f"schedules-{name.replace('_', '-')}")] = value
    return values


# --- what the browser is sent --------------------------------------------------------------------------------

@pytest.mark.parametrize(("schedule", "t"), [("linear", 0), ("linear", 250), ("cosine", 999), ("karras", 400)])
def test_what_the_browser_computes_from_the_payload_is_pythons_picture(schedule, t):
    """The arithmetic of noiser.js on the bytes that it gets, against noise_image: at most one grey level apart."""
    picture = working_copy(load_picture("cat"))
    packed = json.loads(json.dumps(tab.pack_picture(picture, seed=11)))
    item = json.loads(json.dumps(tab.pack_schedules([NoiseOptions(schedule=schedule)])))["items"][0]
    shape = (packed["height"], packed["width"], 3)
    x0, eps = unpack(packed["x0"], "u1").reshape(shape), unpack(packed["eps"], "<i2").reshape(shape) / packed["eps_scale"]
    signal, noise = (unpack(item["curves"][name], "<f4")[t] for name in ("sqrt_alpha_bar", "sqrt_one_minus_alpha_bar"))
    browser = np.rint(127.5 + signal * (x0 - 127.5) + 127.5 * noise * eps).clip(0, 255)
    python = np.asarray(noise_image(picture, NoiseOptions(schedule=schedule, t=t, seed=11)), dtype=float)
    assert np.abs(browser - python).max() <= 1


def test_schedules_are_packed_with_every_curve_and_the_kept_steps():
    packed = tab.pack_schedules([NoiseOptions(schedule=name, num_timesteps=100, respacing="ddim10") for name in ("cosine", "flow")])
    assert packed["T"] == 100 and [item["label"] for item in packed["items"]] == ["Cosine", "Flow matching"]
    assert packed["items"][0]["kept"] == list(range(0, 100, 10))
    assert list(packed["items"][1]["curves"]) == list(CURVES)
    assert np.allclose(unpack(packed["items"][0]["curves"]["sigma"], "<f4"), curves(make_betas("cosine", 100))["sigma"], rtol=1e-6)
    assert unpack(packed["items"][1]["curves"]["log_snr"], "<f4")[-1] == -np.inf
    assert tab.pack_schedules([NoiseOptions(num_timesteps=100)])["items"][0]["kept"] is None


def test_the_fingerprint_tells_payloads_apart():
    picture = working_copy(load_picture("digit"))
    assert tab.pack_picture(picture, 1)["id"] == tab.pack_picture(picture, 1)["id"] != tab.pack_picture(picture, 2)["id"]


# --- handlers ------------------------------------------------------------------------------------------------

def test_opening_the_page_gives_a_photograph(demo):
    on_open, _ = handler(demo, "on_open")
    stage = on_open()[by_id(demo, "schedules-stage")]
    assert (stage.props["picture"]["width"], stage.props["picture"]["height"]) == (256, 170)


def test_settings_reach_the_schedules_that_are_drawn(demo):
    on_settings, _ = handler(demo, "on_settings")
    values = settings(demo, names=["flow", "linear"], timesteps=50, linear_beta_end=0.01, zero_snr=True, respacing="5")
    items = on_settings(values)[by_id(demo, "schedules-stage")].props["schedules"]["items"]
    assert [item["name"] for item in items] == ["linear", "flow"]
    expected = make_betas("linear", 50, beta_end=0.01, zero_terminal_snr=True)
    assert np.allclose(unpack(items[0]["curves"]["beta"], "<f4"), expected, rtol=1e-6)
    assert len(items[0]["kept"]) == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": []}, "No schedule is chosen"),
        ({"timesteps": 0}, "num_timesteps"),
        ({"timesteps": None}, "num_timesteps"),
        ({"timesteps": 20_000}, "10000"),
        ({"respacing": "ddim600"}, "ddim500"),
        ({"respacing": "soup"}, "soup"),
        ({"linear_beta_end": 2}, "smaller beta_end"),
    ],
)
def test_a_setting_that_makes_no_sense_becomes_a_note_and_leaves_the_curves(demo, changes, words):
    on_settings, _ = handler(demo, "on_settings")
    update = on_settings(settings(demo, **changes))[by_id(demo, "schedules-stage")]
    assert words in update.props["note"] and "schedules" not in update.props


def test_a_cleared_parameter_falls_back_to_its_default(demo):
    on_settings, _ = handler(demo, "on_settings")
    stage = by_id(demo, "schedules-stage")
    cleared, default = (on_settings(settings(demo, **changes))[stage].props["schedules"]["id"] for changes in ({"linear_beta_end": None}, {}))
    assert cleared == default


def test_a_bad_upload_is_a_message_and_a_bad_seed_a_note(demo, tmp_path):
    on_upload, _ = handler(demo, "on_upload")
    path = tmp_path / "words.png"
    path.write_text("words")
    with pytest.raises(gr.Error, match="not a picture"):
        on_upload(str(path), 0)
    on_seed, _ = handler(demo, "on_seed")
    update = on_seed(-1, None)[by_id(demo, "schedules-stage")]
    assert "-1" in update.props["note"] and "picture" not in update.props


def test_an_upload_becomes_the_working_copy_that_is_shown(demo, tmp_path):
    on_upload, _ = handler(demo, "on_upload")
    Image.new("RGBA", (1, 1), (255, 0, 0, 0)).save(tmp_path / "dot.png")
    outputs = on_upload(str(tmp_path / "dot.png"), 0)
    shown = outputs[by_id(demo, "schedules-upload")]
    assert shown.size == (64, 64) and shown.getpixel((0, 0)) == (255, 255, 255)
    assert outputs[by_id(demo, "schedules-example")] is None


def test_the_chain_streams_progress_and_ends_with_evidence(demo):
    on_run, found = handler(demo, "on_run")
    picture = next(component for component in found.inputs if isinstance(component, gr.State))
    values = settings(demo) | {picture: working_copy(load_picture("digit"))}
    values |= {by_id(demo, f"schedules-{name}"): value for name, value in {"seed": 0, "chain-name": "cosine", "chain-t": 99}.items()}
    changes = list(on_run(values))
    results = [outputs[by_id(demo, "schedules-chain")].props["result"] for outputs in changes]
    # Of Run and Stop the one that can act is pressable.
    run, stop = (by_id(demo, f"schedules-{name}") for name in ("run", "stop"))
    buttons = [(outputs[run]["interactive"], outputs[stop]["interactive"]) for outputs in (changes[0], changes[-1])]
    assert buttons == [(False, True), (True, False)] and not any({run, stop} & outputs.keys() for outputs in changes[1:-1])
    assert len({result["run"] for result in results}) == 1
    assert [result["state"] for result in results] == ["running"] * 20 + ["done"]
    assert [result["index"] for result in results[:3]] == [5, 10, 15]
    last = results[-1]
    assert last["agrees"] and last["verdict"].startswith("Yes: 100 single steps")
    assert len(last["moments"]) == 3 and len(last["histogram"]["theory"]) == len(last["histogram"]["centres"]) == 64
    Image.open(BytesIO(base64.b64decode(last["jump"].split(",")[1]))).load()
    json.dumps(last, allow_nan=False)


def test_a_chain_along_a_schedule_that_is_not_chosen_is_refused_in_a_sentence(demo):
    on_run, found = handler(demo, "on_run")
    picture = next(component for component in found.inputs if isinstance(component, gr.State))
    values = settings(demo) | {picture: None}
    values |= {by_id(demo, f"schedules-{name}"): value for name, value in {"seed": 0, "chain-name": "flow", "chain-t": 99}.items()}
    with pytest.raises(gr.Error, match="one of the chosen schedules: linear, cosine"):
        next(on_run(values))


def test_stopping_keeps_the_last_picture_and_says_where():
    events = list(compare_chain(working_copy(load_picture("digit")), NoiseOptions(t=99)))
    running = tab.show_progress(events[3], started=0.0)
    stopped = tab.show_stopped(running)
    assert isinstance(events[3], ChainProgress) and stopped["state"] == "stopped" and stopped["chain"] == running["chain"]
    assert stopped["words"].startswith("Stopped at step 20 of 100")
    assert isinstance(events[-1], ChainFinished) and tab.show_stopped(tab.show_finished(events[-1]))["state"] == "done"
    assert tab.show_stopped(None) is None


def test_exports_are_valid(tmp_path):
    chosen = [NoiseOptions(schedule="linear", num_timesteps=50), NoiseOptions(schedule="cosine", num_timesteps=50)]
    with Image.open(tab.export("png", chosen, ["beta"], "t", tmp_path)) as image:
        image.load()
    assert tab.export("svg", chosen, ["beta"], "log_snr", tmp_path).read_text().rstrip().endswith("</svg>")
    with open(tab.export("csv", chosen, [], "t", tmp_path)) as file:
        assert len(list(csv.reader(file))) == 101
    with pytest.raises(StudioError, match="no curve"):
        tab.export("png", chosen, [], "t", tmp_path)


# --- over the wire -------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def client(demo):
    from gradio_client import Client

    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True)
    yield Client(url, verbose=False)
    demo.close()


def test_only_the_two_named_endpoints_are_public(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/schedule", "/noise_image"}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_endpoint_gives_every_curve(client, name):
    answer = client.predict(schedule=name, num_timesteps=40, zero_terminal_snr=False, respacing="ddim10", api_name="/schedule")
    assert answer["kept"] == list(range(0, 40, 4)) and list(answer["curves"]) == list(CURVES)
    expected = curves(make_betas(name, 40))
    for key, values in answer["curves"].items():
        finite = np.isfinite(expected[key])
        assert [value is not None for value in values] == finite.tolist()
        assert np.array_equal(np.array(values, dtype=float)[finite], expected[key][finite])


def test_noise_image_endpoint_gives_the_picture_and_its_coefficients(client, tmp_path):
    from gradio_client import handle_file

    load_picture("coffee").save(tmp_path / "coffee.png")
    path, numbers = client.predict(picture=handle_file(tmp_path / "coffee.png"), schedule="cosine", num_timesteps=1000, t=500, seed=4, api_name="/noise_image")
    options = NoiseOptions(schedule="cosine", t=500, seed=4)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(noise_image(working_copy(load_picture("coffee")), options)))
    assert numbers["timestep"] == 500 and numbers["alpha_bar"] == options.coefficients().alpha_bar


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"num_timesteps": 0}, "num_timesteps"),
        ({"num_timesteps": "many"}, "many"),
        ({"respacing": "ddim7x"}, "ddim7x"),
        ({"respacing": 5}, "5"),
    ],
)
def test_schedule_endpoint_refuses_nonsense_in_a_sentence(client, changes, words):
    with pytest.raises(Exception, match=words):
        client.predict(**{"schedule": "linear", "num_timesteps": 100, "zero_terminal_snr": False, "respacing": "", **changes}, api_name="/schedule")


@pytest.mark.parametrize(("content", "words"), [(b"", "empty"), (b"words", "not a picture")])
def test_noise_image_endpoint_refuses_a_bad_file_in_a_sentence(client, tmp_path, content, words):
    from gradio_client import handle_file

    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(Exception, match=words):
        client.predict(picture=handle_file(tmp_path / "bad.png"), schedule="linear", num_timesteps=1000, t=5, seed=0, api_name="/noise_image")
    with pytest.raises(Exception, match="t must be"):
        load_picture("digit").save(tmp_path / "good.png")
        client.predict(picture=handle_file(tmp_path / "good.png"), schedule="linear", num_timesteps=1000, t=1000, seed=0, api_name="/noise_image")


def test_the_tab_imports_nothing_heavy():
    names = {alias.name for node in ast.walk(ast.parse(inspect.getsource(tab))) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(ast.parse(inspect.getsource(tab))) if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & {"torch", "diffusers", "transformers"}
