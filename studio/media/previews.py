"""Latents as small pictures without the decoder: rgb = weight . latent + bias, microseconds a step.

The map is fitted once for each VAE (studio.models.rgb_maps); the real decoder is for the steps that somebody opens.
Pixel runs pass through the same functions untouched, so whoever shows a run need not ask what kind it is.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studio.errors import BadRunFile

__all__ = ["RgbMap", "as_pictures", "preview"]


@dataclass(frozen=True, kw_only=True)
class RgbMap:
    """weight: (3, C), bias: (3,) float32: latents in the model's scale -> rgb in [-1, 1]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, latents: Tensor) -> Tensor:
        """(..., C, h, w) -> (..., 3, h, w), on the latents' device."""
        weight, bias = self.weight.to(latents.device), self.bias.to(latents.device)
        return torch.einsum("rc,...chw->...rhw", weight, latents.float()) + bias[:, None, None]

    def noise(self, eps: Tensor) -> Tensor:
        """(..., C, h, w) unit normal -> (..., 3, h, w) of deviation 1/3 each, so that three deviations fill the range."""
        weight = self.weight / self.weight.norm(dim=1, keepdim=True).clamp(min=1e-6) / 3
        return torch.einsum("rc,...chw->...rhw", weight.to(eps.device), eps.float())

    def to_json(self) -> dict[str, list]:
        """As lists of numbers, for a run file's metadata and the cache."""
        return {"weight": self.weight.tolist(), "bias": self.bias.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RgbMap":
        """The inverse of `to_json`. Raises BadRunFile if the numbers are of no map."""
        try:
            weight, bias = torch.tensor(values["weight"], dtype=torch.float32), torch.tensor(values["bias"], dtype=torch.float32)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BadRunFile("The colours of this run's latents are damaged; save it again from the studio.") from error
        if weight.ndim != 2 or weight.shape[0] != 3 or bias.shape != (3,):
            raise BadRunFile("The colours of this run's latents are damaged; save it again from the studio.")
        return cls(weight=weight, bias=bias)


def as_pictures(states: Tensor, kind: str, rgb_map: RgbMap | None) -> Tensor:
    """States of any kind of run as pictures to look at.

    Args:
        states: (..., C, H, W) of a stream; kind: of the stream, "state", "clean", "noise" or "gradient". Noise is drawn at a
            third of its deviation; of a gradient only its direction and where it is strong, since its size falls by orders.
        rgb_map: of a latent run; None for a pixel run.
    Returns:
        (..., 3, h, w) of a latent run, one pixel a latent; (..., C, H, W) of a pixel run. About [-1, 1], float32.
    """
    if kind == "gradient":
        states = states.float() / states.float().std(dim=(-3, -2, -1), keepdim=True).clamp(min=1e-12)
    if kind in ("noise", "gradient"):
        return states.float() / 3 if rgb_map is None else rgb_map.noise(states)
    return states.float() if rgb_map is None else rgb_map(states)


def preview(model: Any, latents: Tensor) -> Tensor:
    """(..., C, h, w) states of a loaded model -> (..., 3, h, w) pictures in about [-1, 1]; a pixel model's own come back."""
    return as_pictures(latents, "state", model.rgb_map)
