"""Train a ControlNet: a copy of a model's encoder learns to steer the model, which stays as it is.

    python -m trainers.controlnet --base toybox-sd --map toybox-edges --output runs/edges

Each step: latents z of pictures, noise to a timestep t, the copy reads z_t and the map and adds to the base's states, descend on the
error of the base's answer (Zhang et al. 2023, arXiv:2302.05543). The copy's outputs go through convolutions that are zero at
first, so that nothing is harmed at step 0; half of the captions are empty, so that what is not said is read off the map. Neither
the base nor its encoder's activations get gradients. Latents, captions' states and maps are worked out once.

Sudden convergence: pictures are good throughout, and obedience to the map appears within a few hundred steps while the loss hardly
moves. So at every sample point held-out maps are drawn, with their prompt and with an empty one, and measured
(studio.control.obedience).

With cycle_weight the map is also read off the picture again (trainers.cycle), a second stage for a net that steers already.

The result, <output>/model, is a ControlNetModel folder that plain diffusers loads.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.control.annotators import ANNOTATORS, MapRequest
from studio.control.drawn import map_of_scene
from studio.control.obedience import obedience
from studio.errors import InvalidOption
from studio.files import written_aside
from studio.media.images import grid, to_image
from studio.media.maps import aligned
from studio.models.controlnets import make_controlnet
from studio.models.facts import STUDIO_FACTS
from studio.models.latents import factor_of, told_residuals, unscaled
from studio.models.prompts import penultimate
from studio.process.conversions import NoiseLevel, x0_from
from studio.runs.trainers.controlnet import SCENE_MAPS, ControlNetOptions, check
from studio.toybox import WORLDS, caption
from trainers.captions import Captioned, Columns, draw_scenes, load_captioned, load_conditioning, token_ids, toybox_scenes
from trainers.cycle import DISAGREEMENTS
from trainers.dreambooth import at_once, load_parts
from trainers.latent import encode_pictures, encode_texts
from trainers.loop import Losses, StepLog, Task, min_snr_weights, run_loop, snr_of
from trainers.pipelines import save_network
from trainers.program import run_program

__all__ = ["ControlNetOptions", "draw_steered", "train"]

WORDINGS, TEXTS_AT_ONCE = 2, 64
# Annotators whose maps a net of a kind reads as well.
ALSO = {"toybox-edges": ("canny", "scribble"), "canny": ("toybox-edges",), "scribble": ("canny",)}


# --- maps ----------------------------------------------------------------------------------------------------

def maps_of(options: ControlNetOptions, data: Captioned) -> np.ndarray:
    """(N, H, W, 3 or 1) uint8: the map of every picture; grey ones have one channel."""
    side = options.resolution
    if options.map == "given":
        pictures = load_conditioning(options.data, limit=len(data), columns=columns_of(options))
        maps = np.stack([np.asarray(aligned(picture, side, side, "crop")) for picture in pictures])
    elif options.map in SCENE_MAPS:
        maps = np.stack([map_of_scene(options.map, scene, options.resolution) for scene in data.texts])
    else:
        numbers = MapRequest(annotator=options.map, width=options.resolution, height=options.resolution).numbers()
        made = [ANNOTATORS[options.map].work(np.ascontiguousarray(picture), **numbers) for picture in data.pixels.movedim(1, -1).numpy()]
        maps = np.stack([one if one.ndim == 3 else one[..., None] for one in made])
    grey = maps.shape[-1] == 3 and bool((maps == maps[..., :1]).all())
    return maps[..., :1] if grey else maps


def columns_of(options: ControlNetOptions) -> Columns:
    """What the columns of the data are called."""
    return Columns(image=options.image_column, caption=options.caption_column, conditioning=options.conditioning_column)


def hints(maps: Tensor) -> Tensor:
    """(B, 3, H, W) float32 in [0, 1] of maps (B, H, W, 3 or 1) uint8."""
    return (maps.movedim(-1, 1).float() / 255).expand(-1, 3, -1, -1)


# --- what is computed once -----------------------------------------------------------------------------------

def prepare(options: ControlNetOptions, parts: dict[str, Any]) -> dict[str, Tensor]:
    """latents (N, C, h, w), maps (N, H, W, 3 or 1) uint8, features (U, L, D) of the U different captions, the empty one first, which (N, WORDINGS);
    of XL pooled (U, P) besides.

    Read from <output>/cache where an earlier start of the run has left it.
    """
    path = Path(options.output) / "cache" / f"{_fingerprint(options, parts)}.safetensors"
    if path.is_file():
        return load_file(path)
    data = load_captioned(options.data, options.resolution, limit=options.data_limit, seed=options.seed, columns=columns_of(options))
    rng = np.random.default_rng(options.seed)
    place: dict[str, int] = {"": 0}
    which = torch.tensor([[place.setdefault(data.caption(i, rng if k else None), len(place)) for k in range(WORDINGS)] for i in range(len(data))])
    prepared = {
        "latents": encode_pictures(parts["vae"], data, at_once(options.resolution)), "maps": torch.from_numpy(np.ascontiguousarray(maps_of(options, data))),
        "which": which, **read_captions(parts, list(place)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        save_file(prepared, aside)
    return prepared


def read_captions(parts: dict[str, Any], texts: list[str]) -> dict[str, Tensor]:
    """features (N, L, D) float16 of captions, and of XL pooled (N, P), as the pipelines feed them."""
    if "text_encoder_2" not in parts:
        return {"features": encode_texts(parts["text_encoder"], parts["tokenizer"], texts)}
    states, pooled = [], []
    for i in range(0, len(texts), TEXTS_AT_ONCE):
        ids = [token_ids(parts[name], texts[i : i + TEXTS_AT_ONCE]) for name in ("tokenizer", "tokenizer_2")]
        first, second = (penultimate(parts[name], told, parts[name].device) for name, told in zip(("text_encoder", "text_encoder_2"), ids))
        states.append(torch.cat([first[0], second[0]], dim=-1).to("cpu", torch.float16))
        pooled.append(second[1].to("cpu", torch.float16))
    return {"features": torch.cat(states), "pooled": torch.cat(pooled)}


def _fingerprint(options: ControlNetOptions, parts: dict[str, Any]) -> str:
    """Of all that the cache depends on: the data options and the frozen weights."""
    columns = dataclasses.astuple(columns_of(options))
    digest = hashlib.sha256(json.dumps([options.data, options.map, options.resolution, options.data_limit, options.seed, columns]).encode())
    for name in (name for name in ("vae", "text_encoder", "text_encoder_2") if name in parts):
        for tensor in parts[name].state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def held_out(options: ControlNetOptions) -> tuple[list[str], np.ndarray]:
    """The prompts and the maps (N, H, W, 3) uint8 that are drawn at sample points: of scenes that are never trained on, or the first of a folder."""
    if options.data in WORLDS:
        scenes = toybox_scenes(options.seed + 1, options.validation_samples, "held_out", options.data)
        data = Captioned(pixels=draw_scenes(scenes, options.resolution), texts=scenes)
    else:
        data = load_captioned(options.data, options.resolution, limit=options.validation_samples, seed=options.seed, columns=columns_of(options))
    maps = maps_of(options, data)
    return [text if isinstance(text, str) else caption(text) for text in data.texts], np.broadcast_to(maps, (*maps.shape[:3], 3))


# --- pictures that follow maps ------------------------------------------------------------------------------

@torch.no_grad()
def draw_steered(
    parts: dict[str, Any], net: Any, prompts: list[str], maps: np.ndarray, *, resolution: int, num_steps: int, guidance_scale: float, seed: int,
) -> np.ndarray:
    """(N, H, W, 3) uint8 by plain diffusers: a picture for each prompt and map (N, H, W, 3) uint8, picture i from seed + i."""
    pipeline, drawn = _steered_pipeline(parts, net), []
    for group in torch.arange(len(prompts)).split(at_once(resolution)):
        chosen = group.tolist()
        drawn.append(pipeline(
            [prompts[i] for i in chosen], image=hints(torch.from_numpy(maps[chosen].copy())).to(pipeline.device), height=resolution, width=resolution,
            num_inference_steps=num_steps, guidance_scale=guidance_scale, generator=[torch.Generator().manual_seed(seed + i) for i in chosen],
            output_type="np",
        ).images)
    return (np.concatenate(drawn) * 255).round().astype(np.uint8)


def _steered_pipeline(parts: dict[str, Any], net: Any) -> Any:
    """A quiet pipeline of diffusers of the base's parts and a net; nothing is copied."""
    from diffusers import StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline

    its = {name: part for name, part in parts.items() if name != "process"}
    if "text_encoder_2" in parts:
        pipeline = StableDiffusionXLControlNetPipeline(**its, controlnet=net, add_watermarker=False)
    else:
        pipeline = StableDiffusionControlNetPipeline(**its, controlnet=net, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# --- the task ------------------------------------------------------------------------------------------------

class _Steered(torch.nn.Module):
    """The base with the copy that steers it; only the copy learns. One forward pass, so that accelerate wraps it whole."""

    def __init__(self, unet: Any, net: Any):
        super().__init__()
        self.unet, self.net = unet, net

    def forward(self, z_t: Tensor, t: Tensor, text: Tensor, hint: Tensor, pooled: Tensor | None = None) -> Tensor:
        told: dict[str, Any] = {"encoder_hidden_states": text, "return_dict": False}
        if pooled is not None:
            height, width = hint.shape[-2:]
            ids = torch.tensor([[height, width, 0, 0, height, width]], device=z_t.device, dtype=pooled.dtype)
            told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids.expand(len(z_t), -1)}
        residuals = self.net(z_t, t, controlnet_cond=hint, **told)
        # What the base's encoder makes needs no gradient, so torch builds its graph from the first residual on.
        return self.unet(z_t, t, **told, **told_residuals((*residuals[0], residuals[1])))[0]


def make_network(options: ControlNetOptions, parts: dict[str, Any]) -> _Steered:
    """The base and its copy. Raises InvalidOption where the ControlNet to go on from was made for another base."""
    from diffusers import ControlNetModel

    unet = parts["unet"].requires_grad_(False)
    net = make_controlnet(unet, factor_of(parts["vae"]))
    if options.start:
        older = ControlNetModel.from_pretrained(options.start, use_safetensors=True, torch_dtype=torch.float32)
        try:
            net.load_state_dict(older.state_dict())
        except RuntimeError as error:
            raise InvalidOption(f"The ControlNet in {options.start!r} was made for another model than {options.base!r}.") from error
    if options.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
        net.enable_gradient_checkpointing()
    return _Steered(unet, net.requires_grad_(True))


class ControlNetTask(Task):
    """Latents, maps, captions' states, and the copy that learns to steer."""

    def __init__(self, options: ControlNetOptions):
        check(options)
        self.options = options
        torch.manual_seed(options.seed)
        self.parts = load_parts(options.base)
        prepared = prepare(options, self.parts)
        self.latents, self.maps, self.features, self.which = (prepared[name] for name in ("latents", "maps", "features", "which"))
        self.pooled = prepared.get("pooled")
        self.size = len(self.latents)
        self.process = self.parts["process"]
        self.network = make_network(options, self.parts)
        self.seen: dict[str, float] = {}
        self.prompts, self.wanted = held_out(options) if options.sample_every else ([], np.zeros(0))

    def losses(self, network: Any, indices: Tensor, generator: torch.Generator, device: torch.device) -> Losses:
        options, process, num_timesteps = self.options, self.process, self.process.config.num_train_timesteps
        z = self.latents[indices].float()
        t = torch.randint(num_timesteps, (len(z),), generator=generator)
        noise = torch.randn(z.shape, generator=generator)
        wording = torch.randint(WORDINGS, (len(z),), generator=generator)
        dropped = torch.rand(len(z), generator=generator) < options.caption_drop
        said = self.which[indices, wording].masked_fill(dropped, 0)
        told = [kept[said].float().to(device) for kept in (self.features, self.pooled) if kept is not None]
        z, t, noise, hint = (tensor.to(device) for tensor in (z, t, noise, hints(self.maps[indices]).contiguous(memory_format=torch.channels_last)))

        kind = process.config.prediction_type
        target = noise if kind == "epsilon" else process.get_velocity(z, noise, t)
        z_t = process.add_noise(z, noise, t).contiguous(memory_format=torch.channels_last)
        output = network(z_t, t, told[0], hint, *told[1:]).float()
        losses = (output - target).square().mean(dim=(1, 2, 3))
        snr = snr_of(process.alphas_cumprod, t)
        weights = min_snr_weights(kind, snr, options.min_snr_gamma, options.min_snr_offset) if options.min_snr_gamma else 1.0
        descend = (losses * weights).mean()
        if not options.cycle_weight:
            return Losses(descend=descend, each=losses, t_share=t / num_timesteps)
        cycle = self._cycle(output, z_t, t, hint)
        return Losses(descend=descend + options.cycle_weight * cycle, each=losses, t_share=t / num_timesteps, extra={"cycle": cycle})

    def _cycle(self, output: Tensor, z_t: Tensor, t: Tensor, hint: Tensor) -> Tensor:
        """How much the maps differ from what is read off the pictures that the answers imply, where t lies in the window; 0 where none does."""
        process, vae = self.process, self.parts["vae"]
        inside = t < self.options.cycle_end * process.config.num_train_timesteps
        if not inside.any():
            return output.new_zeros(())
        alpha_bar = process.alphas_cumprod.to(t.device)[t[inside]].view(-1, 1, 1, 1)
        level = NoiseLevel(timestep=0.0, alpha=alpha_bar.sqrt(), sigma=(1 - alpha_bar).sqrt())
        x0 = x0_from(process.config.prediction_type, output[inside], z_t[inside], level)
        pictures = vae.decode(unscaled(x0, vae), return_dict=False)[0].float()
        return DISAGREEMENTS[self.options.map](((pictures + 1) / 2).clamp(0, 1), hint[inside])

    # --- looking on, and the result

    def sheet(self, network: Any) -> Any:
        """Three rows: held-out maps, what is drawn with their prompts, what is drawn with an empty one."""
        scale = self.options.validation_guidance
        told, empty = self._drawn(network, self.prompts, scale), self._drawn(network, [""] * len(self.prompts), 1.0)
        kind = self.options.map
        scores = {name: [obedience(kind, one, wanted) for one, wanted in zip(drawn, self.wanted)] for name, drawn in (("", told), ("_empty", empty))}
        self.seen = {f"obedience{name}": float(np.mean(values)) for name, values in scores.items()}
        return to_image(grid(np.concatenate([self.wanted, told, empty]), len(self.prompts), gap=2))

    def measured(self) -> dict[str, float]:
        return {name: value for name, value in self.seen.items() if np.isfinite(value)}

    def _drawn(self, network: Any, prompts: list[str], guidance_scale: float) -> np.ndarray:
        """(N, H, W, 3) uint8: a picture for each held-out map."""
        options = self.options
        return draw_steered(
            self.parts, network.net, prompts, self.wanted, resolution=options.resolution, num_steps=options.validation_steps, guidance_scale=guidance_scale,
            seed=1000,
        )

    def save(self, network: Any, path: Path) -> None:
        save_network(network.net, path)
        kind = self.options.map
        facts: dict[str, Any] = {"kind": "controlnet", "base": self.options.base, "annotators": [] if kind == "given" else [kind, *ALSO.get(kind, ())]}
        if self.options.cycle_weight:
            # What it was before, so that the judge can say what the second stage gains.
            facts["before"] = self.options.start
        (path / STUDIO_FACTS).write_text(json.dumps(facts, indent=2) + "\n")


def train(options: ControlNetOptions, *, progress: bool = True) -> Iterator[StepLog]:
    """Run (or resume) a training, one StepLog a step: see trainers.loop.run_loop."""
    yield from run_loop(ControlNetTask(options), progress=progress)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    run_program(ControlNetOptions, train, argv, description="Train a ControlNet.")


if __name__ == "__main__":
    main()
