"""Tune a text-to-image model towards what a reward, or people, prefer.

    python -m trainers.refl --preset toybox --rewards toybox-reward --output runs/refl

    ReFL (Xu et al. 2023, arXiv:2304.05977)       x0_hat of one late step, drawn at random:  w mean relu(cap - r(D(x0_hat)))
    DRaFT-K, DRaFT-LV (Clark et al. 2023, arXiv:2309.17400)     -w mean r of the picture, gradient through the last K steps, or of the last
                                                                step at several noises
    Diffusion-DPO (Wallace et al. 2023, arXiv:2311.12908)       -log sigmoid(-beta/2 (e_w - e_l - (ref_w - ref_l))) of ranked pairs,
                                                                e: error of the prediction at the same t and noise
    beside it     pretrain_weight * mse of the prediction, and kl_weight * KL(tuned || base) of the steps that have a graph

Only those steps have one: what comes before is drawn without. The result, <output>/model: a pipeline folder, or LoRA's file.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studio.models.facts import STUDIO_FACTS
from studio.models.loading import load_text_model
from studio.process.conversions import NoiseLevel, output_from
from studio.rewards import load_reward
from studio.runs.trainers.refl import REFL_PRESETS, ReFLOptions, check
from trainers.dreambooth import add_lora, at_once, own_device, save_lora
from trainers.followed import Followed, Pulled, capped, pulled
from trainers.looking import Look, Looking, training_rollout
from trainers.loop import Losses, StepLog, Task, run_loop
from trainers.pipelines import save_pipeline
from trainers.program import run_program
from trainers.rollout import Drawn, Tuned, seeded
from trainers.tuning_data import Kept, Pairs, kept_pictures, ranked_pairs, split_prompts

__all__ = ["ReFLOptions", "train"]

# More pictures at once are no quicker to decode and score, and take more memory.
SCORED_AT_ONCE = 4


class ReFLTask(Task):
    """Prompts, scorers, and the model that follows them."""

    def __init__(self, options: ReFLOptions):
        check(options)
        self.options, self.keeps_best = options, options.result == "best"
        torch.manual_seed(options.seed)
        self.model = load_text_model(options.base, own_device(), dtype=torch.float32)
        self.pairs: Pairs | None = ranked_pairs(options) if options.algorithm == "dpo" else None
        self.trained, self.held_out = split_prompts(options, self.pairs)
        self.size = len(self.pairs.trained) if self.pairs else len(self.trained)
        self.rollout = training_rollout(options, self.model)
        self.at_once = scored_at_once(options)
        self.follow = followed(options)
        base = Tuned(self.model)
        self.looking = Looking(options, self.model, self.trained, self.held_out, self.follow)
        self.follow = self.looking.begin(base)
        self.kept: Kept | None = kept_pictures(options, self.model, base, self.trained) if options.pretrain_weight else None
        needs_base = options.algorithm == "dpo" or options.kl_weight
        self.reference = (AdaptersOff if options.method == "lora" else frozen_copy)(self.model) if needs_base else None
        self.network = make_network(self.model, options)

    # --- the losses

    def losses(self, network: Any, indices: Tensor, generator: torch.Generator, device: torch.device) -> Losses:
        follow = {"refl": self._refl, "draft_k": self._draft_k, "draft_lv": self._draft_lv, "dpo": self._dpo}[self.options.algorithm]
        losses = follow(network, indices, generator)
        if self.kept is None:
            return losses
        pretrain = self._pretrain(network, self.kept, generator)
        return Losses(
            descend=losses.descend + self.options.pretrain_weight * pretrain, each=losses.each, t_share=losses.t_share,
            extra={**losses.extra, "pretrain": pretrain.detach()},
        )

    def _refl(self, network: Any, indices: Tensor, generator: torch.Generator) -> Losses:
        low, high = self.options.stop_low, self.options.stop_high
        stop = low + int(torch.randint(high - low + 1, (), generator=generator))
        drawn, x_t = self._begin(network, indices, generator)
        x_t = self.rollout.advance(drawn, x_t, 0, stop)
        level = self.rollout.levels[stop]
        x0_hat = drawn.late(x_t, level).x0_hat
        share = torch.full((len(indices),), level.timestep / self.model.path.num_timesteps, device=x_t.device)
        return self._followed(x0_hat, drawn.prompts, capped(self.options.cap), self._kl(network, drawn, x_t, x0_hat, stop), share)

    def _draft_k(self, network: Any, indices: Tensor, generator: torch.Generator) -> Losses:
        count = len(self.rollout.levels)
        first = count - self.options.last_steps
        drawn, x_t = self._begin(network, indices, generator)
        x_t, kl = self.rollout.advance(drawn, x_t, 0, first), None
        for index in range(first, count):
            prediction = drawn.late(x_t, self.rollout.levels[index])
            kl = added(kl, self._kl(network, drawn, x_t, prediction.x0_hat, index))
            x_t = self.rollout.step(drawn, prediction, x_t, index)
        return self._followed(x_t, drawn.prompts, torch.neg, kl)

    def _draft_lv(self, network: Any, indices: Tensor, generator: torch.Generator) -> Losses:
        last, noises = len(self.rollout.levels) - 1, self.options.noises
        drawn, x_t = self._begin(network, indices, generator)
        x0 = self.rollout.advance(drawn, x_t, 0, last + 1).repeat(noises, 1, 1, 1)
        prompts = list(drawn.prompts) * noises
        again, noise = self.rollout.begin(network, prompts, seeded(len(prompts), generator))
        level = self.rollout.levels[last]
        x_t = level.alpha * x0 + level.sigma * noise
        prediction = again.late(x_t, level)
        return self._followed(prediction.x0_hat, prompts, torch.neg, self._kl(network, again, x_t, prediction.x0_hat, last))

    def _begin(self, network: Any, indices: Tensor, generator: torch.Generator) -> tuple[Drawn, Tensor]:
        return self.rollout.begin(network, [self.trained[i] for i in indices.tolist()], seeded(len(indices), generator))

    def _followed(
        self, x0_hat: Tensor, prompts: Sequence[str], loss_of: Callable[[Tensor], Tensor], kl: Tensor | None, share: Tensor | None = None,
    ) -> Losses:
        options = self.options
        found: Pulled = pulled(self.model, self.follow, loss_of, options.reward_weight, x0_hat, prompts, self.at_once)
        descend = (x0_hat * found.gradient).sum()
        extra = {"reward": found.rewards.mean(), "reward_std": found.rewards.std(correction=0), "reward_loss": found.loss}
        if options.algorithm == "refl":
            extra["capped"] = (found.rewards > options.cap).float().mean()
        if kl is not None:
            descend, extra["kl"] = descend + options.kl_weight * kl.mean(), kl.mean().detach()
        return Losses(descend=descend, each=options.reward_weight * loss_of(found.rewards), t_share=share, extra=extra)

    def _kl(self, network: Any, drawn: Drawn, x_t: Tensor, x0_hat: Tensor, index: int) -> Tensor | None:
        """(B,) KL of the step's two normal distributions, the tuned network's and the frozen one's, of one variance v: |mean - mean'|^2 / (2 v)."""
        if not self.options.kl_weight or self.reference is None:
            return None
        cond, _ = self.rollout.conditions.of(drawn.prompts)
        level = self.rollout.levels[index]
        with torch.no_grad():
            x0_base, _ = self.rollout.read.both(self.reference.predict(x_t, level.timestep, cond), x_t, level)
        scale, deviation = step_mean(self.rollout.levels, self.rollout.steps.end, index)
        return (scale * (x0_hat - x0_base)).square().flatten(1).sum(1) / (2 * deviation**2)

    def _dpo(self, network: Any, indices: Tensor, generator: torch.Generator) -> Losses:
        assert self.pairs is not None and self.reference is not None
        chosen = [self.pairs.trained[i] for i in indices.tolist()]
        items = [pair.better for pair in chosen] + [pair.worse for pair in chosen]
        z = self.pairs.latents(self.model, items, self.at_once)
        prompts = [self.pairs.data.prompts[pair.better] for pair in chosen]
        t, noise = times_and_noise(self.model, len(chosen), z.shape[1:], generator)
        cond, _ = self.rollout.conditions.of(prompts * 2)
        error = prediction_error(self.model, network, cond, z, t.repeat(2), noise.repeat(2, 1, 1, 1))
        with torch.no_grad():
            base = prediction_error(self.model, self.reference.predict, cond, z, t.repeat(2), noise.repeat(2, 1, 1, 1))
        margin = preference_margin(error, base, self.options.beta)
        loss = -torch.nn.functional.logsigmoid(margin)
        extra = {"preferred": (margin.detach() > 0).float().mean(), "error": error.detach().mean()}
        return Losses(descend=loss.mean(), each=loss, t_share=t / self.model.path.num_timesteps, extra=extra)

    def _pretrain(self, network: Any, kept: Kept, generator: torch.Generator) -> Tensor:
        which = torch.randint(len(kept.prompts), (self.options.pretrain_batch,), generator=generator)
        z = kept.latents[which].to(self.model.device)
        t, noise = times_and_noise(self.model, len(z), z.shape[1:], generator)
        cond, _ = self.rollout.conditions.of([kept.prompts[i] for i in which.tolist()])
        return prediction_error(self.model, network, cond, z, t, noise).mean()

    # --- looking on, and the result

    def sheet(self, network: Any) -> Any:
        """Held-out prompts from fixed seeds, before and now, and what the reward pulls at; all is measured with it."""
        look: Look = self.looking.look(network)
        return look.sheet

    def measured(self) -> dict[str, float]:
        return self.looking.measured

    def recall(self, measured: dict[str, float]) -> None:
        self.looking.measured = measured

    @property
    def liked(self) -> float | None:
        return self.looking.measured.get("judge")

    @property
    def ended(self) -> str:
        return self.looking.alarm if self.options.stop_on_alarm else ""

    def save(self, network: Any, path: Path) -> None:
        options = self.options
        if options.method == "lora":
            save_lora(self.model.pipeline, path)
        else:
            save_pipeline(self.model.pipeline, path)
        facts = {"kind": "lora" if options.method == "lora" else "pipeline", "base": options.base}
        (path / STUDIO_FACTS).write_text(json.dumps(facts, indent=2) + "\n")


# --- the parts -----------------------------------------------------------------------------------------------

def scored_at_once(options: ReFLOptions) -> int:
    """How many pictures are decoded and scored in one graph."""
    return min(options.batch_size, at_once(options.resolution), SCORED_AT_ONCE)


def followed(options: ReFLOptions) -> Followed:
    """The scorers that are followed, loaded; of Diffusion-DPO, which follows none, whatever is named."""
    weights = options.weights if options.algorithm != "dpo" else {}
    dtype = torch.float32 if options.mixed_precision == "no" else None
    return Followed(rewards=[load_reward(name, own_device(), dtype) for name in weights], weights=list(weights.values()))


def make_network(model: Any, options: ReFLOptions) -> Tuned:
    """What learns of the model, which is changed: weights are set free, or LoRA's added. Raises InvalidOption."""
    if options.method == "lora":
        add_lora(model.network, options)
    else:
        model.network.requires_grad_(True)
    if options.gradient_checkpointing:
        model.network.enable_gradient_checkpointing()
        model.vae.enable_gradient_checkpointing()
    return Tuned(model)


class AdaptersOff:
    """The base, which a model with LoRA still is once its additions are left out; nothing is held twice."""

    def __init__(self, model: Any):
        self.model = model

    def predict(self, x_t: Tensor, t: Any, conditioning: Any) -> Tensor:
        """What the base says."""
        self.model.network.disable_adapters()
        try:
            return self.model.predict(x_t, t, conditioning)
        finally:
            self.model.network.enable_adapters()


def frozen_copy(model: Any) -> Any:
    """The model as it is now, with a network of its own that never learns."""
    import copy
    import dataclasses

    pipeline = copy.copy(model.pipeline)
    setattr(pipeline, model.network_name, copy.deepcopy(model.network).requires_grad_(False).eval())
    return dataclasses.replace(model, pipeline=pipeline)


def times_and_noise(model: Any, count: int, shape: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(B,) timesteps evenly drawn, and (B, C, h, w) noise, on the model's device."""
    t = torch.randint(model.path.num_timesteps, (count,), generator=generator)
    return t.to(model.device), torch.randn((count, *shape), generator=generator).to(model.device)


def prediction_error(model: Any, ask: Callable[..., Tensor], cond: Any, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """(B,) mean squared error of what the network says of z noised to t, in its own prediction type."""
    levels = [model.path.level(int(one)) for one in t]
    alpha, sigma = (torch.tensor(values, device=z.device, dtype=z.dtype).reshape(-1, 1, 1, 1) for values in zip(*[(one.alpha, one.sigma) for one in levels]))
    level = NoiseLevel(timestep=0.0, alpha=alpha, sigma=sigma)
    target = output_from(model.path.prediction_type, z, noise, level)
    return (ask(alpha * z + sigma * noise, t, cond).float() - target).square().flatten(1).mean(1)


def preference_margin(error: Tensor, base: Tensor, beta: float) -> Tensor:
    """(B,) of errors (2B,), those of the better pictures first: equation 14 of arXiv:2311.12908, T folded into beta."""
    better, worse = (error - base).chunk(2)
    return -beta / 2 * (better - worse)


def step_mean(levels: Sequence[NoiseLevel], end: NoiseLevel, index: int) -> tuple[float, float]:
    """(how much of x0_hat is in the mean of the step, its deviation), of DDIM with eta 1; the last step's deviation is at least the one before's share."""
    def of(index: int) -> tuple[float, float]:
        level, goal = levels[index], levels[index + 1] if index + 1 < len(levels) else end
        variance = goal.sigma**2 * max(0.0, 1 - (level.alpha * goal.sigma / (level.sigma * goal.alpha)) ** 2)
        share = goal.alpha - np.sqrt(max(0.0, goal.sigma**2 - variance)) * level.alpha / level.sigma
        return float(share), float(np.sqrt(variance))

    share, deviation = of(index)
    # A path that ends in the picture has no noise in its last step: that of the step before stands for it, as DDPM clips its variance.
    return (share, deviation) if deviation > 0 or index == 0 else (share, of(index - 1)[1])


def added(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    """The sum of what is there."""
    return more if total is None else total if more is None else total + more


def train(options: ReFLOptions, *, progress: bool = True) -> Iterator[StepLog]:
    """Run (or resume) a training, one StepLog a step: see trainers.loop.run_loop."""
    yield from run_loop(ReFLTask(options), progress=progress)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    run_program(ReFLOptions, train, argv, description="Tune a text-to-image model by a reward.", presets=REFL_PRESETS)


if __name__ == "__main__":
    main()
