"""Pre-train a reward's network on captioned pictures of the toy world, before it sees a ranking.

    python -m trainers.matching --output runs/toybox-matching --clip assets/models/toybox-clip

ImageReward goes on from a BLIP (Li et al. 2022, arXiv:2201.12086), whose picture tower was taught by labels and whose cross-attention was
taught by captions; ranked pairs alone say one bit each, and leave both where they began. Here the three are learned at once:

    labels      which object, colour, background, size and position, and how clean it is, from the picture's [CLS]
    matching    whether a caption fits, from the [CLS] that has read both; the wrong captions differ in one respect
    masked      the words of the caption that are hidden, from the picture and the other words (Li et al. 2021, arXiv:2107.07651)

The result, <output>/model, is the folder of a reward whose head has learned nothing yet.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from studio.rewards.blip import BlipReward, pixels_of, save_folder, tokens_of
from studio.runs.trainers.options import MOST_STEPS, LoopOptions, option
from studio.runs.trainers.reward import TOYBOX, RewardOptions
from studio.toybox import ATTRIBUTES, Scene, render
from trainers.attributes import labels_of
from trainers.captions import toybox_scenes, word
from trainers.loop import Losses, StepLog, Task, run_loop
from trainers.near import near_scene
from trainers.oracle import changed, spoiled
from trainers.program import run_program
from trainers.reward import started

__all__ = ["MatchingOptions", "train"]

HIDDEN = 0.5  # share of a caption's words: what is left of them says little, so the picture has to be read
# This vocabulary has no token that stands for a hidden word; this one stands in no caption.
HIDDEN_TOKEN = "!"


@dataclass(frozen=True, kw_only=True)
class MatchingOptions(LoopOptions):
    """The knobs of a run; `python -m trainers.matching --help` prints them."""

    output: str = option("runs/toybox-matching", "the run folder; an unfinished run in it is resumed", path="write")
    clip: str = option("", "a CLIP folder whose picture tower and vocabulary the network begins with; empty = the embedded one's vocabulary", path="read")
    start: str = option("", "the result of another such run to go on from; empty = a small network from nothing", path="read")
    near: str = option("even", "what the wrong captions have wrong: each attribute equally often, or what is hard for a CLIP most often", ("even", "clip"))
    data_limit: int = option(100_000, "how many scenes there are", low=1, high=10_000_000)
    spoiled: float = option(0.25, "share of pictures that are blurred, noisy or in blocks, 0 to 1", low=0, high=1)
    steps: int = option(4000, "optimiser steps in all", low=1, high=MOST_STEPS)
    lr: float = option(5e-4, "peak learning rate of AdamW, between 0 and 1", low=0, high=1)
    sample_every: int = option(0, "there are no sample grids", low=0, high=MOST_STEPS)


class Pretraining(nn.Module):
    """The reward's network with the heads that are left behind."""

    def __init__(self, whole: BlipReward, words: int) -> None:
        super().__init__()
        self.whole = whole
        seen, read = whole.vision_model.config.hidden_size, whole.text_encoder.config.hidden_size
        self.labels = nn.ModuleDict({name: nn.Linear(seen, len(values)) for name, values in ATTRIBUTES.items()})
        self.fits, self.words, self.clean = nn.Linear(read, 1), nn.Linear(read, words), nn.Linear(seen, 1)

    def forward(self, pixels: Tensor, fit: tuple[Tensor, Tensor], masked: tuple[Tensor, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """({attribute: (B, values), "clean": (B, 1)} logits, (2, B) whether each of two captions fits, (B, L, words) logits of each place).

        fit: (ids, mask) of 2 B captions, first the right ones; masked: those of B captions with hidden words.
        """
        states = self.whole.see(pixels)
        fits = self.fits(self.whole.features(torch.cat([states, states]), *fit))[:, 0].view(2, -1)
        ids, mask = masked
        read = self.whole.text_encoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=states).last_hidden_state
        labels = {name: head(states[:, 0]) for name, head in self.labels.items()} | {"clean": self.clean(states[:, 0])}
        return labels, fits, self.words(read)


class MatchingTask(Task):
    """Scenes, drawn when they are due, and the network."""

    def __init__(self, options: MatchingOptions):
        self.options = options
        torch.manual_seed(options.seed)
        whole, self.tokenizer, self.facts = started(RewardOptions(data=TOYBOX, output=options.output, clip=options.clip, start=options.start))
        self.scenes: list[Scene] = toybox_scenes(options.seed, options.data_limit)
        self.size, self.network = len(self.scenes), Pretraining(whole, len(self.tokenizer))
        self.hidden = self.tokenizer.convert_tokens_to_ids(HIDDEN_TOKEN)

    def losses(self, network: Any, indices: Tensor, generator: torch.Generator, device: torch.device) -> Losses:
        rng = np.random.default_rng(generator.initial_seed())
        scenes = [self.scenes[int(i)] for i in indices]
        pictures, clean = self.pictures(scenes, rng)
        pixels = pixels_of(pictures.to(device), self.facts.side)
        ids, mask = self.captions(scenes, rng)
        # A wrong caption may leave out what it has wrong, and is then right as well.
        same = (ids[: len(scenes)] == ids[len(scenes) :]).all(-1)
        right_ids, right_mask = ids[: len(scenes)], mask[: len(scenes)].bool()
        hidden = right_mask & (right_ids != self.tokenizer.bos_token_id) & (right_ids != self.tokenizer.eos_token_id)
        hidden &= torch.rand(right_ids.shape, generator=generator) < HIDDEN
        masked = torch.where(hidden, self.hidden, right_ids)
        labels, fits, words = network(pixels, (ids.to(device), mask.to(device)), (masked.to(device), mask[: len(scenes)].to(device)))

        truth = labels_of(scenes)
        tidy = binary_cross_entropy_with_logits(labels["clean"].float()[:, 0], clean.to(device), reduction="none")
        named = tidy + torch.stack([cross_entropy(labels[name].float(), truth[name].to(device), reduction="none") for name in ATTRIBUTES]).sum(0)
        fitting = torch.stack([torch.ones(len(scenes)), same.float()]).to(device)
        matched = binary_cross_entropy_with_logits(fits.float(), fitting, reduction="none").sum(0)
        read = cross_entropy(words[hidden].float(), right_ids[hidden].to(device))
        each = named + matched + 2 * read
        right = (fits[0] > fits[1])[~same].float().mean() if not same.all() else torch.ones(())
        known = (labels["object"].argmax(1).cpu() == truth["object"]).float().mean()
        return Losses(descend=each.mean(), each=each, extra={"right": right, "object": known, "masked": read.detach()})

    def pictures(self, scenes: Sequence[Scene], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """((B, 3, side, side) in [-1, 1], some of them spoiled, (B,) how clean each is, 0 to 1)."""
        clean = [float(rng.uniform(0.2, 0.9)) if rng.random() < self.options.spoiled else 1.0 for _ in scenes]
        drawn = [render(scene) if share == 1.0 else spoiled(render(scene), share, rng) for scene, share in zip(scenes, clean)]
        return torch.from_numpy(np.stack(drawn)).movedim(-1, 1).float() / 127.5 - 1, torch.tensor(clean)

    def captions(self, scenes: Sequence[Scene], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(ids, mask), (2 B, L), of the scenes, then of near ones in the same wording."""
        wording = rng.integers(2**31, size=len(scenes)).tolist()
        rows = [scenes, [self.near(scene, rng) for scene in scenes]]
        texts = [word(scene, np.random.default_rng(seed)) for row in rows for scene, seed in zip(row, wording)]
        return tokens_of(self.tokenizer, texts, self.facts.max_tokens)

    def near(self, scene: Scene, rng: np.random.Generator) -> Any:
        """The scene with another value for one attribute."""
        return near_scene(scene, rng) if self.options.near == "clip" else changed(scene, {str(rng.choice(list(ATTRIBUTES)))}, rng)

    def save(self, network: Any, path: Path) -> None:
        save_folder(network.whole, self.tokenizer, self.facts, path)


def train(options: MatchingOptions, *, progress: bool = True) -> Iterator[StepLog]:
    """Run (or resume) a training, one StepLog a step: see trainers.loop.run_loop."""
    yield from run_loop(MatchingTask(options), progress=progress)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    run_program(MatchingOptions, train, argv, description="Pre-train a reward's network on captioned pictures.")


if __name__ == "__main__":
    main()
