"""Train a pixel DDPM.

    python -m trainers.ddpm --data digits --output runs/digits
    accelerate launch -m trainers.ddpm --data my-pictures/ --resolution 64 --output runs/mine

Each step: pick a timestep t and noise eps for every picture, make x_t, ask the network, descend on the loss
(Ho et al. 2020, arXiv:2006.11239, algorithm 1; the variants are those of studio.process.diffusion). Labels are dropped for
a share of the pictures, so that one network knows both p(x | label) and p(x) (arXiv:2207.12598).

The result, <output>/model, is a folder that plain diffusers loads: DDPMPipeline.from_pretrained(folder).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.process import schedules
from studio.process.diffusion import GaussianDiffusion
from studio.runs.trainers.ddpm import DDPMOptions
from trainers.data import Pictures, load_pictures
from trainers.loop import Losses, StepLog, Task, min_snr_weights, run_loop, snr_of
from trainers.pipelines import save_pipeline
from trainers.program import run_program

__all__ = ["DDPMOptions", "train"]


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
        resnet_time_scale_shift="scale_shift" if options.time_scales else "default",
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


# --- the task ------------------------------------------------------------------------------------------------

class DDPMTask(Task):
    """Pictures, the process, and the network that learns to go back through it."""

    def __init__(self, options: DDPMOptions):
        self.options = options
        torch.manual_seed(options.seed)
        self.pictures = load_pictures(options.data, options.resolution, channels=options.channels, limit=options.data_limit, seed=options.seed)
        self.size, self.num_classes = len(self.pictures), len(self.pictures.class_names)
        self.diffusion = make_diffusion(options)
        self.network = make_network(options, self.pictures.pixels.shape[1], self.num_classes)
        self.alphas_cumprod = torch.as_tensor(schedules.alphas_cumprod(self.diffusion.betas))

    def losses(self, network: Any, indices: Tensor, generator: torch.Generator, device: torch.device) -> Losses:
        options, num_timesteps = self.options, self.diffusion.num_timesteps
        x0, labels = self.pictures.batch(indices)
        t = torch.randint(num_timesteps, (len(x0),), generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        dropped = torch.rand(len(x0), generator=generator) < options.label_drop
        labels = labels.masked_fill(dropped, self.num_classes)
        x0, t, noise, labels = (tensor.to(device) for tensor in (x0.contiguous(memory_format=torch.channels_last), t, noise, labels))
        losses = self.diffusion.training_losses(as_model(network, labels if self.num_classes else None), x0, t, noise)["loss"]
        snr = snr_of(self.alphas_cumprod, t)
        weights = min_snr_weights(options.mean_type, snr, options.min_snr_gamma, options.min_snr_offset) if options.min_snr_gamma else 1.0
        return Losses(descend=(losses * weights).mean(), each=losses, t_share=t / num_timesteps)

    def sheet(self, network: Any) -> Any:
        return sample_sheet(network, self.diffusion, self.pictures)

    def save(self, network: Any, path: Path) -> None:
        save_model(path, self.options, network, self.pictures)


def train(options: DDPMOptions, *, progress: bool = True) -> Iterator[StepLog]:
    """Run (or resume) a training, one StepLog a step: see trainers.loop.run_loop."""
    yield from run_loop(DDPMTask(options), progress=progress)


@torch.no_grad()
def sample_sheet(network: Any, diffusion: GaussianDiffusion, pictures: Pictures, per_class: int = 4, num_steps: int = 50) -> Any:
    """A PIL picture of DDIM samples from fixed seeds: a column a class (at most 20), `per_class` rows."""
    from studio.media.images import grid, to_image, to_pixels

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

    save_pipeline(DDPMPipeline(network, make_scheduler(options)), path)
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
    run_program(DDPMOptions, train, argv, description="Train a pixel DDPM.")


if __name__ == "__main__":
    main()
