"""Looking on while a model is tuned: the same prompts and seeds before and now, scored by what is followed and by what is not.

    <output>/base.json             what was measured before anything was learned, and which prompts the rows of the sheets are
    <output>/cache/before-*        the pictures of that moment
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

from studio.files import write_text, written_aside
from studio.media.images import to_image
from studio.rewards import Reward, load_reward
from studio.rewards.signs import diversity, signs_of
from studio.runs.refl import BASE_FILE, MOST_HELD_OUT, BaseFacts, alarm_of
from studio.runs.trainers.refl import ReFLOptions
from trainers.dreambooth import at_once, own_device
from trainers.followed import Followed
from trainers.preference import spread
from trainers.rollout import Rollout
from trainers.run_folder import RunFolder

__all__ = ["Look", "Looking", "validation_rollout"]

FIRST_SEED = 1000
# Rows of a sheet, and of those that the lens looks at.
ROWS = 8
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
        facts = BaseFacts(
            measured=self.base, prompts=list(dict.fromkeys(self.held_out))[:ROWS], held_out=self.all_held_out,
            samples=options.validation_samples, judge=options.judge, follow=options.rewards if self.follow.rewards else "",
            units={name: list(unit) for name, unit in self.follow.units.items()},
        )
        write_text(Path(options.output) / BASE_FILE, json.dumps(dataclasses.asdict(facts), indent=2) + "\n")
        return self.follow

    def _drawn_before(self, network: Any) -> dict[str, Tensor]:
        said = [self.options.base, self.held_out, self.trained, self.options.resolution, self.options.validation_steps, self.options.validation_guidance]
        path = Path(self.options.output) / "cache" / f"before-{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]}.safetensors"
        if not path.is_file():
            RunFolder(self.options.output).event(phase="pictures before", done=0, total=len(self.seeds))
            held_out, trained, norm = self._draw(network)
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_aside(path) as aside:
                save_file({"held_out": held_out, "trained": trained, "norm": torch.tensor(norm)}, aside)
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
            "diversity": diversity(held_out, self.held_out), "distance": float((held_out - before).square().mean().sqrt()), "output_norm": growth,
            **signs_of(held_out),
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
        """A row a prompt: its seeds before, a gap, the same ones now."""
        samples, rows = self.options.validation_samples, min(ROWS, len(self.held_out) // self.options.validation_samples)
        gap = max(4, self.options.resolution // 12)
        blocks = [in_rows(self.before["held_out"], rows, samples), in_rows(held_out, rows, samples)]
        white = np.full((blocks[0].shape[0], gap, 3), 255, np.uint8)
        return to_image(np.concatenate([part for block in blocks for part in (block, white)][:-1], axis=1))


def sureness(now: Tensor, then: Tensor) -> float:
    """The mean of the paired differences by its standard error; 0 where nothing differs."""
    change = (now - then).double()
    error = float(change.std()) / math.sqrt(len(change))
    return 0.0 if error == 0 else float(change.mean()) / error


def in_rows(pictures: Tensor, rows: int, columns: int) -> np.ndarray:
    """(rows H, columns W, 3) uint8 of the first pictures (N, 3, H, W)."""
    from studio.media.images import grid, to_pixels

    return grid(to_pixels(pictures[: rows * columns]), columns)


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
