"""What a training of a reward will take, from one timed step of it on this machine: see trainers.estimate.

Nothing is read of the pictures: their number, and how many are of a ranking, are those of the data.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from studio.models.activations import kept_for_backward
from studio.models.loading import pick_device
from studio.rewards.blip import BlipReward
from studio.runs.trainers.dreambooth import RunCost
from studio.runs.trainers.reward import DATABASE, TOYBOX, RewardOptions
from trainers.costs import PASSING, PROCESS_GIB, START_S, timed
from trainers.oracle import ANNOTATORS, KINDS
from trainers.ranked import of_database, of_export
from trainers.reward import CHUNK, freeze, started

__all__ = ["RewardOptions", "Size", "estimate_reward", "size_of"]


@dataclass(frozen=True)
class Size:
    """How much there is to learn from."""

    pictures: int
    rankings: int
    # Pictures that rankings put in an order, of all rankings together.
    ranked: int


def size_of(options: RewardOptions) -> Size:
    """Of the data that the options name. Raises as imports do."""
    if options.data == TOYBOX:
        tasks, each = options.toybox_tasks, len(KINDS)
        return Size(tasks * each, tasks * len(ANNOTATORS), tasks * len(ANNOTATORS) * each)
    read = of_database if options.format == DATABASE else None
    found = read(Path(options.data), options.collection) if read else of_export(Path(options.data), options.format, options.collection)
    pictures = rankings = ranked = 0
    for record, _ in found:
        if record.rankings:
            pictures += len(record.pictures)
            rankings += len(record.rankings)
            ranked += sum(sum(rank is not None for rank in said.ranking.ranks) for said in record.rankings)
    return Size(min(pictures, options.data_limit), rankings, ranked)


def estimate_reward(options: RewardOptions) -> RunCost:
    """Time and memory of a run. The time is that of the start, the steps, and the looks at the held-out prompts; loads the network.

    Raises UnknownName, ModelUnavailable, and as imports do.
    """
    size, device = size_of(options), pick_device()
    whole, tokenizer, facts = started(options)
    whole.to(device).train()
    head_alone = options.learns == "head"
    whole.requires_grad_(not head_alone)
    whole.head.requires_grad_(True)
    freeze(whole, options.fix_rate)
    # Of several rankings of a task each picture is seen once, so this is the most that a step sees.
    seen = max(2, round(options.batch_size * size.ranked / max(1, size.rankings)))
    forward = passing(whole, seen, facts.side, facts.max_tokens, len(tokenizer), device)
    step = passing_head(whole, seen, device) if head_alone else forward
    step_s, look_s = timed(lambda: descended(step), gradients=True), timed(forward) / seen
    whole.zero_grad()
    weights = sum(weight.numel() for weight in whole.parameters())
    trained = sum(weight.numel() for weight in whole.parameters() if weight.requires_grad)
    held_out = options.held_out * size.pictures
    looks = math.ceil(options.steps / options.sample_every) if options.sample_every else 0
    # All that were trained on are looked at in the end, for their mean and deviation; the head learns from features of all.
    looked_at = size.pictures * (2 if head_alone else 1) + looks * (0 if head_alone else held_out)
    features = 4 * size.pictures * whole.head[0].in_features if head_alone else 0
    # What is computed in chunks without gradients is less than a step keeps, but for the head alone.
    kept = kept_for_backward(whole, forward if not head_alone else passing(whole, CHUNK, facts.side, facts.max_tokens, len(tokenizer), device))
    # Weights, gradients, both moments, averages: four bytes each.
    state = 4 * weights + trained * (4 + 8 + (4 if options.ema_decay else 0))
    return RunCost(
        seconds=START_S + options.steps * options.accumulation * step_s + looked_at * look_s, trained_parameters=trained,
        memory_gib=PASSING * (state + kept + features + 3 * facts.side**2 * size.pictures) / 2**30 + PROCESS_GIB,
    )


def passing(whole: BlipReward, count: int, side: int, tokens: int, words: int, device: torch.device) -> Callable[[], Tensor]:
    """The rewards of so many pictures, with prompts of half the longest length."""
    pixels = torch.zeros(count, 3, side, side, device=device)
    ids = torch.arange(max(2, tokens // 2), device=device).remainder(words).repeat(count, 1)
    return lambda: whole(pixels, ids, torch.ones_like(ids))


def passing_head(whole: BlipReward, count: int, device: torch.device) -> Callable[[], Tensor]:
    """The rewards of so many features."""
    head: nn.Sequential = whole.head
    features = torch.zeros(count, head[0].in_features, device=device)
    return lambda: head(features)[:, 0]


def descended(forward: Callable[[], Tensor]) -> Tensor:
    """The rewards, once gradients were taken of them."""
    rewards = forward()
    rewards.sum().backward()
    return rewards.detach()
