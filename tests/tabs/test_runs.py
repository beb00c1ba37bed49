"""The Runs tab without a browser: what it says of runs, read from folders written by hand; curves as they grow; results as models."""

import json
import os
import time
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from studio import Studio
from studio.errors import InvalidOption, UnknownName
from studio.runs import TRAINERS
from studio.runs.examples import EXAMPLES
from studio.runs.folder import write_state
from studio.runs.following import Follower
from studio.runs.processes import process_start
from studio.runs.results import results
from studio.runs.trainers import options_table, resolve_options
from tabs import runs as tab


@pytest.fixture
def studio(tmp_path):
    return Studio(runs_root=tmp_path / "runs")


def event(step, **changes):
    return {"step": step, "loss": 1.0 / (step + 1), "quartiles": [0.5, None, 0.25, None], "grad_norm": 2.0, "lr": 1e-3, "samples_per_s": 8.0, **changes}


def write_events(path, events):
    with open(path / "events.jsonl", "a") as file:
        file.writelines(json.dumps(one) + "\n" for one in events)


def write_run(studio, name, state="finished", steps=20, events=(), **options):
    """A run as its trainer leaves it."""
    path = studio.runs.root / name
    for folder in ("samples", "checkpoints"):
        (path / folder).mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"steps": steps, "batch_size": 4, **options}))
    (path / "options.toml").write_text(f'output = "{path}"\nsteps = {steps}\n')
    me = os.getpid()
    write_state(path, trainer="dreambooth", state=state, created=time.time(), message="", pid=me, process_start=process_start(me))
    write_events(path, events)
    return path


def shown(studio, name, **options):
    return json.loads(tab.follow_value(studio, name, lambda path: f"at/{path.name}", **options))


# --- in words ------------------------------------------------------------------------------------------------

def test_a_running_run_says_step_and_time_left(studio):
    write_run(studio, "a", "running", events=[event(step) for step in range(8)])
    value = shown(studio, "a")
    assert value["title"] == "Step 8 of 20, about 6 s left"  # 12 steps of 4 pictures at 8 a second
    assert value["share"] == 0.4 and value["state"] == "running"
    assert ["pictures/s", "8.0"] in value["figures"]


def test_class_pictures_have_a_bar_of_their_own_and_no_curve(studio):
    write_run(studio, "a", "running", events=[{"phase": "class pictures", "done": 16, "total": 64}])
    value = shown(studio, "a")
    assert value["title"] == "Class pictures: 16 of 64 are there" and value["share"] == 0.25 and value["curves"]["step"] == []


@pytest.mark.parametrize(("state", "title"), [
    ("starting", "Starting: the libraries are loaded"), ("running", "Preparing: the model and the pictures are loaded"),
    ("finished", "Finished: all 20 steps"), ("failed", "Failed at step 0 of 20"), ("stopped", "Stopped at step 0 of 20"),
])
def test_every_state_is_said_in_words(studio, state, title):
    write_run(studio, "a", state)
    value = shown(studio, "a")
    assert value["title"] == title and (value["share"] is None) == (state in ("finished", "failed", "stopped"))


def test_a_waiting_run_says_its_place_and_when_it_begins(studio):
    write_run(studio, "first", "running", events=[event(step) for step in range(10)])
    write_run(studio, "second", "waiting")
    write_run(studio, "third", "waiting")
    assert shown(studio, "second")["title"] == "Waiting, next in the queue, begins in about 5 s"
    assert shown(studio, "third")["title"] == "Waiting, 2nd in the queue"
    rows = json.loads(tab.list_value(studio, "second"))
    assert [row["name"] for row in rows["runs"]] == ["third", "second", "first", *EXAMPLES] and rows["chosen"] == "second"
    assert tab.newest(studio) == "first"


def test_a_run_that_is_gone_gives_the_invitation(studio):
    assert "invitation" in shown(studio, "gone") and "invitation" in shown(studio, "") and "invitation" in shown(studio, "../x")
    listed = json.loads(tab.list_value(studio, ""))
    assert tab.newest(studio) == "" and [row["name"] for row in listed["runs"]] == list(EXAMPLES) and listed["invitation"]


def test_samples_prompts_command_and_options_are_shown(studio):
    path = write_run(studio, "a", validation_prompts="a sks cat| a cat ")
    for step in (10, 20):
        Image.new("RGB", (8, 8)).save(path / "samples" / f"step-{step:06d}.png")
    value = shown(studio, "a")
    assert value["samples"] == [{"step": 10, "src": "at/step-000010.png"}, {"step": 20, "src": "at/step-000020.png"}]
    assert value["prompts"] == ["a sks cat", "a cat"] and ["steps", "20"] in value["options"]
    assert value["command"].startswith("python -m trainers.dreambooth --config ")


def test_several_runs_are_compared_by_their_running_means(studio):
    for name in ("a", "b"):
        write_run(studio, name, events=[event(step) for step in range(5)])
    value = shown(studio, "a", compare=["b", "a", "gone"])
    assert [run["name"] for run in value["compared"]] == ["b"] and value["compared"][0]["step"] == [1, 2, 3, 4, 5]


def test_a_picture_of_a_run_gets_an_address_that_the_page_may_fetch(studio):
    path = write_run(studio, "a") / "samples" / "step-000001.png"
    Image.new("RGB", (4, 4), "red").save(path)
    with gr.Blocks():
        _, address = tab.create_follow("x")
    kept = Path(address(path).removeprefix("gradio_api/file="))
    assert kept.read_bytes() == path.read_bytes() and not kept.is_relative_to(studio.runs.root)


# --- curves --------------------------------------------------------------------------------------------------

def test_curves_grow_with_the_file_and_running_means_begin_at_the_first_value(tmp_path):
    follower = Follower()
    write_events(tmp_path, [{"phase": "class pictures", "done": 0, "total": 4}, event(0, loss=1.0), event(1, loss=0.0)])
    curves = follower.curves(tmp_path)
    assert curves.step == [1, 2] and curves.values["loss"] == [1.0, 0.0] and curves.values["smooth"] == [1.0, 0.5]
    assert curves.values["q1"] == [0.5, 0.5] and curves.values["q2"] == [None, None]
    write_events(tmp_path, [event(2, loss=0.5)])
    assert follower.curves(tmp_path).values["smooth"] == pytest.approx([1.0, 0.5, 0.5])


def test_steps_that_a_resumed_run_takes_again_are_not_drawn_twice(tmp_path):
    follower = Follower()
    write_events(tmp_path, [event(step) for step in range(6)])
    assert follower.curves(tmp_path).step[-1] == 6
    lines = (tmp_path / "events.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "events.jsonl").write_text("".join(lines[:3]))
    write_events(tmp_path, [event(step, samples_per_s=9.5) for step in range(3, 8)])
    assert follower.curves(tmp_path).step == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_long_run_is_thinned_and_its_last_step_kept(tmp_path):
    write_events(tmp_path, [event(step) for step in range(1003)])
    curves = Follower().curves(tmp_path, max_points=100)
    assert len(curves.step) <= 102 and curves.step[0] == 1 and curves.step[-1] == 1003
    assert all(len(points) == len(curves.step) for points in curves.values.values())


def test_values_that_are_no_numbers_break_the_line(tmp_path):
    write_events(tmp_path, [event(0, loss=float("nan")), event(1, loss=2.0)])
    assert Follower().curves(tmp_path).values["smooth"] == [None, 2.0]


# --- starting any trainer ------------------------------------------------------------------------------------

@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_table_documents_every_option_of_a_trainer(trainer):
    rows = options_table(trainer)
    assert {row.name for row in rows} | {"output"} == {field.name for field in TRAINERS[trainer].options.__dataclass_fields__.values()}
    assert all(row.help for row in rows) and "%%" not in tab.table_of(trainer)


@pytest.mark.parametrize(("options", "words"), [
    ({"steps": "many"}, "steps must be a whole number"), ({"lr": "fast"}, "lr must be a number"), ({"tensorboard": 1}, "tensorboard must be true or false"),
    ({"steps": True}, "whole number"), ({"lr_plan": "steep"}, "steep"), ({"colour": 1}, "colour"), ({"steps": 1.5}, "whole number"),
])
def test_options_of_the_wrong_kind_are_refused_in_a_sentence(options, words):
    with pytest.raises((InvalidOption, UnknownName), match=words):
        resolve_options("ddpm", options)


def test_options_are_read_from_toml_and_taken_from_a_run(studio):
    assert tab.options_in('steps = 5\ndata = "digits"') == {"steps": 5, "data": "digits"}
    with pytest.raises(InvalidOption, match="not TOML"):
        tab.options_in("steps = = 5")
    write_run(studio, "a", steps=7)
    assert tab.toml_of(studio.runs.read("a")) == "steps = 7"


# --- results as models ---------------------------------------------------------------------------------------

def write_pipeline(path, tiny_sd):
    for part in ("unet", "vae"):
        (path / "model" / part).mkdir(parents=True)
        (path / "model" / part / "config.json").write_text((Path(tiny_sd) / part / "config.json").read_text())
    (path / "model" / "studio.json").write_text(json.dumps({"kind": "pipeline", "base": "toybox-sd", "prompt": "a sks cat"}))


def test_a_finished_run_is_in_the_menu_of_models_and_an_unfinished_one_is_not(studio, tiny_sd):
    done, going = write_run(studio, "done"), write_run(studio, "going", "running")
    write_pipeline(done, tiny_sd)
    write_pipeline(going, tiny_sd)
    info = studio.models[str(done / "model")]
    assert (info.family, info.width, info.height, info.embedded) == ("stable-diffusion", 32, 32, True)
    assert info.label == "done (DreamBooth run)" and "a sks cat" in info.about
    assert str(going / "model") not in studio.models and not set(Studio(public=True, runs_root=studio.runs.root).models) & {str(done / "model")}


def test_a_lora_has_the_shape_of_its_base(studio, tiny_sd):
    path = write_run(studio, "lora") / "model"
    path.mkdir()
    (path / "studio.json").write_text(json.dumps({"kind": "lora", "base": tiny_sd, "prompt": "a sks cat"}))
    info = results(studio.runs.root)[str(path)]
    assert (info.family, info.width) == ("stable-diffusion", 32)
    (path / "studio.json").unlink()
    os.utime(path)
    assert results(studio.runs.root) == {}


def test_a_deleted_run_takes_its_uploads_along(studio):
    path = write_run(studio, "a")
    studio.runs.uploads("a").mkdir(parents=True)
    studio.delete_run("a")
    assert not path.exists() and not studio.runs.uploads("a").exists() and studio.runs.list() == []


def test_what_is_measured_at_sample_points_is_a_curve_of_its_own_and_its_jump_is_found(studio):
    measured = {9: 0.1, 19: 0.15, 29: 0.8, 39: 0.85}
    path = write_run(studio, "net", steps=40)
    for step in range(40):
        write_events(path, [event(step)])
        if step in measured:
            write_events(path, [{"step": step, "measured": {"obedience": 0.9, "obedience_empty": measured[step]}}])
    value = shown(studio, "net")
    curve = dict(zip(value["curves"]["step"], value["curves"]["values"]["obedience_empty"]))
    assert {step: y for step, y in curve.items() if y is not None} == {step + 1: y for step, y in measured.items()}
    assert len(value["curves"]["step"]) == 40 and value["jump"] == [20, 30] and ["obeys without a prompt", "0.85"] in value["figures"]
    # However few points are shown, what was measured is among them.
    thin = Follower().curves(path, max_points=3)
    assert [y for y in thin.values["obedience_empty"] if y is not None] == list(measured.values())
    write_run(studio, "plain", events=[event(0)])
    assert "obedience" not in shown(studio, "plain")["curves"]["values"]


@pytest.mark.parametrize("damaged", [{"step": 1, "measured": 3}, {"step": -1, "measured": {}}, {"step": 1, "measured": {"obedience": "much"}}])
def test_a_damaged_measurement_is_said(studio, damaged):
    write_run(studio, "net", events=[event(0), damaged])
    assert shown(studio, "net")["state"] == "damaged"
