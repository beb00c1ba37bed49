"""Annotators with weights: controlnet_aux's detectors, and transformers' depth-estimation models. Loaded at first use, one at a time.

controlnet_aux is not maintained any more and imports everything at once, so it is imported late and whatever it raises
becomes a sentence. It resizes to its own sizes unless it is told one, so it always is.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from studio.errors import ModelUnavailable
from studio.importing import one_at_a_time

__all__ = ["DEPTH", "DETECTORS", "work_of"]

# Models of transformers' depth-estimation.
DEPTH: Mapping[str, str] = MappingProxyType({
    "depth-anything": "depth-anything/Depth-Anything-V2-Small-hf", "dpt": "Intel/dpt-hybrid-midas", "zoe-depth": "Intel/zoedepth-nyu-kitti",
})
# Classes of controlnet_aux, and what each is told besides the picture and the resolution.
DETECTORS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType({
    "midas": ("MidasDetector", {}), "normal-bae": ("NormalBaeDetector", {}), "softedge-hed": ("HEDdetector", {}), "softedge-pidi": ("PidiNetDetector", {}),
    "teed": ("TEEDdetector", {}), "lineart": ("LineartDetector", {}), "lineart-anime": ("LineartAnimeDetector", {}), "mlsd": ("MLSDdetector", {}),
    "openpose": ("OpenposeDetector", {"include_hand": True, "include_face": True}), "leres": ("LeresDetector", {}),
})
# Where a detector's weights lie, if not with the others.
REPOSITORIES: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType({
    "teed": ("fal-ai/teed", {"filename": "5_model.pth"}),
})
ANNOTATORS = "lllyasviel/Annotators"


def work_of(name: str) -> Callable[..., np.ndarray]:
    """What makes the map of a picture (H, W, 3) uint8, by the name of a detector. It raises ModelUnavailable."""
    def work(picture: np.ndarray) -> np.ndarray:
        return _depth(name, picture) if name in DEPTH else _detected(name, picture)
    return work


def _depth(name: str, picture: np.ndarray) -> np.ndarray:
    """(H, W) uint8, white is nearest."""
    answer = _depth_model(name)(Image.fromarray(picture))
    nearness: np.ndarray = np.asarray(answer["predicted_depth"], np.float32)
    if name == "zoe-depth":
        # Metric: how far, not how near.
        nearness = np.float32(1) / np.maximum(nearness, np.float32(1e-3))
    low, high = float(nearness.min()), float(nearness.max())
    grey = Image.fromarray(np.rint(255 * (nearness - low) / max(1e-6, high - low)).astype(np.uint8))
    return np.asarray(grey.resize(picture.shape[1::-1], Image.Resampling.BICUBIC))


@lru_cache(maxsize=1)
@one_at_a_time
def _depth_model(name: str) -> Any:
    from transformers import pipeline

    try:
        return pipeline("depth-estimation", model=DEPTH[name])
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        raise ModelUnavailable(_missing(DEPTH[name])) from error


def _detected(name: str, picture: np.ndarray) -> np.ndarray:
    side = min(picture.shape[:2])
    # It rounds sides to multiples of 64 whatever it is told; the map is brought back to the picture's own.
    made = _detector(name)(Image.fromarray(picture), detect_resolution=side, image_resolution=side, output_type="pil", **DETECTORS[name][1])
    return np.asarray(made.convert("RGB").resize(picture.shape[1::-1], Image.Resampling.BICUBIC))


@lru_cache(maxsize=1)
@one_at_a_time
def _detector(name: str) -> Any:
    import warnings

    repository, more = REPOSITORIES.get(name, (ANNOTATORS, {}))
    try:
        with warnings.catch_warnings():
            # It warns of face detection, which the studio leaves out.
            warnings.simplefilter("ignore")
            import controlnet_aux
        return getattr(controlnet_aux, DETECTORS[name][0]).from_pretrained(repository, **more)
    # Each detector fails in its own way where its weights cannot be had.
    except Exception as error:
        raise ModelUnavailable(_missing(repository)) from error


def _missing(repository: str) -> str:
    return (
        f"The weights of this annotator, {repository!r}, are not in the cache and the Hub cannot be reached: connect to a network, "
        "or take one that needs none (Canny, scribble, line art, shuffle)."
    )
