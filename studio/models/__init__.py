"""The catalogue of models and how they are loaded."""

from studio.models.catalogue import MODELS, ModelInfo
from studio.models.latent import LatentModel
from studio.models.loading import Model, load_model
from studio.models.pixel import PixelModel

__all__ = ["MODELS", "ModelInfo", "Model", "PixelModel", "LatentModel", "load_model"]
