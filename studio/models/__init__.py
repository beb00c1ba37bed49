"""The catalogue of models and how they are loaded."""

from studio.models.catalogue import MODELS, ModelInfo
from studio.models.loading import PixelModel, load_model

__all__ = ["MODELS", "ModelInfo", "PixelModel", "load_model"]
