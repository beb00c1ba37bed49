"""The pre-training of a reward on captioned pictures: what it learns from, and that a training of a reward goes on from it."""

import numpy as np
import pytest
import torch

from studio.models.catalogue import ASSETS
from studio.toybox import parse_caption
from trainers.matching import MatchingOptions, MatchingTask, train
from trainers.reward import RewardOptions, started

CLIP = str(ASSETS / "models" / "toybox-clip")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    output = tmp_path_factory.mktemp("matching") / "run"
    options = MatchingOptions(output=str(output), clip=CLIP, data_limit=12, batch_size=4, steps=2, warmup=1, tensorboard=False, checkpoint_every=2)
    return output, list(train(options, progress=False))


def test_a_training_of_a_reward_goes_on_from_it(run):
    output, logs = run
    assert {"right", "object", "masked"} <= set(logs[-1].extra) and all(np.isfinite(log.loss) for log in logs)
    network, tokenizer, facts = started(RewardOptions(data="toybox", start=str(output / "model")))
    fresh, *_ = started(RewardOptions(data="toybox", clip=CLIP))
    learned = (network.state_dict()[name] != tensor.half().float() for name, tensor in fresh.state_dict().items() if "text_encoder" in name)
    assert any(bool(changed.any()) for changed in learned) and facts.side == 64
    # In the small network's head nothing is dropped, whichever way it comes.
    features = torch.randn(2, network.head[0].in_features)
    assert torch.equal(network.train().head(features), network.head(features))


@pytest.mark.parametrize("near", ["even", "clip"])
def test_the_wrong_captions_differ_in_one_respect_and_keep_their_wording(tmp_path, near):
    task = MatchingTask(MatchingOptions(output=str(tmp_path), clip=CLIP, data_limit=40, near=near))
    ids, mask = task.captions(task.scenes, np.random.default_rng(0))
    texts = [task.tokenizer.decode(row[kept.bool()], skip_special_tokens=True) for row, kept in zip(ids, mask)]
    differences = []
    for scene, right, wrong in zip(task.scenes, texts[:40], texts[40:]):
        said, other = parse_caption(right), parse_caption(wrong)
        assert all(getattr(scene, name) == value for name, value in said.items())
        differences.append(sum(said[name] != other[name] for name in said.keys() & other.keys()))
    # At most one; none where the caption leaves out what is wrong, or need not say it.
    assert max(differences) == 1 and differences.count(1) > 15


def test_only_words_are_hidden_and_the_labels_are_those_of_the_scenes(tmp_path, monkeypatch):
    task = MatchingTask(MatchingOptions(output=str(tmp_path), clip=CLIP, data_limit=8))
    seen = {}

    def network(pixels, fit, masked):
        seen.update(pixels=pixels, fit=fit, masked=masked)
        return task.network(pixels, fit, masked)

    losses = task.losses(network, torch.arange(8), torch.Generator().manual_seed(0), torch.device("cpu"))
    ids, mask = seen["fit"][0][:8], seen["fit"][1][:8].bool()
    hidden = seen["masked"][0] != ids
    special = (ids == task.tokenizer.bos_token_id) | (ids == task.tokenizer.eos_token_id)
    assert hidden.any() and not (hidden & (special | ~mask)).any() and set(seen["masked"][0][hidden].tolist()) == {task.hidden}
    assert seen["pixels"].shape == (8, 3, 64, 64) and losses.each.shape == (8,) and losses.descend.requires_grad
