"""The reward trainer: pairs and their split, the loss, what is measured, and a run from rankings to a scorer."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from studio.errors import InvalidOption
from studio.rankings import NewGeneration, NewTask, add_tasks, open_rankings, open_tasks, submit
from studio.rankings.example import EXAMPLE
from studio.rankings.exchange import PictureRecord, RankingRecord, TaskRecord
from studio.rankings.formats import export_rankings
from studio.rankings.pictures import keep_drawn
from studio.rankings.ranking import Ranking
from studio.rewards import load_reward, trained_rewards
from studio.rewards.blip import load_folder
from trainers import preference, ranked
from trainers.ranked import Pair
from trainers.reward import RewardOptions, RewardTask, pair_loss, train
from trainers.reward_estimate import estimate_reward as estimate
from trainers.reward_estimate import size_of

SMALL = {
    "width": 32, "vision_layers": 1, "text_layers": 1, "patch": 16, "resolution": 32, "steps": 40, "batch_size": 8, "lr": 3e-3, "warmup": 5,
    "tensorboard": False, "sample_every": 40, "checkpoint_every": 20,
}


@pytest.fixture(scope="module")
def export(tmp_path_factory, example_rankings):
    """The made-up example, exported."""
    folder = tmp_path_factory.mktemp("ranked")
    example_rankings(folder / "rankings")
    rankings = open_rankings(folder / "rankings", "")
    export_rankings(rankings, "studio", folder / "export.zip", EXAMPLE)
    rankings.close()
    return folder


def record(ranks, annotator="a", prompt="a red heart"):
    pictures = [PictureRecord(file=f"{i}.png") for i in range(len(ranks))]
    return TaskRecord(prompt=prompt, pictures=pictures, rankings=[RankingRecord(annotator=annotator, ranking=Ranking(ranks=ranks))])


def test_every_pair_of_different_ranks_counts_ties_are_marked_and_what_is_left_out_is_not_there():
    pairs = list(ranked.pairs_of(record([2, 1, None, 2]), 10, 7))
    assert [(pair.better, pair.worse, pair.tie) for pair in pairs] == [(11, 10, False), (10, 13, True), (11, 13, False)]
    assert {pair.task for pair in pairs} == {7}


def test_the_split_is_by_prompt(export):
    data = ranked.load_ranked(str(export / "export.zip"), "studio", "", 32, limit=1000, held_out=0.3, seed=0)
    train_prompts, held_out = ({data.prompts[pair.better] for pair in pairs} for pairs in (data.train, data.held_out))
    assert train_prompts and held_out and not train_prompts & held_out
    assert data.pixels.shape == (240, 3, 32, 32) and data.rankings >= 180
    again = ranked.load_ranked(str(export / "rankings"), "database", EXAMPLE, 32, limit=1000, held_out=0.3, seed=0)
    assert again.train == data.train and torch.equal(again.pixels, data.pixels)


def test_people_agree_as_often_as_their_pairs_do():
    pairs = [Pair(0, 1, 0, "a"), Pair(0, 1, 0, "b"), Pair(1, 0, 0, "c"), Pair(2, 3, 1, "a"), Pair(2, 3, 1, "b", True), Pair(0, 1, 0, "c", False, 1)]
    ceiling = ranked.human_ceiling(pairs)
    assert ceiling.pairs == 3 and ceiling.accuracy == pytest.approx(1 / 3)
    assert ranked.human_ceiling([Pair(0, 1, 0, "a")]).accuracy is None


def test_the_loss_is_the_published_one_and_a_tie_costs_what_lies_beyond_the_band():
    better, worse, tie = torch.tensor([2.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.2]), torch.tensor([False, False, True])
    found = pair_loss(better, worse, tie, 0.5)
    assert found.tolist() == pytest.approx([np.log(1 + np.exp(-1.0)), np.log(2), 0.09], rel=1e-4)


def test_a_step_sees_every_picture_of_its_rankings_once(export):
    task = RewardTask(RewardOptions(data=str(export / "export.zip"), output=str(export / "x"), **SMALL))
    seen = []

    class Watched(torch.nn.Module):
        def forward(self, pixels, ids, mask):
            seen.append(len(pixels))
            return torch.arange(len(pixels), dtype=torch.float32, requires_grad=True)

    indices = torch.tensor([0, 1, 5])
    losses = task.losses(Watched(), indices, torch.Generator(), torch.device("cpu"))
    pairs = [pair for i in indices.tolist() for pair in task.groups[i]]
    items = sorted({item for pair in pairs for item in (pair.better, pair.worse)})
    assert seen == [len(items)] and losses.each.shape == (3,)
    by_hand = [np.log1p(np.exp(items.index(pair.worse) - items.index(pair.better))) for pair in pairs]
    assert losses.descend.item() == pytest.approx(np.mean(by_hand), rel=1e-5)


def test_a_predicted_tie_is_wrong():
    assert preference.accuracy_of(np.array([1.0, 2.0, 0.0]), np.array([0.0, 2.0, 1.0])) == pytest.approx(1 / 3)
    assert preference.accuracy_of(np.zeros(0), np.zeros(0)) is None


def test_the_interval_holds_the_share_and_is_wider_where_pairs_hang_together():
    right = np.repeat([True, False, True, True, False], 40)
    apart, together = (preference.interval(right, group) for group in (np.arange(200), np.repeat(np.arange(5), 40)))
    assert apart[0] < 0.6 < apart[1] and together[1] - together[0] > 2 * (apart[1] - apart[0])
    low, high = preference.interval(np.array([True] * 4), np.arange(4))
    assert low < 0.6 and high == 1, "four of four is no certainty"


def test_calibration_says_how_sure_and_how_right():
    differences = np.array([0.1, -0.1, 3.0, 3.0])
    rows = preference.calibration(differences, np.zeros(4))
    assert [row["pairs"] for row in rows] == [2, 2] and [row["right"] for row in rows] == [0.5, 1]
    assert rows[1]["sure"] == pytest.approx(1 / (1 + np.exp(-3.0)))


def test_too_few_rankings_are_refused_and_few_held_out_pairs_are_said():
    with pytest.raises(InvalidOption, match="3 rankings"):
        ranked.require_enough(3, [])
    with pytest.raises(InvalidOption, match="nothing but ties"):
        ranked.require_enough(20, [Pair(0, 1, 0, "a", True)])
    assert "Too few to trust" in preference.verdict(np.ones(5), np.zeros(5), np.arange(5))["note"]
    many = preference.verdict(np.ones(200), np.zeros(200), np.arange(200))
    assert many["note"] == "" and many["low"] < 1
    assert "No pair" in preference.verdict(np.zeros(0), np.zeros(0), np.zeros(0))["note"]


@pytest.fixture(scope="module")
def run(export):
    """A short run in full."""
    output = export / "runs" / "full"
    logs = list(train(RewardOptions(data=str(export / "export.zip"), output=str(output), **SMALL), progress=False))
    return output, logs


def test_a_run_learns_what_the_rankings_say(tmp_path):
    """Of plain pictures the lighter one is always better."""
    rng, rankings = np.random.default_rng(0), open_rankings(tmp_path / "rankings", "")
    levels = {f"prompt {number}": rng.choice(200, 3, replace=False) for number in range(40)}
    for number, (prompt, own) in enumerate(levels.items()):
        pictures = [keep_drawn(rankings.folder, Image.new("RGB", (32, 32), (int(level), number, 40))) for level in own]
        add_tasks(rankings, [NewTask(prompt=prompt, generations=[NewGeneration(picture=one) for one in pictures])])
    # Now and then a task comes a second time.
    while tasks := open_tasks(rankings, "Ada", 1):
        ranks = 1 + np.argsort(np.argsort(-levels[tasks[0].prompt]))
        submit(rankings, "Ada", tasks[0].assignment, Ranking(ranks=ranks.tolist()))
    rankings.close()
    options = RewardOptions(data=str(tmp_path / "rankings"), format="database", output=str(tmp_path / "run"), held_out=0.3, **{**SMALL, "steps": 60})
    logs = list(train(options, progress=False))
    assert np.mean([log.loss for log in logs[-5:]]) < 0.7 * np.mean([log.loss for log in logs[:5]])
    measured = json.loads((tmp_path / "run" / "model" / "reward.json").read_text())["measured"]
    assert measured["accuracy"] > 0.8 and measured["human"] is None


def test_its_result_is_a_scorer_of_the_menu_with_what_was_measured(run):
    output, _ = run
    facts = json.loads((output / "model" / "reward.json").read_text())
    measured = facts["measured"]
    assert measured["pairs"] > 20 and 0.5 < measured["human"] < 1 and measured["low"] <= measured["accuracy"] <= measured["high"]
    assert list((output / "samples").glob("step-000040.png"))
    events = [json.loads(line) for line in (output / "events.jsonl").read_text().splitlines()]
    assert events[-1]["measured"]["accuracy"] == measured["accuracy"]
    (name,) = trained_rewards(output.parent)
    reward = load_reward(name, torch.device("cpu"))
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    assert reward(x, ["a red heart", "a blue star"]).isfinite().all()


def test_the_mean_and_deviation_of_the_trained_pictures_are_taken_out(run, export):
    output, _ = run
    reward = load_reward(str(output / "model"), torch.device("cpu"))
    data = ranked.load_ranked(str(export / "export.zip"), "studio", "", 32, limit=1000, held_out=0.2, seed=0)
    items = sorted({item for pair in data.train for item in (pair.better, pair.worse)})
    with torch.no_grad():
        values = reward(data.batch(torch.tensor(items)), [data.prompts[item] for item in items])
    assert values.mean().abs() < 0.05 and (values.std() - 1).abs() < 0.05


def test_the_head_alone_learns_from_features_and_the_towers_stay(run, export):
    output, _ = run
    options = RewardOptions(
        data=str(export / "export.zip"), output=str(export / "runs" / "head"), start=str(output / "model"), learns="head", **{**SMALL, "steps": 10},
    )
    logs = list(train(options, progress=False))
    assert len(logs) == 10
    before, after = (load_weights(folder) for folder in (output, export / "runs" / "head"))
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("vision"))
    assert not all(torch.equal(before[name], after[name]) for name in before if name.startswith("head"))


def load_weights(folder):
    from studio.rewards.blip import load_folder

    return load_folder(folder / "model", torch.device("cpu"), torch.float32)[0].state_dict()


def test_the_estimate_counts_the_data_and_the_weights_that_learn(run, export):
    of_export = RewardOptions(data=str(export / "export.zip"), **SMALL)
    of_database = RewardOptions(data=str(export / "rankings"), format="database", collection=EXAMPLE, **SMALL)
    # Sixty tasks of four pictures, each ranked by three whole rankings at least.
    assert size_of(of_export) == size_of(of_database) and size_of(of_export).pictures == 240
    assert size_of(of_export).ranked == 4 * size_of(of_export).rankings
    whole = estimate(of_export)
    head = estimate(RewardOptions(data=str(export / "export.zip"), start=str(run[0] / "model"), learns="head", **SMALL))
    network, *_ = load_folder(run[0] / "model", torch.device("cpu"), torch.float32)
    assert whole.trained_parameters == sum(weight.numel() for weight in network.parameters())
    assert head.trained_parameters == sum(weight.numel() for weight in network.head.parameters())
    more = estimate(RewardOptions(data=str(export / "export.zip"), **{**SMALL, "batch_size": 128, "steps": 80}))
    assert more.seconds > whole.seconds > 0 and more.memory_gib > whole.memory_gib > 0


def test_a_stopped_run_goes_on_exactly(run, export):
    output, logs = run
    again = export / "runs" / "again"
    options = RewardOptions(data=str(export / "export.zip"), output=str(again), **SMALL)
    begun = train(options, progress=False)
    for log in begun:
        if log.step == 24:
            (again / "stop").touch()
    (again / "stop").unlink()
    rest = list(train(options, progress=False))
    assert rest[0].step == 26 and [log.loss for log in rest[-3:]] == [log.loss for log in logs[-3:]]


def test_frozen_layers_do_not_learn(export):
    changed = {**SMALL, "vision_layers": 2, "text_layers": 2, "fix_rate": 0.5}
    task = RewardTask(RewardOptions(data=str(export / "export.zip"), output=str(export / "x"), **changed))
    learns = {name for name, parameter in task.network.named_parameters() if parameter.requires_grad}
    assert not any("layers.0." in name or "layer.0." in name or "embeddings" in name for name in learns)
    assert any("layers.1." in name for name in learns) and any("layer.1." in name for name in learns)


def test_a_head_without_anything_to_stand_on_is_refused():
    with pytest.raises(InvalidOption, match="learned to see"):
        RewardOptions(learns="head")
