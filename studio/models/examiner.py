"""The examiner of the toy world: a small network that reads all five attributes off a picture.

It has learned from renders alone, so it knows nothing of any generator. What it says of generated pictures is worth as
much as its own accuracy on fresh renders, which is kept beside its weights.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from studio.importing import one_at_a_time
from studio.models.catalogue import ASSETS
from studio.toybox import ATTRIBUTES, Scene

__all__ = ["EXAMINER", "RESOLUTION", "Examiner", "load_examiner", "own_accuracy", "read_attributes", "examine"]

EXAMINER = ASSETS / "models" / "toybox-examiner"
WEIGHTS, ACCURACY = "examiner.safetensors", "accuracy.json"
RESOLUTION = 64


class Examiner(nn.Module):
    """(B, 3, 64, 64) in [-1, 1] -> logits of every attribute, side by side in the order of ATTRIBUTES."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 128)):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *widths), widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.BatchNorm2d(after), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        # No pooling over places: position is one of the attributes.
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1] * 16, 256), nn.SiLU(), nn.Linear(256, sum(map(len, ATTRIBUTES.values()))))

    def forward(self, x: Tensor) -> Tensor:
        """(B, sum of the attributes' names) logits of pictures (B, 3, 64, 64) in [-1, 1]; `split_logits` takes them apart."""
        return self.head(self.features(x))


def split_logits(logits: Tensor) -> dict[str, Tensor]:
    """(B, sum) -> {attribute: (B, names)}."""
    return dict(zip(ATTRIBUTES, logits.split([len(names) for names in ATTRIBUTES.values()], dim=1)))


@one_at_a_time
def load_examiner(folder: str | Path = EXAMINER) -> Examiner:
    """The trained examiner, float32, in eval mode."""
    network = Examiner().eval()
    network.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in load_file(Path(folder) / WEIGHTS).items()})
    return network


def own_accuracy(folder: str | Path = EXAMINER) -> dict[str, float]:
    """Its share of right answers on fresh renders, by attribute."""
    return json.loads((Path(folder) / ACCURACY).read_text())


@torch.inference_mode()
def read_attributes(examiner: Examiner, pixels: Tensor) -> dict[str, list[str]]:
    """For pictures (N, 3, 64, 64) uint8: {attribute: the name that fits each best}."""
    logits = split_logits(torch.cat([examiner(chunk.float() / 127.5 - 1) for chunk in pixels.split(128)]))
    return {name: [ATTRIBUTES[name][i] for i in values.argmax(1).tolist()] for name, values in logits.items()}


def examine(examiner: Examiner, pixels: Tensor, scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """For pictures (N, 3, 64, 64) uint8: {attribute: (N,) bool, whether it is the scene's}."""
    read = read_attributes(examiner, pixels)
    return {name: np.array([value == getattr(scene, name) for value, scene in zip(values, scenes)]) for name, values in read.items()}
