"""What comes after a tuning: checkpoints as models, two side by side, one in the menus, two ranked blind, and the whole loop once around."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studio import SampleOptions, Studio
from studio.errors import InvalidOption, UnknownName
from studio.rankings import Ranking, open_tasks, submit
from studio.rankings.agreement import read_table
from studio.rankings.duel import Duel, duel, needed, wilson
from studio.rankings.making import TaskOptions
from studio.rankings.pictures import picture_path
from studio.runs.folder import read_run, write_state
from studio.runs.refl import alarm_of, start
from studio.runs.results import results
from studio.runs.trainers.refl import ReFLOptions
from studio.runs.trainers.reward import RewardOptions
from studio.runs.tuned import blind_tasks, collection_of, compared, models_of, promote
from tabs.parts.sheets import sheet_value
from tests.tiny_sd import save_tiny_sd
from trainers import refl, reward
from trainers.run_folder import RunFolder

PROMPTS = [f"{article} {colour} {thing}" for article in ("a", "the") for colour in ("red", "blue") for thing in ("star", "fly", "butterfly", "background")]
SMALL = {"resolution": 32, "tensorboard": False, "validation_samples": 2, "validation_prompts": 3, "validation_steps": 3}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_sd(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    root = tmp_path_factory.mktemp("studio")
    opened = Studio(runs_root=root / "runs", rankings_root=root / "rankings", folders=[root])
    yield opened
    opened.rankings.close()


def tuned(studio, base, name, **changes):
    """A short tuning in this process, as it lies in the folder of runs."""
    asked = ReFLOptions(**{
        **SMALL, "base": base, "output": str(studio.runs.root / name), "data": "typed", "prompts": "|".join(PROMPTS), "held_out": 0.4, "rewards": "redness",
        "judge": "sharpness", "reward_weight": 1.0, "reward_units": "base", "cap": 100.0, "num_steps": 4, "stop_low": 2, "stop_high": 3, "batch_size": 4,
        "steps": 4, "sample_every": 2, "checkpoint_every": 2, "pretrain_weight": 0.0, "lr": 3e-3, "ema_decay": 0.0, **changes,
    })
    list(refl.train(asked, progress=False))
    write_state(Path(asked.output), trainer="refl", state="finished")
    return read_run(Path(asked.output))


@pytest.fixture(scope="module")
def view(studio, base):
    return tuned(studio, base, "red")


def test_two_checkpoints_are_drawn_from_the_same_seeds_and_scored(studio, view):
    assert list(models_of(view)) == ["base", "step-000001", "step-000003", "result"]
    *_, last = compared(studio, view, "base", "step-000003", ["redness"], seeds=2, prompts=["a star", "the fly"])
    assert [label for label, _ in last.rows] == ["The base", "Step 4"] * 2 and last.headings == ["a star", "a star", "the fly", "the fly"]
    shown = json.loads(sheet_value(last))["rows"]
    assert [(row["heading"], row["name"]) for row in shown] == [(prompt, name) for prompt in ("a star", "the fly") for name in ("The base", "Step 4")]
    pictures = np.array([[np.asarray(cell, float) for cell in cells] for _, cells in last.rows])
    assert np.abs(pictures[0] - pictures[1]).mean() > 1
    red = (pictures[..., 0] - pictures[..., 1:].mean(-1)).mean((2, 3))
    assert f"redness: {red[::2].mean():.3f} (The base), {red[1::2].mean():.3f} (Step 4)" in last.note
    *_, other = compared(studio, view, "step-000003", "base", [], seeds=2, prompts=["a star"])
    assert np.array_equal(np.asarray(other.rows[0][1][1]), pictures[1][1]), "a seed draws the same alone and beside another"


@pytest.mark.parametrize(("asked", "said"), [
    (("base", "base"), "two different"), (("base", "step-000009"), "did you mean"), (("base", ""), "checkpoint of this run"),
])
def test_what_cannot_be_compared_is_refused_before_anything_is_drawn(studio, view, asked, said):
    with pytest.raises((InvalidOption, UnknownName), match=said):
        compared(studio, view, *asked, [])
    with pytest.raises((InvalidOption, UnknownName), match=said):
        blind_tasks(view, *asked, 3)
    with pytest.raises(UnknownName, match="scorer"):
        compared(studio, view, "base", "result", ["nobody"])


def test_a_checkpoint_that_was_promoted_is_in_the_menus_and_kept(studio, view):
    copied = read_run(Path(shutil.copytree(view.path, studio.runs.root / "again")))
    name = promote(copied, "step-000001")
    entry = studio.models[name]
    assert entry.label == "again, step 2 (promoted)" and entry.family == "stable-diffusion" and name in results(studio.runs.root)
    assert str(copied.path / "model") in studio.models
    (copied.path / "best.json").write_text(json.dumps({"step": 3, "score": 1.0}))
    RunFolder(copied.path).save_checkpoint(9, {}, {"loss": None}, keep=1)
    assert sorted(path.name for path in copied.checkpoints) == ["step-000001", "step-000003", "step-000009"], "the promoted, the best and the newest"
    for key in ("base", "result"):
        with pytest.raises(InvalidOption, match="already"):
            promote(copied, key)
    (copied.path / "promoted.json").write_text("[1]")
    assert name not in studio.models


def test_an_alarm_rings_when_the_reward_rises_alone():
    base = {"reward_held_out": 0.0, "judge": 0.8, "diversity": 0.5}
    now = {"reward_held_out": 1.5, "reward_t": 6.0, "judge": 0.6, "judge_t": -3.2, "diversity": 0.4}
    said = alarm_of(base, now)
    assert "from 0 to 1.5" in said and "from 0.8 to 0.6, 3.2 standard errors" in said and "by 20%" in said
    assert alarm_of(base, {**now, "judge_t": -1.0, "diversity": 0.45}) == "" and alarm_of(base, {**now, "reward_t": 1.0}) == ""
    # By chance it falls by two standard errors at one of forty looks, and the diversity of a few prompts by a fifth.
    assert alarm_of(base, {**now, "judge_t": -2.5, "diversity": 0.45}) == "" == alarm_of(base, {**now, "judge_t": -2.5, "diversity_t": -1.2})
    assert "the diversity fell from 0.5 to 0.4" in alarm_of(base, {**now, "judge_t": -2.5, "diversity_t": -3.5})
    assert alarm_of({}, {}) == "" and "diversity" not in alarm_of({}, {**now})


def test_a_duel_says_its_interval_and_how_many_are_still_needed():
    assert needed(0.5) is None and needed(0.6) == 97 and needed(1.0) == 4
    for count in (3, 4, 96, 97):
        assert (wilson(1.0 if count < 5 else 0.6, count)[0] > 0.5) == (count in (4, 97)), "the interval leaves out one half from there on"
    assert Duel().rate is None and not Duel().sure and not Duel(comparisons=9, rate=0.6, low=0.4, high=0.8).sure


@pytest.mark.parametrize(("options", "more", "said"), [
    ({}, {"source": "file"}, "No file"), ({}, {"source": "nowhere"}, "source must be"), ({}, {"source": "ranked"}, "Nothing was ranked"),
    ({"prompts": "one"}, {"source": "typed"}, "at least 2 prompts"), ({"algorithm": "dpo"}, {"source": "ranked"}, "Nothing was ranked"),
    ({"base": "digits-ddpm"}, {}, "pixel diffusion: it does not draw from words alone"),
])
def test_what_cannot_be_started_is_refused_and_leaves_nothing(studio, options, more, said):
    with pytest.raises((InvalidOption, UnknownName), match=said):
        start(studio.runs, None, "new", {"rewards": "redness", "judge": "", **options}, **more)
    assert not (studio.runs.root / "new").exists()


# --- once around ---------------------------------------------------------------------------------------------

def rank_reddest_first(studio, collection):
    """Rank all open tasks of a collection as someone would who likes red."""
    while tasks := open_tasks(studio.rankings, "Ada", 1, collection):
        found = {one.position: redness(picture_path(studio.rankings.folder, one.sha256, one.suffix)) for one in tasks[0].pictures}
        order = sorted(found.values(), reverse=True)
        submit(studio.rankings, "Ada", tasks[0].assignment, Ranking(ranks=[1 + order.index(found[place]) for place in sorted(found)]))


def redness(path):
    pixels = np.asarray(Image.open(path).convert("RGB"), float)
    return (pixels[..., 0] - pixels[..., 1:].mean(-1)).mean()


def test_pictures_are_ranked_a_reward_learns_it_a_model_is_tuned_by_it_and_ranked_again(studio, base, tmp_path):
    sampling = SampleOptions(model=base, num_steps=4, guidance_scale=4.0, scheduler="ddim", width=32, height=32)
    drawn = TaskOptions(prompts=PROMPTS * 2, models=[base], pictures=5, sampling=sampling, collection="loop", seed=7)
    assert sum(task.new for task in studio.make_tasks(drawn)) == len(PROMPTS) * 2
    rank_reddest_first(studio, "loop")

    learned = RewardOptions(
        data=str(studio.rankings.folder), format="database", collection="loop", output=str(tmp_path / "reward"), width=32, vision_layers=1, text_layers=1,
        patch=8, resolution=32, steps=60, batch_size=8, lr=3e-3, warmup=5, tensorboard=False, sample_every=0, held_out=0.2,
    )
    list(reward.train(learned, progress=False))
    scorer = str(tmp_path / "reward" / "model")

    run = tuned(studio, base, "loop", rewards=scorer, steps=16, batch_size=4, sample_every=16, lr=2e-3)
    measured = [event["measured"] for event in map(json.loads, (run.path / "events.jsonl").read_text().splitlines()) if "measured" in event][-1]
    before = json.loads((run.path / "base.json").read_text())["measured"]
    assert measured["reward_held_out"] > before["reward_held_out"] + 1

    blind = replace(blind_tasks(run, "base", "result", 12), sampling=sampling)
    assert len(list(studio.make_tasks(blind))) == 12
    collection = collection_of(run, "base", "result")
    rank_reddest_first(studio, collection)
    now = duel(read_table(studio.rankings, collection), str(run.path / "model"), base)
    assert now.comparisons >= 12 and now.rate > 0.7 and now.sure
