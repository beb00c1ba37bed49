"""How well an embedded ControlNet steers: obedience on held-out maps beside what could be reached, and whether prompts still count.

    ceiling        the scene's own render, and the same after the autoencoder, measured as a picture is
    chance         the map of another scene
    prompts        what the examiner reads off pictures with control, and without it
    contradicted   the prompt of another scene beside the map: which of the two the picture follows
    two units      edges of one scene and segmentation of another at once, each in its half of the picture
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image

from studio.control.drawn import map_of_scene
from studio.control.obedience import OBEDIENCE, depth_order, edge_f1, iou, obedience, outline, silhouette
from studio.files import read_object
from studio.media.images import grid, to_image
from studio.models.catalogue import ASSETS
from studio.models.examiner import examine, load_examiner
from studio.models.facts import model_facts
from studio.toybox import Scene, caption
from studio.units import ControlUnit
from trainers.captions import draw_scenes, toybox_scenes
from trainers.controlnet import draw_steered
from trainers.steered import SteerableBase, load_base

__all__ = ["CONTRADICTED", "MEASURES", "TWO_UNITS", "judge_controlnet"]

SEED, RESOLUTION, STEPS, GUIDANCE = 800_000, 64, 20, 4.0
# Pictures for what is shown beside the figures, and how many of them a sheet holds.
BESIDE, SHOWN, PAIRS = 48, 8, 16
CONTRADICTED, TWO_UNITS = "contradicted.png", "two-units.png"
# A map for the code of the card.
MAP = "map.png"
# What the nets of two units at once are, and which maps they follow.
LEFT, RIGHT = ("toybox-controlnet-canny", "toybox-edges"), ("toybox-controlnet-segmentation", "toybox-segmentation")

# Of a picture and the map that it was to follow, by what the map shows.
MEASURES: Mapping[str, Mapping[str, Callable[[np.ndarray, np.ndarray], float]]] = MappingProxyType({
    "toybox-edges": {"F1 of the outline": OBEDIENCE["toybox-edges"]},
    "toybox-segmentation": {"agreement (IoU)": OBEDIENCE["toybox-segmentation"]},
    "toybox-depth": {"depth order right": depth_order, "what is near (IoU)": OBEDIENCE["toybox-depth"]},
})


def judge_controlnet(folder: Path, count: int = 200) -> dict[str, Any]:
    """Figures of the ControlNet in `folder` on `count` maps of scenes whose combination was never trained on, a fresh seed each.

    The sheets that its card shows, and a map for its code, are written into the folder; that of two units only where the nets of both are there.
    """
    kind, base, net = _loaded(folder)
    scenes = toybox_scenes(SEED, count, "held_out")
    renders, maps, told = draw_scenes(scenes, RESOLUTION), _maps(kind, scenes), {"num_steps": STEPS, "resolution": RESOLUTION}
    prompts = [caption(scene) for scene in scenes]
    steered = draw_steered(base, net, prompts, maps, guidance_scale=GUIDANCE, seed=SEED, **told)
    empty = draw_steered(base, net, [""] * count, maps, guidance_scale=1.0, seed=SEED, **told)
    plain = draw_steered(base, None, prompts, maps, guidance_scale=GUIDANCE, seed=SEED, **told)
    Image.fromarray(maps[0]).save(folder / MAP)
    shown = {
        "empty_prompt": empty, "full_prompt": steered, "ceiling_autoencoder": _through(base.vae, renders),
        "ceiling_render": renders.movedim(1, -1).numpy(),
    }
    measured = {name: {who: _mean(measure, pictures, maps) for who, pictures in shown.items()} for name, measure in MEASURES[kind].items()}
    for name, measure in MEASURES[kind].items():
        measured[name]["chance"] = _mean(measure, steered, np.roll(maps, 1, axis=0))
    return {
        "kind": kind, "maps": count, "measured": measured,
        "prompts": {name: _right(pictures, scenes) for name, pictures in (("with_control", steered), ("without", plain), ("empty_prompt", empty))},
        "contradicted": _contradict(base, net, kind, scenes[:BESIDE], folder / CONTRADICTED), **_two_units(folder / TWO_UNITS),
        **_before(folder, kind, base, prompts, maps),
    }


def _before(folder: Path, kind: str, base: SteerableBase, prompts: list[str], maps: np.ndarray) -> dict[str, Any]:
    """{"before": figures} of the net that a second stage went on from; as they were kept where that is no longer there, {} where there was none."""
    facts = model_facts(folder)
    if "before" not in facts:
        return {}
    if not Path(facts["before"]).is_dir():
        kept = read_object(folder / "quality.json") or {}
        return {"before": kept["before"]} if "before" in kept else {}
    net = base.read_net(facts["before"]).to(memory_format=torch.channels_last)
    told = {"num_steps": STEPS, "resolution": RESOLUTION, "seed": SEED}
    pictures = {
        "empty_prompt": draw_steered(base, net, [""] * len(maps), maps, guidance_scale=1.0, **told),
        "full_prompt": draw_steered(base, net, prompts, maps, guidance_scale=GUIDANCE, **told),
    }
    return {"before": {name: {who: _mean(measure, drawn, maps) for who, drawn in pictures.items()} for name, measure in MEASURES[kind].items()}}


def _loaded(folder: Path) -> tuple[str, SteerableBase, Any]:
    """What its maps show, its base, and the net."""
    facts = model_facts(folder)
    base = load_base(facts["base"])
    net = base.read_net(folder)
    for network in (net, base.network):
        network.to(memory_format=torch.channels_last)
    return facts["annotators"][0], base, net


def _maps(kind: str, scenes: list[Any]) -> np.ndarray:
    return np.stack([map_of_scene(kind, scene, RESOLUTION) for scene in scenes])


def _mean(measure: Callable[[np.ndarray, np.ndarray], float], pictures: np.ndarray, maps: np.ndarray) -> float:
    return float(np.mean([measure(picture, wanted) for picture, wanted in zip(pictures, maps)]))


@torch.no_grad()
def _through(vae: Any, pixels: torch.Tensor) -> np.ndarray:
    """(N, H, W, 3) uint8: pictures (N, 3, H, W) uint8 after the autoencoder."""
    decoded = [vae.decode(vae.encode((chunk.float() / 127.5 - 1).to(vae.device)).latent_dist.mode()).sample for chunk in pixels.split(32)]
    return ((torch.cat(decoded).clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).cpu().numpy()


def _right(pictures: np.ndarray, scenes: list[Any]) -> dict[str, float]:
    """Share of pictures that show each attribute of their scene."""
    right = examine(load_examiner(), torch.from_numpy(pictures).movedim(-1, 1), scenes)
    return {name: float(np.mean(answers)) for name, answers in right.items()}


# --- a map and a prompt that contradict each other -------------------------------------------------------------

def _contradict(base: SteerableBase, net: Any, kind: str, scenes: list[Scene], sheet: Path) -> dict[str, float]:
    """Each map beside the prompt of another scene, with another object in another place: how well the map is obeyed still, and what the prompt gets.

    The sheet: maps; what is drawn with their own prompts; with the others' prompts; what these prompts give without control.
    """
    others = [_other(scene, scenes[i - len(scenes) // 2]) for i, scene in enumerate(scenes)]
    maps, told = _maps(kind, scenes), {"num_steps": STEPS, "resolution": RESOLUTION, "guidance_scale": GUIDANCE}
    against = draw_steered(base, net, [caption(scene) for scene in others], maps, seed=SEED, **told)
    few = slice(0, min(SHOWN, len(scenes)))
    along = draw_steered(base, net, [caption(scene) for scene in scenes[few]], maps[few], seed=SEED, **told)
    alone = draw_steered(base, None, [caption(scene) for scene in others[few]], maps[few], seed=SEED, **told)
    rows = np.concatenate([maps[few], along, against[few], alone])
    to_image(grid(rows, few.stop, gap=2)).save(sheet)
    right, of_map = _right(against, others), _right(against, scenes)
    obeys = _mean(lambda picture, wanted: obedience(kind, picture, wanted), against, maps)
    return {
        "maps": len(scenes), "obedience": obeys, "colour": right["colour"], "background": right["background"],
        "object_of_prompt": right["object"], "object_of_map": of_map["object"],
    }


def _other(scene: Scene, other: Scene) -> Scene:
    """The other scene, with another size and place than the first, so that its words contradict its map."""
    from studio.toybox import OBJECTS, POSITIONS, SIZES

    def away(names: tuple[str, ...], mine: str, its: str) -> str:
        return its if its != mine else names[(names.index(its) + 1) % len(names)]

    return replace(
        other, object=away(tuple(OBJECTS), scene.object, other.object), size=away(tuple(SIZES), scene.size, other.size),
        position=away(tuple(POSITIONS), scene.position, other.position),
    )


# --- two units at once -----------------------------------------------------------------------------------------

def _two_units(sheet: Path) -> dict[str, Any]:
    """{"two_units": figures} of edges of one scene and segmentation of another, each in its half, with an empty prompt; {} where one of the nets is missing.

    The sheet: maps of edges, maps of segmentation, what is drawn.
    """
    if not all((ASSETS / "models" / net).is_dir() for net, _ in (LEFT, RIGHT)):
        return {}
    scenes = toybox_scenes(SEED + 1, 2 * PAIRS, "held_out")
    halves = [[replace(scene, size="small", position=place) for scene in group] for group, place in ((scenes[:PAIRS], "left"), (scenes[PAIRS:], "right"))]
    maps = [_maps(kind, group) for (_, kind), group in zip((LEFT, RIGHT), halves)]
    pictures = _steer_both(maps)
    few = slice(0, SHOWN)
    to_image(grid(np.concatenate([maps[0][few], maps[1][few], pictures[few]]), SHOWN, gap=2)).save(sheet)
    found, middle = [silhouette(picture) for picture in pictures], RESOLUTION // 2
    return {"two_units": {
        "edges_left": float(np.mean([edge_f1(outline(one)[:, :middle], wanted[:, :middle, 0] > 127) for one, wanted in zip(found, maps[0])])),
        "segmentation_right": float(np.mean([iou(one[:, middle:], wanted[:, middle:].max(axis=2) > 0) for one, wanted in zip(found, maps[1])])),
    }}


def _steer_both(maps: list[np.ndarray]) -> np.ndarray:
    """(N, H, W, 3) uint8: a picture under each pair of maps, with an empty prompt."""
    from studio.models import load_model
    from studio.models.controlnets import load_controlnet
    from studio.options import SampleOptions
    from studio.sampling.events import Finished
    from studio.sampling.loop import sample

    model, nets = load_model("toybox-sd"), {name: load_controlnet(name) for name, _ in (LEFT, RIGHT)}
    half = np.repeat(np.arange(RESOLUTION)[None] < RESOLUTION // 2, RESOLUTION, axis=0)
    masks = [Image.fromarray(inside.astype(np.uint8) * 255) for inside in (half, ~half)]
    pictures = []
    for seed, pair in enumerate(zip(*maps), SEED):
        units = tuple(ControlUnit(net=net, map=Image.fromarray(wanted), mask=mask) for (net, _), wanted, mask in zip((LEFT, RIGHT), pair, masks))
        *_, last = sample(model, SampleOptions(model=model.name, num_steps=STEPS, seed=seed, control=units), get_net=nets.__getitem__)
        assert isinstance(last, Finished)
        pictures.append(np.asarray(last.images[0]))
    return np.stack(pictures)
