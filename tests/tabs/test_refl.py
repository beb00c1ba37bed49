"""The ReFL tab without a browser: its form, what it shows of a run, and what it says of two models ranked blind."""

import json

import pytest

from studio import Studio
from studio.rankings.duel import Duel
from studio.runs.folder import read_run, write_state
from studio.runs.refl import presets
from studio.runs.trainers import resolve_options
from studio.runs.trainers.refl import ReFLOptions
from tabs.parts.following import heads_of, prompts_of
from tabs.refl import CHARTS, MAIN, MORE, SHARED, tuning_options, values_of, watched_value
from tabs.refl_compare import duel_line

BASE = {
    "reward_held_out": 0.1, "reward_trained": 0.0, "judge": 0.8, "diversity": 0.5, "edges": 0.2, "dark": 0.0, "output_norm": 1.0, "colours": 2.0,
    "distance": 0.0,
}


@pytest.fixture
def studio(tmp_path):
    return Studio(runs_root=tmp_path / "runs", rankings_root=tmp_path / "rankings")


@pytest.fixture
def run(studio):
    """A run after two looks, as its files say."""
    folder = studio._runs.root / "seen"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"steps": 20, "batch_size": 2, "base": "toybox-sd", "method": "full"}))
    prompts = ["a red star", "a blue star"]
    facts = {"measured": BASE, "prompts": prompts, "held_out": prompts, "samples": 3, "lens": ["a", "b"], "judge": "x"}
    (folder / "base.json").write_text(json.dumps(facts))
    looks = [{**BASE, "reward_held_out": 1.0, "reward_t": 5.0}, {**BASE, "reward_held_out": 2.0, "reward_t": 9.0, "judge": 0.4, "judge_t": -4.0}]
    lines = [{"step": step, "loss": 1.0, "reward": step / 10} for step in range(20)]
    for step, look in zip((9, 19), looks):
        lines.insert(lines.index({"step": step, "loss": 1.0, "reward": step / 10}) + 1, {"step": step, "measured": look})
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_state(folder, trainer="refl", state="stopped")
    return read_run(folder)


def test_every_curve_begins_with_the_base_and_the_alarm_has_its_figures(studio, run):
    shown = json.loads(watched_value(studio, run))
    assert [chart["title"] for chart in shown["charts"]] == [title for title, _ in CHARTS]
    reward = shown["charts"][0]["series"][0]
    assert reward["x"] == [0, 10, 20] and reward["y"] == [0.1, 1, 2]
    assert "from 0.8 to 0.4, 4.0 standard errors" in shown["alarm"] and shown["judge"] == "x"
    assert json.loads(watched_value(studio, None)) == {}


def test_what_cannot_be_read_is_said_and_what_is_not_there_yet_is_not_shown(studio, run):
    (run.path / "base.json").write_text('{"measured": "much"}')
    assert "measured" in json.loads(watched_value(studio, run))["note"] and prompts_of(run) == [] and len(heads_of(run)) == 3
    (run.path / "base.json").unlink()
    assert json.loads(watched_value(studio, run)) == {}


def test_the_heads_of_a_sheet_are_as_wide_as_its_parts(run):
    heads = heads_of(run)
    assert [head["label"] for head in heads] == ["before", "", "now", "", "a", "b"] and [head["share"] for head in heads] == [3, 1 / 12, 3, 1 / 12, 1, 1]
    assert prompts_of(run) == ["a red star", "a blue star"]


@pytest.mark.parametrize("name", presets())
def test_the_form_gives_the_trainer_what_a_preset_says(name):
    values = values_of(presets()[name].options)
    assert set(values) == {*SHARED, "base", *MAIN, *MORE}
    options = ReFLOptions(**tuning_options({**values, "lr": values["lr"] or 0}))
    assert all(getattr(options, key) == value for key, value in presets()[name].options.items() if key != "data")


@pytest.mark.parametrize("name", [name for name in presets() if name.startswith("toybox") and name != "toybox-dpo"])
def test_a_preset_of_the_embedded_model_can_be_started_at_once(name):
    assert resolve_options("refl", presets()[name].options).base == "toybox-sd-early"


@pytest.mark.parametrize(("now", "said"), [
    (Duel(), "nothing was ranked yet"), (Duel(comparisons=20, rate=0.9, low=0.7, high=0.97), "better, beyond chance"),
    (Duel(comparisons=20, rate=0.1, low=0.03, high=0.3), "worse, beyond chance"), (Duel(comparisons=4, rate=0.5, low=0.1, high=0.9), "they are equal"),
    (Duel(comparisons=1, rate=0.6, low=0.2, high=0.9, still_needed=96), "wins 60% of 1 comparison against B (95 %: 20% to 90%): not sure yet"),
])
def test_a_duel_in_words(now, said):
    assert said in duel_line(now, "A", "B")
