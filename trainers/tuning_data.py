"""What a tuning learns from: prompts, some held out; pictures for the pre-training loss; ranked pairs for Diffusion-DPO."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.errors import InvalidOption
from studio.files import written_aside
from studio.runs.trainers.refl import BASE, TYPED, ReFLOptions
from studio.toybox import WORLDS
from trainers.captions import load_captioned, toybox_scenes, word
from trainers.dreambooth import at_once
from trainers.ranked import Pair, Ranked, load_ranked
from trainers.rollout import Rollout
from trainers.run_folder import RunFolder

__all__ = ["Kept", "Pairs", "kept_pictures", "ranked_pairs", "split_prompts"]

# Seeds of the pictures that the base draws for the pre-training loss; those that are looked at have others.
FIRST_SEED = 100_000


# --- prompts -------------------------------------------------------------------------------------------------

def split_prompts(options: ReFLOptions, pairs: "Pairs | None") -> tuple[list[str], list[str]]:
    """(trained, held out), each prompt once. Raises InvalidOption where there are too few."""
    if pairs is not None:
        return pairs.prompts
    found = list(dict.fromkeys(prompts_of(options)))[: options.prompt_limit]
    if len(found) < 2:
        raise InvalidOption(f"There must be 2 prompts at least, one to train on and one to hold out, but there are {len(found)}; give more.")
    # By their words and the seed alone, whatever else there is.
    order = sorted(found, key=lambda prompt: hashlib.sha256(f"{options.seed}/{prompt}".encode()).digest())
    count = min(max(1, round(options.held_out * len(found))), len(found) - 1)
    out = set(order[:count])
    return [prompt for prompt in found if prompt not in out], [prompt for prompt in found if prompt in out]


def prompts_of(options: ReFLOptions) -> list[str]:
    """All prompts. Raises InvalidOption."""
    if options.data == TYPED:
        return options.typed_prompts
    if options.data in WORLDS:
        # As people write them, half leaving things open: of a prompt that says everything, pictures differ in little but what is wrong.
        rng = np.random.default_rng(options.seed)
        return [word(scene, rng) for scene in toybox_scenes(options.seed, options.prompt_limit, "train", options.data)]
    path = Path(options.data)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    try:
        lines = [line.strip() for file in files for line in file.read_text("utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise InvalidOption(f"{str(path)!r} cannot be read as a text file of one prompt a line: {error}.") from error
    return [line for line in lines if line]


# --- pictures of the pre-training loss -----------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Kept:
    """latents (N, C, h, w) on the CPU, a prompt each."""

    latents: Tensor
    prompts: Sequence[str]


def kept_pictures(options: ReFLOptions, model: Any, network: Any, trained: Sequence[str]) -> Kept:
    """The pictures that the model must not forget. Read from <output>/cache where an earlier start of the run has left them."""
    count = options.pretrain_pictures
    data = None if options.pretrain_data == BASE else load_captioned(options.pretrain_data, options.resolution, limit=count, seed=options.seed)
    rng = np.random.default_rng(options.seed)
    # In the words that the model was taught by: were they all complete, what a prompt leaves open would come to be drawn in one way.
    prompts = [trained[i % len(trained)] for i in range(count)] if data is None else [data.caption(i, rng) for i in range(len(data))]
    said = [options.base, options.pretrain_data, options.resolution, options.validation_steps, options.validation_guidance, prompts]
    path = Path(options.output) / "cache" / f"kept-{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]}.safetensors"
    if not path.is_file():
        latents = drawn_latents(options, model, network, prompts) if data is None else encoded(model, data.pixels, at_once(options.resolution))
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            save_file({"latents": latents}, aside)
    dropped = rng.random(len(prompts)) < options.caption_drop
    return Kept(latents=load_file(path)["latents"], prompts=["" if drop else prompt for prompt, drop in zip(prompts, dropped)])


def drawn_latents(options: ReFLOptions, model: Any, network: Any, prompts: Sequence[str]) -> Tensor:
    """Latents that the base draws, a few at a time."""
    from trainers.looking import validation_rollout

    folder, rollout, parts = RunFolder(options.output), validation_rollout(options, model), list[Tensor]()
    chunk = min(16, at_once(options.resolution))
    for first in range(0, len(prompts), chunk):
        folder.event(phase="pictures of the base", done=first, total=len(prompts))
        parts.append(drawn_states(rollout, network, prompts[first : first + chunk], FIRST_SEED + first))
    return torch.cat(parts)


def drawn_states(rollout: Rollout, network: Any, prompts: Sequence[str], seed: int) -> Tensor:
    drawn, x_t = rollout.begin(network, prompts, [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))])
    return rollout.advance(drawn, x_t, 0, len(rollout.levels)).cpu().contiguous()


def encoded(model: Any, pixels: Tensor, chunk: int) -> Tensor:
    """(N, C, h, w) on the CPU of pictures (N, 3, H, W) uint8: the means of the posterior, scaled."""
    parts = [model.scaled(model.posterior(part.to(model.device).float() / 127.5 - 1)[0]).cpu() for part in pixels.split(min(chunk, 64))]
    return torch.cat(parts).contiguous()


# --- ranked pairs --------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Pairs:
    """data: the rankings. trained: strict pairs of prompts that are trained on."""

    data: Ranked
    trained: Sequence[Pair]
    known: dict[int, Tensor] = field(default_factory=dict)

    @property
    def prompts(self) -> tuple[list[str], list[str]]:
        """(trained, held out)."""
        return tuple(  # type: ignore[return-value]
            list(dict.fromkeys(self.data.prompts[pair.better] for pair in pairs)) for pairs in (self.data.train, self.data.held_out)
        )

    def latents(self, model: Any, items: Sequence[int], chunk: int) -> Tensor:
        """(B, C, h, w) of items on the model's device; each is encoded once."""
        if missing := [item for item in dict.fromkeys(items) if item not in self.known]:
            self.known.update(zip(missing, encoded(model, self.data.pixels[missing], chunk)))
        return torch.stack([self.known[item] for item in items]).to(model.device)


def ranked_pairs(options: ReFLOptions) -> Pairs:
    """The pairs of the rankings that Diffusion-DPO learns from. Raises InvalidOption where there are too few."""
    data = load_ranked(
        options.data, options.format, options.collection, options.resolution, limit=100_000, held_out=options.held_out, seed=options.seed,
    )
    if not data.held_out:
        raise InvalidOption("No prompt with rankings is held out, so nothing would say whether it helps; rank more prompts, or raise held_out.")
    return Pairs(data=data, trained=[pair for pair in data.train if not pair.tie])

