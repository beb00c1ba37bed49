"""What the tabs open with: recorded from the embedded models as they are, small, and shown without loading anything."""

import json
import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from assets.record import RECORDERS
from studio import Studio
from studio.runs.examples import DOMINO, TUNED, example_named
from studio.runs.probes import Sheet
from studio.runs.trainers.contrast import ContrastOptions
from tabs import contrast
from tabs.parts.openings import ADDRESS, OPENINGS, VERSION, Opening, asked_with, read_opening, recorded, write_opening
from tabs.parts.sheets import sheet_value
from tabs.refl import CHARTS
from tests.tabs.test_page import bare_page, client  # noqa: F401

ROOT = Path(__file__).parents[2]
# Two example runs with the sheets of their looks among them.
MOST_BYTES = 3.6 * 2**20
# A step of rounding may fall the other way on another processor; that grows over the steps of a run.
MOST_LEVELS, MOST_SHARE = 24, 0.02


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts(part)


def media_of(value: Any) -> set[str]:
    return {text.rpartition("/")[2] for text in texts(value) if text.startswith(f"{ADDRESS}/media/")}


# --- the files -----------------------------------------------------------------------------------------------

def test_every_recorder_has_its_file_and_every_picture_its_place():
    kept = {file.stem: json.loads(file.read_text("utf-8")) for file in OPENINGS.glob("*.json")}
    assert set(kept) == set(RECORDERS)
    assert all(set(one) == {"version", "made_with", "places"} and one["version"] == VERSION and one["made_with"] for one in kept.values())
    assert set().union(*map(media_of, kept.values())) == {file.name for file in (OPENINGS / "media").iterdir()}


def test_all_of_it_is_small():
    files = [path for path in OPENINGS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    assert {path.suffix for path in files} <= {".json", ".jsonl", ".png", ".toml"}


def test_a_recording_is_kept_with_its_larger_pictures_beside_it_and_without_those_of_before(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    buffer = BytesIO()
    noise.save(buffer, "PNG")
    from studio.media.data_uris import data_uri

    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "one-old.png").write_bytes(b"")
    stage = json.dumps({"big": data_uri(noise), "small": data_uri(Image.new("L", (2, 2))), "list": [1, None]})
    write_opening("one", Opening(made_with={"seed": 1}, places={"stage": stage, "why": "words"}), tmp_path)
    kept = json.loads((tmp_path / "one.json").read_text())
    assert kept["places"]["why"] == "words" and kept["places"]["stage"]["list"] == [1, None] and kept["places"]["stage"]["small"].startswith("data:image/png")
    [file] = (tmp_path / "media").iterdir()
    assert kept["places"]["stage"]["big"] == f"{ADDRESS}/media/{file.name}"
    assert np.array_equal(np.asarray(Image.open(file)), np.asarray(noise))


# --- what the page carries -----------------------------------------------------------------------------------

FIRST_PAGE = """
import json, sys
from app import create_app
from studio import Studio

def page(mode):
    app = create_app(Studio(runs_root=sys.argv[1], public=mode == "public"))
    values = {block.elem_id: block.value for block in app.blocks.values() if isinstance(getattr(block, "value", None), str)}
    shown = {}
    for fn in app.fns.values():
        if fn.name == "on_open_page":
            # Its only input says that the panel has not been shown before.
            given = fn.fn(dict.fromkeys(fn.inputs, False))
            given = given if isinstance(given, dict) else {fn.outputs[0]: given}
            shown |= {block.elem_id: value for block, value in given.items() if isinstance(value, str)}
    return {"values": values, "shown": shown, "loaded": [name for name in ("torch", "diffusers", "transformers") if name in sys.modules]}

print(json.dumps({mode: page(mode) for mode in ("own", "public")}))
"""
PLACES = {
    "denoise-stage": ("denoise", "stage"), "t2i-stage": ("text", "stage"), "t2i-words": ("text", "words"), "pair-stage": ("compare", "stage"),
    "grid-stage": ("grid", "stage"), "anatomy-parts": ("anatomy", "parts"), "anatomy-trip": ("anatomy", "trip"), "contrast-stage": ("contrast", "stage"),
    "dreambooth-sheet": ("domino", "sheet"), "ctl-stage": ("control", "stage"),
    "refl-sheet": ("tuned", "sheet"),
}


@pytest.fixture(scope="module")
def first_pages(tmp_path_factory):
    """What a new process shows of the page to its owner and to strangers."""
    done = subprocess.run([sys.executable, "-c", FIRST_PAGE, str(tmp_path_factory.mktemp("runs"))], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mode", ["own", "public"])
def test_every_tab_opens_with_something_recorded_and_loads_nothing_for_it(first_pages, mode):
    page = first_pages[mode]
    assert page["loaded"] == []
    assert {name: page["values"].get(name) for name in PLACES} == {name: recorded(*place) for name, place in PLACES.items()}
    for stage in ("dreambooth-stage", "runs-stage"):
        followed = json.loads(page["shown"][stage])
        assert followed["name"] == DOMINO and followed["state"] == "example" and len(followed["samples"]) >= 4 and followed["curves"]["step"][-1] == 600
    tuned, watched = json.loads(page["shown"]["refl-stage"]), json.loads(page["shown"]["refl-watched"])
    assert tuned["name"] == TUNED and tuned["state"] == "example" and len(tuned["samples"]) >= 4 and tuned["prompts"]
    assert {chart["title"] for chart in watched["charts"]} == {title for title, _ in CHARTS} and watched["alarm"] == ""
    if mode == "own":
        row, other = json.loads(page["shown"]["runs-list"])["runs"]
        assert row["name"] == DOMINO and row["state"] == "example" and row["words"] == "A recorded example: all 600 steps"
        assert other["name"] == TUNED and other["state"] == "example"


@pytest.mark.parametrize("name", RECORDERS)
def test_the_page_fetches_it_and_may_keep_it_for_good(client, name):  # noqa: F811
    place = next(iter(read_opening(name)["places"]))
    answer = client.get("/" + json.loads(recorded(name, place))["recorded"])
    assert answer.json() == read_opening(name) and "immutable" in answer.headers["cache-control"]
    for file in media_of(answer.json()):
        assert client.get(f"/{ADDRESS}/media/{file}").headers["content-type"] == "image/png"


# --- that it is what the models give today -------------------------------------------------------------------

@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    return Studio(runs_root=tmp_path_factory.mktemp("runs"))


def pixels_at(source: str, folder: Path) -> np.ndarray:
    content = b64decode(source.partition(",")[2]) if source.startswith("data:") else (folder / "media" / source.rpartition("/")[2]).read_bytes()
    return np.asarray(Image.open(BytesIO(content)).convert("RGBA"), int)


def is_picture(value: Any) -> bool:
    return isinstance(value, str) and (value.startswith("data:image/") or value.startswith(f"{ADDRESS}/media/"))


def assert_alike(kept: Any, made: Any, folder: Path, at: str = "") -> None:
    """The same, numbers to a part in a thousand and pictures but for a few places."""
    if is_picture(kept) and is_picture(made):
        a, b = pixels_at(kept, OPENINGS), pixels_at(made, folder)
        assert a.shape == b.shape and (np.abs(a - b) > MOST_LEVELS).mean() < MOST_SHARE, at
    elif isinstance(kept, dict) and isinstance(made, dict):
        assert list(kept) == list(made), at
        for name in kept:
            assert_alike(kept[name], made[name], folder, f"{at}.{name}")
    elif isinstance(kept, list) and isinstance(made, list):
        assert len(kept) == len(made), at
        for i, (one, other) in enumerate(zip(kept, made)):
            assert_alike(one, other, folder, f"{at}[{i}]")
    elif isinstance(kept, float):
        assert made == pytest.approx(kept, rel=1e-2, abs=1e-3), at
    elif not at.endswith(".levels"):
        assert kept == made, at


@pytest.mark.parametrize("name", ["denoise", "text", "compare", "grid", "anatomy"])
def test_the_embedded_models_give_today_what_was_recorded(studio, tmp_path, name):
    write_opening(name, RECORDERS[name](studio), tmp_path)
    assert_alike(read_opening(name), json.loads((tmp_path / f"{name}.json").read_text("utf-8")), tmp_path)


def test_the_example_was_taught_to_the_model_that_is_embedded_now(studio):
    """Where training again would take minutes: what the base model draws before it."""
    from studio.runs.probes import drawn, probe_options

    kept = read_opening("domino")["places"]["sheet"]
    asked = probe_options(example_named(DOMINO).__class__(**{**vars(example_named(DOMINO)), "example": False}), "a sks cat", num_images=4)
    *_, sheet = drawn(studio, Sheet(title="", columns=kept["columns"]), ["before"], [(0, 0, asked)], None)
    assert_alike(kept["rows"][0], json.loads(sheet_value(sheet))["rows"][0], OPENINGS)


def test_trainings_are_recorded_with_the_options_and_in_the_form_of_today():
    def shape(value: Any) -> Any:
        return {name: shape(one) for name, one in value.items()} if isinstance(value, dict) else type(value).__name__

    from tests.tabs.test_contrast import FakeTraining

    kept, made = read_opening("contrast"), contrast.record(FakeTraining().train, ContrastOptions())
    assert kept["made_with"] == asked_with(contrast.OPENS_WITH)
    told, today = kept["places"]["stage"], json.loads(made.places["stage"])
    assert {name: shape(told[name]) for name in told} == {name: shape(today[name]) for name in today}
    assert list(told["table"][0]) == list(today["table"][0]) and list(told["drawings"][-1]["pictures"]) == list(today["drawings"][-1]["pictures"])
    sheet = read_opening("domino")["places"]["sheet"]
    assert list(sheet) == list(json.loads(sheet_value(Sheet(title="", columns=[])))) and sheet["title"].startswith("A recorded example")
    assert [len(row["cells"]) for row in sheet["rows"]] == [4, 4] and re.match("Root mean square", sheet["note"])
