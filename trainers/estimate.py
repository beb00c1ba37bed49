"""What a run of DreamBooth, of a ControlNet, of a reward or of a tuning will take, from a timed look at its base model on this machine.

    python -m trainers.estimate dreambooth --base toybox-sd --method lora
    python -m trainers.estimate controlnet --base toybox-sd
    python -m trainers.estimate reward --data rankings --format database
    python -m trainers.estimate refl --base toybox-sd --rewards toybox-clip

Takes the options of the trainer and prints one line of JSON: {"seconds", "memory_gib", "trained_parameters"}, or
{"error": a sentence}. The studio asks it as a process of its own, so that what it loads is gone when it ends.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from studio.errors import StudioError
from studio.models.activations import kept_for_backward
from studio.models.latents import factor_of
from studio.runs.trainers.controlnet import ControlNetOptions
from studio.runs.trainers.dreambooth import DreamBoothOptions, RunCost
from studio.runs.trainers.refl import ReFLOptions
from trainers.command_line import parse_options
from trainers.costs import PASSING, PROCESS_GIB, START_S, passes_of, timed
from trainers.dreambooth import PARTS, at_once, class_pictures, load_parts, make_network, prompt_inputs
from trainers.refl_estimate import estimate as estimate_tuning
from trainers.reward_estimate import RewardOptions, estimate_reward
from trainers.steered import load_base

__all__ = ["estimate", "estimate_control"]

# Maps that are kept with one channel.
GREY_MAPS = ("toybox-edges", "toybox-depth", "canny", "scribble", "lineart-standard")
PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}


def estimate(options: DreamBoothOptions) -> RunCost:
    """Time and memory of a run, from one timed forward pass of the base model on this machine. Loads the base model.

    The time is that of the start, the class pictures that are missing, the steps, and the pictures drawn during training.
    The memory is that of the training alone. Raises InvalidOption where LoRA cannot be added to the layers asked for.
    """
    parts = load_parts(options.base)
    halves = 2 if options.prior_weight else 1
    shape = (options.batch_size * halves, parts["unet"].config.in_channels, *[options.resolution // factor_of(parts["vae"])] * 2)
    network = make_network(parts, replace(options, gradient_checkpointing=False))
    text = prompt_inputs(parts, options, [""] * shape[0]).to(parts["unet"].device)
    forward = partial(_forward, network, torch.zeros(shape, device=text.device), text, options.mixed_precision)
    forward_s = timed(forward)
    weights = sum(weight.numel() for name in PARTS for weight in parts[name].parameters())
    trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    # Backward costs as much for the activations and, where the weights learn, for them; with checkpointing forward is done twice.
    passes = 1 + (1 if options.method == "lora" else 2) + options.gradient_checkpointing
    steps_s = forward_s * passes * options.steps * options.accumulation
    # Weights, gradients, both moments, averages: four bytes each, but for moments of 8 bits.
    state = 4 * weights + trained * (4 + (2 if options.adam_8bit else 8) + (4 if options.ema_decay else 0))
    activations = kept_for_backward(network, forward, checkpointing=options.gradient_checkpointing)
    return RunCost(
        seconds=START_S + steps_s + drawing_calls(options) * forward_s / shape[0], trained_parameters=trained,
        memory_gib=PASSING * (state + activations) / 2**30 + PROCESS_GIB,
    )


def estimate_control(options: ControlNetOptions) -> RunCost:
    """Time and memory of the training of a ControlNet, from a timed forward pass and a timed chunk of pictures on this machine. Loads the base model.

    The time is that of the start, of encoding the pictures once, of the steps, and of the pictures drawn during training. Raises InvalidOption.
    """
    base, side, rows = load_base(options.base), options.resolution, torch.zeros(options.batch_size, dtype=torch.long)
    base.require_fit(options)
    network, device = base.steered(replace(options, gradient_checkpointing=False)), base.device
    shape = (options.batch_size, base.vae.config.latent_channels, *[side // factor_of(base.vae)] * 2)
    maps = torch.zeros(1, side, side, 1, dtype=torch.uint8)
    kept = {"maps": maps, **base.read_maps(maps), **base.read_captions([""])}
    text, *pooled = (one.to(device) for one in base.told(kept, rows))
    hint = base.hint(kept, rows, network.net).to(device)

    def forward() -> Tensor:
        precision = options.mixed_precision
        with torch.autocast(device.type, PRECISIONS[precision]) if precision in PRECISIONS else nullcontext():
            return network(torch.zeros(shape, device=device), torch.ones(len(hint), dtype=torch.long, device=device), text, hint, *pooled)

    forward_s, passes = timed(forward), 2 + options.gradient_checkpointing
    together = min(options.data_limit, at_once(side))
    encoding_s = timed(lambda: base.vae.encode(torch.zeros(together, 3, side, side, device=device)).latent_dist.mean) * options.data_limit / together
    # Both the net and what of the base comes after its first residual go back.
    steps_s = forward_s * passes * options.steps * options.accumulation
    drawn = (options.steps // options.sample_every if options.sample_every else 0) * options.validation_samples * options.validation_steps
    weights = sum(weight.numel() for part in base.parts.values() if isinstance(part, torch.nn.Module) for weight in part.parameters())
    trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    state = 4 * (weights + trained) + trained * (4 + 8 + (4 if options.ema_decay else 0))
    # Latents in half precision and maps, kept beside.
    data = options.data_limit * (2 * base.encodings * math.prod(shape[1:]) + side**2 * (1 if options.map in GREY_MAPS else 3))
    activations = kept_for_backward(network, forward, checkpointing=options.gradient_checkpointing)
    return RunCost(
        seconds=START_S + base.encodings * encoding_s + steps_s + drawn * (passes_of(options.validation_guidance) + 1) * forward_s / options.batch_size,
        memory_gib=PASSING * (state + activations) / 2**30 + data / 2**30 + PROCESS_GIB, trained_parameters=trained,
    )


def _forward(network: torch.nn.Module, x_t: Tensor, text: Tensor, precision: str) -> Tensor:
    """The network's answer, in the precision of the training."""
    with torch.autocast(x_t.device.type, PRECISIONS[precision]) if precision in PRECISIONS else nullcontext():
        return network(x_t, torch.ones(len(x_t), device=x_t.device), text)


def drawing_calls(options: DreamBoothOptions) -> float:
    """Forward passes of one picture that drawing takes: missing class pictures, and the sheets before and during training."""
    missing = options.num_class_images - len(class_pictures(options.class_folder)) if options.prior_weight else 0
    sheets = 1 + math.ceil(options.steps / options.sample_every) if options.sample_every else 0
    looked_at = sheets * options.validation_samples * len(options.prompts_to_look_at)
    of_class = max(missing, 0) * options.class_steps * passes_of(options.class_guidance)
    return of_class + looked_at * options.validation_steps * passes_of(options.validation_guidance)


ESTIMATES: dict[str, tuple[type, Callable[..., RunCost]]] = {
    "dreambooth": (DreamBoothOptions, estimate), "controlnet": (ControlNetOptions, estimate_control), "refl": (ReFLOptions, estimate_tuning),
    "reward": (RewardOptions, estimate_reward),
}


def main(argv: list[str] | None = None) -> None:
    """The command line: the trainer, then its options. Ends with 1 where the options cannot work."""
    trainer, *rest = sys.argv[1:] if argv is None else argv
    kind, foretell = ESTIMATES[trainer]
    try:
        options = parse_options(kind, rest, prog=f"python -m trainers.estimate {trainer}", description="Say what a run will take.")
        print(json.dumps(dataclasses.asdict(foretell(options))))
    except StudioError as error:
        print(json.dumps({"error": str(error)}))
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
