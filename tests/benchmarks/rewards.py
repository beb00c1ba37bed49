"""Scoring sixteen pictures in a batch against one at a time, as the released package does; and the head alone against the whole network.

The network is ImageReward's architecture in a middle size with random weights: what is timed does not depend on what they say.
"""

import json
import tempfile
import time
from pathlib import Path

import torch

from studio.models.catalogue import ASSETS
from studio.rankings import open_rankings
from studio.rankings.example import EXAMPLE, add_example
from studio.rankings.formats import export_rankings
from studio.rewards.blip import BlipReward, RewardFacts
from studio.rewards.contract import Score
from studio.rewards.scorers.blip import scorer_of
from tests.benchmarks.paired import Timing, time_paired

BATCH, ROUNDS = 16, 5
SIZES = {
    "the small network, 64 x 64": ({"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 64,
                                    "patch_size": 8}, 64),
    "a ViT-S/16, 224 x 224": ({"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 224,
                               "patch_size": 16}, 224),
}
STEPS = 100


def main() -> None:
    batched()
    head_against_whole()


@torch.no_grad()
def batched() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "models" / "toybox-clip")
    for name, (vision, side) in SIZES.items():
        width = vision["hidden_size"]
        text = {"vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": vision["num_hidden_layers"],
                "num_attention_heads": vision["num_attention_heads"], "pad_token_id": None, "bos_token_id": None}
        score = scorer_of(BlipReward(vision, text).eval(), tokenizer, RewardFacts(side=side, max_tokens=32))
        together = timed(score, torch.rand(BATCH, 3, side, side) * 2 - 1, ["a red heart on a white background"] * BATCH)
        print(f"{name}: {BATCH} pictures at once {1000 * together.ours_s:.0f} ms, one at a time {1000 * together.theirs_s:.0f} ms: "
              f"{1 / together.ratio:.1f} times as many a second")


def timed(score: Score, images: torch.Tensor, prompts: list[str]) -> Timing:
    return time_paired(lambda: score(images, prompts), lambda: [score(images[i : i + 1], prompts[i : i + 1]) for i in range(BATCH)], ROUNDS)


def head_against_whole() -> None:
    from trainers.reward import RewardOptions, train

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rankings = open_rankings(folder / "rankings")
        add_example(rankings)
        export_rankings(rankings, "studio", folder / "export.zip", EXAMPLE)
        rankings.close()
        shared = {"data": str(folder / "export.zip"), "tensorboard": False, "sample_every": 0, "steps": STEPS, "checkpoint_every": STEPS}
        seconds = {}
        start = ASSETS / "models" / "toybox-reward"
        if not start.is_dir():
            list(train(RewardOptions(output=str(folder / "first"), **{**shared, "steps": 1}), progress=False))
            start = folder / "first" / "model"
        accuracy = {}
        for learns in ("head", "full"):
            output = folder / learns
            since = time.perf_counter()
            list(train(RewardOptions(output=str(output), start=str(start), learns=learns, **shared), progress=False))
            seconds[learns] = time.perf_counter() - since
            accuracy[learns] = json.loads((output / "model" / "reward.json").read_text())["measured"]["accuracy"]
        print(f"{STEPS} steps from {start.name}: head alone {seconds['head']:.1f} s, whole network {seconds['full']:.1f} s: "
              f"{seconds['full'] / seconds['head']:.0f} times; accuracy {accuracy['head']:.1%} and {accuracy['full']:.1%}")


if __name__ == "__main__":
    main()
