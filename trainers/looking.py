"""Looking on while a model is tuned: the same prompts and seeds before and now, scored by what is followed and by what is not.

    <output>/base.json             what was measured before anything was learned, and which prompts the rows of the sheets are
    <output>/cache/before-*        the pictures of that moment

The lens, at the right of each row: x0_hat of a step that the reward is asked at, of the base and now; where the reward pulls at it,
|d loss / d x0_hat| over the channels; and what training has changed of it. Each map is shown by its own largest value.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.errors import InvalidOption
from studio.files import write_text, written_aside
from studio.media.images import grid, to_image, to_pixels
from studio.rewards import Reward, load_reward
from studio.rewards.signs import diversity, diversity_of_each, signs_of
from studio.runs.refl import BASE_FILE, GAP, MOST_HELD_OUT, BaseFacts, alarm_of
from studio.runs.trainers.refl import ReFLOptions
from trainers.dreambooth import at_once, own_device
from trainers.followed import Followed, capped, pulled
from trainers.preference import spread
from trainers.rollout import Rollout
from trainers.run_folder import RunFolder

__all__ = ["Look", "Looking", "training_rollout", "validation_rollout"]

FIRST_SEED = 1000
# Rows of a sheet.
ROWS = 8
LENS = ("x0_hat before", "x0_hat now", "pull of the reward", "what changed")
# What a map is painted with where it is largest.
WARM = np.array([176, 62, 20], np.float32)
CHUNK = 16


@dataclass(frozen=True, kw_only=True)
class Look:
    """pictures: of the held-out prompts, (N, 3, H, W) in [-1, 1]; measured: by the names of studio.runs.refl.MEASURED."""

    sheet: Image.Image
    measured: dict[str, float]


def validation_rollout(options: ReFLOptions, model: Any) -> Rollout:
    """As people sample: guided, without added noise."""
    return Rollout(
        model, num_steps=options.validation_steps, eta=0.0, guidance_scale=options.validation_guidance, late_guidance=True, resolution=options.resolution,
    )


def training_rollout(options: ReFLOptions, model: Any) -> Rollout:
    """As pictures are drawn in training."""
    return Rollout(
        model, num_steps=options.num_steps, eta=options.eta, guidance_scale=options.guidance_scale, late_guidance=options.late_guidance,
        resolution=options.resolution,
    )


class Looking:
    """What is looked at, and what was seen before anything was learned."""

    def __init__(self, options: ReFLOptions, model: Any, trained: Sequence[str], held_out: Sequence[str], follow: Followed):
        self.options, self.model, self.follow = options, model, follow
        self.rollout = validation_rollout(options, model)
        self.judge: Reward | None = load_reward(options.judge, own_device()) if options.judge else None
        self.all_held_out = list(held_out)[:MOST_HELD_OUT]
        count, samples = options.validation_prompts, options.validation_samples
        self.held_out, self.trained = ([prompt for prompt in prompts[:count] for _ in range(samples)] for prompts in (held_out, trained))
        self.seeds = [FIRST_SEED + i % samples for i in range(len(self.held_out) + len(self.trained))]
        self.chunk = min(CHUNK, at_once(options.resolution))
        self.rows = min(ROWS, len(self.held_out) // samples)
        self.lens: Rollout | None = training_rollout(options, model) if follow.rewards else None
        self.before: dict[str, Tensor] = {}
        self.base: dict[str, float] = {}
        self.measured: dict[str, float] = {}

    # --- before

    def begin(self, network: Any) -> Followed:
        """Draw with the base, measure it, write what was found; gives the scorers in their units. A resumed run finds the pictures again."""
        self.before = self._drawn_before(network)
        self.follow = self.follow.measured_in(self._units()) if self.options.reward_units == "base" else self.follow
        self.base = self._measure(self.before["held_out"], self.before["trained"], 1.0)
        options = self.options
        if self.follow.rewards:
            require_followable(options, self.base)
        facts = BaseFacts(
            measured=self.base, prompts=list(dict.fromkeys(self.held_out))[: self.rows], lens=list(LENS) if self.lens else [], held_out=self.all_held_out,
            samples=options.validation_samples, judge=options.judge, follow=options.rewards if self.follow.rewards else "",
            units={name: list(unit) for name, unit in self.follow.units.items()},
        )
        write_text(Path(options.output) / BASE_FILE, json.dumps(dataclasses.asdict(facts), indent=2) + "\n")
        return self.follow

    def _drawn_before(self, network: Any) -> dict[str, Tensor]:
        options = self.options
        said = [
            options.base, self.held_out, self.trained, options.resolution, options.validation_steps, options.validation_guidance, options.algorithm,
            options.num_steps, options.stop_low, options.stop_high, options.eta, options.guidance_scale, options.late_guidance,
        ]
        path = Path(self.options.output) / "cache" / f"before-{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]}.safetensors"
        if not path.is_file():
            RunFolder(self.options.output).event(phase="pictures before", done=0, total=len(self.seeds))
            held_out, trained, norm = self._draw(network)
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_aside(path) as aside:
                seen = {"lens": self._decoded(self._at_the_stop(network)[0])} if self.lens else {}
                save_file({"held_out": held_out, "trained": trained, "norm": torch.tensor(norm), **seen}, aside)
        return load_file(path)

    def _draw(self, network: Any) -> tuple[Tensor, Tensor, float]:
        """(held out, trained) pictures, (N, 3, H, W) in [-1, 1], and the mean size of what the network said."""
        sized = _Sized(network)
        pictures = self.rollout.pictures(sized, [*self.held_out, *self.trained], self.seeds, self.chunk).contiguous()
        return pictures[: len(self.held_out)].clone(), pictures[len(self.held_out) :].clone(), sized.mean

    def _units(self) -> dict[str, tuple[float, float]]:
        """(mean, deviation) of each scorer over all pictures of the base."""
        pictures, prompts = torch.cat([self.before["held_out"], self.before["trained"]]), [*self.held_out, *self.trained]
        return {reward.name: spread(self._scores(reward, pictures, prompts).numpy()) for reward in self.follow.rewards}

    @torch.no_grad()
    def _scores(self, score: Any, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """(N,) on the CPU."""
        parts = [score(pictures[i : i + CHUNK].to(self.model.device), prompts[i : i + CHUNK]).float().cpu() for i in range(0, len(prompts), CHUNK)]
        return torch.cat(parts)

    # --- now

    def look(self, network: Any) -> Look:
        """The same prompts and seeds by the network as it is, measured against the base."""
        held_out, trained, norm = self._draw(network)
        self.measured = self._measure(held_out, trained, norm / float(self.before["norm"]))
        return Look(sheet=self._sheet(held_out, network), measured=self.measured)

    @property
    def alarm(self) -> str:
        """A sentence where the last look shows that the reward rises alone, else ""."""
        return alarm_of(self.base, self.measured)

    def _measure(self, held_out: Tensor, trained: Tensor, growth: float) -> dict[str, float]:
        before = self.before["held_out"]
        found = {
            "diversity": diversity(held_out, self.held_out),
            "diversity_t": sureness(*(diversity_of_each(pictures, self.held_out) for pictures in (held_out, before))),
            "distance": float((held_out - before).square().mean().sqrt()), "output_norm": growth, **signs_of(held_out),
        }
        if self.follow.rewards:
            now, then = (self._scores(self.follow, pictures, self.held_out) for pictures in (held_out, before))
            found |= {
                "reward_held_out": float(now.mean()), "reward_spread": float(now.std(correction=0)), "reward_t": sureness(now, then),
                "reward_capped": float((now > self.options.cap).float().mean()),
                "reward_trained": float(self._scores(self.follow, trained, self.trained).mean()),
            }
        if self.judge is not None:
            now, then = (self._scores(self.judge, pictures, self.held_out) for pictures in (held_out, before))
            found |= {"judge": float(now.mean()), "judge_t": sureness(now, then)}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    # --- the sheet

    def _sheet(self, held_out: Tensor, network: Any) -> Image.Image:
        """A row a prompt: its seeds before, the same ones now, and what the lens sees."""
        samples, rows, side = self.options.validation_samples, self.rows, self.options.resolution
        blocks = [in_rows(self.before["held_out"], rows * samples, samples), in_rows(held_out, rows * samples, samples)]
        if self.lens is not None:
            blocks.append(self._lens_block(network))
        white = np.full((rows * side, max(4, side // GAP), 3), 255, np.uint8)
        return to_image(np.concatenate([part for block in blocks for part in (block, white)][:-1], axis=1))

    # --- the lens

    def _at_the_stop(self, network: Any) -> tuple[Tensor, list[str]]:
        """(x0_hat (rows, C, h, w) of a step that the reward is asked at, the prompts), from fixed seeds."""
        assert self.lens is not None
        prompts = list(dict.fromkeys(self.held_out))[: self.rows]
        drawn, x_t = self.lens.begin(network, prompts, [torch.Generator().manual_seed(FIRST_SEED) for _ in prompts])
        stop = (self.options.stop_low + self.options.stop_high) // 2 if self.options.algorithm == "refl" else len(self.lens.levels) - 1
        x_t = self.lens.advance(drawn, x_t, 0, stop)
        with torch.no_grad():
            return drawn.late(x_t, self.lens.levels[stop]).x0_hat, prompts

    @torch.no_grad()
    def _decoded(self, x0: Tensor) -> Tensor:
        return self.model.decode(x0).clamp(-1, 1).cpu().contiguous()

    def _lens_block(self, network: Any) -> np.ndarray:
        """(rows H, 4 W, 3) uint8, the columns of LENS."""
        x0_hat, prompts = self._at_the_stop(network)
        now, before = self._decoded(x0_hat), self.before["lens"]
        loss_of = capped(self.options.cap) if self.options.algorithm == "refl" else torch.neg
        pull = pulled(self.model, self.follow, loss_of, 1.0, x0_hat, prompts, self.chunk).gradient.norm(dim=1).cpu()
        changed = (now - before).norm(dim=1)
        columns = [in_rows(before, len(prompts), 1), in_rows(now, len(prompts), 1), heat(pull, now.shape[-1]), heat(changed, now.shape[-1])]
        return np.concatenate(columns, axis=1)


def heat(maps: Tensor, side: int) -> np.ndarray:
    """(N side, side, 3) uint8 of maps (N, h, w), 0 or more: white where nothing is, each by its own largest value."""
    scaled = maps / maps.flatten(1).amax(1).clamp(min=1e-12)[:, None, None]
    large = torch.nn.functional.interpolate(scaled[:, None].float(), (side, side), mode="nearest")[:, 0, ..., None].numpy()
    return (255 - large * (255 - WARM)).round().astype(np.uint8).reshape(-1, side, 3)


def require_followable(options: ReFLOptions, base: dict[str, float]) -> None:
    """Refuse a reward that no model could follow, by what it says of the base's pictures. Raises InvalidOption."""
    mean, deviation = base.get("reward_held_out"), base.get("reward_spread")
    if mean is None or deviation is None:
        raise InvalidOption(f"{options.rewards} gives no number for pictures of the base; choose another scorer.")
    if deviation < 1e-6:
        raise InvalidOption(f"{options.rewards} says {mean:.3g} of every picture of the base, so there is nothing to follow; choose another scorer.")
    if options.algorithm == "refl" and base.get("reward_capped") == 1:
        raise InvalidOption(
            f"Every picture of the base has a reward above the cap of {options.cap:g} (their mean is {mean:.3g}), so nothing would be learned: "
            "raise cap, or set reward_units to base."
        )


def sureness(now: Tensor, then: Tensor) -> float:
    """The mean of the paired differences by its standard error; 0 where nothing differs, NaN of fewer than two."""
    if len(now) < 2:
        return math.nan
    change = (now - then).double()
    error = float(change.std()) / math.sqrt(len(change))
    return 0.0 if error == 0 else float(change.mean()) / error


def in_rows(pictures: Tensor, count: int, columns: int) -> np.ndarray:
    """(rows H, columns W, 3) uint8 of the first `count` pictures (N, 3, H, W)."""
    return grid(to_pixels(pictures[:count]), columns)


class _Sized:
    """The network, and how large what it says is on the mean."""

    def __init__(self, network: Any):
        self.network, self.sizes = network, list[float]()

    def __call__(self, *asked: Any) -> Tensor:
        said = self.network(*asked)
        self.sizes.append(float(said.float().square().mean().sqrt()))
        return said

    @property
    def mean(self) -> float:
        return float(np.mean(self.sizes))
