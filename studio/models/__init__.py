"""The catalogue of models, the contract that each fulfils, and how they are loaded."""

from typing import TYPE_CHECKING, Any

from studio.models.catalogue import MODELS, ModelInfo

if TYPE_CHECKING:
    from studio.models.contract import DiffusionModel
    from studio.models.loading import load_model

__all__ = ["MODELS", "ModelInfo", "DiffusionModel", "load_model"]

# Read when first asked for, so that the menu alone costs no numpy.
_HOMES = {"DiffusionModel": "contract", "load_model": "loading"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
