"""The menu of models: data only. Embedded ones lie in assets/models; the others are fetched from the Hub on request."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["MODELS", "ModelInfo", "ASSETS"]

ASSETS = Path(__file__).resolve().parents[2] / "assets"

_OBJECTS = (
    "circle", "square", "triangle", "hexagon", "star", "heart", "moon", "ring", "cross", "house", "tree", "fish", "flower", "mushroom",
    "butterfly", "car", "boat", "cup", "umbrella", "cat",
)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A menu entry. source: a folder under assets/, a folder, or a Hub id; size_mib: what a download takes, 0 = embedded."""

    label: str
    about: str
    source: str
    width: int
    height: int
    channels: int = 3
    class_names: tuple[str, ...] = ()
    num_timesteps: int = 1000
    default_steps: int = 50
    size_mib: int = 0
    licence: str = "MIT"

    @property
    def embedded(self) -> bool:
        """Whether it needs no download."""
        return self.size_mib == 0


MODELS: dict[str, ModelInfo] = {
    "toybox-ddpm": ModelInfo(
        label="Toybox 32x32", about="Twenty kinds of objects, large and in the middle, in twelve colours; trained here on drawn scenes.",
        source="models/toybox-ddpm", width=32, height=32, class_names=_OBJECTS,
    ),
    "digits-ddpm": ModelInfo(
        label="Digits 16x16", about="Real handwritten digits, enlarged from 8x8.", source="models/digits-ddpm",
        width=16, height=16, channels=1, class_names=tuple("0123456789"),
    ),
    "google/ddpm-cifar10-32": ModelInfo(
        label="CIFAR-10 32x32", about="The DDPM paper's CIFAR-10 model.", source="google/ddpm-cifar10-32",
        width=32, height=32, size_mib=137, licence="Apache-2.0",
    ),
    "johnowhitaker/ddpm-butterflies-32px": ModelInfo(
        label="Butterflies 32x32", about="Butterflies from the Smithsonian collection.", source="johnowhitaker/ddpm-butterflies-32px",
        width=32, height=32, size_mib=74,
    ),
    "google/ddpm-celebahq-256": ModelInfo(
        label="CelebA-HQ 256x256", about="The DDPM paper's faces; wants a GPU.", source="google/ddpm-celebahq-256",
        width=256, height=256, size_mib=434, licence="Apache-2.0",
    ),
}
