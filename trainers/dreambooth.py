"""Teach a text-to-image model a new subject from a handful of pictures (DreamBooth).

    python -m trainers.dreambooth --base toybox-sd --instances assets/examples/domino \
        --instance-prompt "a sks cat" --class-prompt "a cat" --output runs/domino

Each step: a batch of the subject's pictures under the instance prompt, and as many pictures of its class under the class
prompt, which the base model drew itself before it was taught anything (Ruiz et al. 2022, arXiv:2208.12242):
    loss = mse(instance half) + prior_weight * mse(class half)
so that the rare token comes to mean the subject while the class keeps its meaning. Either all of the UNet is trained, or
UNet and text encoder, or low-rank additions to its attention (LoRA, Hu et al. 2021, arXiv:2106.09685).

The result, <output>/model: a StableDiffusionPipeline folder, or for LoRA a file that plain diffusers' load_lora_weights
takes.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio.errors import InvalidOption
from studio.media.folders import read_picture
from studio.media.images import to_square
from studio.models.facts import STUDIO_FACTS
from studio.models.latents import scaled
from studio.runs.trainers.dreambooth import USUAL_TARGETS, DreamBoothOptions, check, load_instances
from trainers.captions import token_ids
from trainers.loop import BETAS, Losses, StepLog, StopAsked, Task, min_snr_weights, on_cpu, run_loop, snr_of
from trainers.pipelines import make_pipeline, save_pipeline
from trainers.program import run_program
from trainers.run_folder import RunFolder, save_whole

__all__ = ["DreamBoothOptions", "train"]

LORA_FILE = "pytorch_lora_weights.safetensors"
PARTS = ("unet", "vae", "text_encoder")


# --- the base model ------------------------------------------------------------------------------------------

def load_parts(name: str) -> dict[str, Any]:
    """{"unet", "vae", "text_encoder", "tokenizer", "scheduler", "process"} of a StableDiffusionPipeline; float32, frozen, on the GPU if there is one."""
    from diffusers import DDPMScheduler

    from studio.models.loading import load_text_model

    pipeline = load_text_model(name, own_device(), dtype=torch.float32).pipeline  # type: ignore[attr-defined]
    parts = {part: getattr(pipeline, part) for part in (*PARTS, "tokenizer", "scheduler")}
    return {**parts, "process": DDPMScheduler.from_config(pipeline.scheduler.config)}


def own_device() -> torch.device:
    """The GPU of this process where several share a run, else the first; the CPU where there is none."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")


def token_features(parts: dict[str, Any], prompts: list[str]) -> Tensor:
    """(B, L, D) features of prompts, as the pipeline feeds them."""
    encoder = parts["text_encoder"]
    return encoder(token_ids(parts["tokenizer"], prompts).to(encoder.device))[0]


def as_pipeline(parts: dict[str, Any]) -> Any:
    """The StableDiffusionPipeline of the parts at hand; nothing is copied."""
    return make_pipeline(**{name: parts[name] for name in (*PARTS, "tokenizer", "scheduler")})


@torch.no_grad()
def draw(parts: dict[str, Any], prompts: list[str], seeds: list[int], *, resolution: int, num_steps: int, guidance_scale: float) -> list[Image.Image]:
    """A picture a prompt, each from its own seed; large ones a few at a time."""
    pipeline, pictures = as_pipeline(parts), list[Image.Image]()
    for group in range(0, len(prompts), at_once(resolution)):
        chosen = slice(group, group + at_once(resolution))
        pictures += pipeline(
            prompts[chosen], height=resolution, width=resolution, num_inference_steps=num_steps, guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[chosen]],
        ).images
    return pictures


def at_once(resolution: int) -> int:
    """How many pictures are encoded, or drawn, together: the autoencoder's memory grows with their pixels."""
    return max(1, 2**18 // resolution**2)


# --- class pictures ------------------------------------------------------------------------------------------

def class_pictures(folder: Path) -> dict[str, Path]:
    """The class pictures that are there, by the hash of their bytes, in the order they were drawn."""
    return {path.stem.split("-", 1)[1]: path for path in sorted(folder.glob("[0-9]*-*.png"))}


def number_of(path: Path) -> int:
    """The number in a class picture's name."""
    return int(path.stem.split("-", 1)[0])


def ensure_class_images(options: DreamBoothOptions, parts: dict[str, Any]) -> list[Path]:
    """Draw the class pictures that are missing; gives the paths of all that are used.

    A picture's name is its number, which says its seed and its prompt, and a hash of its bytes, so that a double is noticed
    and never kept. Pictures are drawn in fixed groups of neighbouring numbers: what else is in a batch moves the last bits
    of a picture, and a run that was cut off has to find the same ones.
    """
    from tqdm import tqdm

    folder = options.class_folder
    folder.mkdir(parents=True, exist_ok=True)
    kept, wanted, prompts = class_pictures(folder), options.num_class_images, options.class_prompts
    run, group = RunFolder(options.output), 8 if options.resolution <= 128 else 1
    number = 1 + max(map(number_of, kept.values()), default=-1)
    bar = tqdm(total=wanted, initial=min(len(kept), wanted), desc="class pictures")
    while len(kept) < wanted:
        run.event(phase="class pictures", done=len(kept), total=wanted)
        if run.stop_requested():
            raise StopAsked
        numbers = [number // group * group + k for k in range(group)]
        pictures = draw(
            parts, [prompts[i % len(prompts)] for i in numbers], numbers, resolution=options.resolution, num_steps=options.class_steps,
            guidance_scale=options.class_guidance,
        )
        for i, picture in zip(numbers, pictures):
            digest = hashlib.sha256(picture.tobytes()).hexdigest()[:16]
            if i >= number and len(kept) < wanted and digest not in kept:
                kept[digest] = folder / f"{i:05d}-{digest}.png"
                save_whole(picture, kept[digest])
                bar.update()
        number = numbers[-1] + 1
    bar.close()
    return list(kept.values())[:wanted]


# --- pictures as training sees them --------------------------------------------------------------------------

def to_tensor(pictures: list[Image.Image]) -> Tensor:
    """(B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).movedim(-1, 1).float() / 127.5 - 1


class LatentPictures:
    """The pictures of one half, as latents: encoded once where nothing changes from step to step, else at each step."""

    def __init__(self, options: DreamBoothOptions, pictures: list[Image.Image], prompts: list[str], vae: Any):
        self.options, self.pictures, self.prompts, self.vae = options, pictures, prompts, vae
        self.cached = self._encode_all() if options.cache and options.crop == "center" else None

    @torch.no_grad()
    def _encode_all(self) -> tuple[Tensor, Tensor]:
        """((2, N, C, h, w) means, stds): the pictures, and mirrored."""
        fixed = torch.Generator()
        squares = to_tensor([to_square(picture, self.options.resolution, "center", fixed) for picture in self.pictures])
        both = [self._posterior(squares), self._posterior(squares.flip(-1))] if self.options.flip else [self._posterior(squares)] * 2
        return torch.stack([mean for mean, _ in both]), torch.stack([std for _, std in both])

    def _posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        parts = [self.vae.encode(chunk.to(self.vae.device)).latent_dist for chunk in pixels.split(at_once(self.options.resolution))]
        return torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts])

    @torch.no_grad()
    def latents(self, count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """(count, C, h, w) scaled latents of pictures drawn at random, and their prompts."""
        which = torch.randint(len(self.pictures), (count,), generator=generator)
        mirrored = (torch.rand(count, generator=generator) < 0.5).long() * int(self.options.flip)
        if self.cached is not None:
            mean, std = self.cached[0][mirrored, which], self.cached[1][mirrored, which]
        else:
            squares = to_tensor([to_square(self.pictures[i], self.options.resolution, self.options.crop, generator) for i in which.tolist()])
            squares = torch.where(mirrored.bool()[:, None, None, None], squares.flip(-1), squares)
            mean, std = self._posterior(squares)
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        return scaled(mean + std * noise, self.vae), [self.prompts[i] for i in which.tolist()]


# --- the task ------------------------------------------------------------------------------------------------

class _Taught(torch.nn.Module):
    """What learns: the UNet, and with it perhaps the text encoder. One forward pass, so that accelerate wraps it whole."""

    def __init__(self, unet: Any, text_encoder: Any | None):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        if self.text_encoder is not None:
            text = self.text_encoder(text)[0]
        return self.unet(x_t, t, text, return_dict=False)[0]


def make_network(parts: dict[str, Any], options: DreamBoothOptions) -> _Taught:
    """What learns of the parts, which are changed: weights are set free, or LoRA's added. Raises InvalidOption."""
    unet, text_encoder = parts["unet"], parts["text_encoder"] if options.trains_text else None
    if options.method == "lora":
        add_lora(unet, options)
    else:
        unet.requires_grad_(True)
    if options.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if text_encoder is not None:
        text_encoder.requires_grad_(True)
    return _Taught(unet, text_encoder)


def prompt_inputs(parts: dict[str, Any], options: DreamBoothOptions, prompts: list[str]) -> Tensor:
    """What is said of pictures, a row a prompt: token ids where the text encoder learns, else its features."""
    if options.trains_text:
        return token_ids(parts["tokenizer"], prompts)
    with torch.no_grad():
        return token_features(parts, prompts)


class DreamBoothTask(Task):
    """The subject's pictures, its class's, and the model that learns to tell them apart by a token."""

    def __init__(self, options: DreamBoothOptions):
        from accelerate import PartialState

        check(options)
        self.options = options
        torch.manual_seed(options.seed)
        self.parts = load_parts(options.base)
        self.before: list[Image.Image] = self._validate() if options.sample_every else []
        instances = load_instances(options)
        self.sources = [LatentPictures(options, instances, [options.instance_prompt] * len(instances), self.parts["vae"])]
        if options.prior_weight:
            # One process draws them, the others then find them.
            with PartialState(cpu=on_cpu()).main_process_first():
                paths = ensure_class_images(options, self.parts)
            prompts = options.class_prompts
            said = [prompts[number_of(path) % len(prompts)] for path in paths]
            self.sources.append(LatentPictures(options, [read_picture(path) for path in paths], said, self.parts["vae"]))
        self.size = len(self.sources[0].pictures)
        self.prompts = list(dict.fromkeys(prompt for source in self.sources for prompt in source.prompts))
        self.text = prompt_inputs(self.parts, options, self.prompts)
        self.network = make_network(self.parts, options)
        self.process = self.parts["process"]

    @property
    def memory_format(self) -> torch.memory_format:
        # bitsandbytes lays weights out anew at its first step; a resumed run has to compute as that step's followers did.
        return torch.contiguous_format if self.options.adam_8bit else super().memory_format

    def make_optimizer(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        if not self.options.adam_8bit:
            return super().make_optimizer(parameters)
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(parameters, lr=self.options.lr, weight_decay=self.options.weight_decay, betas=BETAS)

    def losses(self, network: Any, indices: Tensor, generator: torch.Generator, device: torch.device) -> Losses:
        # The subject has few pictures: each half draws its own at random instead of walking through `indices` in turn.
        options, process, halves, count = self.options, self.process, len(self.sources), len(indices)
        latents, prompts = zip(*[source.latents(count, generator) for source in self.sources])
        z = torch.cat(latents).to(device)
        t = torch.randint(process.config.num_train_timesteps, (len(z),), generator=generator).to(device)
        noise = torch.randn(z.shape, generator=generator)
        if options.offset_noise:
            noise = noise + options.offset_noise * torch.randn((*z.shape[:2], 1, 1), generator=generator)
        noise, text = noise.to(device), self._texts([prompt for half in prompts for prompt in half]).to(device)

        z_t = process.add_noise(z, noise, t)
        kind = process.config.prediction_type
        target = process.get_velocity(z, noise, t) if kind == "v_prediction" else noise
        output = network(z_t.contiguous(memory_format=torch.channels_last), t, text)
        losses = (output.float() - target).square().mean(dim=(1, 2, 3))
        weighted = losses * min_snr_weights(kind, snr_of(process.alphas_cumprod, t), options.min_snr_gamma) if options.min_snr_gamma else losses
        means = [half.mean() for half in weighted.chunk(halves)]
        descend = means[0] + options.prior_weight * means[1] if halves == 2 else means[0]
        extra = dict(zip(("instance", "prior"), [half.detach().mean() for half in losses.chunk(halves)]))
        return Losses(descend=descend, each=losses, t_share=t / process.config.num_train_timesteps, extra=extra)

    def _texts(self, prompts: list[str]) -> Tensor:
        """(B, ...) of the batch: kept from the start, or read anew at each step."""
        known = self.prompts if self.options.cache else list(dict.fromkeys(prompts))
        text = self.text if self.options.cache else prompt_inputs(self.parts, self.options, known)
        return text[[known.index(prompt) for prompt in prompts]]

    # --- looking on, and the result

    def _validate(self) -> list[Image.Image]:
        options = self.options
        prompts = options.prompts_to_look_at
        texts = [prompt for prompt in prompts for _ in range(options.validation_samples)]
        seeds = [1000 + k for _ in prompts for k in range(options.validation_samples)]
        return draw(
            self.parts, texts, seeds, resolution=options.resolution, num_steps=options.validation_steps, guidance_scale=options.validation_guidance,
        )

    def sheet(self, network: Any) -> Any:
        """A row a prompt: its seeds before anything was taught, a gap, the same ones now."""
        before, now = self.before, self._validate()
        if not now:
            return None
        side, gap, columns = self.options.resolution, max(4, self.options.resolution // 12), self.options.validation_samples
        sheet = Image.new("RGB", (2 * columns * side + gap, len(now) // columns * side), "white")
        for i, (old, new) in enumerate(zip(before, now)):
            row, column = divmod(i, columns)
            sheet.paste(old, (column * side, row * side))
            sheet.paste(new, ((columns + column) * side + gap, row * side))
        return sheet

    def save(self, network: Any, path: Path) -> None:
        if self.options.method == "lora":
            save_lora(as_pipeline(self.parts), path)
        else:
            save_pipeline(as_pipeline(self.parts), path)
        facts = {"kind": "lora" if self.options.method == "lora" else "pipeline", "base": self.options.base, "prompt": self.options.instance_prompt}
        (path / STUDIO_FACTS).write_text(json.dumps(facts, indent=2) + "\n")


def add_lora(unet: Any, options: Any) -> None:
    """Add what learns to a network. options: with rank, alpha, targets and target_layers. Raises InvalidOption."""
    from peft import LoraConfig

    config = LoraConfig(r=options.rank, lora_alpha=options.alpha, init_lora_weights="gaussian", target_modules=options.target_layers)
    try:
        unet.add_adapter(config)
    except ValueError as error:
        raise InvalidOption(
            f"LoRA cannot be added to {options.targets!r}: no layer has such a name, or one is neither linear nor a convolution; {USUAL_TARGETS}"
        ) from error


def save_lora(pipeline: Any, path: Path) -> None:
    """Write the file that load_lora_weights of plain diffusers takes: what was added to the network of a pipeline, which is its unet or its transformer."""
    from peft.utils import get_peft_model_state_dict

    # Under peft's names: diffusers' own cover attention alone, and a file with names of both kinds is read in part only.
    # Convolutions lie channels last in memory, which the format does not know.
    name = "unet" if getattr(pipeline, "unet", None) is not None else "transformer"
    network = getattr(pipeline, name)
    layers = {key: tensor.detach().cpu().contiguous() for key, tensor in get_peft_model_state_dict(network).items()}
    alpha = {"r": network.peft_config["default"].r, "lora_alpha": network.peft_config["default"].lora_alpha}
    told = {f"{name}_lora_layers": layers, f"{name}_lora_adapter_metadata": _adapter_metadata(network, alpha)}
    type(pipeline).save_lora_weights(path, safe_serialization=True, **told)


def _adapter_metadata(network: Any, fallback: dict[str, Any]) -> dict[str, Any]:
    # Without it a reader would take alpha = rank.
    config = network.peft_config["default"].to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in {**fallback, **config}.items() if value is not None}


def train(options: DreamBoothOptions, *, progress: bool = True) -> Iterator[StepLog]:
    """Run (or resume) a training, one StepLog a step: see trainers.loop.run_loop."""
    yield from run_loop(DreamBoothTask(options), progress=progress)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    run_program(DreamBoothOptions, train, argv, description="Teach a text-to-image model a new subject.")


if __name__ == "__main__":
    main()
