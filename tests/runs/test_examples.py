"""The recorded example runs: read as any run is, in no list of the user's, and out of reach of everything that acts."""

import dataclasses
import json

import pytest

from studio import Studio
from studio.errors import InvalidOption
from studio.models.catalogue import ASSETS
from studio.models.examiner import load_examiner
from studio.runs.examples import DOMINO, EXAMPLES, TUNED, example_named, examples
from studio.runs.folder import read_toml
from studio.runs.following import Follower
from studio.runs.probes import before_and_after, checkpoint_matrix, forgotten
from studio.runs.trainers.dreambooth import DreamBoothOptions
from studio.runs.trainers.presets import PRESETS
from trainers import tuned


@pytest.fixture
def studio(tmp_path):
    return Studio(runs_root=tmp_path / "runs")


def test_the_example_is_a_whole_run_of_the_recipe_that_its_button_gives():
    view = example_named(DOMINO)
    assert (view.state, view.trainer, view.step, view.example, view.live, view.busy) == ("finished", "dreambooth", view.steps, True, False, False)
    assert view.options == dataclasses.asdict(DreamBoothOptions(output="runs/domino", **PRESETS["toybox"].options))
    curves = Follower().curves(view.path)
    assert curves.step[0] == 1 and curves.step[-1] == view.steps == 600
    steps = [step for step, _ in view.numbered_samples]
    assert len(steps) >= 4 and steps[-1] == view.steps
    assert [one.name for one in examples()] == list(EXAMPLES)


def test_the_example_of_refl_is_a_run_of_the_preset_and_its_alarm_never_rang():
    view = example_named(TUNED)
    assert (view.state, view.trainer, view.example) == ("finished", "refl", True)
    assert view.options == dataclasses.asdict(tuned.RUNS[tuned.FIRST])
    assert tuned.first_alarm(view.path) is None
    judged = json.loads((ASSETS / "runs" / "tuned" / "quality.json").read_text())
    assert judged["hacked"]["alarm"] and all(judged[name]["alarm"] is None for name in tuned.HELD)


def test_what_the_toy_world_draws_of_the_judged_prompts_is_right_and_worth_more_than_the_bases(monkeypatch):
    monkeypatch.setattr(tuned, "SAMPLES", 1)
    exact = tuned.measured(tuned.renders(), load_examiner())
    base = json.loads((ASSETS / "runs" / "tuned" / "quality.json").read_text())["base"]
    assert exact["right"] >= 0.95 > base["right"]
    assert exact["reward"] == pytest.approx(base["reward"] + base[tuned.EXACT] * base["reward_deviation"], abs=1e-3) and base[tuned.EXACT] > 1


@pytest.mark.parametrize("example", EXAMPLES)
def test_nothing_of_the_machine_that_recorded_it_is_in_it(example):
    view = example_named(example)
    text = "".join(path.read_text("utf-8") for path in view.path.iterdir() if path.is_file())
    assert "/tmp" not in text and "/home" not in text and view.pid is None
    assert view.command == f"python -m trainers.{view.trainer} --config assets/openings/{example.split()[0]}/options.toml"


def test_it_stands_in_no_list_of_the_users_and_takes_no_name_of_theirs(studio):
    assert list(studio.runs.list()) == [] and studio.runs.read(DOMINO).example
    with pytest.raises(InvalidOption, match="letters, digits"):
        studio.runs.require_free(DOMINO)
    assert not studio.runs.root.exists() or not any(path.is_dir() for path in studio.runs.root.iterdir())


@pytest.mark.parametrize("act", [lambda studio: studio.runs.stop(DOMINO), lambda studio: studio.runs.resume(DOMINO), lambda studio: studio.runs.delete(DOMINO),
                                 lambda studio: studio.delete_run(DOMINO)])
def test_nothing_acts_on_it(studio, act):
    before = sorted(path.name for path in EXAMPLES[DOMINO].rglob("*"))
    with pytest.raises(InvalidOption, match="is a recorded example"):
        act(studio)
    assert sorted(path.name for path in EXAMPLES[DOMINO].rglob("*")) == before


@pytest.mark.parametrize("draw", [
    lambda studio, view: before_and_after(studio, view, "a sks cat"), lambda studio, view: checkpoint_matrix(studio, view, "a sks cat"), forgotten,
])
def test_what_needs_its_weights_says_how_to_get_them(studio, draw):
    with pytest.raises(InvalidOption, match="kept without its weights.*press Train"):
        next(draw(studio, studio.runs.read(DOMINO)))


def test_its_options_start_a_run_of_ones_own():
    assert 'instance_prompt = "a sks cat"' in read_toml(EXAMPLES[DOMINO])
    assert json.loads((EXAMPLES[DOMINO] / "config.json").read_text())["instances"] == "assets/examples/domino"
