"""The catalogue of models and how they are loaded."""

from typing import TYPE_CHECKING, Any

from studio.models.catalogue import MODELS, ModelInfo

if TYPE_CHECKING:
    from studio.models.latent import LatentModel
    from studio.models.loading import Model, load_model
    from studio.models.pixel import PixelModel

__all__ = ["MODELS", "ModelInfo", "Model", "PixelModel", "LatentModel", "load_model"]

# Read when first asked for, so that the menu alone costs no numpy.
_HOMES = {"LatentModel": "latent", "Model": "loading", "load_model": "loading", "PixelModel": "pixel"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
