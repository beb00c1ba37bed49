"""What a tuning will take, from a timed look at its base model and its scorers on this machine (trainers.estimate refl)."""

from functools import partial
from math import ceil
from typing import Any

import torch
from torch import Tensor

from studio.models.activations import kept_for_backward
from studio.models.loading import load_text_model
from studio.runs.trainers.dreambooth import RunCost
from studio.runs.trainers.refl import BASE, ReFLOptions
from trainers.costs import PASSING, PROCESS_GIB, START_S, passes_of, timed
from trainers.dreambooth import own_device
from trainers.looking import training_rollout
from trainers.refl import followed, make_network, scored_at_once

__all__ = ["estimate"]

PROMPT = "a picture"
# A backward pass through a network is as long as two forward passes, one where its weights do not learn.
LEARNING, FROZEN = 3, 2


def estimate(options: ReFLOptions) -> RunCost:
    """Time and memory of a run. Loads the base model and the scorers. Raises what loading them raises."""
    model = load_text_model(options.base, own_device(), dtype=torch.float32)
    follow, network = followed(options), make_network(model, options)
    rollout = training_rollout(options, model)
    cond, _ = rollout.conditions.of([PROMPT] * options.batch_size)
    x_t = torch.zeros((options.batch_size, *rollout.shape), device=model.device)
    ask = partial(network, x_t, rollout.levels[0].timestep, cond)
    chunk = scored_at_once(options)
    score = partial(_scored, model, follow, x_t[:chunk])
    each_s = timed(ask) / options.batch_size
    scored_s = timed(score) / chunk if follow.rewards else 0.0

    trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    weights = sum(weight.numel() for part in model.parts.values() for weight in part.parameters()) * (2 if keeps_a_copy(options) else 1)
    state = 4 * weights + trained * (4 + 8 + (4 if options.ema_decay else 0))
    activations = kept_for_backward(network, ask, checkpointing=options.gradient_checkpointing)
    decoding = kept_for_backward(model.vae, partial(model.decode, x_t[:chunk]), checkpointing=options.gradient_checkpointing) if follow.rewards else 0
    scorers = sum(reward.info.size_mib for reward in follow.rewards) * 2**20
    return RunCost(
        seconds=START_S + options.steps * options.accumulation * update_s(options, each_s, scored_s) + looking_s(options, each_s, scored_s),
        trained_parameters=trained, memory_gib=PASSING * (state + activations + decoding + scorers) / 2**30 + PROCESS_GIB,
    )


def _scored(model: Any, follow: Any, x0: Tensor) -> Tensor:
    return follow(model.decode(x0).clamp(-1, 1), [PROMPT] * len(x0))


def keeps_a_copy(options: ReFLOptions) -> bool:
    """Whether the base is held beside the network that learns."""
    return options.method == "full" and (options.algorithm == "dpo" or bool(options.kl_weight))


def update_s(options: ReFLOptions, each_s: float, scored_s: float) -> float:
    """Seconds of one batch. each_s: of the network for one picture; scored_s: of decoder and scorers, forward."""
    learning = LEARNING - (options.method == "lora") + options.gradient_checkpointing
    before, through, pictures = steps_of(options)
    asked = before * passes_of(options.guidance_scale)
    asked += through * (passes_of(options.guidance_scale) if options.late_guidance else 1) * (learning + bool(options.kl_weight))
    pretrain = options.pretrain_batch * learning * each_s if options.pretrain_weight else 0.0
    return options.batch_size * (asked * each_s + pictures * FROZEN * scored_s) + pretrain


def steps_of(options: ReFLOptions) -> tuple[float, float, float]:
    """Of one picture: steps without a graph, steps with one, and pictures that are scored."""
    if options.algorithm == "refl":
        return (options.stop_low + options.stop_high) / 2, 1, 1
    if options.algorithm == "draft_k":
        return options.num_steps - options.last_steps, options.last_steps, 1
    # Of a pair, both pictures are asked of, and of the base as well.
    return (options.num_steps, options.noises, options.noises) if options.algorithm == "draft_lv" else (2, 2, 0)


def looking_s(options: ReFLOptions, each_s: float, scored_s: float) -> float:
    """Seconds of the looks, and of the pictures that the base draws first."""
    looks = 1 + ceil(options.steps / options.sample_every) if options.sample_every else 1
    drawn = options.validation_steps * passes_of(options.validation_guidance) * each_s
    kept = options.pretrain_pictures if options.pretrain_weight and options.pretrain_data == BASE else 0
    return (looks * 2 * options.validation_prompts * options.validation_samples + kept) * (drawn + scored_s)
