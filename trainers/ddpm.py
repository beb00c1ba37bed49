"""Train a pixel DDPM.

    python -m trainers.ddpm --data digits --output runs/digits
    accelerate launch -m trainers.ddpm --data my-pictures/ --resolution 64 --output runs/mine

Each step: pick a timestep t and noise eps for every picture, make x_t, ask the network, descend on the loss
(Ho et al. 2020, arXiv:2006.11239, algorithm 1; the variants are those of studio.diffusion). Labels are dropped for
a share of the pictures, so that one network knows both p(x | label) and p(x) (arXiv:2207.12598).

The result, <output>/model, is a folder that plain diffusers loads: DDPMPipeline.from_pretrained(folder).
"""

import copy
import dataclasses
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from studio import schedules
from studio.diffusion import LOSS_TYPES, MEAN_TYPES, VAR_TYPES, GaussianDiffusion
from studio.errors import InvalidOption
from trainers.data import Pictures, batch_indices, load_pictures
from trainers.options import option, parse_options
from trainers.run_folder import RunFolder, pack_optimizer, unpack_optimizer

__all__ = ["DDPMOptions", "train", "StepLog"]


@dataclass(frozen=True, kw_only=True)
class DDPMOptions:
    """The knobs of a run; `python -m trainers.ddpm --help` prints them."""

    data: str = option("digits", "digits, toybox, toybox-large, a folder of pictures, or a `datasets` id")
    output: str = option("runs/ddpm", "the run folder; an unfinished run in it is resumed")
    resolution: int = option(16, "pixels a side, a multiple of 2 per level of the network")
    channels: int = option(3, "3 = colour, 1 = grey (folders and datasets; digits are grey)")
    data_limit: int = option(40_000, "the most pictures taken; for toybox, how many scenes are drawn")
    # the process
    schedule: str = option("cosine", "noise schedule", schedules.SCHEDULES)
    num_timesteps: int = option(1000, "T")
    mean_type: str = option("epsilon", "what the network predicts", MEAN_TYPES)
    var_type: str = option("fixed_small", "variance of a reverse step; learned ones double the output channels", VAR_TYPES)
    loss_type: str = option("mse", "rescaled_mse and the kl losses: arXiv:2102.09672", LOSS_TYPES)
    min_snr_gamma: float = option(0.0, "weigh the mse by min(SNR, gamma), 0 = off; 5 in arXiv:2303.09556")
    label_drop: float = option(0.1, "share of pictures trained without their label, 0 to 1")
    # the network
    widths: str = option("32,64,96", "channels of each level, comma-separated multiples of 16")
    layers: int = option(1, "residual blocks a level")
    attention_from: int = option(1, "self-attention from this level down (0 = the full resolution)")
    dropout: float = option(0.0, "dropout inside the residual blocks, 0 to 1")
    # the optimiser
    steps: int = option(4000, "optimiser steps in all")
    batch_size: int = option(64, "pictures a step, over all devices")
    lr: float = option(1e-3, "peak learning rate of AdamW, reached after the warm-up, then cosine to 5 %%")
    warmup: int = option(100, "steps over which the learning rate rises")
    weight_decay: float = option(0.01, "AdamW's weight decay")
    grad_clip: float = option(1.0, "largest gradient norm")
    ema_decay: float = option(0.999, "decay of the averaged weights, which are the ones kept")
    mixed_precision: str = option("no", "bf16 or fp16 on a GPU that has it", ("no", "bf16", "fp16"))
    seed: int = option(0, "of weights, order, timesteps and noise")
    # keeping
    sample_every: int = option(500, "steps between sample grids, 0 = none")
    checkpoint_every: int = option(500, "steps between checkpoints")
    keep_checkpoints: int = option(2, "newest checkpoints kept")

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "resolution", "layers", "num_timesteps", "checkpoint_every", "keep_checkpoints", "data_limit"):
            if getattr(self, name) < 1:
                raise InvalidOption(f"{name} must be at least 1, but it is {getattr(self, name)}.")
        for name in ("label_drop", "dropout", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidOption(f"{name} must lie in 0..1, but it is {getattr(self, name)}.")
        if not 0 < self.lr < 1:
            raise InvalidOption(f"lr must lie between 0 and 1, but it is {self.lr}.")
        if self.resolution % 2 ** (len(self.level_widths) - 1):
            raise InvalidOption(f"{len(self.level_widths)} levels halve the picture {len(self.level_widths) - 1} times; {self.resolution=} cannot be.")

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels a level."""
        try:
            widths = tuple(int(width) for width in self.widths.split(","))
        except ValueError:
            raise InvalidOption(f"widths is written like '32,64,96', but it is {self.widths!r}.") from None
        if any(width < 16 or width % 16 for width in widths):
            raise InvalidOption(f"widths must be multiples of 16, but they are {self.widths!r}.")
        return widths


@dataclass(frozen=True, kw_only=True)
class StepLog:
    """One step as it is written to events.jsonl. quartiles: mean loss where t lies in each quarter of 0..T, or None."""

    step: int
    loss: float
    quartiles: tuple[float | None, ...]
    grad_norm: float
    lr: float
    samples: int
    samples_per_s: float


# --- what is trained -----------------------------------------------------------------------------------------

def make_network(options: DDPMOptions, channels: int, num_classes: int) -> torch.nn.Module:
    """A UNet2DModel; the embedding after the last class stands for "no label"."""
    from diffusers import UNet2DModel

    widths, levels = options.level_widths, len(options.level_widths)
    attention = [level >= options.attention_from for level in range(levels)]
    learns_variance = options.var_type in ("learned", "learned_range")
    return UNet2DModel(
        sample_size=options.resolution, in_channels=channels, out_channels=channels * (2 if learns_variance else 1),
        block_out_channels=widths, layers_per_block=options.layers, dropout=options.dropout,
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attention),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention)),
        attention_head_dim=32, norm_num_groups=16, num_class_embeds=num_classes + 1 if num_classes else None,
    )


def make_diffusion(options: DDPMOptions) -> GaussianDiffusion:
    """The process that the options name."""
    betas = schedules.make_betas(options.schedule, options.num_timesteps)
    return GaussianDiffusion(betas, mean_type=options.mean_type, var_type=options.var_type, loss_type=options.loss_type)


def as_model(network: torch.nn.Module, labels: Tensor | None):
    """The network as a function of (x_t, timesteps), its labels bound."""
    if labels is None:
        return lambda x_t, t: network(x_t, t).sample
    return lambda x_t, t: network(x_t, t, class_labels=labels).sample


def min_snr_weights(diffusion: GaussianDiffusion, t: Tensor, gamma: float) -> Tensor:
    """(B,) weights min(SNR, gamma) on the error of x0, in the units of the model's own target (Hang et al. 2023)."""
    snr = torch.as_tensor(schedules.curves(diffusion.betas)["snr"], dtype=torch.float32, device=t.device)[t]
    weight = snr.clamp(max=gamma)
    if diffusion.mean_type == "epsilon":
        return weight / snr.clamp(min=1e-8)
    return weight / (snr + 1) if diffusion.mean_type == "v_prediction" else weight


def learning_rate(options: DDPMOptions, step: int) -> float:
    """Linear warm-up, then a cosine down to 5 % of the peak."""
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    progress = (step - options.warmup) / max(options.steps - options.warmup, 1)
    return options.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(progress, 1))))


@torch.no_grad()
def update_ema(ema: torch.nn.Module, network: torch.nn.Module, decay: float, step: int) -> None:
    """ema <- decay * ema + (1 - decay) * weights, with a smaller decay at first, when the weights still run away."""
    decay = min(decay, (1 + step) / (10 + step))
    averaged, current = list(ema.parameters()), [p.detach() for p in network.parameters()]
    torch._foreach_lerp_(averaged, current, 1 - decay)


# --- the loop ------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Training:
    """What a run works with. `network` and `optimizer` are as accelerate prepared them; `plain` is the bare network."""

    options: DDPMOptions
    accelerator: Any
    folder: RunFolder
    pictures: Pictures
    diffusion: GaussianDiffusion
    plain: torch.nn.Module
    network: torch.nn.Module
    ema: torch.nn.Module
    optimizer: Any
    first: int

    @property
    def num_classes(self) -> int:
        """How many classes the pictures have, 0 = none."""
        return len(self.pictures.class_names)


def set_up(options: DDPMOptions) -> Training:
    """Load the data, make or resume the networks, open the run folder."""
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision=options.mixed_precision)
    folder = RunFolder(options.output)
    torch.manual_seed(options.seed)
    pictures = load_pictures(options.data, options.resolution, channels=options.channels, limit=options.data_limit, seed=options.seed)

    plain = make_network(options, pictures.pixels.shape[1], len(pictures.class_names)).to(accelerator.device, memory_format=torch.channels_last)
    ema = copy.deepcopy(plain).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=options.lr, weight_decay=options.weight_decay, betas=(0.9, 0.99))
    first = _resume(folder, plain, ema, optimizer)
    network, prepared = accelerator.prepare(plain, optimizer)
    if accelerator.is_main_process:
        folder.write_config(options)
        folder.forget_events_after(first - 1)
    return Training(
        options=options, accelerator=accelerator, folder=folder, pictures=pictures, diffusion=make_diffusion(options), plain=plain,
        network=network, ema=ema, optimizer=prepared, first=first,
    )


def train(options: DDPMOptions, *, progress: bool = True) -> Iterator[StepLog]:
    """Run (or resume) a training, one StepLog a step. Everything it keeps is in the folder `options.output`.

    The noise, timesteps and label drops of a step are functions of (seed, step), so nothing but weights, averages and
    optimiser state has to be saved for a resumed run to continue exactly. Closing the generator stops it; what is
    after the last checkpoint is then lost.
    """
    run = set_up(options)
    accelerator, is_main = run.accelerator, run.accelerator.is_main_process
    batches = batch_indices(len(run.pictures), options.batch_size, options.seed, start=run.first)
    seconds, started = 0.0, time.perf_counter()
    for step in tqdm(range(run.first, options.steps), initial=run.first, total=options.steps, disable=not (progress and is_main)):
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(options, step)
        mine = next(batches)[accelerator.process_index :: accelerator.num_processes]
        losses, t, grad_norm = _step(run, *run.pictures.batch(mine), step)
        update_ema(run.ema, run.plain, options.ema_decay, step)

        seconds += time.perf_counter() - started
        losses, t = accelerator.gather(losses), accelerator.gather(t)
        log = StepLog(
            step=step, loss=losses.mean().item(), quartiles=_by_quartile(losses, t, run.diffusion.num_timesteps), grad_norm=float(grad_norm),
            lr=learning_rate(options, step), samples=(step + 1) * options.batch_size, samples_per_s=options.batch_size * (step - run.first + 1) / seconds,
        )
        if is_main:
            _keep(run, log)
        yield log
        # The clock runs for the steps alone: what the caller does between them is not the training's time.
        started = time.perf_counter()

    if is_main:
        save_model(run.folder.path / "model", options, run.ema, run.pictures)


def _step(run: Training, x0: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor, Any]:
    """One descent; gives the loss of each picture, its timestep, and the gradient's norm."""
    options, accelerator = run.options, run.accelerator
    generator = torch.Generator().manual_seed((options.seed << 40) + (step << 8) + accelerator.process_index)
    # Dropout draws from the global generator, so that follows the step as well.
    torch.manual_seed(generator.initial_seed())
    t = torch.randint(run.diffusion.num_timesteps, (len(x0),), generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    dropped = torch.rand(len(x0), generator=generator) < options.label_drop
    labels = labels.masked_fill(dropped, run.num_classes)
    x0, t, noise, labels = (tensor.to(accelerator.device) for tensor in (x0.contiguous(memory_format=torch.channels_last), t, noise, labels))

    with accelerator.autocast():
        losses = run.diffusion.training_losses(as_model(run.network, labels if run.num_classes else None), x0, t, noise)["loss"]
    weights = min_snr_weights(run.diffusion, t, options.min_snr_gamma) if options.min_snr_gamma else 1.0
    accelerator.backward((losses * weights).mean())
    grad_norm = accelerator.clip_grad_norm_(run.network.parameters(), options.grad_clip)
    run.optimizer.step()
    run.optimizer.zero_grad()
    return losses.detach(), t, grad_norm


def _by_quartile(losses: Tensor, t: Tensor, num_timesteps: int) -> tuple[float | None, ...]:
    quarter = (4 * t // num_timesteps).clamp(max=3)
    return tuple(losses[quarter == q].mean().item() if (quarter == q).any() else None for q in range(4))


def _resume(folder: RunFolder, network: torch.nn.Module, ema: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest checkpoint, if any; gives the first step to take."""
    checkpoints = folder.list_checkpoints()
    if not checkpoints:
        return 0
    parts, facts = folder.read_checkpoint(checkpoints[-1])
    network.load_state_dict(parts["network"])
    ema.load_state_dict(parts["ema"])
    unpack_optimizer(optimizer, parts["optimizer"])
    return facts["step"] + 1


def _keep(run: Training, log: StepLog) -> None:
    """Write the step's event, and what is due: a checkpoint, a sample grid."""
    options, done = run.options, log.step + 1
    last = done == options.steps
    run.folder.event(**dataclasses.asdict(log))
    if last or done % options.checkpoint_every == 0:
        optimizer = getattr(run.optimizer, "optimizer", run.optimizer)
        parts = {"network": run.plain.state_dict(), "ema": run.ema.state_dict(), "optimizer": pack_optimizer(optimizer)}
        run.folder.save_checkpoint(log.step, parts, {"samples": log.samples}, options.keep_checkpoints)
    if options.sample_every and (last or done % options.sample_every == 0):
        sample_sheet(run.ema, run.diffusion, run.pictures).save(run.folder.samples / f"step-{done:06d}.png")


@torch.no_grad()
def sample_sheet(network: Any, diffusion: GaussianDiffusion, pictures: Pictures, per_class: int = 4, num_steps: int = 50) -> Any:
    """A PIL picture of DDIM samples from fixed seeds: a column a class (at most 20), `per_class` rows."""
    from studio.images import grid, to_image, to_pixels

    columns = min(len(pictures.class_names), 20) or 8
    count = columns * per_class
    device = next(network.parameters()).device
    labels = (torch.arange(count) % columns).to(device) if pictures.class_names else None
    short = diffusion.respaced(schedules.space_timesteps(diffusion.num_timesteps, [min(num_steps, diffusion.num_timesteps)]))
    x = torch.randn((count, *pictures.pixels.shape[1:]), generator=torch.Generator().manual_seed(1)).to(device)
    for t in reversed(range(short.num_timesteps)):
        x = short.ddim_sample(as_model(network, labels), x, t).x_prev
    return to_image(grid(to_pixels(x), columns, gap=2))


# --- the result ----------------------------------------------------------------------------------------------

def save_model(path: Path, options: DDPMOptions, network: Any, pictures: Pictures) -> None:
    """Write the folder that plain diffusers loads, in fp16, with studio.json for what it has no place for."""
    from diffusers import DDPMPipeline

    halved = copy.deepcopy(network).to("cpu", torch.float16, memory_format=torch.contiguous_format)
    DDPMPipeline(halved, make_scheduler(options)).save_pretrained(path)
    facts = {
        "schedule": options.schedule, "num_timesteps": options.num_timesteps, "mean_type": options.mean_type, "var_type": options.var_type,
        "class_names": list(pictures.class_names),
    }
    (path / "studio.json").write_text(json.dumps(facts, indent=2) + "\n")


# The schedules that diffusers knows by a name of its own; any other is written out as its betas.
DIFFUSERS_SCHEDULES = {"cosine": "squaredcos_cap_v2"}


def make_scheduler(options: DDPMOptions) -> Any:
    """The DDPMScheduler of the same process."""
    from diffusers import DDPMScheduler

    named = DIFFUSERS_SCHEDULES.get(options.schedule)
    betas: dict[str, Any] = {"beta_schedule": named} if named else {"trained_betas": schedules.make_betas(options.schedule, options.num_timesteps).tolist()}
    # diffusers has no "previous" parameterisation; studio.json carries it.
    prediction = "epsilon" if options.mean_type == "previous" else options.mean_type
    return DDPMScheduler(
        num_train_timesteps=options.num_timesteps, prediction_type=prediction, variance_type=options.var_type,
        clip_sample=True, timestep_spacing="trailing", **betas,
    )


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    options = parse_options(DDPMOptions, argv, prog="python -m trainers.ddpm", description="Train a pixel DDPM.")
    for _ in train(options):
        pass


if __name__ == "__main__":
    main()
