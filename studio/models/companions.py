"""CLIP: the companion that says how near a picture is to a text (Radford et al. 2021, arXiv:2103.00020)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.errors import ModelUnavailable
from studio.models.catalogue import ASSETS, COMPANIONS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Clip", "READING_FAILS", "clip_of", "load_clip", "read_clip"]

# What transformers raises for missing, foreign and broken folders.
READING_FAILS = (OSError, ValueError, KeyError, TypeError, RuntimeError)


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """A CLIPModel with its tokenizer, and how it wants its pictures. mean, std: (3, 1, 1) of colours in [0, 1]."""

    name: str
    network: Any
    tokenizer: Any
    side: int
    mean: "Tensor"
    std: "Tensor"

    def embed_text(self, text: str) -> "Tensor":
        """(1, D) of length 1; what is beyond the limit is cut off."""
        return self.embed_texts([text])

    def embed_texts(self, texts: Sequence[str]) -> "Tensor":
        """(N, D) of length 1 each."""
        import torch

        limit = self.network.config.text_config.max_position_embeddings
        inputs = self.tokenizer(list(texts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt").to(self.network.device)
        with torch.no_grad():
            return _unit(self.network.get_text_features(input_ids=inputs.input_ids))

    def embed_pictures(self, pictures: "Tensor") -> "Tensor":
        """(N, 3, side, side) in [-1, 1] -> (N, D) of length 1; gradients flow."""
        pixels = (((pictures + 1) / 2 - self.mean) / self.std).to(self.network.dtype)
        return _unit(self.network.get_image_features(pixel_values=pixels))


def _unit(features: Any) -> "Tensor":
    # transformers 5 wraps the features in an output object.
    features = getattr(features, "pooler_output", features)
    return features / features.norm(dim=-1, keepdim=True)


@lru_cache(maxsize=1)
def load_clip(name: str, device: "torch.device") -> Clip:
    """The companion by its key in COMPANIONS, folder or Hub id, in float32. Raises ModelUnavailable with what to do."""
    source = COMPANIONS.get(name, name)
    if source.startswith("models/"):
        source = str(ASSETS / source)
    try:
        return read_clip(name, source, device)
    except READING_FAILS as error:
        where = "is not among the embedded models yet" if Path(source).is_relative_to(ASSETS) else "is in no cache and cannot be fetched, or is no CLIPModel"
        raise ModelUnavailable(f"CLIP guidance needs {name!r}, which {where}; set clip_guidance_scale to 0.") from error


def read_clip(name: str, place: str, device: "torch.device", dtype: "torch.dtype | None" = None, processor: str = "") -> Clip:
    """The CLIP of a folder or Hub id; dtype: of its weights, None = float32. processor: where tokenizer and colours are kept, "" = with it.

    Raises READING_FAILS, as transformers does.
    """
    import torch
    from transformers import CLIPModel

    network = CLIPModel.from_pretrained(place, dtype=dtype or torch.float32, use_safetensors=True)
    return clip_of(name, network, processor or place, device)


def clip_of(name: str, network: Any, processor: str, device: "torch.device") -> Clip:
    """A CLIPModel with the tokenizer and the colours of a folder or Hub id. Raises READING_FAILS."""
    import torch
    from transformers import AutoTokenizer, CLIPImageProcessor

    tokenizer, colours = AutoTokenizer.from_pretrained(processor), CLIPImageProcessor.from_pretrained(processor)
    mean, std = (torch.tensor(values, device=device).reshape(3, 1, 1) for values in (colours.image_mean, colours.image_std))
    vision: Any = network.config.vision_config
    return Clip(name=name, network=network.to(device).eval().requires_grad_(False), tokenizer=tokenizer, side=vision.image_size, mean=mean, std=std)
