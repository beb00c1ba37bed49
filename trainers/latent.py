"""Train text-to-image in latent space: a UNet that denoises a VAE's latents under a frozen CLIP text encoder.

    python -m trainers.latent --vae runs/toybox-vae/model --clip runs/toybox-clip/model --output runs/toybox-sd

Each step: latents z of pictures, noise to a timestep t, ask the UNet with the captions' token features, descend on the
error of eps or v (Rombach et al. 2021, arXiv:2112.10752; v: arXiv:2202.00512; Min-SNR: arXiv:2303.09556). A tenth of
the captions is replaced by the empty one, so that guidance has an unconditional model to start from (arXiv:2207.12598).
Latents and text features are computed once and kept in <output>/cache.

The result, <output>/model, is a StableDiffusionPipeline folder that plain diffusers loads.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.errors import InvalidOption
from studio.files import written_aside
from studio.models.latents import scaled
from studio.runs.trainers.latent import LatentOptions, check
from studio.toybox import WORLDS, caption
from trainers.captions import Captioned, load_captioned, token_ids, toybox_scenes
from trainers.loop import Losses, StepLog, Task, min_snr_weights, run_loop, snr_of
from trainers.pipelines import make_pipeline, save_pipeline
from trainers.program import run_program

__all__ = ["LatentOptions", "train", "make_scheduler"]

SHEET_PROMPTS = (
    "a red heart on a white background", "a purple butterfly on a yellow background", "a green tree on a blue background",
    "a small orange fish at the top on a teal background", "a large blue car on a pink background", "a yellow star on a black background",
    "a black cat on a green background", "a pink flower in the bottom right corner on a white background", "a large brown house on a blue background",
    "a white boat on the left on a red background", "a small gray umbrella in the top left corner on an orange background",
    "a teal mushroom on the right on a purple background",
)
PAIR_PROMPTS = (
    "a red heart to the left of a small blue star on a yellow background", "a large green tree above a brown car on a white background",
    "a black cat and an orange fish on a teal background", "a small pink flower to the right of a gray house on a blue background",
    "a white boat below a large yellow moon on a black background", "a purple cup to the left of a red cup on a green background",
)


# --- the parts -----------------------------------------------------------------------------------------------

def load_text_encoder(clip: str) -> tuple[Any, Any]:
    """(CLIPTextModel, CLIPTokenizer) of a CLIP folder, float32, frozen."""
    from transformers import CLIPTextModel, CLIPTokenizer

    return CLIPTextModel.from_pretrained(clip, dtype=torch.float32).eval().requires_grad_(False), CLIPTokenizer.from_pretrained(clip)


def load_vae(path: str) -> Any:
    """An AutoencoderKL, float32, frozen."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(path, torch_dtype=torch.float32).eval().requires_grad_(False)


def make_network(options: LatentOptions, latent_channels: int, side: int, text_width: int) -> Any:
    """A UNet2DConditionModel with cross-attention at its lower levels and in the middle."""
    from diffusers import UNet2DConditionModel

    widths = options.level_widths
    crossed = [level >= options.attention_from for level in range(len(widths))]
    unet = UNet2DConditionModel(
        sample_size=side, in_channels=latent_channels, out_channels=latent_channels, block_out_channels=widths, layers_per_block=options.layers,
        down_block_types=tuple("CrossAttnDownBlock2D" if here else "DownBlock2D" for here in crossed),
        up_block_types=tuple("CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(crossed)),
        # diffusers' name notwithstanding, this is the number of heads.
        attention_head_dim=tuple(max(1, width // 32) for width in widths), cross_attention_dim=text_width, norm_num_groups=16,
        addition_embed_type="text" if options.text_in_time else None, addition_embed_type_num_heads=4,
    )
    if options.start:
        _take_weights(unet, Path(options.start))
    return unet


def _take_weights(unet: Any, pipeline: Path) -> None:
    """The weights of another UNet; a pooled caption that it did not have begins silent."""
    missing, unexpected = unet.load_state_dict(load_file(pipeline / "unet" / "diffusion_pytorch_model.safetensors"), strict=False)
    if unexpected or any(not name.startswith("add_embedding") for name in missing):
        raise InvalidOption(f"The UNet in {str(pipeline)!r} has other layers than these options ask for: {', '.join([*unexpected, *missing][:3])}.")
    if missing:
        torch.nn.init.zeros_(unet.add_embedding.norm2.weight)


def make_scheduler(prediction_type: str, zero_terminal_snr: bool = False) -> Any:
    """Stable Diffusion's process: 1000 steps, scaled_linear; with zero terminal SNR its last step is noise alone."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=prediction_type, timestep_spacing="trailing", rescale_betas_zero_snr=zero_terminal_snr,
    )


@torch.inference_mode()
def encode_texts(encoder: Any, tokenizer: Any, texts: list[str], chunk: int = 256) -> Tensor:
    """(N, L, D) float16 features of every token, padding included, as the pipeline feeds them."""
    from tqdm import tqdm

    device, parts = encoder.device, []
    for i in tqdm(range(0, len(texts), chunk), desc="reading captions", leave=False):
        parts.append(encoder(token_ids(tokenizer, texts[i : i + chunk]).to(device))[0].to("cpu", torch.float16))
    return torch.cat(parts)


@torch.inference_mode()
def encode_pictures(vae: Any, data: Captioned, chunk: int = 64) -> Tensor:
    """(N, C, h, w) float16 scaled latents: the means of the posterior times the scaling factor."""
    from tqdm import tqdm

    chunks = torch.arange(len(data)).split(chunk)
    parts = [vae.encode(data.batch(part).to(vae.device)).latent_dist.mode() for part in tqdm(chunks, desc="encoding pictures", leave=False)]
    return scaled(torch.cat(parts), vae).to("cpu", torch.float16).contiguous()


# --- what is computed once -----------------------------------------------------------------------------------

def prepare(options: LatentOptions, vae: Any, encoder: Any, tokenizer: Any) -> dict[str, Tensor]:
    """latents (N, C, h, w), features (U, L, D) of the U different captions, which (N, wordings): the captions of each picture,
    empty (L, D). Read from <output>/cache where an earlier start of the run has left it."""
    path = Path(options.output) / "cache" / f"{_fingerprint(options)}.safetensors"
    if path.is_file():
        return load_file(path)
    data = _load(options)
    rng = np.random.default_rng(options.seed)
    captions = [[data.caption(i, rng if wording else None) for wording in range(options.wordings)] for i in range(len(data))]
    place: dict[str, int] = {"": 0}
    which = torch.tensor([[place.setdefault(text, len(place)) for text in texts] for texts in captions])
    features = encode_texts(encoder, tokenizer, list(place))
    parts = {"latents": encode_pictures(vae, data), "features": features, "which": which}
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        save_file(parts, aside)
    return parts


def kept_pictures(options: LatentOptions, count: int) -> Tensor:
    """The indices, of `count`, of the pictures that `options.only` leaves. Raises InvalidOption where it leaves none."""
    if not options.only:
        return torch.arange(count)
    world = options.data in WORLDS
    texts = map(caption, toybox_scenes(options.seed, options.data_limit, world=options.data)) if world else map(str, _load(options).texts)
    kept = torch.tensor([i for i, text in enumerate(texts) if options.only in text.split()], dtype=torch.long)
    if not len(kept):
        raise InvalidOption(f"No caption holds the word {options.only!r}; leave `only` empty to train on all pictures.")
    return kept


def _load(options: LatentOptions) -> Captioned:
    return load_captioned(options.data, options.resolution, limit=options.data_limit, seed=options.seed)


def _fingerprint(options: LatentOptions) -> str:
    """Of all that the cache depends on: the data options and the frozen weights."""
    digest = hashlib.sha256(json.dumps([options.data, options.resolution, options.data_limit, options.wordings, options.seed]).encode())
    for folder in (options.vae, options.clip):
        for file in sorted(Path(folder).glob("*.safetensors")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


# --- the task ------------------------------------------------------------------------------------------------

class LatentTask(Task):
    """Latents, caption features, and the UNet."""

    def __init__(self, options: LatentOptions):
        check(options)
        self.options, self.early = options, options.early
        torch.manual_seed(options.seed)
        self.vae = load_vae(options.vae)
        self.encoder, self.tokenizer = load_text_encoder(options.clip)
        parts = prepare(options, self.vae, self.encoder, self.tokenizer)
        self.latents, self.features, self.which = parts["latents"], parts["features"], parts["which"]
        self.kept = kept_pictures(options, len(self.latents))
        self.size = len(self.kept)
        self.scheduler = make_scheduler(options.prediction_type, options.zero_terminal_snr)
        self.network = make_network(options, self.latents.shape[1], self.latents.shape[-1], self.features.shape[-1])

    def losses(self, network: Any, indices: Tensor, generator: torch.Generator, device: torch.device) -> Losses:
        options, num_timesteps = self.options, self.scheduler.config.num_train_timesteps
        indices = self.kept[indices]
        z = self.latents[indices].float()
        t = torch.randint(num_timesteps, (len(z),), generator=generator)
        noise = torch.randn(z.shape, generator=generator)
        wording = torch.randint(options.wordings, (len(z),), generator=generator)
        dropped = torch.rand(len(z), generator=generator) < options.caption_drop
        text = self.features[self.which[indices, wording].masked_fill(dropped, 0)].float()
        z, t, noise, text = (tensor.to(device) for tensor in (z, t, noise, text))

        z_t = self.scheduler.add_noise(z, noise, t)
        target = noise if options.prediction_type == "epsilon" else self.scheduler.get_velocity(z, noise, t)
        output = network(z_t.contiguous(memory_format=torch.channels_last), t, text, return_dict=False)[0]
        losses = (output - target).square().mean(dim=(1, 2, 3))
        snr = snr_of(self.scheduler.alphas_cumprod, t)
        weights = min_snr_weights(options.prediction_type, snr, options.min_snr_gamma, options.min_snr_offset) if options.min_snr_gamma else 1.0
        return Losses(descend=(losses * weights).mean(), each=losses, t_share=t / num_timesteps)

    def sheet(self, network: Any) -> Any:
        from studio.media.images import grid, to_image

        pipeline = self._pipeline(network, self.vae).to(network.device)
        prompts = list(SHEET_PROMPTS if self.options.data == "toybox" else SHEET_PROMPTS[:6] + PAIR_PROMPTS)
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
        pictures = pipeline(prompts, num_inference_steps=20, guidance_scale=4.0, generator=generators, output_type="np").images
        return to_image(grid((pictures * 255).round().astype(np.uint8), 6, gap=2))

    def _pipeline(self, unet: Any, vae: Any) -> Any:
        return make_pipeline(unet=unet, vae=vae, text_encoder=self.encoder, tokenizer=self.tokenizer, scheduler=self.scheduler)

    def save(self, network: Any, path: Path) -> None:
        save_pipeline(self._pipeline(network, load_vae(self.options.decoder) if self.options.decoder else self.vae), path)


def train(options: LatentOptions, *, progress: bool = True) -> Iterator[StepLog]:
    """Run (or resume) a training, one StepLog a step: see trainers.loop.run_loop."""
    yield from run_loop(LatentTask(options), progress=progress)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    run_program(LatentOptions, train, argv, description="Train text-to-image in latent space.")


if __name__ == "__main__":
    main()
