"""How well an embedded ControlNet steers: obedience on held-out maps beside what could be reached, and whether prompts still count.

    ceiling        the scene's own render, and the same after the autoencoder, measured as a picture is
    chance         the map of another scene
    prompts        what the examiner reads off pictures with control, and without it
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from studio.control.drawn import map_of_scene
from studio.control.obedience import obedience
from studio.models.examiner import examine, load_examiner
from studio.models.facts import model_facts
from studio.toybox import caption
from trainers.captions import draw_scenes, toybox_scenes
from trainers.controlnet import draw_steered
from trainers.dreambooth import draw, load_parts

__all__ = ["judge_controlnet"]

SEED, RESOLUTION, STEPS, GUIDANCE = 800_000, 64, 25, 4.0


def judge_controlnet(folder: Path, count: int = 200) -> dict[str, Any]:
    """Figures of the ControlNet in `folder` on `count` maps of scenes whose combination was never trained on, a fresh seed each."""
    from diffusers import ControlNetModel

    facts = model_facts(folder)
    kind, parts = facts["annotators"][0], load_parts(facts["base"])
    net = ControlNetModel.from_pretrained(folder, torch_dtype=torch.float32).eval().to(parts["unet"].device)
    scenes = toybox_scenes(SEED, count, "held_out")
    renders = draw_scenes(scenes, RESOLUTION)
    maps = np.stack([map_of_scene(kind, scene, RESOLUTION) for scene in scenes])
    prompts, told = [caption(scene) for scene in scenes], {"num_steps": STEPS, "resolution": RESOLUTION}
    steered = draw_steered(parts, net, prompts, maps, guidance_scale=GUIDANCE, seed=SEED, **told)
    empty = draw_steered(parts, net, [""] * count, maps, guidance_scale=1.0, seed=SEED, **told)
    plain = draw(parts, prompts, [SEED + i for i in range(count)], guidance_scale=GUIDANCE, **told)

    def obeys(pictures: np.ndarray, wanted: np.ndarray = maps) -> float:
        return float(np.mean([obedience(kind, picture, one) for picture, one in zip(pictures, wanted)]))

    read = {"with_control": steered, "without": np.stack([np.asarray(picture) for picture in plain])}
    return {
        "kind": kind, "obedience": obeys(steered), "obedience_empty": obeys(empty), "chance": obeys(steered, np.roll(maps, 1, axis=0)),
        "ceiling_render": obeys(renders.movedim(1, -1).numpy()), "ceiling_autoencoder": obeys(_through(parts["vae"], renders)),
        "prompts": {name: _right(pictures, scenes) for name, pictures in read.items()},
    }


@torch.no_grad()
def _through(vae: Any, pixels: torch.Tensor) -> np.ndarray:
    """(N, H, W, 3) uint8: pictures (N, 3, H, W) uint8 after the autoencoder."""
    decoded = [vae.decode(vae.encode((chunk.float() / 127.5 - 1).to(vae.device)).latent_dist.mode()).sample for chunk in pixels.split(32)]
    return ((torch.cat(decoded).clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).cpu().numpy()


def _right(pictures: np.ndarray, scenes: list[Any]) -> dict[str, float]:
    """Share of pictures that show each attribute of their scene."""
    right = examine(load_examiner(), torch.from_numpy(pictures).movedim(-1, 1), scenes)
    return {name: float(np.mean(answers)) for name, answers in right.items()}
