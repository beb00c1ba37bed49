"""Train a variational autoencoder: pictures to latents 1/4 the size and back.

    python -m trainers.vae --data toybox --output runs/toybox-vae
    python -m trainers.vae --output runs/toybox-vae-decoder --start runs/toybox-vae/model --decoder-only

Each step: encode to a mean and a variance, draw z, decode, descend on the reconstruction error + a little KL to N(0, I)
(Kingma & Welling 2013, arXiv:1312.6114; Rombach et al. 2021, arXiv:2112.10752, appendix G). Optionally a perceptual
term, the distance of the hidden features of a CLIP picture tower, and one for previews: what the best linear map from
latents to small pictures leaves unexplained. With --decoder-only the encoder is left as it is, so
that latents that something else learned from stay valid.

The result, <output>/model, is an AutoencoderKL folder of diffusers with its scaling factor measured: 1 / std of latents.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.runs.trainers.vae import VaeOptions
from trainers.captions import Captioned, draw_scenes, load_captioned, toybox_scenes
from trainers.loop import Losses, StepLog, Task, on_cpu, run_loop
from trainers.pipelines import save_network
from trainers.program import run_program

__all__ = ["VaeOptions", "train", "preview_error", "preview_explained", "reconstruction_psnr"]


def make_network(options: VaeOptions) -> Any:
    """An AutoencoderKL, new or the one to go on from."""
    from diffusers import AutoencoderKL

    if options.start:
        return AutoencoderKL.from_pretrained(options.start, torch_dtype=torch.float32)
    levels = len(options.level_widths)
    return AutoencoderKL(
        sample_size=options.resolution, block_out_channels=options.level_widths, latent_channels=options.latent_channels, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels, norm_num_groups=8,
        mid_block_add_attention=False,
    )


class _Both(torch.nn.Module):
    """Encode, draw, decode as one forward pass, so that accelerate wraps it whole."""

    def __init__(self, vae: Any):
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        posterior = self.vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * noise
        return self.vae.decode(z, return_dict=False)[0], posterior.kl() / z[0].numel(), posterior.mean


def preview_error(latents: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """(mean squared error, share of the colours' variance explained) of the best linear map from these latents to the
    pictures, averaged over each latent's pixels. Its slope is exact although the map is taken as fixed: at the best map
    the error is flat in it.

    latents (B, C, h, w), pictures (B, 3, H, W).
    """
    colours = torch.nn.functional.avg_pool2d(pictures, pictures.shape[-1] // latents.shape[-1]).movedim(1, -1).reshape(-1, 3)
    design = torch.nn.functional.pad(latents.movedim(1, -1).reshape(-1, latents.shape[1]), (0, 1), value=1.0)
    with torch.no_grad():
        # A trace of ridge bears latents of which one is constant.
        square = design.T @ design + 1e-4 * torch.eye(design.shape[1], dtype=design.dtype, device=design.device)
        best = torch.linalg.solve(square, design.T @ colours)
    error = (design @ best - colours).square().mean()
    return error, 1 - error.detach() / (colours - colours.mean(0)).square().mean()


class VaeTask(Task):
    """Pictures and the autoencoder."""

    def __init__(self, options: VaeOptions):
        self.options = options
        torch.manual_seed(options.seed)
        self.data = load_captioned(options.data, options.resolution, limit=options.data_limit, seed=options.seed)
        self.size = len(self.data)
        vae = make_network(options)
        if options.decoder_only:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        self.network = _Both(vae)
        self.perceptual = _perceptual(options)

    @property
    def memory_format(self) -> torch.memory_format:
        """On a CPU gradients of so few channels are quicker when each has its plane: of convolutions' weights 1.4 times, of group norms 4 times."""
        return torch.contiguous_format if on_cpu() else torch.channels_last

    def losses(self, network: Any, indices: Tensor, generator: torch.Generator, device: torch.device) -> Losses:
        x = self.data.batch(indices)
        side = x.shape[-1] // 2 ** (len(self.options.level_widths) - 1)
        noise = torch.randn((len(x), self.options.latent_channels, side, side), generator=generator).to(device)
        x = x.to(device).contiguous(memory_format=self.memory_format)
        reconstruction, kl, latents = network(x, noise)
        mse = (reconstruction - x).square().mean(dim=(1, 2, 3))
        preview, explained = preview_error(latents, x)
        descend = (mse + self.options.kl_weight * kl).mean()
        if self.options.preview_weight:
            descend = descend + self.options.preview_weight * preview
        if self.perceptual:
            descend = descend + self.options.perceptual_weight * self.perceptual(reconstruction, x)
        return Losses(descend=descend, each=mse, extra={"kl": kl.mean(), "psnr": 10 * torch.log10(4 / mse.mean()), "preview": explained})

    def sheet(self, network: Any) -> Any:
        from studio.media.images import grid, to_image, to_pixels

        x = self.data.batch(torch.arange(12)).to(next(network.parameters()).device)
        with torch.inference_mode():
            back = network.vae.decode(network.vae.encode(x).latent_dist.mode()).sample
        return to_image(grid(to_pixels(torch.cat([x, back])), 12, gap=2))

    def save(self, network: Any, path: Path) -> None:
        vae = copy.deepcopy(network.vae).to("cpu", torch.float32)
        if not self.options.decoder_only:
            vae.register_to_config(scaling_factor=measure_scaling_factor(vae, self.data))
        save_network(vae, path)


def _perceptual(options: VaeOptions) -> Any:
    """The distance of two batches in the hidden features of a CLIP picture tower, or None when it is off."""
    if not options.perceptual_weight:
        return None
    from transformers import CLIPVisionModel

    tower = CLIPVisionModel.from_pretrained(options.perceptual_model, torch_dtype=torch.float32).eval().requires_grad_(False)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        tower.to(a.device)
        ours, theirs = (tower(pixel_values=pixels, output_hidden_states=True).hidden_states[1:] for pixels in (a, b))
        return torch.stack([(x - y).square().mean() / y.square().mean() for x, y in zip(ours, theirs)]).mean()

    return distance


@torch.inference_mode()
def measure_scaling_factor(vae: Any, data: Captioned, count: int = 1024) -> float:
    """1 / standard deviation of the latents of `count` pictures, so that scaled latents have unit variance."""
    chunks = torch.arange(min(count, len(data))).split(64)
    latents = torch.cat([vae.encode(data.batch(chunk)).latent_dist.mode() for chunk in chunks])
    return round(1 / latents.std().item(), 5)


@torch.inference_mode()
def preview_explained(vae: Any, *, world: str = "toybox", count: int = 512, seed: int = 6_500) -> float:
    """Share of the colours' variance that the best linear map explains of what the decoder shows of fresh scenes."""
    scenes = toybox_scenes(seed, count, "all", world)
    data = Captioned(pixels=draw_scenes(scenes, vae.config.sample_size), texts=scenes)
    latents = torch.cat([vae.encode(data.batch(chunk)).latent_dist.mode() for chunk in torch.arange(count).split(64)])
    decoded = torch.cat([vae.decode(chunk).sample.clamp(-1, 1) for chunk in latents.split(64)])
    return float(preview_error(latents, decoded)[1])


@torch.inference_mode()
def reconstruction_psnr(vae: Any, *, split: str = "held_out", count: int = 1024, seed: int = 6_000, world: str = "toybox") -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / mean squared error of the 8-bit pictures), over fresh scenes."""
    from studio.media.images import to_pixels

    scenes = toybox_scenes(seed, count, split, world)
    data = Captioned(pixels=draw_scenes(scenes, vae.config.sample_size), texts=scenes)
    errors = []
    for chunk in torch.arange(count).split(64):
        back = to_pixels(vae.decode(vae.encode(data.batch(chunk)).latent_dist.mode()).sample).astype(float)
        errors.append(((back - data.pixels[chunk].movedim(1, -1).numpy()) ** 2).mean())
    return float(10 * torch.log10(torch.tensor(255**2 / (sum(errors) / len(errors)))))


def train(options: VaeOptions, *, progress: bool = True) -> Iterator[StepLog]:
    """Run (or resume) a training, one StepLog a step: see trainers.loop.run_loop."""
    yield from run_loop(VaeTask(options), progress=progress)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    run_program(VaeOptions, train, argv, description="Train a variational autoencoder.")


if __name__ == "__main__":
    main()
