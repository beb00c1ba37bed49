"""CLIP: the companion that says how near a picture is to a text (Radford et al. 2021, arXiv:2103.00020)."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.errors import ModelUnavailable
from studio.models.catalogue import ASSETS, COMPANIONS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Clip", "load_clip"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """A CLIPModel in float32 with its tokenizer, and how it wants its pictures. mean, std: (3, 1, 1) of colours in [0, 1]."""

    name: str
    network: Any
    tokenizer: Any
    side: int
    mean: "Tensor"
    std: "Tensor"

    def embed_text(self, text: str) -> "Tensor":
        """(1, D) of length 1; what is beyond the limit is cut off."""
        import torch

        limit = self.network.config.text_config.max_position_embeddings
        inputs = self.tokenizer(text, padding="max_length", max_length=limit, truncation=True, return_tensors="pt").to(self.network.device)
        with torch.no_grad():
            return _unit(self.network.get_text_features(input_ids=inputs.input_ids))

    def embed_pictures(self, pictures: "Tensor") -> "Tensor":
        """(N, 3, side, side) in [-1, 1] -> (N, D) of length 1; gradients flow."""
        pixels = ((pictures + 1) / 2 - self.mean) / self.std
        return _unit(self.network.get_image_features(pixel_values=pixels))


def _unit(features: Any) -> "Tensor":
    # transformers 5 wraps the features in an output object.
    features = getattr(features, "pooler_output", features)
    return features / features.norm(dim=-1, keepdim=True)


@lru_cache(maxsize=1)
def load_clip(name: str, device: "torch.device") -> Clip:
    """The companion by its key in COMPANIONS, folder or Hub id. Raises ModelUnavailable with what to do."""
    import torch
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    source = COMPANIONS.get(name, name)
    if source.startswith("models/"):
        source = str(ASSETS / source)
    try:
        network = CLIPModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(source)
        processor = CLIPImageProcessor.from_pretrained(source)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        where = "is not among the embedded models yet" if Path(source).is_relative_to(ASSETS) else "is in no cache and cannot be fetched, or is no CLIPModel"
        raise ModelUnavailable(f"CLIP guidance needs {name!r}, which {where}; set clip_guidance_scale to 0.") from error
    mean, std = (torch.tensor(values, device=device).reshape(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    vision: Any = network.config.vision_config
    module: torch.nn.Module = network
    return Clip(name=name, network=module.to(device).eval().requires_grad_(False), tokenizer=tokenizer, side=vision.image_size, mean=mean, std=std)
