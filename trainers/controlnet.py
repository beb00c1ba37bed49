"""Train a ControlNet: a copy of a model's encoder learns to steer the model, which stays as it is.

    python -m trainers.controlnet --base toybox-sd --map toybox-edges --output runs/edges

Each step: latents z of pictures, noise to a timestep t, the copy reads z_t and the map and adds to the base's states, descend on the
error of the base's answer (Zhang et al. 2023, arXiv:2302.05543). The copy's outputs go through convolutions that are zero at
first, so that nothing is harmed at step 0; half of the captions are empty, so that what is not said is read off the map. The base
gets no gradients. Latents, captions' states and maps are worked out once. The answer is eps, v or a flow's velocity, as the base's is
(trainers.noising); what is copied and how maps are read differs from family to family (trainers.steered).

Sudden convergence: pictures are good throughout, and obedience to the map appears within a few hundred steps while the loss hardly
moves. So at every sample point held-out maps are drawn, with their prompt and with an empty one, and measured
(studio.control.obedience).

With cycle_weight the map is also read off the picture again (trainers.cycle), a second stage for a net that steers already.

The result, <output>/model, is a ControlNetModel folder that plain diffusers loads; for Stable Diffusion 3 an SD3ControlNetModel.
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
from studio.models.facts import STUDIO_FACTS
from studio.models.latents import unscaled
from studio.process.conversions import x0_from
from studio.runs.trainers.controlnet import CONTROLNET_PRESETS, SCENE_MAPS, ControlNetOptions, check
from studio.runs.trainers.options import MOST_BYTES
from studio.toybox import WORLDS, caption
from trainers.captions import Captioned, Columns, draw_scenes, load_captioned, load_conditioning, toybox_scenes
from trainers.cycle import DISAGREEMENTS
from trainers.dreambooth import at_once
from trainers.latent import encode_pictures
from trainers.loop import Losses, StepLog, Task, run_loop
from trainers.pipelines import save_network
from trainers.program import run_program
from trainers.steered import SteerableBase, hints, load_base

__all__ = ["ControlNetOptions", "draw_steered", "train"]

WORDINGS = 2
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


# --- what is computed once -----------------------------------------------------------------------------------

def prepare(options: ControlNetOptions, base: SteerableBase) -> dict[str, Tensor]:
    """latents (N, C, h, w), maps (N, H, W, 3 or 1) uint8, which (N, WORDINGS) of the U different captions, the empty one first; and what the base keeps of
    maps, N rows, and of captions, U rows.

    Read from <output>/cache where an earlier start of the run has left it. Raises InvalidOption.
    """
    path = Path(options.output) / "cache" / f"{_fingerprint(options, base)}.safetensors"
    if path.is_file():
        return load_file(path)
    data = load_captioned(options.data, options.resolution, limit=options.data_limit, seed=options.seed, columns=columns_of(options))
    rng = np.random.default_rng(options.seed)
    place: dict[str, int] = {"": 0}
    which = torch.tensor([[place.setdefault(data.caption(i, rng if k else None), len(place)) for k in range(WORDINGS)] for i in range(len(data))])
    require_room_for_captions(base, len(place))
    maps = torch.from_numpy(np.ascontiguousarray(maps_of(options, data)))
    prepared = {
        "latents": encode_pictures(base.vae, data, at_once(options.resolution)), "maps": maps, "which": which, **base.read_maps(maps),
        **base.read_captions(list(place)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        save_file(prepared, aside)
    return prepared


def require_room_for_captions(base: SteerableBase, count: int) -> None:
    """Refuse more different captions than memory holds the states of: T5's of one take 2 MiB. Raises InvalidOption."""
    needed = count * sum(tensor.nbytes for tensor in base.read_captions([""]).values())
    if needed > MOST_BYTES:
        raise InvalidOption(
            f"What the text encoders of {base.name!r} say of {count:,} different captions takes {needed / 2**30:,.0f} GiB of memory, and at most "
            f"{MOST_BYTES >> 30} GiB are given; choose a smaller data_limit."
        )


def _fingerprint(options: ControlNetOptions, base: SteerableBase) -> str:
    """Of all that the cache depends on: the data options and the frozen weights."""
    columns = dataclasses.astuple(columns_of(options))
    digest = hashlib.sha256(json.dumps([options.data, options.map, options.resolution, options.data_limit, options.seed, columns]).encode())
    for part in base.read_by:
        for tensor in part.state_dict().values():
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
    base: SteerableBase, net: Any, prompts: list[str], maps: np.ndarray, *, resolution: int, num_steps: int, guidance_scale: float, seed: int,
) -> np.ndarray:
    """(N, H, W, 3) uint8 by plain diffusers: a picture for each prompt and map (N, H, W, 3) uint8, picture i from seed + i. net: None = the base alone."""
    pipeline, drawn = base.pipeline(net), []
    pipeline.set_progress_bar_config(disable=True)
    for group in torch.arange(len(prompts)).split(at_once(resolution)):
        chosen = group.tolist()
        shown = {} if net is None else base.shown(hints(torch.from_numpy(maps[chosen].copy())).to(pipeline.device))
        # Some pipelines draw the latents of maps from the VAE's posterior with nobody's seed.
        with torch.random.fork_rng():
            torch.manual_seed(seed + chosen[0])
            drawn.append(pipeline(
                [prompts[i] for i in chosen], **shown, height=resolution, width=resolution, num_inference_steps=num_steps, guidance_scale=guidance_scale,
                generator=[torch.Generator().manual_seed(seed + i) for i in chosen], output_type="np",
            ).images)
    return (np.concatenate(drawn) * 255).round().astype(np.uint8)


# --- the task ------------------------------------------------------------------------------------------------

class ControlNetTask(Task):
    """Latents, maps, captions' states, and the copy that learns to steer."""

    def __init__(self, options: ControlNetOptions):
        check(options)
        self.options = options
        torch.manual_seed(options.seed)
        self.base = load_base(options.base)
        self.base.require_fit(options)
        self.kept = prepare(options, self.base)
        self.network = self.base.steered(options)
        self.size = len(self.kept["latents"])
        self.noising = self.base.noising(options)
        self.seen: dict[str, float] = {}
        self.prompts, self.wanted = held_out(options) if options.sample_every else ([], np.zeros(0))

    def losses(self, network: Any, indices: Tensor, generator: torch.Generator, device: torch.device) -> Losses:
        options, base, kept, noising = self.options, self.base, self.kept, self.noising
        z = kept["latents"][indices].float()
        t = noising.draw(len(z), generator)
        noise = torch.randn(z.shape, generator=generator)
        wording = torch.randint(WORDINGS, (len(z),), generator=generator)
        dropped = torch.rand(len(z), generator=generator) < options.caption_drop
        said = kept["which"][indices, wording].masked_fill(dropped, 0)
        text, *pooled = (one.to(device) for one in base.told(kept, said))
        hint = base.hint(kept, indices, self.network.net).contiguous(memory_format=torch.channels_last)
        z, t, noise, hint = (tensor.to(device) for tensor in (z, t, noise, hint))

        z_t = noising.noised(z, noise, t).contiguous(memory_format=torch.channels_last)
        output = network(z_t, t, text, hint, *pooled).float()
        losses = (output - noising.target(z, noise, t)).square().mean(dim=(1, 2, 3))
        descend, t_share = (losses * noising.weights(t)).mean(), t / noising.num_timesteps
        if not options.cycle_weight:
            return Losses(descend=descend, each=losses, t_share=t_share)
        cycle = self._cycle(output, z_t, t, hints(kept["maps"][indices]).to(device))
        return Losses(descend=descend + options.cycle_weight * cycle, each=losses, t_share=t_share, extra={"cycle": cycle})

    def _cycle(self, output: Tensor, z_t: Tensor, t: Tensor, maps: Tensor) -> Tensor:
        """How much the maps differ from what is read off the pictures that the answers imply, where t lies in the window; 0 where none does."""
        noising, vae = self.noising, self.base.vae
        inside = t < self.options.cycle_end * noising.num_timesteps
        if not inside.any():
            return output.new_zeros(())
        x0 = x0_from(noising.kind, output[inside], z_t[inside], noising.level(t[inside]))
        pictures = vae.decode(unscaled(x0, vae), return_dict=False)[0].float()
        return DISAGREEMENTS[self.options.map](((pictures + 1) / 2).clamp(0, 1), maps[inside])

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
            self.base, network.net, prompts, self.wanted, resolution=options.resolution, num_steps=options.validation_steps, guidance_scale=guidance_scale,
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
    run_program(ControlNetOptions, train, argv, description="Train a ControlNet.", presets=CONTROLNET_PRESETS)


if __name__ == "__main__":
    main()
