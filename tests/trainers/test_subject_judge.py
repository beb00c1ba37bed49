"""The figures of the example run: likeness by picture features, shares by what was asked, minutes by the run's own clock."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from studio.runs.dreambooth import EXAMPLE
from studio.runs.folder import write_state
from studio.runs.trainers.dreambooth import check
from studio.toybox import COLOURS
from studio.toybox.subject import example_pictures, subject
from trainers import subject as judge


def test_likeness_is_the_mean_cosine_of_all_pairs():
    a = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    pairs = [float(x @ y) for x in a for y in a[:2]]
    assert judge.likeness(a, a[:2]) == pytest.approx(np.mean(pairs), abs=1e-6)
    others = [float(a[i] @ a[j]) for i in range(4) for j in range(4) if i != j]
    assert judge.among(a) == pytest.approx(np.mean(others), abs=1e-6)


def test_a_share_counts_what_is_as_asked():
    assert judge.share(["red", "blue", "red"], ["red", "red", "red"]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError):
        judge.share(["red"], ["red", "red"])


@pytest.mark.parametrize(("words", "bits"), [
    (["red"] * 8, 0), (["red", "blue"] * 4, 1), (["red"] * 4 + ["blue"] * 2 + ["teal", "pink"], 1.75), (list("abcdefgh"), 3),
])
def test_diversity_is_the_entropy_of_the_words_in_bits(words, bits):
    assert judge.entropy(words) == pytest.approx(bits) and str(judge.entropy(words))[0] != "-"


def test_the_subject_is_more_like_itself_on_other_backgrounds_than_like_a_plain_picture():
    own = judge.features(torch.stack([torch.from_numpy(np.array(picture)).movedim(-1, 0) for picture in example_pictures()]))
    others = judge.features(torch.stack([torch.from_numpy(subject(colour).copy()).movedim(-1, 0) for colour in COLOURS]))
    plain = judge.features(torch.stack([torch.full((3, 64, 64), level, dtype=torch.uint8) for level in (0, 128, 255)]))
    assert judge.likeness(others, own) > judge.likeness(plain, own) + 0.1


def test_minutes_are_those_of_the_run(tmp_path):
    write_state(tmp_path, started=1000.0, ended=1090.0)
    assert judge.minutes(tmp_path) == pytest.approx(1.5)


def test_the_runs_of_the_example_are_what_the_trainer_takes(tmp_path):
    for options in judge.RUNS.values():
        check(replace(options, instances=str(EXAMPLE), class_images=str(tmp_path)))
    assert {name: run.prior_weight for name, run in judge.RUNS.items()} == {"after": 1, "without_prior": 0, "lora": 1}
    assert len({run.output for run in judge.RUNS.values()}) == len(judge.RUNS)


def test_the_card_has_a_column_and_a_recipe_for_every_run():
    figures = {"before": 0.1, "after": 0.2, "without_prior": 0.3, "lora": 0.4, "themselves": 0.5}
    card = judge.subject_card(
        {"likeness": figures, **dict.fromkeys(("background", "class", "diversity", "minutes"), figures)}, {name: f"teach {name}" for name in judge.RUNS},
    )
    assert "| 0.100 | 0.200 | 0.300 | 0.400 |" in card and card.count("| 10.0% | 20.0% | 30.0% | 40.0% |") == 2
    assert "of log2(12) = 3.58 | 0.10 | 0.20 | 0.30 | 0.40 |" in card
    assert all(f"`teach {name}`" in card for name in judge.RUNS)
